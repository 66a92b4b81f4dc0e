//! When the route must be told where to lead.

use std::collections::BTreeSet;

use provisioner_core::component::{Dependency, Planned, Situation, Task, Tasks};
use provisioner_core::name::Member;
use provisioner_core::plan::Withheld;
use provisioner_core::stack::{Stack, Workload};

use super::state::{RO, RW, hidden_key, names, open_key};
use super::{CLOSE, CLOSED, FENCED, HOLD, NAME, POINT};
use crate::postgres::{self, Layout};

pub(super) fn tasks(situation: &Situation<'_>) -> Tasks {
    match postgres::layout(situation) {
        // While nobody can be primary the route stays as it is.
        Ok(Some(layout)) if layout.stalled(situation).is_some() => Tasks::default(),
        Ok(Some(layout)) => Tasks { tasks: vec![point(&layout, situation)], ..Tasks::default() },
        Ok(None) => Tasks::default(),
        Err(error) => {
            let withheld = Withheld {
                what: "point the route".to_owned(),
                reason: error.to_string(),
                unlock: "restore the record; without it nobody can tell where the route should lead".to_owned(),
                blocks: true,
            };
            Tasks { withheld: vec![withheld], ..Tasks::default() }
        }
    }
}

fn point(layout: &Layout, situation: &Situation<'_>) -> Planned {
    let readers = readers(&layout.primary, &layout.replicas);
    // Not the replicas: whether they serve is seen by the route's own checks, and writes do not wait for them.
    let mut after = vec![Dependency::Ready(layout.primary.clone()), postgres::roles_made()];
    after.extend(situation.stack.members(NAME).map(|workload| Dependency::Ready(workload.member.clone())));
    Planned {
        task: point_task(&layout.primary, &layout.replicas),
        because: because(layout, &readers, situation),
        after,
        before: Vec::new(),
    }
}

pub(crate) fn point_task(primary: &Member, replicas: &BTreeSet<Member>) -> Task {
    leading(POINT, primary, replicas)
}

/// Before [`close_task`] with the same targets, where it must take effect at once.
pub(crate) fn hold_task(primary: &Member, replicas: &BTreeSet<Member>) -> Task {
    leading(HOLD, primary, replicas)
}

/// Before [`reopen_task`] with the same targets.
pub(crate) fn close_task(primary: &Member, replicas: &BTreeSet<Member>) -> Task {
    leading(CLOSE, primary, replicas)
}

pub(crate) fn reopen_task(primary: &Member, replicas: &BTreeSet<Member>) -> Task {
    leading(POINT, primary, replicas).with(CLOSED, "yes")
}

/// The same task, after the proof that the old primary can acknowledge nothing any more.
pub(crate) fn fenced(task: Task) -> Task {
    task.with(FENCED, "yes")
}

fn leading(name: &str, primary: &Member, replicas: &BTreeSet<Member>) -> Task {
    Task::new(NAME, name).with(RW, primary.as_str()).with(RO, names(&readers(primary, replicas)))
}

/// Replicas take the readers; the primary does where there is none.
pub(super) fn readers(primary: &Member, replicas: &BTreeSet<Member>) -> BTreeSet<Member> {
    if replicas.is_empty() { BTreeSet::from([primary.clone()]) } else { replicas.clone() }
}

fn because(layout: &Layout, readers: &BTreeSet<Member>, situation: &Situation<'_>) -> Option<String> {
    if layout.is_new {
        return Some("a route starts closed".to_owned());
    }
    members(situation.stack).find_map(|workload| member_because(&workload.member, layout, readers, situation))
}

fn members(stack: &Stack) -> impl Iterator<Item = &Workload> {
    stack.members(NAME)
}

fn member_because(
    member: &Member,
    layout: &Layout,
    readers: &BTreeSet<Member>,
    situation: &Situation<'_>,
) -> Option<String> {
    if situation.changing.contains(member) {
        return Some(format!("{member} starts closed"));
    }
    let fact = |key: String| situation.observed.fact(NAME, &key);
    let (Some(open_rw), Some(open_ro), Some(hidden)) =
        (fact(open_key(member, RW)), fact(open_key(member, RO)), fact(hidden_key(member)))
    else {
        return Some(format!("{member} does not say where it leads"));
    };
    let hidden: BTreeSet<&str> = hidden.split(' ').filter(|name| !name.is_empty()).collect();
    // A member that comes back shows then, and not before, whether the route leads to it.
    let returns = |member: &Member| {
        let is_part = *member == layout.primary || layout.replicas.contains(member);
        is_part && situation.changing.contains(member)
    };
    if let Some(returning) = hidden.iter().find(|name| returns(&Member::named(**name))) {
        return Some(format!("{member} cannot say whether it leads to {returning}, which comes back"));
    }
    let primary = BTreeSet::from([layout.primary.clone()]);
    for (what, open, wanted) in [("writes", open_rw, &primary), ("reads", open_ro, readers)] {
        let found: BTreeSet<&str> = open.split(' ').filter(|name| !name.is_empty()).collect();
        let is_wanted = |name: &&str| wanted.iter().any(|member| member.as_str() == *name);
        let missing =
            wanted.iter().find(|member| !found.contains(member.as_str()) && !hidden.contains(member.as_str()));
        if missing.is_some() || !found.iter().all(is_wanted) {
            let found = if open.is_empty() { "nowhere" } else { open };
            return Some(format!("{what} on {member} lead to {found}, expected {}", names(wanted)));
        }
    }
    None
}
