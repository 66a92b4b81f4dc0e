//! What should exist: a workload a program, and volumes for what Prometheus, Alertmanager and the pages remember.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::context;
use provisioner_core::component::Component;
use provisioner_core::manifest::{Manifest, Monitoring as Section, Pager};
use provisioner_core::stack::{
    Expose, File, ImageId, Limits, Mount, OnChange, Port, Probe, Probes, Recipe, Resource, Restart, Secret, Stack,
    Stop, Text, Volume, Workload,
};

use super::targets::{Target, jobs};
use super::{NAME, Program, exporters, rules};
use crate::template::render;
use crate::{app, elasticsearch, media, nginx, postgres, rabbitmq, recipe, redis, route};

const CONFIG: &str = "/etc/prometheus";
const SCRIPT: &str = "/run/provisioner/pages.py";
/// User and group of the recipe.
const PROMETHEUS: (u32, u32) = (999, 999);
/// The threshold that is a figure of the stack: how many nodes a whole search cluster has.
const SEARCH_NODES: &str = "search_nodes";
pub(super) const MIB: u64 = 1 << 20;

/// Template of a file in `monitoring/`, rendered.
macro_rules! rendered {
    ($name:literal, $values:expr) => {
        render($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../monitoring/", $name)), $values)
    };
}
pub(super) use rendered;

/// Every other system of the stack that has members of its own to look at.
fn systems() -> [Box<dyn Component>; 8] {
    [
        Box::new(nginx::Nginx),
        Box::new(media::Media),
        Box::new(app::App),
        Box::<route::Route>::default(),
        Box::new(postgres::Postgres),
        Box::new(redis::Redis),
        Box::new(rabbitmq::Rabbitmq),
        Box::new(elasticsearch::Elasticsearch),
    ]
}

pub(super) fn declare(manifest: &Manifest, section: &Section) -> Vec<Resource> {
    let own = || Recipe {
        id: ImageId(NAME.to_owned()),
        base: ImageId(crate::BASE.to_owned()),
        dockerfile: include_str!("../../recipes/monitoring/Dockerfile").to_owned(),
        inputs: Vec::new(),
    };
    let systems = Stack::of(manifest, systems().iter().map(AsRef::as_ref));
    let mut resources = recipe(NAME, section.service.image.as_deref(), own);
    resources.extend(
        pagers(section).map(|(service, pager)| {
            Resource::Secret(Secret { name: key_secret(service), source: (&pager.key).into() })
        }),
    );
    let exporters = exporters::workloads(manifest, &systems);
    let exported = exporters.iter().cloned().map(|workload| Resource::Workload(Arc::new(workload)));
    let asked = Stack::new(manifest.name.clone(), systems.resources().cloned().chain(exported));
    let mut workloads = vec![prometheus(manifest, section, &asked), alertmanager(section)];
    if section.webhook.is_none() {
        workloads.push(pages());
    }
    workloads.extend(exporters);
    for workload in workloads {
        let is_prometheus = workload.member == Program::Prometheus.member();
        let size_bytes = section.service.disk_bytes.filter(|_| is_prometheus);
        let volumes = workload.mounts.iter().map(|mount| mount.volume.clone());
        resources.extend(volumes.map(|name| Resource::Volume(Volume { name, component: NAME.to_owned(), size_bytes })));
        resources.push(Resource::Workload(Arc::new(workload)));
    }
    resources
}

/// Those who wake people, by the name that Alertmanager's configuration has for them.
fn pagers(section: &Section) -> impl Iterator<Item = (&'static str, &Pager)> {
    let known = [("pagerduty", &section.pagerduty), ("opsgenie", &section.opsgenie)];
    known.into_iter().filter_map(|(service, pager)| Some((service, pager.as_ref()?)))
}

fn key_secret(service: &str) -> String {
    format!("{service}-key")
}

fn prometheus(manifest: &Manifest, section: &Section, asked: &Stack) -> Workload {
    let shown = |target: &Target| context! { instance => target.instance.clone(), address => target.address.clone() };
    let listed: BTreeMap<&str, Vec<minijinja::Value>> =
        jobs(asked).iter().map(|(job, targets)| (*job, targets.iter().map(shown).collect())).collect();
    let configuration = context! {
        stack => manifest.name.to_string(),
        scrape_seconds => section.scrape_seconds,
        timeout_seconds => section.scrape_seconds.min(10),
        evaluation_seconds => section.scrape_seconds.min(15),
        alertmanager => Program::Alertmanager.address(),
        postgres_exporter => Program::Postgres.address(),
        blackbox_exporter => Program::Blackbox.address(),
        jobs => listed,
    };
    let path = format!("{CONFIG}/prometheus.yml");
    let reload = reload(&["promtool", "check", "config", &path]);
    let mut files = vec![file(&path, 0o644, rendered!("prometheus.yml.j2", configuration), &reload)];
    let rules = rules::files(&thresholds(manifest, section)).into_iter();
    files.extend(rules.map(|(name, text)| file(&format!("{}{name}", rules_folder()), 0o644, text, &reload)));
    let flags = [
        format!("--config.file={path}"),
        "--storage.tsdb.path=/var/lib/prometheus/metrics".to_owned(),
        format!("--storage.tsdb.retention.time={}", section.retention),
        // An alert that was told while Alertmanager was away is told again soon, not a minute later.
        "--rules.alert.resend-delay=10s".to_owned(),
    ];
    let limits = (section.service.memory_bytes, section.service.cpu_millis);
    let mut workload = workload(Program::Prometheus, "prometheus", flags.into(), limits);
    workload.files = files;
    workload.mounts = vec![volume(Program::Prometheus, "/var/lib/prometheus/metrics")];
    workload
}

/// What the manifest says about thresholds, directly or by what the stack has of a system.
fn thresholds(manifest: &Manifest, section: &Section) -> BTreeMap<String, f64> {
    let own = manifest.elasticsearch.as_ref().filter(|search| search.external.is_none());
    let nodes = own.map(|search| (SEARCH_NODES.to_owned(), f64::from(search.nodes)));
    nodes.into_iter().chain(section.thresholds.clone()).collect()
}

/// Where Prometheus finds its rules.
pub(super) fn rules_folder() -> String {
    format!("{CONFIG}/rules/")
}

fn alertmanager(section: &Section) -> Workload {
    let key_file = |service: &str| format!("/run/provisioner/{service}.key");
    // Whoever is not told of anything is not named at all.
    let mut values = BTreeMap::from([("webhook_url".to_owned(), webhook(section))]);
    for (service, pager) in pagers(section) {
        values.insert(format!("{service}_key_file"), key_file(service));
        values.extend(pager.url.clone().map(|url| (format!("{service}_url"), url)));
    }
    let path = format!("{CONFIG}/alertmanager.yml");
    let reload = reload(&["amtool", "check-config", &path]);
    let mut files = vec![file(&path, 0o644, rendered!("alertmanager.yml.j2", values.into()), &reload)];
    // Read whenever somebody is to be woken.
    let keys = pagers(section);
    files.extend(
        keys.map(|(service, _)| {
            file(&key_file(service), 0o400, Text::secret(&key_secret(service)), &OnChange::Nothing)
        }),
    );
    let flags = [
        format!("--config.file={path}"),
        "--storage.path=/var/lib/prometheus/alertmanager".to_owned(),
        // There is one: nobody to gossip with, nothing to wait for.
        "--cluster.listen-address=".to_owned(),
    ];
    let mut workload = workload(Program::Alertmanager, "prometheus-alertmanager", flags.into(), (64 * MIB, 500));
    workload.files = files;
    workload.mounts = vec![volume(Program::Alertmanager, "/var/lib/prometheus/alertmanager")];
    workload
}

/// Who is told of every alert.
fn webhook(section: &Section) -> String {
    section.webhook.clone().unwrap_or_else(|| format!("http://{}/notifications", Program::Pages.address()))
}

fn pages() -> Workload {
    let mut workload = workload(Program::Pages, "python3", vec![SCRIPT.to_owned()], (48 * MIB, 250));
    let script = include_str!("../../recipes/monitoring/pages.py").to_owned();
    workload.files = vec![file(SCRIPT, 0o444, script, &OnChange::Restart)];
    workload.mounts = vec![volume(Program::Pages, "/var/lib/prometheus/pages")];
    workload
}

fn volume(program: Program, path: &str) -> Mount {
    Mount { volume: format!("{}-data", program.member()), path: path.to_owned() }
}

/// A file that is taken over without a restart, once its software's own checker has accepted it.
pub(super) fn reload(check: &[&str]) -> OnChange {
    let check = check.iter().map(|word| (*word).to_owned()).collect();
    OnChange::Reload { check, signal: "SIGHUP".to_owned() }
}

pub(super) fn file(path: &str, mode: u32, content: String, on_change: &OnChange) -> File {
    let content = Text::new(content);
    File { path: path.to_owned(), mode, owner: PROMETHEUS, content, on_change: on_change.clone() }
}

/// A member without files and volumes.
pub(super) fn workload(program: Program, binary: &str, flags: Vec<String>, limits: (u64, u32)) -> Workload {
    let (memory_bytes, cpu_millis) = limits;
    Workload {
        member: program.member(),
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: std::iter::once(binary.to_owned()).chain(flags).collect(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: Vec::new(),
        mounts: Vec::new(),
        names: Vec::new(),
        ports: vec![Port::new("http", program.port(), Expose::Checks).reached_by(&[NAME])],
        user: Some(PROMETHEUS),
        scratch: Vec::new(),
        limits: Limits { memory_bytes: Some(memory_bytes), cpu_millis: Some(cpu_millis), shm_bytes: None },
        stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 10 },
        restart: Restart::UnlessStopped,
        probes: Some(Probes::ready(Probe::http(program.port(), program.health()))),
        // Whoever is not there yet is a target that is down: nothing here is waited for.
        after: Vec::new(),
    }
}
