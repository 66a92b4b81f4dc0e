//! The application: the shop of this repository, or any image. Backends take requests; workers do what they leave behind.

mod account;
mod contract;
mod jobs;
mod orders;
mod picture;
mod search;
mod session;
mod shop;
mod trial;
mod verify;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use provisioner_core::component::{Access, Component, Dependency, NotReady, Situation, Task, Tasks};
use provisioner_core::failure::Failure;
use provisioner_core::finding::Finding;
use provisioner_core::manifest::{App as AppSection, AppChecks, AppSource, Manifest};
use provisioner_core::name::Member;
use provisioner_core::stack::{
    Expose, File, ImageId, ImageInput, Limits, OnChange, Port, Probe, Probes, Recipe, Resource, Restart, Secret, Stack,
    Stop, Text, Workload,
};
use provisioner_core::trial::Trial;

use crate::certificates::{self, AUTHORITY_FILE};
use crate::elasticsearch::Elasticsearch;
use crate::http::Site;
use crate::mail::{self, Mail};
use crate::media::{self, Media};
use crate::postgres::Postgres;
use crate::rabbitmq::Rabbitmq;
use crate::redis::Redis;
use crate::route::Route;
use crate::{monitoring, nginx, postgres, recipe, redis, route};

pub(crate) use contract::Contract;

pub(crate) const NAME: &str = "app";
/// The members are what NGINX calls them.
const WORKLOAD: &str = "backend";
/// Port of a backend; no other program of the app has one of that name.
const HTTP: &str = "http";
/// Names the file with the stack's own authority, where any system that the app reaches encrypts.
const CA_FILE: &str = "STACK_CA_FILE";
/// Names the file with the queues of work.
const QUEUES_FILE: &str = "APP_QUEUES_FILE";
const QUEUES: &str = "/run/provisioner/queues";
/// User and group of the recipe: a number that no package takes.
pub(crate) const USER: (u32, u32) = (10001, 10001);
/// The shop's program in its image.
const SHOP: &str = "/usr/local/bin/app";
/// Where it tells its figures when nothing is said.
const METRICS_PORT: u16 = 9000;
/// Begins the name of every secret that the manifest gives to the app by a file.
const GIVEN: &str = "app-env-";
/// Programs of other languages take their time before they listen.
const START_SECS: u32 = 300;
/// Task by which NGINX learns the address of a backend that was started anew.
pub(crate) const ENLIST: &str = "enlist";

pub struct App;

/// The backends of a manifest, in order.
pub(crate) fn members(manifest: &Manifest) -> Vec<Member> {
    (1..=manifest.app.replicas).map(|nth| Member::nth(WORKLOAD, nth)).collect()
}

#[async_trait]
impl Component for App {
    fn name(&self) -> &'static str {
        NAME
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        let mut resources = match &manifest.app.source {
            AppSource::Image(reference) => recipe(NAME, Some(reference), own_recipe(Vec::new)),
            AppSource::Binary { file, digest } => recipe(
                NAME,
                None,
                own_recipe(|| {
                    let (path, file, digest) = ("app".to_owned(), file.clone(), digest.clone());
                    vec![ImageInput::HostFile { path, mode: 0o755, file, digest }]
                }),
            ),
        };
        resources.extend(
            manifest.app.secret_env.iter().map(|(variable, files)| {
                Resource::Secret(Secret { name: given_secret(variable), source: files.into() })
            }),
        );
        resources.extend(account::secret(manifest));
        let reached = reached(manifest);
        let contract = Contract::of(manifest).file();
        resources.extend(members(manifest).into_iter().map(|member| {
            let mut workload = backend(manifest, member, &reached);
            workload.files.push(contract.clone());
            Resource::Workload(Arc::new(workload))
        }));
        let workers = workers::workloads(manifest, &reached);
        resources.extend(workers.into_iter().map(|worker| Resource::Workload(Arc::new(worker))));
        resources
    }

    fn tasks(&self, situation: &Situation<'_>) -> Tasks {
        let mut tasks = jobs::tasks(situation);
        tasks.extend(nginx::enlist(situation));
        Tasks { tasks, ..Tasks::default() }
    }

    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        if let Some(worker) = workers::members(access.stack).find(|worker| worker.member == *member) {
            return workers::ready(access, worker).await;
        }
        let contract = Contract::read(access.stack).map_err(NotReady)?;
        let site = Site::of(access, member, contract.port, Duration::from_millis(1500)).await.map_err(NotReady)?;
        let reply = site.get(&contract.health).await.map_err(NotReady)?;
        if reply.status == 200 {
            return Ok(());
        }
        let text = reply.text();
        Err(NotReady(format!("{}: {} {}, expected 200", contract.health, reply.status, text.trim())))
    }

    async fn run(&self, task: &Task, access: &Access<'_>) -> Result<(), Failure> {
        match task.name.as_str() {
            ENLIST => nginx::run_enlist(task, access).await,
            _ => jobs::run(task, access).await,
        }
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        verify::verify(access).await
    }

    fn trial(&self) -> Option<&dyn Trial> {
        Some(self)
    }
}

fn own_recipe(inputs: impl FnOnce() -> Vec<ImageInput>) -> impl FnOnce() -> Recipe {
    || Recipe {
        id: ImageId(NAME.to_owned()),
        base: ImageId(crate::BASE.to_owned()),
        dockerfile: include_str!("../../recipes/app/Dockerfile").to_owned(),
        inputs: inputs(),
    }
}

/// The systems that every process of the app reaches.
fn systems() -> [Box<dyn Component>; 7] {
    [
        Box::new(Media),
        Box::new(Postgres),
        Box::<Route>::default(),
        Box::new(Redis),
        Box::new(Rabbitmq),
        Box::new(Elasticsearch),
        Box::new(Mail),
    ]
}

fn reached(manifest: &Manifest) -> Stack {
    Stack::of(manifest, systems().iter().map(AsRef::as_ref))
}

/// How to reach every other system: the same names and values that `provisioner env` prints, seen from inside.
fn variables(manifest: &Manifest, reached: &Stack) -> BTreeMap<String, Text> {
    let systems = systems();
    let variables = systems.iter().flat_map(|system| system.variables(reached));
    variables
        .map(|variable| (variable.name.to_owned(), variable.inside()))
        .chain(mail::settings(manifest))
        // What the manifest says outweighs what is derived.
        .filter(|(name, _)| !manifest.app.env.contains_key(name))
        .chain(manifest.app.secret_env.keys().map(|name| (name.clone(), Text::new(Text::secret(&given_secret(name))))))
        .collect()
}

/// Name of the stack's secret that holds what the manifest gives for a variable.
fn given_secret(variable: &str) -> String {
    format!("{GIVEN}{}", variable.to_ascii_lowercase().replace('_', "-"))
}

fn is_given(value: &Text) -> bool {
    value.secrets().iter().any(|secret| secret.starts_with(GIVEN))
}

fn backend(manifest: &Manifest, member: Member, reached: &Stack) -> Workload {
    let app = &manifest.app;
    let mut workload = process(manifest, member, reached);
    for (name, value) in [("PORT", app.port.to_string()), ("APP_LISTEN", format!("0.0.0.0:{}", app.port))] {
        // What the manifest says outweighs it.
        workload.env.entry(name.to_owned()).or_insert(value);
    }
    if let Some(mount) = media::shared_volume(manifest) {
        workload.env.entry(media::DIR_VARIABLE.to_owned()).or_insert_with(|| mount.path.clone());
        workload.mounts.push(mount);
    }
    if let (AppChecks::Shop, Some(rabbitmq)) = (app.checks, &manifest.rabbitmq) {
        workload.env.entry(QUEUES_FILE.to_owned()).or_insert_with(|| QUEUES.to_owned());
        let names: String = rabbitmq.queues.keys().map(|name| format!("{name}\n")).collect();
        // The shop reads it when somebody asks for dead letters: another queue restarts nothing.
        let (path, content, on_change) = (QUEUES.to_owned(), Text::new(names), OnChange::Nothing);
        workload.files.push(File { path, mode: 0o444, owner: (0, 0), content, on_change });
    }
    workload.command.clone_from(&app.serve);
    workload.ports = vec![Port::new(HTTP, app.port, Expose::Checks).reached_by(&[nginx::NAME, monitoring::NAME])];
    open_metrics(&mut workload);
    // Whether it can serve depends on others, so that alone is no failed start.
    let listens = Probe::Tcp { port: app.port };
    let ready = Probe::http(app.port, app.health.as_str());
    workload.probes = Some(Probes::ready(ready).started(listens, START_SECS));
    workload.limits = limits(manifest);
    workload
}

/// Prometheus reads the shop's figures where no other port is.
fn open_metrics(workload: &mut Workload) {
    let port = metrics_port(workload);
    if is_shop(workload) && workload.ports.iter().all(|open| open.port != port) {
        workload.ports.push(Port::new("metrics", port, Expose::Nobody).reached_by(&[monitoring::NAME]));
    }
}

fn is_shop(workload: &Workload) -> bool {
    workload.command.first().is_some_and(|word| word == SHOP)
}

fn metrics_port(workload: &Workload) -> u16 {
    let listen = workload.env.get(workers::LISTEN).and_then(|listen| listen.rsplit(':').next()?.parse().ok());
    listen.unwrap_or(METRICS_PORT)
}

/// The members that take requests.
pub(crate) fn backends(stack: &Stack) -> impl Iterator<Item = &Workload> {
    stack.members(NAME).filter(|workload| is_backend(workload))
}

/// A process of the app whose figures Prometheus reads.
pub(crate) struct Scraped {
    pub(crate) member: Member,
    pub(crate) port: u16,
    pub(crate) is_backend: bool,
}

/// Those of the shop; what another app has to tell, and where, nobody knows.
pub(crate) fn scraped(stack: &Stack) -> Vec<Scraped> {
    if !Contract::read(stack).is_ok_and(|contract| contract.is_shop) {
        return Vec::new();
    }
    let processes = stack.members(NAME).filter(|workload| is_shop(workload));
    let scraped = processes.map(|workload| Scraped {
        member: workload.member.clone(),
        port: metrics_port(workload),
        is_backend: is_backend(workload),
    });
    scraped.collect()
}

fn is_backend(workload: &Workload) -> bool {
    workload.port(HTTP).is_some()
}

/// What every program of the app is given, whatever it does: its image, how to reach the other systems, and what must be
/// there before it starts.
fn process(manifest: &Manifest, member: Member, reached: &Stack) -> Workload {
    let app = &manifest.app;
    let mut env = BTreeMap::new();
    let mut files = Vec::new();
    if let Some(file) = certificates::trusted_file(reached) {
        env.insert(CA_FILE.to_owned(), AUTHORITY_FILE.to_owned());
        files.push(file);
    }
    env.extend(app.env.clone());
    Workload {
        member,
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: Vec::new(),
        env,
        secret_env: variables(manifest, reached),
        files,
        mounts: Vec::new(),
        names: Vec::new(),
        ports: Vec::new(),
        user: user(app),
        scratch: vec!["/tmp".to_owned()],
        limits: Limits::default(),
        // The shop drains for 2 s and then gives open requests and messages 20 s.
        stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 30 },
        restart: Restart::UnlessStopped,
        probes: None,
        after: after(reached),
    }
}

/// Services that exist already are there: nobody waits for them.
fn after(reached: &Stack) -> Vec<Dependency> {
    let ready = |workload: &Workload| Dependency::Ready(workload.member.clone());
    let mut after = vec![Dependency::task(NAME, jobs::MIGRATE)];
    if reached.external(postgres::NAME).is_none() {
        after.push(Dependency::task(route::NAME, route::POINT));
    }
    after.extend(reached.members(redis::NAME).map(ready));
    after.extend(reached.members(route::NAME).map(ready));
    after
}

/// Somebody's own image says itself who runs it.
fn user(app: &AppSection) -> Option<(u32, u32)> {
    matches!(app.source, AppSource::Binary { .. }).then_some(USER)
}

fn limits(manifest: &Manifest) -> Limits {
    Limits { memory_bytes: Some(manifest.app.memory_bytes), cpu_millis: Some(manifest.app.cpu_millis), shm_bytes: None }
}

#[cfg(test)]
mod tests {
    use provisioner_core::manifest::{HostFiles, parse};
    use provisioner_core::stack::{Fingerprint, Image, ResourceId};

    use super::*;
    use crate::testing::manifest;

    fn stack(manifest: &Manifest) -> Stack {
        Stack::new(manifest.name.clone(), App.declare(manifest))
    }

    #[test]
    fn a_backend_gets_the_variables_of_all_systems_as_secrets() {
        let stack = stack(&manifest());
        let backend = stack.workload(&Member::named("backend-2")).unwrap();
        let names: Vec<_> = backend.secret_env.keys().map(String::as_str).collect();
        assert_eq!(names, ["APP_MEDIA_URL", "DATABASE_REPLICA_URL", "DATABASE_URL", "REDIS_URL"]);
        assert_eq!(
            backend.secret_env["DATABASE_URL"].masked(),
            "postgres://app:@{secret:postgres-app}@postgres-rw:5432/app"
        );
        assert_eq!(backend.secret_env["REDIS_URL"].masked(), "redis://app:@{secret:redis-app}@redis-1:6379/0");
        assert_eq!(backend.env["APP_LISTEN"], "0.0.0.0:8000");
    }

    #[test]
    fn the_shop_puts_pictures_where_nginx_finds_them_and_another_app_is_left_alone() {
        let of = |text: &str| {
            let manifest = parse(format!("name: dev\n{text}\n").as_bytes()).unwrap();
            let systems: [&dyn Component; 3] = [&App, &Media, &nginx::Nginx];
            let stack = Stack::new(manifest.name.clone(), systems.iter().flat_map(|system| system.declare(&manifest)));
            let backend = stack.workload(&Member::named("backend-1")).unwrap().clone();
            (backend, stack)
        };
        let (shop, stack) = of("app: {binary: app}");
        let url = "http://app:@{secret:media-app}@media-1:8090/media/";
        assert_eq!(shop.secret_env["APP_MEDIA_URL"].masked(), url);
        assert!(shop.mounts.is_empty() && stack.workload(&nginx::member()).unwrap().mounts.is_empty());

        let (shop, stack) = of("app: {binary: app}\nmedia: {shared_volume: true}");
        assert!(stack.members(media::NAME).next().is_none() && !shop.secret_env.contains_key("APP_MEDIA_URL"));
        assert_eq!(shop.mounts, stack.workload(&nginx::member()).unwrap().mounts);
        assert_eq!(shop.env["APP_MEDIA_DIR"], shop.mounts[0].path);

        let (other, stack) = of("app: {image: 'shop:1', serve: [serve]}");
        assert!(stack.members(media::NAME).next().is_none() && other.mounts.is_empty());
        assert!(!other.secret_env.contains_key("APP_MEDIA_URL") && !other.env.contains_key("APP_MEDIA_DIR"));
        let (other, _) = of("app: {image: 'shop:1', serve: [serve]}\nmedia: {}");
        assert!(other.secret_env.contains_key("APP_MEDIA_URL"));
    }

    #[test]
    fn the_shop_is_told_of_the_queues_and_another_queue_restarts_nothing() {
        let of = |queues: &str| {
            let text = format!("name: dev\nrabbitmq: {queues}\napp: {{binary: app}}\n");
            let manifest = provisioner_core::manifest::parse(text.as_bytes()).unwrap();
            stack(&manifest).workload(&Member::named("backend-1")).unwrap().clone()
        };
        let (usual, other) = (of("{}"), of("{queues: {email: [email.#], invoices: [invoice.#]}}"));
        let names = |backend: &Workload| {
            let file = backend.files.iter().find(|file| file.path == backend.env[QUEUES_FILE]).unwrap();
            file.content.masked().to_owned()
        };
        assert_eq!((names(&usual).as_str(), names(&other).as_str()), ("custom\nemail\nsearch\n", "email\ninvoices\n"));
        assert_eq!(usual.spec_fingerprint("app:1"), other.spec_fingerprint("app:1"));
    }

    #[test]
    fn the_manifest_outweighs_what_is_derived() {
        let mut manifest = manifest();
        manifest.app.env.insert("REDIS_URL".to_owned(), "redis://elsewhere".to_owned());
        let stack = stack(&manifest);
        let backend = stack.workload(&Member::named("backend-1")).unwrap();
        assert!(!backend.secret_env.contains_key("REDIS_URL"));
        assert_eq!(backend.env["REDIS_URL"], "redis://elsewhere");
    }

    #[test]
    fn a_variable_from_a_file_is_a_secret_and_outweighs_what_is_derived() {
        let mut manifest = manifest();
        for name in ["REDIS_URL", "APP_WEBHOOK_SECRETS"] {
            let file = HostFiles { files: vec![name.into()], digest: Fingerprint::of_bytes(name.as_bytes()) };
            manifest.app.secret_env.insert(name.to_owned(), file);
        }
        let stack = stack(&manifest);
        let backend = stack.workload(&Member::named("backend-1")).unwrap();
        assert_eq!(backend.secret_env["REDIS_URL"].masked(), "@{secret:app-env-redis-url}");
        assert_eq!(backend.secret_env["APP_WEBHOOK_SECRETS"].masked(), "@{secret:app-env-app-webhook-secrets}");
        let secret = |name: &str| stack.resource(&ResourceId::Secret(name.to_owned())).is_some();
        assert!(secret("app-env-redis-url") && secret("app-env-app-webhook-secrets"));
    }

    #[test]
    fn every_process_knows_the_authority_of_what_it_reaches() {
        let mut manifest = manifest();
        let has_file = |workload: &Workload| workload.files.iter().any(|file| file.path == AUTHORITY_FILE);
        let backend = Member::named("backend-1");
        assert!(!has_file(stack(&manifest).workload(&backend).unwrap()));

        (manifest.postgres.tls, manifest.redis.tls) = (true, true);
        let stack = stack(&manifest);
        let backend = stack.workload(&backend).unwrap();
        assert!(has_file(backend));
        assert_eq!(backend.env[CA_FILE], AUTHORITY_FILE);
        assert_eq!(
            backend.secret_env["DATABASE_REPLICA_URL"].masked(),
            "postgres://app:@{secret:postgres-app}@postgres-ro:5433/app?sslmode=verify-full&sslrootcert=/run/provisioner/ca.crt"
        );
        assert_eq!(backend.secret_env["REDIS_URL"].masked(), "rediss://app:@{secret:redis-app}@redis-1:6379/0");
    }

    #[test]
    fn a_binary_is_put_into_an_image_and_an_image_is_taken_as_it_is() {
        let mut manifest = manifest();
        let id = ImageId(NAME.to_owned());
        let Some(Image::Recipe(recipe)) = stack(&manifest).image(&id).cloned() else { panic!("expected a recipe") };
        assert!(matches!(&recipe.inputs[..], [ImageInput::HostFile { path, mode: 0o755, .. }] if path == "app"));
        manifest.app.source = AppSource::Image("registry.example/shop:2".to_owned());
        assert_eq!(stack(&manifest).image(&id).unwrap().reference(), "registry.example/shop:2");
    }

    #[test]
    fn another_seed_command_restarts_nothing() {
        let mut manifest = manifest();
        let before = stack(&manifest).workload(&Member::named("backend-1")).unwrap().spec_fingerprint("app:1");
        manifest.app.seed = None;
        let after = stack(&manifest).workload(&Member::named("backend-1")).unwrap().spec_fingerprint("app:1");
        assert_eq!(before, after);
    }
}
