//! The route to PostgreSQL (HAProxy): port 5432 leads to the primary, port 5433 to the replicas.
//!
//! It starts closed and is opened by the task `point`, which follows the record of the cluster, so a restarted route
//! refuses clients instead of leading to a former primary.
//!
//! An image of somebody's own must provide `haproxy` 3.0 or newer, `socat`, `/bin/sh`, and a directory `/run/haproxy` that
//! user 999 may write to; its entry point must run a command that it is given.

mod held;
mod point;
mod state;
mod tasks;
mod verify;

pub(crate) use state::answers;
pub use state::untold;
pub(crate) use tasks::{close_task, fenced, hold_task, point_task, reopen_task};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use minijinja::context;
use provisioner_core::component::{Access, Component, NotReady, Situation, Task, Tasks};
use provisioner_core::failure::Failure;
use provisioner_core::finding::Finding;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::stack::{
    Expose, File, ImageId, Limits, OnChange, Port, Probe, Probes, Recipe, Resource, Restart, Stop, Text, Workload,
};

use crate::template::render;
use crate::{DRILL, app, monitoring, postgres};

pub const NAME: &str = "route";
pub const READ_WRITE: &str = "postgres-rw";
pub const READ_WRITE_PORT: u16 = 5432;
pub(crate) const READ_ONLY: &str = "postgres-ro";
pub(crate) const READ_ONLY_PORT: u16 = 5433;
/// The task that opens the route.
pub(crate) const POINT: &str = "point";
/// The task that has an order ready in every member: starting a command in a container takes longer than the order.
const HOLD: &str = "hold";
/// The task that closes what `point` will not open: it takes as long as a promotion, so that it may be done beside one.
const CLOSE: &str = "close";
/// Says to `point` that this has been done.
const CLOSED: &str = "closed";
/// Says that the old primary can acknowledge nothing any more, whoever is led there.
const FENCED: &str = "fenced";

pub(crate) const STATUS_PORT: u16 = 8404;
const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// About 35 KiB each, so they fit the 64 MiB of a laptop; PostgreSQL takes far fewer.
const MAX_CONNECTIONS: u32 = 1000;

/// User and group of the recipe.
const HAPROXY: (u32, u32) = (999, 999);

#[derive(Default)]
pub struct Route {
    held: held::Held,
}

#[async_trait]
impl Component for Route {
    fn name(&self) -> &'static str {
        NAME
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        if manifest.postgres.external.is_some() {
            return Vec::new();
        }
        let route = &manifest.route;
        let own = || Recipe {
            id: ImageId(NAME.to_owned()),
            base: ImageId(crate::BASE.to_owned()),
            dockerfile: include_str!("../../recipes/haproxy/Dockerfile").to_owned(),
            inputs: Vec::new(),
        };
        let mut resources = crate::recipe(NAME, route.service.image.as_deref(), own);
        let members = (1..=route.replicas).map(|ordinal| Member::nth(NAME, ordinal));
        resources.extend(members.map(|member| Resource::Workload(Arc::new(workload(manifest, member)))));
        resources
    }

    fn tasks(&self, situation: &Situation<'_>) -> Tasks {
        tasks::tasks(situation)
    }

    async fn observe(&self, access: &Access<'_>) -> BTreeMap<String, String> {
        state::facts(access).await
    }

    /// Its process answers, and what is open can be reached. That anything is open is the task's work.
    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        let address = access.engine.address(member, STATUS_PORT).await.map_err(|error| NotReady(error.to_string()))?;
        let unreached = state::unreached(address).await.map_err(NotReady)?;
        if unreached.is_empty() { Ok(()) } else { Err(NotReady(format!("no way to {} yet", unreached.join(", ")))) }
    }

    async fn run(&self, task: &Task, access: &Access<'_>) -> Result<(), Failure> {
        point::run(task, access, &self.held).await
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        verify::verify(access).await
    }
}

fn workload(manifest: &Manifest, member: Member) -> Workload {
    let service = &manifest.route.service;
    let port = |name: &str, port, from: &[&str]| Port::new(name, port, Expose::Checks).reached_by(from);
    let clients = [app::NAME, DRILL];
    Workload {
        member,
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: ["/bin/sh", START].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: vec![configuration(manifest), start(), script()],
        mounts: Vec::new(),
        names: vec![READ_WRITE.to_owned(), READ_ONLY.to_owned()],
        ports: vec![
            port("rw", READ_WRITE_PORT, &clients),
            port("ro", READ_ONLY_PORT, &clients),
            port("status", STATUS_PORT, &[monitoring::NAME]),
        ],
        user: Some(HAPROXY),
        scratch: vec!["/run/haproxy".to_owned()],
        limits: Limits {
            memory_bytes: Some(service.memory_bytes),
            cpu_millis: Some(service.cpu_millis),
            shm_bytes: None,
        },
        stop: Stop { signal: "SIGUSR1".to_owned(), grace_secs: 5 },
        restart: Restart::UnlessStopped,
        probes: Some(Probes::ready(alive()).started(alive(), 60)),
        after: Vec::new(),
    }
}

/// Its process answers. Where it leads is the records' business, and one that leads nowhere is no failed start.
fn alive() -> Probe {
    Probe::http(STATUS_PORT, "/healthz")
}

/// Lies in the member, so that people in it can use it too.
const SCRIPT: &str = "/usr/local/lib/provisioner/route/point";

fn script() -> File {
    let content = Text::new(include_str!("../../recipes/haproxy/point"));
    File { path: SCRIPT.to_owned(), mode: 0o755, owner: (0, 0), content, on_change: OnChange::Nothing }
}

const START: &str = "/usr/local/lib/provisioner/route/start";

fn start() -> File {
    let content = Text::new(include_str!("../../recipes/haproxy/start"));
    File { path: START.to_owned(), mode: 0o755, owner: (0, 0), content, on_change: OnChange::Restart }
}

const CONFIG: &str = "/etc/haproxy/haproxy.cfg";

fn configuration(manifest: &Manifest) -> File {
    let content = render(
        "haproxy.cfg.j2",
        include_str!("../../recipes/haproxy/haproxy.cfg.j2"),
        context! {
            maxconn => MAX_CONNECTIONS,
            port => postgres::PORT,
            postgres => postgres::members(manifest).iter().map(Member::to_string).collect::<Vec<_>>(),
        },
    );
    // A reload would leave an old process behind whose sessions the new one cannot cut.
    File {
        path: CONFIG.to_owned(),
        mode: 0o644,
        owner: (0, 0),
        content: Text::new(content),
        on_change: OnChange::Restart,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::manifest;

    #[test]
    fn the_configuration() {
        let file = configuration(&manifest());
        insta::assert_snapshot!("haproxy.cfg", file.content.masked());
    }

    /// Whoever can reach HAProxy's socket can open the old primary.
    #[test]
    fn no_port_takes_commands() {
        let file = configuration(&manifest());
        let sockets: Vec<_> = file.content.masked().lines().filter(|line| line.contains("stats socket")).collect();
        assert_eq!(sockets.len(), 1);
        assert!(sockets[0].contains("stats socket /run/haproxy/"), "{sockets:?}");
    }
}
