//! What will be done, in which order and why: plain data, decided from a stack and a snapshot and nothing else.

mod deep;
mod diff;
mod draft;
mod graph;
mod render;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::component::{Component, Situation, Task, Tasks};
use crate::name::Member;
use crate::observed::Observed;
use crate::stack::{Resource, ResourceId, Stack};

pub use draft::Draft;
pub use graph::Cycle;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub withheld: Vec<Withheld>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Step {
    pub id: StepId,
    pub action: Action,
    pub because: String,
    pub after: Vec<StepId>,
}

/// Counts from 1 in an order in which the steps could be done one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct StepId(pub usize);

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    Create {
        resource: Resource,
    },
    Change {
        to: Resource,
        impact: Impact,
    },
    Remove {
        id: ResourceId,
    },
    /// Wait until the member answers as its clients need it to.
    Await {
        component: String,
        member: Member,
    },
    Run {
        task: Task,
    },
}

/// What a change costs while it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Impact {
    /// Files are put in place; nobody notices.
    None { files: Vec<String> },
    /// Files are put in place and the running process takes them over.
    Reload { files: Vec<String> },
    /// The process ends and another one takes its place.
    Restart,
    /// The same, although what stands there was asked for in the same words: somebody changed it by hand since.
    Anew,
    /// It is down and is started as it is.
    Start,
}

/// Something that was not done, why, and what would allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Withheld {
    pub what: String,
    pub reason: String,
    /// The flag or command that does it.
    pub unlock: String,
    /// The stack cannot be as the manifest says until this is unlocked.
    pub blocks: bool,
}

/// What the operator allows and asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Only these components and what they need; empty: all.
    pub targets: BTreeSet<String>,
    /// What was changed by hand is looked for and put right too.
    pub deep: bool,
}

/// Compares what should exist with what does. Pure: same inputs, same plan.
pub fn plan(
    stack: &Stack,
    observed: &Observed,
    components: &[Box<dyn Component>],
    policy: &Policy,
) -> Result<Plan, Cycle> {
    if let Some(withheld) = diff::lost_records(stack, observed) {
        return Ok(Plan { steps: Vec::new(), withheld: vec![withheld] });
    }
    let differences = diff::differences(stack, observed);
    let changing = differences.changing();
    let situation = Situation { stack, observed, changing: &changing };
    let mut wanted = Tasks::default();
    for component in components {
        let Tasks { tasks, withheld, held } = component.tasks(&situation);
        wanted.tasks.extend(tasks);
        wanted.withheld.extend(withheld);
        wanted.held.extend(held);
    }
    deep::enlist(observed, &mut wanted);
    graph::arrange(stack, observed, differences, wanted, policy)
}

impl Action {
    /// The member it is about.
    pub fn member(&self) -> Option<&Member> {
        match self {
            Self::Create { resource: Resource::Workload(workload) }
            | Self::Change { to: Resource::Workload(workload), .. } => Some(&workload.member),
            Self::Remove { id: ResourceId::Workload(member) } | Self::Await { member, .. } => Some(member),
            Self::Run { task } => task.member.as_ref(),
            _ => None,
        }
    }
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// What stands between the stack and its manifest and is not done without being told.
    pub fn blocked(&self) -> usize {
        self.withheld.iter().filter(|withheld| withheld.blocks).count()
    }
}
