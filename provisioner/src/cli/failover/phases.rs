//! The parts of a drill on the ledger's clock, each with what it may take.

use std::time::Duration;

use provisioner_drills::journal::Journal;
use provisioner_drills::judge::Phase;

use super::change::Change;

/// In milliseconds. A dead primary's service is to be back within 1.5 s, a hung one's within 5 s.
const BUDGETS: [(&str, u64); 7] = [
    ("detect", 4000),
    ("fence", 1000),
    ("elect", 500),
    ("hand over", 500),
    ("promote", 1000),
    ("re-point", 500),
    ("redundancy back", 10_000),
];
const FIRST_WRITE_BUDGET_MS: u64 = 500;
const IN_PLACE_BUDGET_MS: u64 = 1500;

/// Moments of the provisioner's run on the ledger's clock.
pub(super) struct Clock<'a> {
    pub(super) journal: &'a Journal,
    /// When the run began, in microseconds since 1970.
    pub(super) begun_unix_us: u64,
}

impl Clock<'_> {
    fn at(&self, since_begun: Duration) -> u64 {
        self.journal.at_unix_us(self.begun_unix_us + micros(since_begun))
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// `None`: the primary came back in place.
pub(super) fn phases(change: Option<&Change>, clock: &Clock<'_>, fault_us: u64) -> Vec<Phase> {
    let phase = |name: &str, began_us: u64, took_us: u64, budget_ms| Phase {
        name: name.to_owned(),
        began_us,
        took_ms: took_us.div_ceil(1000),
        budget_ms,
    };
    let Some(change) = change else {
        let gap = clock.journal.longest_gap_after(fault_us).unwrap_or(0);
        return vec![phase("restart in place", fault_us, gap, IN_PLACE_BUDGET_MS)];
    };
    let mut phases = Vec::new();
    for (name, budget_ms) in BUDGETS {
        let Some(found) = change.phases.iter().find(|phase| phase.name == name) else { continue };
        let (began_us, end_us) = (clock.at(found.span.begin), clock.at(found.span.end()));
        // It lasts from the fault on, whenever the first look was.
        let began_us = if name == "detect" { fault_us } else { began_us };
        phases.push(phase(name, began_us, end_us.saturating_sub(began_us), budget_ms));
        if name == "re-point" {
            let took = clock.journal.first_ack_after(end_us).map_or(0, |first| first - end_us);
            phases.push(phase("first write", end_us, took, FIRST_WRITE_BUDGET_MS));
        }
    }
    phases
}
