//! NGINX looks names up when it loads its configuration, and only then: whoever gives a backend a new address has it load
//! again.
//!
//! The record `nginx.upstreams` holds the addresses that NGINX was last seen to use.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use provisioner_core::component::{Access, Dependency, Planned, Situation, Task, Tasks};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::record;
use provisioner_core::wait::{self, Look};

use super::{CHECKS, NAME, files, member};
use crate::app;
use crate::http::Site;

const RELOAD: &str = "reload";
const RECORD: &str = "nginx.upstreams";
/// Backends whose present address NGINX must use afterwards.
const BACKENDS: &str = "backends";

type Upstreams = BTreeMap<Member, IpAddr>;

/// One reload when everything has settled.
pub(super) fn tasks(situation: &Situation<'_>) -> Tasks {
    let Situation { stack, observed, .. } = situation;
    if stack.workload(&member()).is_none() {
        return Tasks::default();
    }
    let backends = backends(situation);
    // A name that NGINX still holds must not disappear under it: it could neither reload nor restart.
    let surplus = observed.workloads.iter().filter(|(member, found)| {
        found.component == app::NAME && stack.workload(member).is_none()
    });
    let names: Vec<&str> = backends.iter().map(|backend| backend.as_str()).collect();
    let settled = backends.iter().map(|backend| Dependency::Ready((*backend).clone()));
    let planned = Planned {
        task: Task::new(NAME, RELOAD).on(&member()).with(BACKENDS, names.join(",")),
        because: reason(situation, &known(situation), &backends),
        after: settled.chain([Dependency::Ready(member())]).collect(),
        before: surplus.map(|(member, _)| Dependency::workload(member)).collect(),
    };
    Tasks { tasks: vec![planned], ..Tasks::default() }
}

/// A reload after each backend that is replaced, before the next one goes down: NGINX would otherwise know only
/// addresses at which nobody answers. It must not wait for NGINX itself, whose own change waits for the backends.
///
/// These belong to the app, so that a run for the app alone includes them.
pub(crate) fn enlist(situation: &Situation<'_>) -> Vec<Planned> {
    if !situation.observed.is_running(&member()) {
        return Vec::new();
    }
    let known = known(situation);
    let mut moving = backends(situation);
    moving.retain(|backend| situation.changing.contains(backend) && known.contains_key(backend));
    let planned = moving.iter().enumerate().map(|(nth, backend)| {
        let next = moving.get(nth + 1).map(|next| Dependency::workload(next));
        Planned {
            task: Task::new(app::NAME, app::ENLIST).on(backend),
            because: Some(format!("{backend} is started anew and may get another address")),
            after: vec![Dependency::Ready((*backend).clone())],
            before: next.into_iter().chain([Dependency::workload(&member())]).collect(),
        }
    });
    planned.collect()
}

fn backends<'a>(situation: &Situation<'a>) -> Vec<&'a Member> {
    situation.stack.members(app::NAME).map(|workload| &workload.member).collect()
}

/// Unreadable is as good as absent: it is written anew.
fn known(situation: &Situation<'_>) -> Upstreams {
    situation.observed.records.read(RECORD).ok().flatten().unwrap_or_default()
}

fn reason(situation: &Situation<'_>, known: &Upstreams, backends: &[&Member]) -> Option<String> {
    let Situation { observed, changing, .. } = situation;
    if changing.contains(&member()) {
        return Some("NGINX is started anew and looks the backends up again".to_owned());
    }
    if !observed.is_running(&member()) {
        return None;
    }
    backends.iter().find_map(|backend| {
        let present = observed.workload(backend).and_then(|found| found.internal_ip);
        match (known.get(backend), present) {
            (None, _) => Some(format!("NGINX was not yet seen to use {backend}")),
            // Its own start brings a reload along.
            _ if changing.contains(backend) => None,
            (Some(used), Some(present)) if *used != present => {
                Some(format!("{backend} is at {present}, NGINX last used {used}"))
            }
            _ => None,
        }
    })
}

pub(super) async fn run(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    let listed = task.with.get(BACKENDS).map(String::as_str).unwrap_or_default();
    let backends = listed.split(',').filter(|name| !name.is_empty()).map(Member::named);
    reload(task, access, backends.collect(), |_, present| present).await
}

pub(crate) async fn run_enlist(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    let backends = task.member.iter().cloned().collect();
    reload(task, access, backends, |mut known, present| {
        known.extend(present);
        known
    })
    .await
}

/// Has NGINX look up its backends, makes sure that it uses their present addresses, and notes them.
async fn reload(
    task: &Task,
    access: &Access<'_>,
    backends: Vec<Member>,
    note: impl Fn(Upstreams, Upstreams) -> Upstreams + Send + Sync,
) -> Result<(), Failure> {
    let observed = access.engine.observe().await?;
    let mut present = Upstreams::new();
    for backend in backends {
        let ip = observed.workload(&backend).and_then(|found| found.internal_ip);
        let missing = || Failure::new(format!("run {task}: {backend} has no address, expected it to run"));
        present.insert(backend.clone(), ip.ok_or_else(|| missing().hint("provisioner status"))?);
    }
    access.engine.put_files(&member(), &[], &files::reload()).await?;
    used(access, &present).await.map_err(|error| Failure::because(format!("run {task}"), error))?;
    let noted = record::update(access.engine.records(), RECORD, |known: Option<Upstreams>| {
        Some(note(known.unwrap_or_default(), present.clone()))
    });
    Ok(noted.await?)
}

#[derive(Debug, thiserror::Error)]
#[error("NGINX does not use the backends' present addresses: {0}")]
struct NotUsed(String);

/// A signal says nothing about what became of it; the answers do.
async fn used(access: &Access<'_>, present: &Upstreams) -> Result<(), NotUsed> {
    let site = Site::of(access, &member(), CHECKS, Duration::from_secs(5)).await.map_err(NotUsed)?;
    let expected: BTreeSet<IpAddr> = present.values().copied().collect();
    let seen = Mutex::new(BTreeSet::new());
    let waited = wait::until(Duration::from_secs(20), Duration::from_millis(50), async || {
        let reply = match site.get("/-/backend").await {
            Ok(reply) => reply,
            Err(error) => return Look::<(), NotUsed>::Pending(error),
        };
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(upstream(reply.header("x-upstream")));
        let missing: Vec<String> = expected.difference(&seen).map(ToString::to_string).collect();
        if missing.is_empty() { Look::Done(()) } else { Look::Pending(format!("no answer from {}", missing.join(", "))) }
    });
    waited.await.map_err(|error| NotUsed(error.to_string()))
}

/// The backend that answered: the last of `10.0.0.5:8000, 10.0.0.6:8000`.
pub(super) fn upstream(header: &str) -> Option<IpAddr> {
    let last = header.rsplit(", ").next()?;
    last.parse::<std::net::SocketAddr>().ok().map(|address| address.ip())
}
