//! What a plan amounts to, for people: a few phases and how long each will take about.

use std::collections::BTreeMap;
use std::time::Duration;

use provisioner_core::plan::{Action, Plan, StepId};
use provisioner_core::stack::{Image, Resource};
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) steps: usize,
    pub(crate) expected_secs: u64,
}

const NAMES: [&str; 4] = ["images", "network, volumes, secrets", "members", "removals"];

/// The longest chain of steps decides how long a phase takes, because independent ones run side by side.
pub(crate) fn phases(plan: &Plan) -> Vec<Phase> {
    let mut ends: BTreeMap<StepId, Duration> = BTreeMap::new();
    let mut phases: BTreeMap<usize, (usize, Duration)> = BTreeMap::new();
    for step in &plan.steps {
        let begin = step.after.iter().filter_map(|id| ends.get(id)).max().copied().unwrap_or_default();
        let end = begin + expected(&step.action);
        ends.insert(step.id, end);
        let (steps, latest) = phases.entry(phase(&step.action)).or_default();
        *steps += 1;
        *latest = end.max(*latest);
    }
    let mut before = Duration::ZERO;
    let counted = phases.into_iter().map(|(nth, (steps, end))| {
        let expected = end.saturating_sub(before);
        before = before.max(end);
        Phase { name: NAMES[nth], steps, expected_secs: expected.as_secs().max(1) }
    });
    counted.collect()
}

fn phase(action: &Action) -> usize {
    match action {
        Action::Create { resource: Resource::Image(_) } => 0,
        Action::Create { resource: Resource::Network | Resource::Volume(_) | Resource::Secret(_) } => 1,
        Action::Remove { .. } => 3,
        _ => 2,
    }
}

/// Measured on two cores with packages from a near mirror.
fn expected(action: &Action) -> Duration {
    let seconds = match action {
        Action::Create { resource: Resource::Image(Image::Recipe(_)) } => 25,
        Action::Create { resource: Resource::Image(_) } => 20,
        Action::Create { resource: Resource::Workload(_) } | Action::Change { .. } | Action::Await { .. } => 2,
        Action::Create { .. } => 0,
        Action::Remove { .. } => 3,
        Action::Run { .. } => 4,
    };
    Duration::from_secs(seconds)
}
