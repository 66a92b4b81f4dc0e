//! Why a change of the primary is not begun, or not carried on. Each kind has an exit code of its own.

use provisioner_core::name::Member;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{primary} is primary and healthy, expected it to be lost")]
    Healthy { primary: Member },
    #[error("it is not clear that {primary} is lost: {reason}")]
    Unsure { primary: Member, reason: String },
    #[error("the cluster has no replica that could take over from {primary}")]
    NoReplicas { primary: Member },
    #[error("no replica can take over: {}", listed(reasons))]
    NoCandidate { reasons: Vec<(Member, String)> },
    #[error("{candidate} lacks {bytes} bytes that {ahead} has, and {ahead} may not become primary")]
    CandidateBehind { candidate: Member, ahead: Member, bytes: u64 },
    #[error("acknowledged rows may be lost: {reason}; {loss}")]
    MayLose { reason: String, loss: String },
    #[error("who is primary is not clear: {0}")]
    Unclear(String),
    #[error("{member} holds another cluster's data: system identifier {found}, expected {expected}")]
    Foreign { member: Member, found: String, expected: String },
    #[error("{member} cannot be the new primary: {reason}")]
    BadTarget { member: String, reason: String },
    #[error("a switchover from {primary} cannot be begun: {}", reasons.join("; "))]
    NotReady { primary: Member, reasons: Vec<String> },
    #[error("no member of the route can be told where to lead: {}", listed(reasons))]
    NoRoute { reasons: Vec<(Member, String)> },
    #[error("a {kind} from {from} is under way already")]
    UnderWay { kind: &'static str, from: Member },
}

impl Refusal {
    pub fn is_primary(member: &str) -> Self {
        Self::BadTarget { member: member.to_owned(), reason: "it is the primary already".to_owned() }
    }

    /// What to do next; those that are commands of ours begin with `provisioner`.
    pub fn hints(&self) -> &'static [&'static str] {
        match self {
            Self::Healthy { .. } => &["provisioner switchover --to MEMBER", "provisioner failover --drill"],
            Self::Unsure { .. } => &["provisioner status"],
            Self::NoReplicas { .. } => &["provisioner scale postgres --replicas 1"],
            Self::NoCandidate { .. } | Self::CandidateBehind { .. } | Self::NoRoute { .. } => &["provisioner up"],
            Self::MayLose { .. } => &["provisioner up", "provisioner failover --allow-data-loss"],
            Self::Unclear(_) => &["provisioner verify"],
            Self::Foreign { .. } => &["move that data away", "provisioner up"],
            Self::BadTarget { .. } => &["provisioner status"],
            Self::NotReady { .. } => &["put that right first"],
            Self::UnderWay { .. } => &["provisioner failover"],
        }
    }
}

fn listed(reasons: &[(Member, String)]) -> String {
    if reasons.is_empty() {
        return "there is none".to_owned();
    }
    reasons.iter().map(|(member, reason)| format!("{member}: {reason}")).collect::<Vec<_>>().join("; ")
}
