//! Who becomes primary: of those that may, the one with the most of what was acknowledged.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use provisioner_core::name::Member;

use super::super::lsn::Lsn;
use super::refusal::Refusal;
use super::survey::{Seen, Survey, Told};

/// What the manifest says of a member, for elections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Between members with the same WAL the greater one wins.
    pub priority: u32,
    pub region: Option<String>,
    /// Never becomes primary, so no commit waits for it alone.
    pub nofailover: bool,
}

/// A replica that may be asked for its vote: what it holds counts, whether or not it may win.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Voter<'a> {
    pub member: &'a Member,
    pub told: &'a Told,
    pub attributes: Attributes,
}

impl Voter<'_> {
    /// Why it cannot win, though what it holds counts.
    fn ineligible(&self) -> Option<&'static str> {
        if self.attributes.nofailover {
            Some("the manifest says nofailover")
        } else if self.told.is_full {
            // A promotion begins a WAL file.
            Some("its disk is full")
        } else {
            None
        }
    }
}

/// Who has voted, and what speaks against each of the others.
#[derive(Debug)]
pub(super) struct Voters<'a> {
    pub voters: Vec<Voter<'a>>,
    pub others: Vec<(Member, String)>,
}

pub(super) fn voters<'a>(survey: &'a Survey, attributes: &dyn Fn(&Member) -> Attributes) -> Voters<'a> {
    let mut found = Voters { voters: Vec::new(), others: Vec::new() };
    for replica in &survey.cluster.replicas {
        match vote(survey, replica) {
            Ok(told) => found.voters.push(Voter { member: replica, told, attributes: attributes(replica) }),
            Err(reason) => found.others.push((replica.clone(), reason)),
        }
    }
    found
}

fn vote<'a>(survey: &'a Survey, replica: &Member) -> Result<&'a Told, String> {
    let Some(Seen { state, told }) = survey.members.get(replica) else {
        return Err("the manifest does not name it".to_owned());
    };
    let told = match (told, state) {
        (Ok(told), _) => told,
        (Err(_), None) => return Err("the engine has no such member".to_owned()),
        (Err(reason), Some(state)) => return Err(format!("it is {}: {reason}", state.word())),
    };
    let cluster = &survey.cluster;
    if told.system_id != cluster.system_id {
        return Err(format!("its system identifier is {}, expected {}", told.system_id, cluster.system_id));
    }
    if told.timeline != cluster.timeline && !(told.in_recovery && begun(survey) == Some(told.timeline)) {
        return Err(format!("it is on timeline {}, expected {}", told.timeline, cluster.timeline));
    }
    Ok(told)
}

/// The timeline that the chosen one has begun already, in a run that was cut off before the record named it primary: whoever
/// is on it follows as it should.
pub(super) fn begun(survey: &Survey) -> Option<u32> {
    let chosen = survey.told(survey.cluster.change.as_ref()?.promoted()?)?;
    (!chosen.in_recovery).then_some(chosen.timeline)
}

/// Acknowledged rows are all among these voters: every commit waited for one of `armed`, any one, so all of them must
/// have voted (R + W > N with W = 1).
pub(super) fn is_complete(voters: &[Voter<'_>], armed: &BTreeSet<Member>) -> bool {
    !armed.is_empty() && armed.iter().all(|member| voters.iter().any(|voter| voter.member == member))
}

/// The winner among frozen voters, by received WAL, replayed WAL, priority, the lost primary's region, name. Refused where
/// one of `armed`, for whom commits waited, has more than anybody who may win.
pub(super) fn elect<'a, 'v>(
    voters: &'v [Voter<'a>],
    armed: &BTreeSet<Member>,
    home: Option<&str>,
) -> Result<&'v Voter<'a>, Refusal> {
    let rank = |voter: &&Voter<'_>| {
        let Voter { member, told, attributes } = voter;
        let is_home = home.is_some() && attributes.region.as_deref() == home;
        (told.received, told.replayed, attributes.priority, is_home, Reverse((*member).clone()))
    };
    let eligible = voters.iter().filter(|voter| voter.ineligible().is_none());
    let Some(winner) = eligible.max_by_key(rank) else {
        let reason = |voter: &Voter<'_>| Some((voter.member.clone(), voter.ineligible()?.to_owned()));
        return Err(Refusal::NoCandidate { reasons: voters.iter().filter_map(reason).collect() });
    };
    // What nobody waited for was never acknowledged; where commits waited for nobody it may have been.
    let counts = |voter: &&Voter<'_>| armed.is_empty() || armed.contains(voter.member);
    let most = voters.iter().filter(counts).max_by_key(|voter| voter.told.received).unwrap_or(winner);
    if most.told.received > winner.told.received {
        let (ahead, behind): (Lsn, Lsn) = (most.told.received, winner.told.received);
        return Err(Refusal::CandidateBehind {
            candidate: winner.member.clone(),
            ahead: most.member.clone(),
            bytes: ahead.0 - behind.0,
        });
    }
    Ok(winner)
}
