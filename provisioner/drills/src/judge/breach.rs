//! What stands against passing.

use std::fmt;

use provisioner_core::manifest::{Objectives, Synchronous};
use provisioner_core::name::Member;

use super::{Case, Held, Stage, Verdict, has};
use crate::Rows;
use crate::journal::{Entry, Journal, Outcome};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// The ledger did not write when the fault came, so nothing was measured.
    NotSteady,
    /// The journal has no end, so rows may exist that it does not know.
    CutOff,
    /// Nobody has read the new primary's rows.
    NotRead,
    NeverBack,
    Rto {
        found_ms: u64,
        objective_ms: u64,
    },
    Rpo {
        found_ms: u64,
        objective_ms: u64,
    },
    /// Commits wait for a replica, so none may be lost.
    Lost {
        member: Member,
        rows: u64,
    },
    /// Acknowledged to a client past the route.
    LostDirectly {
        member: Member,
        rows: u64,
    },
    /// The new primary holds them, this member does not.
    NotFollowed {
        member: Member,
        rows: u64,
    },
    TwoPrimaries {
        ms: u64,
    },
    NeverSent {
        member: Member,
        rows: u64,
    },
    RefusedButThere {
        member: Member,
        rows: u64,
    },
}

pub(super) fn all(case: &Case<'_>, acked: &[&Entry], primary: Option<&Held>, verdict: &Verdict) -> Vec<Breach> {
    let journal = case.journal;
    let mut breaches = Vec::new();
    if acked.first().is_none_or(|first| first.end_us() > case.fault_us) {
        breaches.push(Breach::NotSteady);
    }
    if journal.end_us.is_none() {
        breaches.push(Breach::CutOff);
    }
    breaches.extend(times(verdict, case.objectives));
    match primary {
        None => breaches.push(Breach::NotRead),
        Some(primary) => {
            let member = || primary.member.clone();
            let is_protected = case.synchronous != Synchronous::Off;
            if is_protected && verdict.rpo_rows > 0 {
                breaches.push(Breach::Lost { member: member(), rows: verdict.rpo_rows });
            }
            let rows = lost_answers(journal, &primary.answers);
            if is_protected && rows > 0 {
                breaches.push(Breach::LostDirectly { member: member(), rows });
            }
            for held in case.held.iter().filter(|held| held.stage != Stage::Primary) {
                let is_behind = |entry: &&&Entry| has(&primary.rows, entry) && !has(&held.rows, entry);
                let rows = sum(acked.iter().filter(is_behind));
                if rows > 0 {
                    breaches.push(Breach::NotFollowed { member: held.member.clone(), rows });
                }
            }
        }
    }
    if verdict.dual_primary_ms > 0 {
        breaches.push(Breach::TwoPrimaries { ms: verdict.dual_primary_ms });
    }
    let sent: Rows = journal.entries.iter().map(|entry| (entry.writer, entry.number)).collect();
    for held in case.held {
        let member = || held.member.clone();
        let strangers = sum(held.rows.iter().filter(|(writer, number)| !sent.contains(*writer, *number)));
        // What came after the last line of a journal that was cut off was sent, and nobody knows of it.
        if strangers > 0 && journal.end_us.is_some() {
            breaches.push(Breach::NeverSent { member: member(), rows: strangers });
        }
        let refused = journal.entries.iter().filter(|entry| entry.outcome == Outcome::Refused);
        let rows = sum(refused.filter(|entry| has(&held.rows, entry)));
        if rows > 0 {
            breaches.push(Breach::RefusedButThere { member: member(), rows });
        }
    }
    breaches
}

fn times(verdict: &Verdict, objectives: Objectives) -> impl Iterator<Item = Breach> {
    let limit = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (rto, rpo) = (limit(objectives.rto), limit(objectives.rpo));
    let late = match verdict.rto_ms {
        None => Some(Breach::NeverBack),
        Some(found_ms) if found_ms > rto => Some(Breach::Rto { found_ms, objective_ms: rto }),
        Some(_) => None,
    };
    let found_ms = verdict.rpo_ms;
    late.into_iter().chain((found_ms > rpo).then_some(Breach::Rpo { found_ms, objective_ms: rpo }))
}

fn lost_answers(journal: &Journal, answers: &Rows) -> u64 {
    let acked = journal.answers.iter().filter(|answer| answer.is_acked);
    sum(acked.filter(|answer| !u16::try_from(answer.member).is_ok_and(|who| answers.contains(who, answer.number))))
}

fn sum<T>(items: impl Iterator<Item = T>) -> u64 {
    items.map(|_| 1).sum()
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSteady => f.write_str("nothing was acknowledged before the fault, expected a steady ledger"),
            Self::CutOff => f.write_str("the ledger's journal has no end, expected a complete one"),
            Self::NotRead => f.write_str("nobody has read the new primary's rows"),
            Self::NeverBack => f.write_str("no write was acknowledged after the fault"),
            Self::Rto { found_ms, objective_ms } => {
                write!(f, "writes were impossible for {found_ms} ms, expected at most {objective_ms} ms")
            }
            Self::Rpo { found_ms, objective_ms } => {
                write!(f, "the writes of {found_ms} ms are lost, expected at most {objective_ms} ms")
            }
            Self::Lost { member, rows } => {
                write!(
                    f,
                    "acknowledged rows that are not on {member}: {rows}, expected 0, for commits wait for a replica"
                )
            }
            Self::LostDirectly { member, rows } => {
                write!(
                    f,
                    "rows that a member acknowledged past the route and that are not on {member}: {rows}, expected 0"
                )
            }
            Self::NotFollowed { member, rows } => {
                write!(f, "acknowledged rows of the new primary that are not on {member}: {rows}, expected 0")
            }
            Self::TwoPrimaries { ms } => write!(f, "two members acknowledged writes for {ms} ms, expected 0"),
            Self::NeverSent { member, rows } => write!(f, "rows on {member} that were never sent: {rows}, expected 0"),
            Self::RefusedButThere { member, rows } => {
                write!(f, "refused rows that are on {member}: {rows}, expected 0")
            }
        }
    }
}
