//! Several drills in a row as one result.

use provisioner_drills::judge::Verdict;
use provisioner_drills::report;
use serde_json::{Value, json};

use crate::cli::Call;

#[derive(Default)]
pub(super) struct Series(Vec<Verdict>);

struct Figure {
    min: u64,
    median: u64,
    max: u64,
}

impl Series {
    pub(super) fn push(&mut self, verdict: Verdict) {
        self.0.push(verdict);
    }

    pub(super) fn passed(&self) -> bool {
        self.0.iter().all(|verdict| verdict.passed)
    }

    /// One drill is its own report; of several there is what lies between their best and their worst besides.
    pub(super) fn show(&self, call: &Call<'_>) -> anyhow::Result<()> {
        if let [verdict] = &self.0[..] {
            return call.printer.data(verdict, || report::human(verdict));
        }
        let figures = self.figures();
        let mut value = json!({"passed": self.passed(), "runs": self.0});
        for (name, figure) in &figures {
            value[*name] = match figure {
                Some(Figure { min, median, max }) => json!({"min": min, "median": median, "max": max}),
                None => Value::Null,
            };
        }
        call.printer.data(&value, || self.human(&figures))
    }

    fn human(&self, figures: &[(&str, Option<Figure>)]) -> String {
        let passed = self.0.iter().filter(|verdict| verdict.passed).count();
        let mut text = format!("{passed} of {} drills passed\n", self.0.len());
        text.push_str(&format!("{:<16} {:>8} {:>8} {:>8}\n", "", "min", "median", "max"));
        for (name, figure) in figures {
            if let Some(Figure { min, median, max }) = figure {
                text.push_str(&format!("{name:<16} {min:>8} {median:>8} {max:>8}\n"));
            }
        }
        for verdict in self.0.iter().filter(|verdict| !verdict.passed) {
            text.push_str(&format!("\n{}", report::human(verdict)));
        }
        text
    }

    fn figures(&self) -> [(&'static str, Option<Figure>); 6] {
        [
            ("rto_ms", self.figure(|verdict| verdict.rto_ms)),
            ("redundancy_ms", self.figure(redundancy_ms)),
            ("rpo_rows", self.figure(|verdict| Some(verdict.rpo_rows))),
            ("rpo_ms", self.figure(|verdict| Some(verdict.rpo_ms))),
            ("dual_primary_ms", self.figure(|verdict| Some(verdict.dual_primary_ms))),
            ("unprotected_ms", self.figure(|verdict| Some(verdict.unprotected_ms))),
        ]
    }

    fn figure(&self, of: impl Fn(&Verdict) -> Option<u64>) -> Option<Figure> {
        let mut values: Vec<u64> = self.0.iter().filter_map(of).collect();
        values.sort_unstable();
        let median = *values.get(values.len() / 2)?;
        Some(Figure { min: *values.first()?, median, max: *values.last()? })
    }
}

/// From the fault to the end of the last phase.
fn redundancy_ms(verdict: &Verdict) -> Option<u64> {
    let fault = verdict.phases.first()?.began_us;
    let last = verdict.phases.iter().map(|phase| phase.began_us + phase.took_ms * 1000).max()?;
    Some(last.saturating_sub(fault) / 1000)
}
