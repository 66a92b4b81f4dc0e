//! RabbitMQ: carries what the app has decided to the workers that act on it. Every queue is a quorum queue, and the app
//! may publish and consume and nothing else.
//!
//! An image of somebody's own must provide RabbitMQ 4 with the management and Prometheus plugins (Docker's library has
//! it as `rabbitmq:4-management`), `rabbitmq-server` and `rabbitmqctl` in its PATH, `/bin/sh`, and a user `rabbitmq`
//! with number 999 who owns `/var/lib/rabbitmq`.

mod amqp;
mod definitions;
mod drift;
mod external;
mod management;
mod probe;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use minijinja::context;
use provisioner_core::component::{Access, Component, Entrypoint, NotReady, Situation, Task, Tasks, Variable};
use provisioner_core::drift::Comparisons;
use provisioner_core::failure::Failure;
use provisioner_core::finding::Finding;
use provisioner_core::manifest::{Manifest, Rabbitmq as Section};
use provisioner_core::name::Member;
use provisioner_core::stack::{
    Expose, External, File, ImageId, Limits, Mount, OnChange, Port, Probe, Probes, Recipe, Resource, Restart, Secret,
    Stack, Stop, Text, Volume, Workload,
};

use crate::template::render;
use crate::{app, certificates, monitoring, recipe};

pub(crate) use definitions::DEFINE;

pub(crate) const NAME: &str = "rabbitmq";
const AMQP: u16 = 5672;
const AMQPS: u16 = 5671;
const MANAGEMENT: u16 = 15672;
pub(crate) const PROMETHEUS: u16 = 15692;
/// Virtual host of everything that belongs to the app.
const VHOST: &str = "app";
const DATA: &str = "rabbitmq-1-data";
const HOME: &str = "/var/lib/rabbitmq";
const SCRIPT: &str = "/run/provisioner/rabbitmq";
/// Text that the nodes of a cluster show each other; a file in Erlang's own place.
const COOKIE: &str = "rabbitmq-cookie";
const PASSWORD_LENGTH: usize = 24;
const COOKIE_LENGTH: usize = 40;
/// User and group of the recipe and of Docker's library image.
const RABBITMQ: (u32, u32) = (999, 999);
const MIB: u64 = 1 << 20;

/// RabbitMQ users, and the secrets that hold their passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Admin,
    App,
    /// The checks: may use the queues that are there for them.
    Probe,
    /// Reads metrics.
    Monitor,
}

impl User {
    const ALL: [Self; 4] = [Self::Admin, Self::App, Self::Probe, Self::Monitor];

    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::App => "app",
            Self::Probe => "probe",
            Self::Monitor => "monitor",
        }
    }

    fn secret(self) -> &'static str {
        match self {
            Self::Admin => "rabbitmq-admin",
            Self::App => "rabbitmq-app",
            Self::Probe => "rabbitmq-probe",
            Self::Monitor => "rabbitmq-monitor",
        }
    }
}

pub struct Rabbitmq;

pub(crate) fn member() -> Member {
    Member::nth(NAME, 1)
}

/// Every connection of a client is encrypted.
fn is_tls(stack: &Stack) -> bool {
    stack.workload(&member()).is_some_and(|workload| workload.port("amqps").is_some())
}

#[async_trait]
impl Component for Rabbitmq {
    fn name(&self) -> &'static str {
        NAME
    }

    fn external(&self, manifest: &Manifest) -> Option<External> {
        external::of(manifest)
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        let Some(section) = &manifest.rabbitmq else { return Vec::new() };
        if let (Some(found), Some(external)) = (&section.external, external::of(manifest)) {
            return external.secrets(&found.server);
        }
        let own = || Recipe {
            id: ImageId(NAME.to_owned()),
            base: ImageId(crate::BASE.to_owned()),
            dockerfile: include_str!("../../recipes/rabbitmq/Dockerfile").to_owned(),
            inputs: Vec::new(),
        };
        let mut resources = recipe(NAME, section.service.image.as_deref(), own);
        resources.extend(User::ALL.map(|user| Resource::Secret(Secret::password(user.secret(), PASSWORD_LENGTH))));
        resources.push(Resource::Secret(Secret::password(COOKIE, COOKIE_LENGTH)));
        if section.tls {
            resources.push(certificates::authority(manifest));
            resources.push(certificates::certificate(manifest, NAME, vec![member().to_string()]));
        }
        resources.push(Resource::Volume(Volume {
            name: DATA.to_owned(),
            component: NAME.to_owned(),
            size_bytes: section.service.disk_bytes,
        }));
        resources.push(Resource::Workload(Arc::new(workload(section))));
        resources
    }

    fn tasks(&self, situation: &Situation<'_>) -> Tasks {
        definitions::tasks(situation)
    }

    fn variables(&self, stack: &Stack) -> Vec<Variable> {
        if let Some(external) = stack.external(NAME) {
            return vec![external::variable(external)];
        }
        if stack.workload(&member()).is_none() {
            return Vec::new();
        }
        let (scheme, port) = if is_tls(stack) { ("amqps", AMQPS) } else { ("amqp", AMQP) };
        vec![Variable {
            name: "AMQP_URL",
            prefix: Text::new(format!("{scheme}://{}:{}@", User::App.name(), Text::secret(User::App.secret()))),
            host: member().to_string(),
            port,
            member: Some(member()),
            suffix: format!("/{VHOST}"),
            suffix_outside: None,
        }]
    }

    fn entrypoints(&self, stack: &Stack) -> Vec<Entrypoint> {
        if let Some(external) = stack.external(NAME) {
            return external::entrypoint(external).into_iter().collect();
        }
        let found = stack.workload(&member()).map(|workload| {
            Entrypoint::new(NAME, "http", &workload.member, MANAGEMENT).login(User::Admin.name(), User::Admin.secret())
        });
        found.into_iter().collect()
    }

    async fn observe(&self, access: &Access<'_>) -> BTreeMap<String, String> {
        definitions::facts(access).await
    }

    async fn drift(&self, access: &Access<'_>) -> Comparisons {
        drift::drift(access).await
    }

    async fn ready(&self, access: &Access<'_>, _member: &Member) -> Result<(), NotReady> {
        amqp::greeting(access).await.map(|_| ()).map_err(NotReady)
    }

    async fn run(&self, task: &Task, access: &Access<'_>) -> Result<(), Failure> {
        definitions::run(task, access).await
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        match access.stack.external(NAME) {
            Some(external) => external::verify(access, external).await,
            None => verify::verify(access).await,
        }
    }
}

fn workload(section: &Section) -> Workload {
    let service = &section.service;
    let (amqp, amqp_port) = if section.tls { ("amqps", AMQPS) } else { ("amqp", AMQP) };
    let env = [
        // The escape sequences of a terminal are no use in a log.
        ("RABBITMQ_LOG", "-color".to_owned()),
        // What the volume holds is this node's, whatever an engine calls the host.
        ("RABBITMQ_NODENAME", format!("rabbit@{}", member())),
    ];
    Workload {
        member: member(),
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: ["/bin/sh", SCRIPT].map(str::to_owned).to_vec(),
        env: env.map(|(name, value)| (name.to_owned(), value)).into(),
        secret_env: BTreeMap::new(),
        files: files(section),
        mounts: vec![Mount { volume: DATA.to_owned(), path: HOME.to_owned() }],
        names: Vec::new(),
        ports: vec![
            Port::new(amqp, amqp_port, Expose::Checks).reached_by(&[app::NAME]),
            Port::new("management", MANAGEMENT, Expose::Checks),
            Port::new("prometheus", PROMETHEUS, Expose::Nobody).reached_by(&[monitoring::NAME]),
        ],
        user: Some(RABBITMQ),
        scratch: vec!["/tmp".to_owned()],
        limits: Limits {
            memory_bytes: Some(service.memory_bytes),
            cpu_millis: Some(service.cpu_millis),
            shm_bytes: None,
        },
        // An idle broker ends in 2 s; one with much in memory writes it out first.
        stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 30 },
        restart: Restart::UnlessStopped,
        // It listens to clients last of all.
        probes: Some(Probes::ready(Probe::Tcp { port: amqp_port })),
        after: Vec::new(),
    }
}

fn files(section: &Section) -> Vec<File> {
    let memory = section.service.memory_bytes;
    let settings = context! {
        tls => section.tls,
        amqp => AMQP,
        amqps => AMQPS,
        management => MANAGEMENT,
        prometheus => PROMETHEUS,
        watermark => memory / 10 * 6,
        wal => (memory / 8).clamp(32 * MIB, 512 * MIB),
        settings => section.settings.clone(),
    };
    let admin = context! { password => Text::secret(User::Admin.secret()) };
    let file = |path: &str, mode, content: String, on_change: &OnChange| File {
        path: path.to_owned(),
        mode,
        owner: RABBITMQ,
        content: Text::new(content),
        on_change: on_change.clone(),
    };
    let restart = OnChange::Restart;
    let conf = render("rabbitmq.conf.j2", include_str!("../../recipes/rabbitmq/rabbitmq.conf.j2"), settings);
    let admin = render("admin.conf.j2", include_str!("../../recipes/rabbitmq/admin.conf.j2"), admin);
    let plugins = include_str!("../../recipes/rabbitmq/enabled_plugins").to_owned();
    let script = include_str!("../../recipes/rabbitmq/member").to_owned();
    let mut files = vec![
        file("/etc/rabbitmq/rabbitmq.conf", 0o644, conf, &restart),
        file("/etc/rabbitmq/enabled_plugins", 0o644, plugins, &restart),
        // Read once, when the volume is empty; later the task sees to the password.
        file("/etc/rabbitmq/conf.d/90-admin.conf", 0o400, admin, &OnChange::Nothing),
        file(&format!("{HOME}/.erlang.cookie"), 0o400, Text::secret(COOKIE), &restart),
        file(SCRIPT, 0o555, script, &restart),
        file(definitions::PATH, 0o400, definitions::rendered(section), &OnChange::Nothing),
    ];
    if section.tls {
        // Erlang keeps certificates that it has read, for up to two minutes; SIGHUP, which it ignores, only ends the step.
        let check = ["rabbitmqctl", "eval", "ssl:clear_pem_cache()."].map(str::to_owned).to_vec();
        let reload = OnChange::Reload { check, signal: "SIGHUP".to_owned() };
        let secret = certificates::secret_of(NAME);
        let part = |part: &str| Text::secret(&format!("{secret}.{part}"));
        files.push(file("/etc/rabbitmq/tls/server.crt", 0o444, part("crt"), &reload));
        files.push(file("/etc/rabbitmq/tls/server.key", 0o400, part("key"), &reload));
    }
    files
}

#[cfg(test)]
mod tests {
    use provisioner_core::manifest::parse;

    use super::*;

    fn manifest(section: &str) -> Manifest {
        let text = format!("name: dev\n{section}app:\n  binary: target/app\n");
        parse(text.as_bytes()).unwrap()
    }

    fn stack(section: &str) -> Stack {
        let manifest = manifest(section);
        Stack::new(manifest.name.clone(), Rabbitmq.declare(&manifest))
    }

    fn shown(section: &str) -> String {
        let manifest = manifest(section);
        let files = files(manifest.rabbitmq.as_ref().unwrap());
        let configured = files.iter().filter(|file| file.path != definitions::PATH && file.path != SCRIPT);
        let shown = configured
            .map(|file| format!("==> {} {:o} {:?}\n{}", file.path, file.mode, file.owner, file.content.masked()));
        shown.collect()
    }

    #[test]
    fn the_files() {
        let section = "rabbitmq: { memory: 512MiB, settings: { consumer_timeout: 3600000 } }\n";
        insta::assert_snapshot!(shown(section));
    }

    #[test]
    fn with_tls_nothing_is_said_in_clear() {
        let stack = stack("rabbitmq: { tls: true }\n");
        let ports: Vec<u16> = stack.workload(&member()).unwrap().ports.iter().map(|port| port.port).collect();
        assert_eq!(ports, [AMQPS, MANAGEMENT, PROMETHEUS]);
        let variable = &Rabbitmq.variables(&stack)[0];
        assert_eq!(variable.inside().masked(), "amqps://app:@{secret:rabbitmq-app}@rabbitmq-1:5671/app");
        insta::assert_snapshot!(shown("rabbitmq: { tls: true }\n"));
    }

    #[test]
    fn a_manifest_without_the_section_has_no_broker() {
        let stack = stack("");
        assert_eq!(stack.resources().count(), 0);
        assert!(Rabbitmq.variables(&stack).is_empty() && Rabbitmq.entrypoints(&stack).is_empty());
    }
}
