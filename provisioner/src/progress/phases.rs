//! What a plan amounts to, for people: a few phases. How long each takes depends on the machine, its caches and its
//! mirrors by a factor of a hundred, so no figure is promised; `--timings` shows what it was.

use std::collections::BTreeMap;

use provisioner_core::plan::{Action, Plan};
use provisioner_core::stack::Resource;
use serde::Serialize;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) steps: usize,
}

const NAMES: [&str; 4] = ["images", "network, volumes, secrets", "members", "removals"];

pub(crate) fn phases(plan: &Plan) -> Vec<Phase> {
    let mut phases: BTreeMap<usize, usize> = BTreeMap::new();
    for step in &plan.steps {
        *phases.entry(phase(&step.action)).or_default() += 1;
    }
    phases.into_iter().map(|(nth, steps)| Phase { name: NAMES[nth], steps }).collect()
}

fn phase(action: &Action) -> usize {
    match action {
        Action::Create { resource: Resource::Image(_) } => 0,
        Action::Create { resource } | Action::Change { to: resource, .. }
            if !matches!(resource, Resource::Workload(_)) =>
        {
            1
        }
        Action::Remove { .. } => 3,
        _ => 2,
    }
}
