//! NGINX looks its backends, and the member with the pictures, up when it loads its configuration, and only then: whoever
//! gives one of them a new address has it load again. Which addresses it has loaded is asked of NGINX itself, not remembered.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use provisioner_core::component::{Access, Dependency, Planned, Situation, Task, Tasks};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::observed::Observed;
use provisioner_core::stack::Stack;
use provisioner_core::wait::{self, Look};
use reqwest::Method;

use super::{NAME, STATUS, files, member};
use crate::http::{self, Site};
use crate::{app, media};

const RELOAD: &str = "reload";
/// The fact, and the argument that names whose present address NGINX must use afterwards.
const BACKENDS: &str = "backends";

/// What NGINX loaded: everyone whom its files name, with the address if there was one.
type Loaded = BTreeMap<Member, Option<IpAddr>>;

/// `backend-1=10.0.0.5,backend-2=`, as status.conf tells it.
fn parse(text: &str) -> Loaded {
    let entries = text.trim().split(',').filter_map(|entry| entry.split_once('='));
    entries.map(|(name, address)| (Member::named(name), address.parse().ok())).collect()
}

/// Asks NGINX; nothing is said where it does not answer.
pub(super) async fn facts(access: &Access<'_>) -> BTreeMap<String, String> {
    if !access.observed.is_running(&member()) {
        return BTreeMap::new();
    }
    let asked = async {
        let address = access.published(&member(), STATUS).map_err(|error| error.to_string())?;
        Site::at(address, Duration::from_secs(1))?.get("/backends").await
    };
    match asked.await {
        Ok(reply) if reply.status == 200 => BTreeMap::from([(BACKENDS.to_owned(), reply.text().trim().to_owned())]),
        _ => BTreeMap::new(),
    }
}

fn loaded(observed: &Observed) -> Option<Loaded> {
    observed.fact(NAME, BACKENDS).map(parse)
}

/// One reload when everything has settled.
pub(super) fn tasks(situation: &Situation<'_>) -> Tasks {
    let Situation { stack, observed, .. } = situation;
    if stack.workload(&member()).is_none() {
        return Tasks::default();
    }
    let reached: Vec<&Member> = reached(stack).collect();
    // Customers are led away from a backend before it goes.
    let surplus = observed
        .workloads
        .iter()
        .filter(|(member, found)| found.component == app::NAME && stack.workload(member).is_none());
    let settled = reached.iter().map(|member| Dependency::Ready((*member).clone()));
    let planned = Planned {
        task: task(stack),
        because: reason(situation, &reached),
        after: settled.chain([Dependency::Ready(member())]).collect(),
        before: surplus.map(|(member, _)| Dependency::workload(member)).collect(),
    };
    Tasks { tasks: vec![planned], ..Tasks::default() }
}

/// Whoever NGINX leads requests to.
fn reached(stack: &Stack) -> impl Iterator<Item = &Member> {
    let media = stack.members(media::NAME);
    app::backends(stack).chain(media).map(|workload| &workload.member)
}

/// NGINX checks its files, takes them over, and uses the present addresses then.
pub(super) fn task(stack: &Stack) -> Task {
    let names: Vec<&str> = reached(stack).map(Member::as_str).collect();
    Task::new(NAME, RELOAD).on(&member()).with(BACKENDS, names.join(","))
}

/// Why NGINX must look again although it is not started by this plan. A backend that is has a reload of its own.
fn reason(situation: &Situation<'_>, reached: &[&Member]) -> Option<String> {
    let Situation { stack, observed, changing } = situation;
    if changing.contains(&member()) {
        return None;
    }
    let loaded = loaded(observed)?;
    reached.iter().find_map(|member| {
        let used = loaded.get(member)?;
        if changing.contains(*member) {
            let is_backend = app::backends(stack).any(|backend| backend.member == **member);
            return (!is_backend).then(|| moving(member));
        }
        let present = observed.workload(member)?.internal_ip?;
        match used {
            Some(used) if *used == present => None,
            Some(used) => Some(format!("{member} is at {present}, NGINX uses {used}")),
            None => Some(format!("NGINX started without {member}")),
        }
    })
}

fn moving(member: &Member) -> String {
    format!("{member} is started anew and may get another address")
}

/// A reload after each backend that is started anew, before the next one goes down: NGINX would otherwise know only
/// addresses at which nobody answers. It must not wait for NGINX itself, whose own change waits for the backends.
///
/// These belong to the app, so that a run for the app alone includes them.
pub(crate) fn enlist(situation: &Situation<'_>) -> Vec<Planned> {
    let Situation { observed, changing, .. } = situation;
    // One that was made without the script is itself made anew.
    let can_reload = observed.workload(&member()).is_some_and(|found| found.files.contains_key(files::SCRIPT));
    if !can_reload || !observed.is_running(&member()) {
        return Vec::new();
    }
    let loaded = loaded(observed);
    // One that NGINX's files do not name yet comes in with the files.
    let is_named = |backend: &Member| loaded.as_ref().is_none_or(|loaded| loaded.contains_key(backend));
    let backends = app::backends(situation.stack).map(|workload| &workload.member);
    let rolled: Vec<&Member> = backends.filter(|backend| changing.contains(*backend) && is_named(backend)).collect();
    let planned = rolled.iter().enumerate().map(|(nth, backend)| {
        let next = rolled.iter().skip(nth + 1).find(|later| observed.is_running(later));
        Planned {
            task: Task::new(app::NAME, app::ENLIST).on(backend),
            because: Some(moving(backend)),
            after: vec![Dependency::Ready((*backend).clone())],
            before: next
                .map(|next| Dependency::workload(next))
                .into_iter()
                .chain([Dependency::workload(&member())])
                .collect(),
        }
    });
    planned.collect()
}

pub(super) async fn run(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    let listed = task.with.get(BACKENDS).map(String::as_str).unwrap_or_default();
    let members = listed.split(',').filter(|name| !name.is_empty()).map(Member::named);
    reload(task, access, members.collect()).await
}

pub(crate) async fn run_enlist(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    reload(task, access, task.member.iter().cloned().collect()).await
}

/// Has NGINX look up whom it reaches and waits until it uses their present addresses.
async fn reload(task: &Task, access: &Access<'_>, members: Vec<Member>) -> Result<(), Failure> {
    let observed = access.engine.observe().await?;
    let mut present = BTreeMap::new();
    for member in members {
        let ip = observed.workload(&member).and_then(|found| found.internal_ip);
        let missing = || Failure::new(format!("run {task}: {member} has no address, expected it to run"));
        let ip = ip.ok_or_else(|| missing().hint("provisioner status"))?;
        present.insert(member, ip);
    }
    access.engine.put_files(&member(), &[], &files::reload()).await?;
    used(access, &present).await.map_err(|error| Failure::because(format!("run {task}"), error))
}

#[derive(Debug, thiserror::Error)]
#[error("NGINX does not use the present addresses: {0}")]
struct NotUsed(String);

/// A signal says nothing about what became of it; the loaded configuration does.
async fn used(access: &Access<'_>, present: &BTreeMap<Member, IpAddr>) -> Result<(), NotUsed> {
    let site = Site::of(access, &member(), STATUS, Duration::from_secs(1)).await.map_err(NotUsed)?;
    let waited = wait::until(Duration::from_secs(20), Duration::from_millis(50), async || {
        // A kept connection may still lead to a process with the old configuration.
        let request = site.request(Method::GET, "/backends").header("connection", "close");
        let reply = match http::reply(request).await {
            Ok(reply) => reply,
            Err(error) => return Look::<(), NotUsed>::Pending(error),
        };
        let text = reply.text();
        let loaded = parse(&text);
        let is_used = |(backend, ip): (&Member, &IpAddr)| loaded.get(backend).is_none_or(|used| *used == Some(*ip));
        if present.iter().all(is_used) { Look::Done(()) } else { Look::Pending(format!("it uses {}", text.trim())) }
    });
    waited.await.map_err(|error| NotUsed(error.to_string()))
}

/// The backend that answered: the last of `10.0.0.5:8000, 10.0.0.6:8000`.
pub(super) fn upstream(header: &str) -> Option<IpAddr> {
    let last = header.rsplit(", ").next()?;
    last.parse::<std::net::SocketAddr>().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use provisioner_core::component::Component;
    use provisioner_core::observed::{Making, ObservedWorkload, State};
    use provisioner_core::stack::{Fingerprint, Stack};

    use super::*;
    use crate::app::App;
    use crate::media::Media;
    use crate::nginx::Nginx;
    use crate::testing::manifest;

    fn stack(replicas: u32) -> Stack {
        let mut manifest = manifest();
        manifest.app.replicas = replicas;
        let systems: [&dyn Component; 3] = [&Nginx, &Media, &App];
        Stack::new(manifest.name.clone(), systems.iter().flat_map(|system| system.declare(&manifest)))
    }

    fn running(component: &str, last: u8) -> ObservedWorkload {
        ObservedWorkload {
            instance: "1".to_owned(),
            component: component.to_owned(),
            image: String::new(),
            state: State::Running,
            spec: None,
            files: BTreeMap::from([(files::SCRIPT.to_owned(), Fingerprint::of_bytes(&[]))]),
            internal_ip: Some([10, 0, 0, last].into()),
            published: BTreeMap::new(),
            public: None,
            making: Making::default(),
        }
    }

    /// NGINX, two backends at .1 and .2 and the pictures at .3, and what NGINX says that it loaded.
    fn observed(told: Option<&str>) -> Observed {
        let mut observed = Observed::default();
        observed.workloads.insert(member(), running(NAME, 9));
        observed.workloads.insert(media::member(), running(media::NAME, 3));
        for nth in 1..=2 {
            observed.workloads.insert(Member::nth("backend", nth), running(app::NAME, u8::try_from(nth).unwrap()));
        }
        if let Some(told) = told {
            observed.facts.insert(NAME.to_owned(), BTreeMap::from([(BACKENDS.to_owned(), told.to_owned())]));
        }
        observed
    }

    fn because(observed: &Observed, changing: &[&str]) -> Option<String> {
        let changing: BTreeSet<Member> = changing.iter().copied().map(Member::named).collect();
        let tasks = tasks(&Situation { stack: &stack(2), observed, changing: &changing });
        tasks.tasks.into_iter().next().unwrap().because
    }

    fn enlisted(stack: &Stack, observed: &Observed, changing: &[&str]) -> Vec<(String, Vec<Dependency>)> {
        let changing: BTreeSet<Member> = changing.iter().copied().map(Member::named).collect();
        let planned = enlist(&Situation { stack, observed, changing: &changing });
        planned.into_iter().map(|planned| (planned.task.to_string(), planned.before)).collect()
    }

    const SETTLED: &str = "backend-1=10.0.0.1,backend-2=10.0.0.2,media-1=10.0.0.3";

    #[test]
    fn nothing_is_reloaded_while_nginx_uses_the_present_addresses() {
        assert_eq!(because(&observed(Some(SETTLED)), &[]), None);
        assert_eq!(because(&observed(None), &[]), None);
    }

    #[test]
    fn a_backend_that_moved_or_came_late_is_a_reason() {
        let moved = observed(Some("backend-1=10.0.0.1,backend-2=10.0.0.7"));
        assert_eq!(because(&moved, &[]).unwrap(), "backend-2 is at 10.0.0.2, NGINX uses 10.0.0.7");
        let late = observed(Some("backend-1=10.0.0.1,backend-2="));
        assert_eq!(because(&late, &[]).unwrap(), "NGINX started without backend-2");
    }

    #[test]
    fn whoever_is_started_anyway_is_no_reason_here() {
        let moved = observed(Some("backend-1=10.0.0.1,backend-2=10.0.0.7"));
        assert_eq!(because(&moved, &["backend-2"]), None);
        assert_eq!(because(&moved, &["nginx-1"]), None);
    }

    #[test]
    fn the_pictures_are_looked_up_again_when_their_member_is_started_anew() {
        let because = because(&observed(Some(SETTLED)), &["media-1"]).unwrap();
        assert_eq!(because, "media-1 is started anew and may get another address");
        assert_eq!(enlisted(&stack(2), &observed(Some(SETTLED)), &["media-1"]), []);
    }

    #[test]
    fn each_replaced_backend_is_in_use_before_the_next_one_goes() {
        let nginx = Dependency::workload(&member());
        let second = Dependency::workload(&Member::named("backend-2"));
        let rolled = enlisted(&stack(2), &observed(Some(SETTLED)), &["backend-1", "backend-2"]);
        let expected = [
            ("app.enlist backend-1".to_owned(), vec![second, nginx.clone()]),
            ("app.enlist backend-2".to_owned(), vec![nginx]),
        ];
        assert_eq!(rolled, expected);
    }

    #[test]
    fn a_backend_that_is_down_is_not_waited_for() {
        let mut observed = observed(Some(SETTLED));
        observed.workloads.get_mut(&Member::named("backend-2")).unwrap().state = State::Exited;
        let started = enlisted(&stack(2), &observed, &["backend-1", "backend-2"]);
        assert_eq!(started[0].1, [Dependency::workload(&member())]);
    }

    #[test]
    fn a_backend_that_nginx_does_not_know_yet_comes_with_its_files() {
        assert_eq!(enlisted(&stack(3), &observed(Some(SETTLED)), &["backend-3"]), []);
    }

    #[test]
    fn nobody_is_told_where_nginx_is_down() {
        let mut observed = observed(None);
        observed.workloads.remove(&member());
        assert_eq!(enlisted(&stack(2), &observed, &["backend-1"]), []);
    }

    #[test]
    fn customers_are_led_away_before_a_backend_goes() {
        let observed = observed(Some(SETTLED));
        let tasks = tasks(&Situation { stack: &stack(1), observed: &observed, changing: &BTreeSet::new() });
        assert_eq!(tasks.tasks[0].before, [Dependency::workload(&Member::named("backend-2"))]);
    }
}
