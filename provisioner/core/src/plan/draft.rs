//! Plans that a procedure lays out itself, step after step, instead of finding them by a comparison.

use super::{Action, Plan, Step, StepId};

#[derive(Default)]
pub struct Draft {
    steps: Vec<Step>,
}

impl Draft {
    /// Adds a step that is done after the given ones, which the draft has already.
    pub fn step(&mut self, action: Action, because: impl Into<String>, after: &[StepId]) -> StepId {
        let id = StepId(self.steps.len() + 1);
        let mut after = after.to_vec();
        after.sort_unstable();
        after.dedup();
        self.steps.push(Step { id, action, because: because.into(), after });
        id
    }

    pub fn finish(self) -> Plan {
        Plan { steps: self.steps, withheld: Vec::new() }
    }
}
