//! Programs of the app that take no requests. They belong to the app: a run for the app alone replaces them with it.

use std::time::Duration;

use provisioner_core::component::{Access, Dependency, NotReady};
use provisioner_core::manifest::{Manifest, Worker, WorkerHealth};
use provisioner_core::name::Member;
use provisioner_core::observed::State;
use provisioner_core::stack::{Expose, File, Limits, OnChange, Port, Probe, Probes, Stack, Text, Workload};

use super::{NAME, open_metrics, process};
use crate::http::Site;
use crate::{monitoring, rabbitmq};

const PORT: &str = "metrics";
/// Path that answers 200 while the worker works. It travels to the checks as a file, which restarts nothing.
const HEALTH: &str = "/run/provisioner/health";
pub(super) const LISTEN: &str = "APP_METRICS_LISTEN";

pub(super) fn workloads(manifest: &Manifest, reached: &Stack) -> Vec<Workload> {
    let members = manifest.workers.iter().flat_map(|(name, worker)| {
        (1..=worker.replicas).map(move |nth| workload(manifest, reached, worker, member(name, nth)))
    });
    members.collect()
}

fn member(name: &str, nth: u32) -> Member {
    Member::nth(&format!("worker-{name}"), nth)
}

fn workload(manifest: &Manifest, reached: &Stack, worker: &Worker, member: Member) -> Workload {
    let mut workload = process(manifest, member, reached);
    workload.command.clone_from(&worker.command);
    workload.limits =
        Limits { memory_bytes: Some(worker.memory_bytes), cpu_millis: Some(worker.cpu_millis), shm_bytes: None };
    if let Some(WorkerHealth { port, path }) = &worker.health {
        workload.env.entry(LISTEN.to_owned()).or_insert_with(|| format!("0.0.0.0:{port}"));
        workload.ports.push(Port::new(PORT, *port, Expose::Checks).reached_by(&[monitoring::NAME]));
        // It may wait for others before it listens, for as long as these take.
        workload.probes = Some(Probes::ready(Probe::http(*port, path.as_str())));
        workload.files.push(File {
            path: HEALTH.to_owned(),
            mode: 0o444,
            owner: (0, 0),
            content: Text::new(path),
            on_change: OnChange::Nothing,
        });
    }
    open_metrics(&mut workload);
    // Not after Elasticsearch and not after the mail server: workers wait for these themselves.
    if manifest.rabbitmq.is_some() {
        workload.after.push(Dependency::task(rabbitmq::NAME, rabbitmq::DEFINE));
    }
    workload
}

/// The workers of a stack: whatever of the app takes no requests.
pub(super) fn members(stack: &Stack) -> impl Iterator<Item = &Workload> {
    stack.members(NAME).filter(|workload| !super::is_backend(workload))
}

/// Whether a worker of that name is there, whichever.
pub(super) fn has(stack: &Stack, name: &str) -> bool {
    stack.workload(&member(name, 1)).is_some()
}

/// Where a worker says how it is: port and path.
fn health(worker: &Workload) -> Option<(u16, &str)> {
    let port = worker.port(PORT)?.port;
    let file = worker.files.iter().find(|file| file.path == HEALTH)?;
    Some((port, file.content.masked()))
}

pub(super) async fn ready(access: &Access<'_>, worker: &Workload) -> Result<(), NotReady> {
    let member = &worker.member;
    let Some((port, path)) = health(worker) else {
        let observed = access.engine.observe().await.map_err(|error| NotReady(error.to_string()))?;
        return match observed.workload(member).map(|found| found.state) {
            Some(State::Running) => Ok(()),
            Some(state) => Err(NotReady(format!("{member} is {}", state.word()))),
            None => Err(NotReady(format!("{member} is missing"))),
        };
    };
    let site = Site::of(access, member, port, Duration::from_millis(1500)).await.map_err(NotReady)?;
    let reply = site.get(path).await.map_err(NotReady)?;
    match reply.status {
        200 => Ok(()),
        status => Err(NotReady(format!("{path}: {status} {}, expected 200", reply.text().trim()))),
    }
}

/// The path that proves it works, or that it has none.
pub(super) fn proof(worker: &Workload) -> String {
    health(worker).map_or_else(|| "its process runs".to_owned(), |(_, path)| format!("GET {path}: 200"))
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::manifest::parse;

    use super::super::{App, backends};
    use super::*;

    fn stack(workers: &str) -> Stack {
        let text = format!("name: dev\nrabbitmq: {{}}\nmail: {{}}\napp:\n  binary: app\nworkers:\n{workers}");
        let manifest = parse(text.as_bytes()).unwrap();
        Stack::new(manifest.name.clone(), App.declare(&manifest))
    }

    #[test]
    fn a_worker_has_what_a_backend_has_but_its_port() {
        let stack = stack("  search: { replicas: 2, memory: 48MiB }\n");
        let names: Vec<_> = members(&stack).map(|worker| worker.member.as_str()).collect();
        assert_eq!(names, ["worker-search-1", "worker-search-2"]);
        let worker = stack.workload(&Member::named("worker-search-1")).unwrap();
        let backend = backends(&stack).next().unwrap();
        assert_eq!(worker.secret_env, backend.secret_env);
        assert!(worker.secret_env.contains_key("AMQP_URL") && worker.secret_env.contains_key("SMTP_URL"));
        assert_eq!(worker.command, ["/usr/local/bin/app", "worker", "search"]);
        assert_eq!(health(worker), Some((9000, "/readyz")));
        assert!(worker.port("http").is_none());
        assert!(worker.after.contains(&Dependency::task("rabbitmq", "define")));
    }

    #[test]
    fn a_command_of_ones_own_need_not_answer_anybody() {
        let stack = stack("  nightly: { command: [sh, -c, run] }\n");
        let worker = stack.workload(&Member::named("worker-nightly-1")).unwrap();
        assert_eq!((health(worker), worker.ports.len()), (None, 0));
        assert_eq!(proof(worker), "its process runs");
    }
}
