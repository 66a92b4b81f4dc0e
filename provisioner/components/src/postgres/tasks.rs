//! What must be done besides making resources exist, decided from the snapshot alone.

use std::collections::BTreeSet;

use provisioner_core::component::{Dependency, Planned, Situation, Task, Tasks};
use provisioner_core::manifest::Synchronous;
use provisioner_core::name::Member;
use provisioner_core::plan::Withheld;
use provisioner_core::stack::{ImageId, ResourceId};

use super::cluster::{self, Cluster, Layout};
use super::login::Login;
use super::{NAME, declare, observe, roles, synchronous};
use crate::route;

pub(super) const BOOTSTRAP: &str = "bootstrap";
pub(super) const ROLES: &str = "roles";
pub(super) const CLONE: &str = "clone";
pub(super) const SYNCHRONOUS: &str = "synchronous";
pub(super) const RELEASE: &str = "release";
/// Takes back what somebody set by hand.
pub(super) const RESET: &str = "reset";
pub(super) const RETIRE: &str = "retire";
/// Makes a stopped member a replica again, and proves that it has become one.
pub(super) const REJOIN: &str = "rejoin";
pub(super) const REJOINED: &str = "rejoined";
pub(super) const FENCE: &str = "fence";
pub(super) const FREEZE: &str = "freeze";
/// Proves that the primary can be shut down, while it serves.
pub(super) const PREPARE: &str = "prepare";
pub(super) const HAND_OVER: &str = "hand-over";
pub(super) const END: &str = "end";
pub(super) const PROMOTE: &str = "promote";
pub(super) const REDIRECT: &str = "redirect";
pub(super) const FOLLOW: &str = "follow";
/// Forgets a change that has not come to a promotion.
pub(super) const ABANDON: &str = "abandon";

pub(super) fn tasks(situation: &Situation<'_>) -> Tasks {
    let layout = match cluster::layout(situation) {
        Ok(Some(layout)) => layout,
        Ok(None) => return Tasks::default(),
        Err(error) => {
            let reason = provisioner_core::failure::Failure::from(error).chain();
            let unlock = "restore the record; without it nobody can tell whose data the volumes hold";
            let withheld = withheld("touch the PostgreSQL cluster", reason, unlock);
            let held = known(situation).into_iter().flat_map(hold).collect();
            return Tasks { withheld: vec![withheld], held, ..Tasks::default() };
        }
    };
    if let Some(withheld) = layout.stalled(situation) {
        // Replicas may go on serving readers; what is not there cannot be made without a primary.
        let is_held = |member: &&Member| **member == layout.primary || situation.observed.workload(member).is_none();
        let held = known(situation).into_iter().filter(is_held).flat_map(hold).collect();
        return Tasks { withheld: vec![withheld], held, ..Tasks::default() };
    }
    let mut tasks = Vec::new();
    if layout.is_new {
        tasks.push(bootstrap(&layout.primary));
    }
    tasks.push(roles(&layout, situation));
    tasks.extend(layout.replicas.iter().filter_map(|replica| clone(replica, &layout, situation)));
    tasks.extend(layout.replicas.iter().filter_map(|replica| follow(replica, &layout, situation)));
    tasks.extend(release(&layout, situation));
    tasks.push(synchronous(&layout, situation));
    tasks.extend(layout.retired.iter().map(|replica| retire(replica, &layout)));
    let outside = outsiders(&layout, situation);
    Tasks {
        tasks,
        withheld: outside.iter().map(|member| outsider(member)).collect(),
        held: outside.into_iter().flat_map(hold).collect(),
    }
}

fn withheld(what: impl Into<String>, reason: impl Into<String>, unlock: impl Into<String>) -> Withheld {
    Withheld { what: what.into(), reason: reason.into(), unlock: unlock.into(), blocks: true }
}

/// Members that are declared or exist.
fn known<'a>(situation: &Situation<'a>) -> BTreeSet<&'a Member> {
    let declared = situation.stack.members(NAME).map(|workload| &workload.member);
    let found = situation.observed.workloads.iter().filter(|(_, found)| found.component == NAME);
    declared.chain(found.map(|(member, _)| member)).collect()
}

/// Neither comes up nor goes.
fn hold(member: &Member) -> [ResourceId; 2] {
    [ResourceId::Workload(member.clone()), ResourceId::Volume(declare::volume(member))]
}

/// Members that exist beside the cluster: what they hold may be newer than the cluster, so it is not overwritten, and
/// started as they are they would take writes.
fn outsiders<'a>(layout: &Layout, situation: &Situation<'a>) -> Vec<&'a Member> {
    let members = situation.stack.members(NAME).map(|workload| &workload.member);
    members.filter(|member| **member != layout.primary && !layout.replicas.contains(*member)).collect()
}

fn outsider(member: &Member) -> Withheld {
    let reason = "it is not part of the recorded cluster and may hold a former primary's rows";
    withheld(format!("make {member} a replica"), reason, format!("provisioner rejoin {member}"))
}

fn bootstrap(primary: &Member) -> Planned {
    Planned {
        task: Task::new(NAME, BOOTSTRAP).on(primary),
        because: Some("no record names a cluster yet".to_owned()),
        after: job_needs(primary, Login::Superuser),
        before: vec![Dependency::workload(primary)],
    }
}

/// What a job on a member's volume needs.
fn job_needs(member: &Member, login: Login) -> Vec<Dependency> {
    vec![
        Dependency::Resource(ResourceId::Network),
        Dependency::Resource(ResourceId::Image(ImageId(NAME.to_owned()))),
        Dependency::Resource(ResourceId::Volume(declare::volume(member))),
        secret(login),
    ]
}

fn secret(login: Login) -> Dependency {
    Dependency::Resource(ResourceId::Secret(login.secret().to_owned()))
}

fn roles(layout: &Layout, situation: &Situation<'_>) -> Planned {
    let wanted = roles::fingerprint();
    let because = match roles::recorded(&situation.observed.records) {
        None => Some("no record says that roles and databases are made".to_owned()),
        Some(found) if found != wanted => Some("roles, databases or privileges changed".to_owned()),
        Some(_) => None,
    };
    let mut after = vec![Dependency::task(NAME, BOOTSTRAP), Dependency::Ready(layout.primary.clone())];
    after.extend(Login::ALL.map(secret));
    Planned {
        task: Task::new(NAME, ROLES).on(&layout.primary).with("fingerprint", wanted),
        because,
        after,
        before: Vec::new(),
    }
}

/// Only a replica that is about to be made is cloned, never one that exists: the copy is put where nothing is.
/// Whether its volume holds something already (a run was killed in between) is seen by the clone itself.
fn clone(replica: &Member, layout: &Layout, situation: &Situation<'_>) -> Option<Planned> {
    let observed = situation.observed;
    let is_recorded =
        Cluster::read(&observed.records).ok().flatten().is_some_and(|cluster| cluster.replicas.contains(replica));
    let volume = declare::volume(replica);
    let because = if observed.workload(replica).is_some() && observed.volumes.contains(&volume) {
        return None;
    } else if !is_recorded {
        format!("{replica} has no copy of the cluster yet")
    } else if !observed.volumes.contains(&volume) {
        format!("its volume {volume} is gone")
    } else {
        "it is made anew, and what its volume holds is looked at first".to_owned()
    };
    let mut after = job_needs(replica, Login::Replicator);
    after.extend([Dependency::task(NAME, ROLES), Dependency::Ready(layout.primary.clone())]);
    Some(Planned {
        task: Task::new(NAME, CLONE).on(replica).with("from", layout.primary.as_str()),
        because: Some(because),
        after,
        before: vec![Dependency::workload(replica)],
    })
}

/// One that was frozen, or that follows who was primary before: the run that changed the primary did not come to it.
fn follow(replica: &Member, layout: &Layout, situation: &Situation<'_>) -> Option<Planned> {
    let upstream = situation.observed.fact(NAME, &observe::upstream_key(replica))?;
    let primary = &layout.primary;
    (upstream != primary.as_str() && !situation.changing.contains(replica)).then(|| Planned {
        task: Task::new(NAME, FOLLOW).on(replica).with("upstream", primary.as_str()),
        because: Some(format!("it follows {}", if upstream.is_empty() { "nobody" } else { upstream })),
        after: vec![Dependency::Ready(primary.clone()), Dependency::Ready(replica.clone())],
        before: Vec::new(),
    })
}

/// A slot that nobody uses any more would keep WAL until the disk limit.
fn retire(replica: &Member, layout: &Layout) -> Planned {
    Planned {
        task: Task::new(NAME, RETIRE).on(replica).with("from", layout.primary.as_str()),
        because: Some("the manifest no longer names it".to_owned()),
        after: vec![
            Dependency::workload(replica),
            Dependency::Ready(layout.primary.clone()),
            Dependency::task(NAME, SYNCHRONOUS),
        ],
        before: Vec::new(),
    }
}

/// Before anything is healed: writes that wait for a replica which is away go on first.
fn release(layout: &Layout, situation: &Situation<'_>) -> Option<Planned> {
    let because = synchronous::stuck(layout, situation)?;
    let task = Task::new(NAME, RELEASE).on(&layout.primary).with("names", "");
    Some(Planned { task, because: Some(because), after: vec![secret(Login::Superuser)], before: Vec::new() })
}

fn synchronous(layout: &Layout, situation: &Situation<'_>) -> Planned {
    let policy = synchronous::policy(situation.stack);
    let wanted = synchronous::wanted(policy, layout, situation);
    let because = synchronous::because(&wanted, layout, situation);
    let mut after = [ROLES, RELEASE].map(|name| Dependency::task(NAME, name)).to_vec();
    after.push(Dependency::Ready(layout.primary.clone()));
    let mut before = Vec::new();
    match policy {
        Synchronous::Off => {}
        // Set only once a replica is there: until then writes would wait for nobody who comes.
        Synchronous::Preferred => after.extend(wanted.iter().cloned().map(Dependency::Ready)),
        // Set before the first client arrives: no write may be acknowledged by the primary alone.
        Synchronous::Required => before.push(Dependency::task(route::NAME, route::POINT)),
    }
    Planned { task: synchronous_task(&layout.primary, policy, &wanted), because, after, before }
}

pub(super) fn synchronous_task(primary: &Member, policy: Synchronous, wanted: &BTreeSet<Member>) -> Task {
    let names = if policy == Synchronous::Off { String::new() } else { synchronous::names(wanted) };
    Task::new(NAME, SYNCHRONOUS).on(primary).with("policy", declare::policy_word(policy)).with("names", names)
}
