//! A small stack of three made-up components, in the shapes that real ones have: a store that bootstraps once, a
//! web tier of two, a front that is reloaded when the web tier changes.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use provisioner_core::component::{Access, Component, Dependency, NotReady, Planned, Situation, Task, Tasks};
use provisioner_core::execute::{Event, Execution, Listener, Outcomes, Stop, execute};
use provisioner_core::failure::Failure;
use provisioner_core::finding::Finding;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::{Member, StackName};
use provisioner_core::plan::{Plan, Policy, plan};
use provisioner_core::stack::{
    Expose, File, Image, ImageId, Limits, Mount, OnChange, Port, Recipe, Resource, Restart, Secret, SecretSource,
    Stack, Stop as StopBy, Text, Volume, Workload,
};
use provisioner_core::testing::memory::MemoryEngine;

pub(crate) struct Store;
pub(crate) struct Web;
pub(crate) struct Front;

pub(crate) fn components() -> Vec<Box<dyn Component>> {
    vec![Box::new(Store), Box::new(Web), Box::new(Front)]
}

pub(crate) fn engine() -> MemoryEngine {
    MemoryEngine::new(StackName::new("small").unwrap())
}

/// What a test may change in what should exist.
#[derive(Clone)]
pub(crate) struct Wishes {
    pub(crate) webs: u32,
    pub(crate) store_conf: &'static str,
    pub(crate) front_conf: &'static str,
    pub(crate) web_release: &'static str,
    /// The front's certificate, by the stack's own authority, lasts so many days.
    pub(crate) certificate_days: Option<u32>,
    pub(crate) store_bytes: Option<u64>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            webs: 2,
            store_conf: "buffers = 1",
            front_conf: "rate 10",
            web_release: "1",
            certificate_days: None,
            store_bytes: None,
        }
    }
}

pub(crate) fn stack(wishes: &Wishes) -> Stack {
    let base = Image::Base { id: ImageId("base".into()), suite: "trixie".into() };
    let recipe = |id: &str, text: &str| {
        Resource::Image(Image::Recipe(Recipe {
            id: ImageId(id.into()),
            base: ImageId("base".into()),
            dockerfile: format!("ARG BASE\nFROM ${{BASE}}\n# {text}\n"),
            inputs: Vec::new(),
        }))
    };
    let store = Workload {
        mounts: vec![Mount { volume: "store-1-data".into(), path: "/data".into() }],
        restart: Restart::Never,
        probes: None,
        files: vec![file("/etc/store.conf", wishes.store_conf, OnChange::Restart)],
        ..workload("store", "store", 1)
    };
    let mut declared = vec![
        Resource::Image(base),
        Resource::Network,
        Resource::Secret(Secret::password("store-password", 24)),
        Resource::Volume(Volume {
            name: "store-1-data".into(),
            component: "store".into(),
            size_bytes: wishes.store_bytes,
        }),
        recipe("store", "store"),
        recipe("web", wishes.web_release),
        recipe("front", "front"),
        Resource::Workload(Arc::new(store)),
    ];
    for nth in 1..=wishes.webs {
        let secret_env = BTreeMap::from([(
            "STORE_URL".to_owned(),
            Text::new(format!("store://{}@store-1", Text::secret("store-password"))),
        )]);
        let after = vec![Dependency::Ready(Member::nth("store", 1)), Dependency::task("store", "users")];
        declared.push(Resource::Workload(Arc::new(Workload { secret_env, after, ..workload("web", "web", nth) })));
    }
    let reload = OnChange::Reload { check: vec!["front".into(), "-t".into()], signal: "SIGHUP".into() };
    let after = (1..=wishes.webs).map(|nth| Dependency::Ready(Member::nth("web", nth))).collect();
    let mut files = vec![file("/etc/front.conf", wishes.front_conf, reload.clone())];
    if let Some(days) = wishes.certificate_days {
        let source = SecretSource::Authority { subject: "small".into(), days: 3650 };
        declared.push(Resource::Secret(Secret { name: "ca".into(), source }));
        let source = SecretSource::Certificate { issuer: "ca".into(), names: vec!["front-1".into()], days };
        declared.push(Resource::Secret(Secret { name: "tls-front".into(), source }));
        files.push(file("/etc/front.crt", &Text::secret("tls-front.crt"), reload));
    }
    declared.push(Resource::Workload(Arc::new(Workload { files, after, ..workload("front", "front", 1) })));
    Stack::new(StackName::new("small").unwrap(), declared)
}

fn file(path: &str, content: &str, on_change: OnChange) -> File {
    File { path: path.into(), mode: 0o644, owner: (0, 0), content: Text::new(content), on_change }
}

fn workload(component: &str, image: &str, nth: u32) -> Workload {
    Workload {
        member: Member::nth(component, nth),
        component: component.into(),
        image: ImageId(image.into()),
        command: Vec::new(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: Vec::new(),
        mounts: Vec::new(),
        names: Vec::new(),
        ports: vec![Port::new("main", 80, Expose::Checks)],
        user: None,
        scratch: Vec::new(),
        limits: Limits::default(),
        stop: StopBy { signal: "SIGTERM".into(), grace_secs: 5 },
        restart: Restart::UnlessStopped,
        probes: None,
        after: Vec::new(),
    }
}

#[async_trait]
impl Component for Store {
    fn name(&self) -> &'static str {
        "store"
    }

    fn declare(&self, _manifest: &Manifest) -> Vec<Resource> {
        Vec::new()
    }

    fn tasks(&self, situation: &Situation<'_>) -> Tasks {
        let records = &situation.observed.records;
        let first = Member::nth("store", 1);
        let volume = provisioner_core::stack::ResourceId::Volume("store-1-data".into());
        let absent = |key: &str, because: &str| (records.version(key) == 0).then(|| because.to_owned());
        let bootstrap = Planned {
            task: Task::new("store", "bootstrap").on(&first),
            because: absent("store.cluster", "there is no record of any data"),
            after: vec![Dependency::Resource(volume)],
            before: vec![Dependency::workload(&first)],
        };
        let users = Planned {
            task: Task::new("store", "users"),
            because: absent("store.users", "no users were made yet"),
            after: vec![Dependency::Ready(first)],
            before: Vec::new(),
        };
        Tasks { tasks: vec![bootstrap, users], ..Tasks::default() }
    }

    async fn ready(&self, _access: &Access<'_>, _member: &Member) -> Result<(), NotReady> {
        Ok(())
    }

    async fn run(&self, task: &Task, access: &Access<'_>) -> Result<(), Failure> {
        let key = if task.name == "bootstrap" { "store.cluster" } else { "store.users" };
        let version = access.engine.records().get(key).await?.map_or(0, |record| record.version);
        access.engine.records().put_if(key, version, serde_json::json!({"done": true})).await?;
        Ok(())
    }

    async fn verify(&self, _access: &Access<'_>) -> Vec<Finding> {
        Vec::new()
    }
}

#[async_trait]
impl Component for Web {
    fn name(&self) -> &'static str {
        "web"
    }

    fn declare(&self, _manifest: &Manifest) -> Vec<Resource> {
        Vec::new()
    }

    async fn ready(&self, _access: &Access<'_>, _member: &Member) -> Result<(), NotReady> {
        Ok(())
    }

    async fn verify(&self, _access: &Access<'_>) -> Vec<Finding> {
        Vec::new()
    }
}

#[async_trait]
impl Component for Front {
    fn name(&self) -> &'static str {
        "front"
    }

    fn declare(&self, _manifest: &Manifest) -> Vec<Resource> {
        Vec::new()
    }

    fn tasks(&self, situation: &Situation<'_>) -> Tasks {
        let front = Member::nth("front", 1);
        let moved: Vec<&Member> =
            situation.changing.iter().filter(|member| member.as_str().starts_with("web-")).collect();
        let is_needed = !moved.is_empty() && !situation.changing.contains(&front);
        let reload = Planned {
            task: Task::new("front", "reload").on(&front),
            because: is_needed.then(|| "a web member gets another address".to_owned()),
            after: moved.into_iter().cloned().map(Dependency::Ready).collect(),
            before: Vec::new(),
        };
        Tasks { tasks: vec![reload], ..Tasks::default() }
    }

    async fn ready(&self, _access: &Access<'_>, _member: &Member) -> Result<(), NotReady> {
        Ok(())
    }

    async fn run(&self, task: &Task, access: &Access<'_>) -> Result<(), Failure> {
        let member = task.member.as_ref().ok_or_else(|| Failure::new("reload: no member given"))?;
        let signal = OnChange::Reload { check: Vec::new(), signal: "SIGHUP".into() };
        Ok(access.engine.put_files(member, &[], &signal).await?)
    }

    async fn verify(&self, _access: &Access<'_>) -> Vec<Finding> {
        Vec::new()
    }
}

pub(crate) struct Silent;

impl Listener for Silent {
    fn hear(&self, _event: Event<'_>) {}
}

/// The plan for the world as it is now.
pub(crate) async fn plan_now(engine: &MemoryEngine, stack: &Stack) -> Plan {
    use provisioner_core::engine::Engine;
    plan(stack, &engine.observe().await.unwrap(), &components(), &Policy::default()).unwrap()
}

/// Plans and walks the plan.
pub(crate) async fn up(engine: &MemoryEngine, stack: &Stack) -> (Plan, Outcomes) {
    use provisioner_core::engine::Engine;
    let observed = engine.observe().await.unwrap();
    let components = components();
    let plan = plan(stack, &observed, &components, &Policy::default()).unwrap();
    let execution = Execution {
        engine,
        components: &components,
        stack,
        observed: &observed,
        listener: &Silent,
        lease: None,
        stop: Stop::default(),
        ready_limit: std::time::Duration::from_secs(5),
        at_one_go: std::collections::BTreeSet::new(),
    };
    let outcomes = execute(&plan, &execution).await;
    (plan, outcomes)
}
