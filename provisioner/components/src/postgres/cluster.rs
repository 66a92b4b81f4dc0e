//! Who is who in the cluster: the record, and what a plan will make of it.

use std::collections::BTreeSet;

use provisioner_core::component::{Access, Situation};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::plan::Withheld;
use provisioner_core::record::{RecordError, RecordSet};
use serde::{Deserialize, Serialize};

use super::{NAME, declare};

pub(super) const RECORD: &str = "postgres.cluster";

/// The cluster of a stack. Written first by the bootstrap, then by whatever changes a role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Of PostgreSQL's control file; data with another one is somebody else's.
    pub system_id: String,
    pub primary: Member,
    /// Members whose data is a copy of this cluster's and follows the primary.
    pub replicas: BTreeSet<Member>,
    /// Counts changes of the primary.
    pub epoch: u64,
    pub timeline: u32,
    /// The replicas of which a commit waits for any one. Written after the primary has been told to wait and taken back
    /// before it is told not to, so what is here was in force for every write that was acknowledged.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub synchronous: BTreeSet<Member>,
    /// Another primary is being made; written before the first thing is done to the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
}

/// A change of the primary from its first side effect to the promotion. Whoever finds one carries it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub kind: ChangeKind,
    pub from: Member,
    /// Who a switchover is meant for, or whom the election has chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Member>,
    /// Written before `to` is told to promote itself: it may be primary already, so nobody else may be made one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promoting: bool,
    /// Seconds since 1970.
    pub since: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The old primary is lost.
    Failover,
    /// The old primary has handed over all that it had.
    Switchover,
}

impl Change {
    /// Who may have been promoted already.
    pub fn promoted(&self) -> Option<&Member> {
        self.to.as_ref().filter(|_| self.promoting)
    }
}

impl Cluster {
    pub fn read(records: &RecordSet) -> Result<Option<Self>, RecordError> {
        records.read(RECORD)
    }

    /// As it is now, which a snapshot from before a bootstrap does not tell.
    pub async fn current(access: &Access<'_>) -> Result<Self, Failure> {
        let record = access.engine.records().get(RECORD).await?;
        let Some(record) = record else {
            let failure = Failure::new(format!("read record {RECORD}: there is none, expected the cluster"));
            return Err(failure.hint("provisioner up"));
        };
        Ok(record.read(RECORD)?)
    }

    pub fn role(&self, member: &Member) -> Option<&'static str> {
        if *member == self.primary {
            Some("primary")
        } else if self.replicas.contains(member) {
            Some("replica")
        } else {
            None
        }
    }
}

/// Who is who once the plan for a situation has been carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub primary: Member,
    pub replicas: BTreeSet<Member>,
    /// Recorded as replicas, and no longer in the manifest.
    pub retired: BTreeSet<Member>,
    /// There is no record yet: this plan makes the cluster.
    pub is_new: bool,
    pub change: Option<Change>,
}

impl Layout {
    /// Why nothing about the primary can be done until somebody decides; a lost one is never replaced by an empty one.
    pub fn stalled(&self, situation: &Situation<'_>) -> Option<Withheld> {
        let Self { primary, is_new, change, .. } = self;
        if let Some(change) = change {
            return Some(Withheld {
                what: "change the PostgreSQL cluster".to_owned(),
                reason: format!("a {} from {} is under way", change.kind.word(), change.from),
                unlock: "provisioner failover, which carries it on".to_owned(),
                blocks: true,
            });
        }
        if *is_new {
            return None;
        }
        if situation.stack.workload(primary).is_none() {
            return Some(Withheld {
                what: "change the PostgreSQL cluster".to_owned(),
                reason: format!("the record names {primary} as primary and the manifest has no such member"),
                unlock: "raise postgres.replicas".to_owned(),
                blocks: true,
            });
        }
        let volume = declare::volume(primary);
        (!situation.observed.volumes.contains(&volume)).then(|| Withheld {
            what: format!("initialise {primary}"),
            reason: format!("the record names {primary} as primary and its volume {volume} is gone"),
            unlock: "bring the data back: fail over to a replica, or restore".to_owned(),
            blocks: true,
        })
    }
}

/// `None` where the stack has no PostgreSQL. An unreadable record is an error, never taken for an absent one: that
/// would initialise a second cluster.
pub fn layout(situation: &Situation<'_>) -> Result<Option<Layout>, RecordError> {
    let declared: Vec<&Member> = situation.stack.members(NAME).map(|workload| &workload.member).collect();
    let Some(first) = declared.first() else { return Ok(None) };
    let Some(cluster) = Cluster::read(&situation.observed.records)? else {
        let replicas = declared.iter().skip(1).copied().cloned().collect();
        return Ok(Some(Layout {
            primary: (*first).clone(),
            replicas,
            retired: BTreeSet::new(),
            is_new: true,
            change: None,
        }));
    };
    let joins = |member: &&Member| {
        // One that exists without being recorded is a former primary: it comes back by a rejoin, not by this plan.
        cluster.replicas.contains(*member) || situation.observed.workload(member).is_none()
    };
    let replicas = declared.iter().copied().filter(|member| **member != cluster.primary).filter(joins);
    let replicas = replicas.cloned().collect();
    let retired = cluster.replicas.iter().filter(|member| !declared.contains(member)).cloned().collect();
    Ok(Some(Layout { primary: cluster.primary, replicas, retired, is_new: false, change: cluster.change }))
}
