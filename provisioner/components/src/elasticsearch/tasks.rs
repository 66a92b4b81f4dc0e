//! What must be done besides making resources exist, decided from the snapshot alone.

use std::collections::BTreeSet;

use provisioner_core::component::{Dependency, Planned, Situation, Task, Tasks};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::plan::Withheld;
use provisioner_core::stack::ResourceId;

use super::cluster::{self, Cluster, Layout};
use super::{NAME, declare};

/// Tells a new volume what it is for.
pub(super) const TELL: &str = "tell";
/// Takes a node whose volume is gone out of the record.
pub(super) const FORGET: &str = "forget";
/// Waits until the nodes have found each other, and records their cluster.
pub(super) const FORM: &str = "form";
/// Takes back cluster settings that somebody set by hand.
pub(super) const RESET: &str = "reset";
/// Drops the record of a cluster that nothing is left of and nobody wants.
pub(super) const DISMISS: &str = "dismiss";

pub(super) fn tasks(situation: &Situation<'_>) -> Tasks {
    let layout = match cluster::layout(situation) {
        Ok(Some(layout)) => layout,
        Ok(None) => return Tasks { tasks: dismiss(situation).into_iter().collect(), ..Tasks::default() },
        Err(error) => {
            let withheld = Withheld {
                what: "touch the Elasticsearch cluster".to_owned(),
                reason: Failure::from(error).chain(),
                unlock: "restore the record; without it nobody can tell which cluster the volumes hold".to_owned(),
                blocks: true,
            };
            return Tasks { withheld: vec![withheld], held: hold(known(situation)), ..Tasks::default() };
        }
    };
    if let Some(withheld) = layout.without_majority() {
        // Nodes that are left go on; a volume that was made anew would look like one that was never lost.
        let missing = |member: &&Member| {
            !situation.observed.volumes.contains(&declare::volume(member))
                || situation.observed.workload(member).is_none()
        };
        let held = hold(known(situation).into_iter().filter(missing));
        return Tasks { withheld: vec![withheld], held, ..Tasks::default() };
    }
    let surplus = layout.surplus();
    if !surplus.is_empty() {
        return Tasks { withheld: vec![too_many(&surplus)], held: hold(known(situation)), ..Tasks::default() };
    }
    let mut tasks: Vec<Planned> = layout.lost.iter().map(forget).collect();
    tasks.extend(layout.newcomers().map(|member| tell(member, &layout)));
    tasks.push(form(&layout));
    Tasks { tasks, ..Tasks::default() }
}

/// The one way to another cluster beside data of other systems that stays.
pub(super) const NEW_CLUSTER: &str = "for a new, empty cluster: provisioner up without the section elasticsearch, \
     remove its volumes, provisioner up, then again with the section";

/// The manifest has no Elasticsearch, and of the recorded cluster no volume is left: an operator has given it up.
fn dismiss(situation: &Situation<'_>) -> Option<Planned> {
    let cluster = Cluster::read(&situation.observed.records).ok().flatten()?;
    let is_there = |member: &Member| situation.observed.volumes.contains(&declare::volume(member));
    let because = format!("neither the manifest nor a volume knows cluster {} any more", cluster.uuid);
    (!cluster.nodes.iter().any(is_there)).then(|| Planned {
        task: Task::new(NAME, DISMISS),
        because: Some(because),
        after: Vec::new(),
        before: Vec::new(),
    })
}

/// Members that are declared or exist.
fn known<'a>(situation: &Situation<'a>) -> BTreeSet<&'a Member> {
    let declared = situation.stack.members(NAME).map(|workload| &workload.member);
    let found = situation.observed.workloads.iter().filter(|(_, found)| found.component == NAME);
    declared.chain(found.map(|(member, _)| member)).collect()
}

/// Neither come up nor go.
fn hold<'a>(members: impl IntoIterator<Item = &'a Member>) -> BTreeSet<ResourceId> {
    let both = |member: &Member| [ResourceId::Workload(member.clone()), ResourceId::Volume(declare::volume(member))];
    members.into_iter().flat_map(both).collect()
}

/// Half of a cluster that goes at once leaves the other half without a majority, and a node that is restarted with
/// fewer names to look for may not find the others again.
fn too_many(surplus: &BTreeSet<&Member>) -> Withheld {
    let names: Vec<&str> = surplus.iter().map(|member| member.as_str()).collect();
    Withheld {
        what: format!("remove {}", names.join(", ")),
        reason: "they hold shards and votes of the cluster, and the manifest no longer names them".to_owned(),
        unlock: format!("raise elasticsearch.nodes; {NEW_CLUSTER}"),
        blocks: true,
    }
}

/// Before the volume is made anew, which would then look like one that holds data.
fn forget(member: &Member) -> Planned {
    let volume = declare::volume(member);
    Planned {
        task: Task::new(NAME, FORGET).on(member),
        because: Some(format!("its volume {volume} is gone")),
        after: Vec::new(),
        before: vec![Dependency::Resource(ResourceId::Volume(volume)), Dependency::workload(member)],
    }
}

fn tell(member: &Member, layout: &Layout<'_>) -> Planned {
    let task = Task::new(NAME, TELL).on(member);
    let (task, because) = match &layout.cluster {
        None => {
            let founders: Vec<&str> = layout.declared.iter().map(|member| member.as_str()).collect();
            (task.with("found", founders.join(",")), "no record names a cluster yet".to_owned())
        }
        Some(cluster) => (task.with("join", &cluster.uuid), "its volume is new and a cluster is recorded".to_owned()),
    };
    Planned {
        task,
        because: Some(because),
        after: vec![Dependency::workload(member), Dependency::task(NAME, FORGET)],
        before: vec![Dependency::Ready(member.clone())],
    }
}

fn form(layout: &Layout<'_>) -> Planned {
    let newcomers: Vec<&str> = layout.newcomers().map(Member::as_str).collect();
    let because = match &layout.cluster {
        None => Some("no record names a cluster yet".to_owned()),
        Some(_) if newcomers.is_empty() => None,
        Some(_) => Some(format!("the record does not name {} yet", newcomers.join(", "))),
    };
    let after = layout.declared.iter().map(|member| Dependency::Ready((*member).clone()));
    Planned { task: Task::new(NAME, FORM), because, after: after.collect(), before: Vec::new() }
}
