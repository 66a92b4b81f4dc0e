//! Holds what the ledger was promised against what members hold. Pure.

mod breach;
mod two_primaries;

use std::collections::BTreeMap;

use provisioner_core::manifest::{Objectives, Synchronous};
use provisioner_core::name::Member;
use serde::Serialize;

pub use breach::Breach;

use crate::Rows;
use crate::journal::{Entry, Journal, Outcome};

const SCHEMA: u32 = 1;

/// A step of the failover, with what it may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Phase {
    pub name: String,
    /// On the ledger's clock.
    #[serde(skip)]
    pub began_us: u64,
    pub took_ms: u64,
    pub budget_ms: u64,
}

/// When a member was asked for its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The new primary, once it takes writes.
    Primary,
    /// One that follows it.
    Replica,
    /// Any, once redundancy is back.
    Rebuilt,
}

/// What a member holds of the ledger's run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub member: Member,
    pub stage: Stage,
    /// What came through the route, by writer.
    pub rows: Rows,
    /// What members were asked to write directly, by their place in the journal.
    pub answers: Rows,
}

/// Everything that a verdict rests on.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    pub engine: &'a str,
    pub fault: &'a str,
    pub synchronous: Synchronous,
    pub objectives: Objectives,
    pub journal: &'a Journal,
    /// When the fault was injected, on the ledger's clock (see [`Journal::at_unix_us`]).
    pub fault_us: u64,
    pub held: &'a [Held],
    pub phases: Vec<Phase>,
    /// How long commits waited for nobody though the manifest wants them to.
    pub unprotected_ms: u64,
    /// Member to what it was: `primary`, `replica`, `outside`.
    pub members_before: BTreeMap<Member, String>,
    pub members_after: BTreeMap<Member, String>,
}

/// Serialized, exactly the report for machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub schema: u32,
    #[serde(rename = "verdict", serialize_with = "word")]
    pub passed: bool,
    pub engine: String,
    pub fault: String,
    pub synchronous: &'static str,
    /// The longest time between two acknowledgements that ends after the fault; `None`: none came after it.
    pub rto_ms: Option<u64>,
    pub acked: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Acknowledged, and not on the new primary.
    pub rpo_rows: u64,
    /// From the oldest lost row's acknowledgement to the fault, or to the last lost one's if that came later.
    pub rpo_ms: u64,
    pub dual_primary_ms: u64,
    pub unprotected_ms: u64,
    pub phases: Vec<Phase>,
    pub members_before: BTreeMap<Member, String>,
    pub members_after: BTreeMap<Member, String>,
    /// What stands against passing.
    #[serde(skip)]
    pub breaches: Vec<Breach>,
    /// Acknowledged rows that each asked member lacks.
    #[serde(skip)]
    pub lacking: Vec<(Member, Stage, u64)>,
    #[serde(skip)]
    pub objectives: Objectives,
}

fn word<S: serde::Serializer>(passed: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *passed { "pass" } else { "fail" })
}

pub fn judge(case: &Case<'_>) -> Verdict {
    let Case { journal, fault_us, held, .. } = *case;
    let acked: Vec<&Entry> = journal.entries.iter().filter(|entry| entry.outcome == Outcome::Acked).collect();
    let primary = held.iter().find(|held| held.stage == Stage::Primary);
    let lost: Vec<&Entry> = match primary {
        Some(primary) => acked.iter().copied().filter(|entry| !has(&primary.rows, entry)).collect(),
        None => Vec::new(),
    };
    let mut verdict = Verdict {
        schema: SCHEMA,
        passed: false,
        engine: case.engine.to_owned(),
        fault: case.fault.to_owned(),
        synchronous: match case.synchronous {
            Synchronous::Off => "off",
            Synchronous::Preferred => "preferred",
            Synchronous::Required => "required",
        },
        rto_ms: journal.longest_gap_after(fault_us).map(millis),
        acked: count(&acked),
        refused: journal.count(Outcome::Refused),
        unknown: journal.count(Outcome::Unknown),
        rpo_rows: count(&lost),
        rpo_ms: millis(lost_span(&lost, fault_us)),
        dual_primary_ms: millis(two_primaries::overlap_us(journal, primary.map(|primary| &primary.answers))),
        unprotected_ms: case.unprotected_ms,
        phases: case.phases.clone(),
        members_before: case.members_before.clone(),
        members_after: case.members_after.clone(),
        breaches: Vec::new(),
        lacking: held.iter().map(|held| (held.member.clone(), held.stage, lacking(&acked, &held.rows))).collect(),
        objectives: case.objectives,
    };
    verdict.breaches = breach::all(case, &acked, primary, &verdict);
    verdict.passed = verdict.breaches.is_empty();
    verdict
}

fn has(rows: &Rows, entry: &Entry) -> bool {
    rows.contains(entry.writer, entry.number)
}

fn lacking(acked: &[&Entry], rows: &Rows) -> u64 {
    acked.iter().map(|entry| u64::from(!has(rows, entry))).sum()
}

fn count(entries: &[&Entry]) -> u64 {
    entries.iter().map(|_| 1).sum()
}

/// A part of a millisecond counts as one: no loss is rounded away.
fn millis(us: u64) -> u64 {
    us.div_ceil(1000)
}

fn lost_span(lost: &[&Entry], fault_us: u64) -> u64 {
    let (Some(oldest), Some(newest)) = (lost.first(), lost.last()) else { return 0 };
    newest.end_us().max(fault_us) - oldest.end_us()
}
