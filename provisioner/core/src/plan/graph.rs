//! Puts the needed actions in order. Every resource, readiness and task of the stack is a node, needed or not, so that
//! an order that runs through something already satisfied is kept.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::diff::{Differences, Needed};
use super::{Action, Impact, Plan, Policy, Step, StepId};
use crate::component::{Dependency, Planned, Tasks};
use crate::name::Member;
use crate::observed::{Observed, State};
use crate::stack::{Resource, ResourceId, Stack};

/// Components wait for each other in a circle: a defect of the program, not of the manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("order the plan: these wait for each other: {}", .0.join(", "))]
pub struct Cycle(pub Vec<String>);

#[derive(Default)]
struct Node {
    after: Vec<Dependency>,
    needed: Option<Needed>,
    component: Option<String>,
}

type Nodes = BTreeMap<Dependency, Node>;

pub(super) fn arrange(
    stack: &Stack,
    observed: &Observed,
    differences: Differences,
    wanted: Tasks,
    policy: &Policy,
) -> Result<Plan, Cycle> {
    let Differences { mut actions, mut withheld } = differences;
    withheld.extend(wanted.withheld);
    actions.retain(|id, _| !wanted.held.contains(id));
    let is_wanted = wanted.tasks.iter().any(|planned| planned.because.is_some());
    if actions.is_empty() && !is_wanted {
        return Ok(Plan { steps: Vec::new(), withheld });
    }
    let mut nodes = Nodes::new();
    add_resources(stack, actions, &mut nodes);
    add_tasks(wanted.tasks, &mut nodes);
    roll_one_by_one(stack, observed, &mut nodes);
    let mut graph = Indexed::new(nodes);
    let order = graph.sorted()?;
    graph.keep_targets(&order, policy);
    Ok(Plan { steps: graph.number(&order), withheld })
}

fn add_resources(stack: &Stack, mut actions: BTreeMap<ResourceId, Needed>, nodes: &mut Nodes) {
    for resource in stack.resources() {
        let id = resource.id();
        let needed = actions.remove(&id);
        if let Resource::Workload(workload) = resource {
            let ready = Dependency::Ready(workload.member.clone());
            let awaited = needed.as_ref().filter(|needed| restarts(&needed.action)).map(|_| Needed {
                action: Action::Await { component: workload.component.clone(), member: workload.member.clone() },
                because: "what depends on it needs an answer".to_owned(),
            });
            let after = vec![Dependency::Resource(id.clone())];
            nodes.insert(ready, Node { after, needed: awaited, component: Some(workload.component.clone()) });
        }
        let component = match resource {
            Resource::Workload(workload) => Some(workload.component.clone()),
            Resource::Volume(volume) => Some(volume.component.clone()),
            _ => None,
        };
        let after = Stack::needs(resource);
        nodes.insert(Dependency::Resource(id), Node { after, needed, component });
    }
    for (id, needed) in actions {
        nodes.insert(Dependency::Resource(id), Node { needed: Some(needed), ..Node::default() });
    }
}

fn restarts(action: &Action) -> bool {
    matches!(
        action,
        Action::Create { .. } | Action::Change { impact: Impact::Restart | Impact::Anew | Impact::Start, .. }
    )
}

fn add_tasks(tasks: Vec<Planned>, nodes: &mut Nodes) {
    // Several tasks of one name (a clone a replica) share one node to depend on, which follows all of them.
    for (nth, planned) in tasks.into_iter().enumerate() {
        let Planned { task, because, after, before } = planned;
        let shared = task.dependency();
        let own = Dependency::Task { component: task.component.clone(), name: format!("{}#{nth}", task.name) };
        for later in before {
            nodes.entry(later).or_default().after.push(own.clone());
        }
        let component = Some(task.component.clone());
        let needed = because.map(|because| Needed { action: Action::Run { task }, because });
        nodes.insert(own.clone(), Node { after, needed, component });
        nodes.entry(shared).or_default().after.push(own);
    }
}

/// Members of one component that are replaced while running go one after the other, so that the others serve. One that is down
/// serves nobody, and a cluster of which all nodes are down may need several of them before any is ready.
fn roll_one_by_one(stack: &Stack, observed: &Observed, nodes: &mut Nodes) {
    let mut previous: BTreeMap<&str, &Member> = BTreeMap::new();
    let is_running = |member: &Member| observed.workload(member).is_some_and(|found| found.state == State::Running);
    for workload in stack.workloads().filter(|workload| is_running(&workload.member)) {
        let id = Dependency::workload(&workload.member);
        let is_replaced = nodes.get(&id).and_then(|node| node.needed.as_ref()).is_some_and(|needed| {
            matches!(
                needed.action,
                Action::Change { impact: Impact::Restart | Impact::Anew | Impact::Reload { .. }, .. }
            )
        });
        if !is_replaced {
            continue;
        }
        if let Some(earlier) = previous.insert(&workload.component, &workload.member)
            && let Some(node) = nodes.get_mut(&id)
        {
            node.after.push(Dependency::Ready(earlier.clone()));
        }
    }
}

/// The nodes by position in name order, so that ordering compares numbers instead of names.
struct Indexed {
    ids: Vec<Dependency>,
    after: Vec<Vec<usize>>,
    needed: Vec<Option<Needed>>,
    components: Vec<Option<String>>,
}

impl Indexed {
    fn new(nodes: Nodes) -> Self {
        let mut ids = Vec::with_capacity(nodes.len());
        let (mut named, mut needed, mut components) = (Vec::new(), Vec::new(), Vec::new());
        for (id, node) in nodes {
            ids.push(id);
            named.push(node.after);
            needed.push(node.needed);
            components.push(node.component);
        }
        let positions: HashMap<&Dependency, usize> = ids.iter().enumerate().map(|(nth, id)| (id, nth)).collect();
        // What the stack does not know needs no waiting for.
        let positioned = |after: &Vec<Dependency>| after.iter().filter_map(|id| positions.get(id).copied()).collect();
        let after = named.iter().map(positioned).collect();
        Self { ids, after, needed, components }
    }

    /// Kahn's algorithm, always taking the first free node by name, so that the order depends on names alone.
    fn sorted(&self) -> Result<Vec<usize>, Cycle> {
        let mut open: Vec<usize> = self.after.iter().map(Vec::len).collect();
        let mut followers: Vec<Vec<usize>> = vec![Vec::new(); self.ids.len()];
        for (nth, after) in self.after.iter().enumerate() {
            for before in after {
                followers[*before].push(nth);
            }
        }
        let mut free: BTreeSet<usize> = (0..self.ids.len()).filter(|nth| open[*nth] == 0).collect();
        let mut order = Vec::with_capacity(self.ids.len());
        while let Some(nth) = free.pop_first() {
            order.push(nth);
            for follower in &followers[nth] {
                open[*follower] -= 1;
                if open[*follower] == 0 {
                    free.insert(*follower);
                }
            }
        }
        if order.len() == self.ids.len() {
            return Ok(order);
        }
        let circle = self.ids.iter().zip(&open).filter(|(_, open)| **open > 0);
        Err(Cycle(circle.map(|(id, _)| id.to_string()).collect()))
    }

    /// Leaves only the targets and what they need.
    fn keep_targets(&mut self, order: &[usize], policy: &Policy) {
        if policy.targets.is_empty() {
            return;
        }
        let mut kept = vec![false; self.ids.len()];
        for nth in order.iter().rev() {
            let component = self.components[*nth].as_ref();
            if kept[*nth] || component.is_some_and(|component| policy.targets.contains(component)) {
                kept[*nth] = true;
                for before in &self.after[*nth] {
                    kept[*before] = true;
                }
            }
        }
        for (needed, _) in self.needed.iter_mut().zip(kept).filter(|(_, kept)| !kept) {
            *needed = None;
        }
    }

    /// Numbers the needed nodes and lets each name the nearest needed ones before it.
    fn number(mut self, order: &[usize]) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut nearest: Vec<Vec<StepId>> = vec![Vec::new(); self.ids.len()];
        let mut seen = Vec::new();
        for nth in order {
            let mut before: Vec<StepId> = self.after[*nth].iter().flat_map(|dep| &nearest[*dep]).copied().collect();
            before.sort_unstable();
            before.dedup();
            let Some(Needed { action, because }) = self.needed[*nth].take() else {
                nearest[*nth] = before;
                continue;
            };
            let id = StepId(steps.len() + 1);
            drop_implied(id, &mut before, &steps, &mut seen);
            nearest[*nth] = vec![id];
            steps.push(Step { id, action, because, after: before });
        }
        steps
    }
}

/// So many steps are looked at for one step's shortest list; a step too many in it is only a longer line.
const LOOKS_PER_STEP: usize = 256;

/// Leaves out of `before` the steps that another one of them waits for anyway. `seen` holds, for every step, the last
/// one on whose behalf it was looked at.
fn drop_implied(id: StepId, before: &mut Vec<StepId>, steps: &[Step], seen: &mut Vec<usize>) {
    seen.resize(steps.len() + 1, 0);
    let Some(&first) = before.first().filter(|_| before.len() > 1) else { return };
    let mut looks = 0;
    let mut open: Vec<StepId> = before.clone();
    // Numbers grow along the edges, so nothing before the first one can lead to any of them.
    while let Some(StepId(number)) = open.pop() {
        for earlier in steps[number - 1].after.iter().filter(|earlier| **earlier >= first) {
            if looks < LOOKS_PER_STEP && seen[earlier.0] != id.0 {
                seen[earlier.0] = id.0;
                looks += 1;
                open.push(*earlier);
            }
        }
    }
    before.retain(|earlier| seen[earlier.0] != id.0);
}
