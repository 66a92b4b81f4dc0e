//! Programs that ask a system in its own language and answer in Prometheus's. Each logs in as a user who may look and
//! nothing else.

use minijinja::context;
use provisioner_core::manifest::Manifest;
use provisioner_core::stack::{File, OnChange, Probe, ResourceId, Stack, Text, Workload};

use super::Program;
use super::declare::{MIB, file, reload, rendered, workload};
use crate::certificates::{self, AUTHORITY, AUTHORITY_FILE};
use crate::template::render;
use crate::{elasticsearch, nginx, postgres, redis};

const LIMITS: (u64, u32) = (48 * MIB, 250);
const LOGINS: &str = "/run/provisioner/postgres.yml";
const BLACKBOX: &str = "/etc/prometheus/blackbox.yml";

/// Those that the stack has something for.
pub(super) fn workloads(manifest: &Manifest, stack: &Stack) -> Vec<Workload> {
    let has = |component| stack.members(component).next().is_some();
    let mut workloads = Vec::new();
    // Of external services their operators have the figures.
    if has(postgres::NAME) {
        workloads.push(of_postgres(stack));
    }
    if has(redis::NAME) {
        workloads.push(of_redis(stack));
    }
    workloads.extend([of_nginx(), blackbox(stack)]);
    // A cluster has many machines, and watching them is its own business: one pod would tell of the one that it is on.
    if manifest.kubernetes.is_none() {
        workloads.insert(0, node());
    }
    if elasticsearch::members(stack).next().is_some() {
        workloads.push(of_elasticsearch());
    }
    workloads
}

/// What the kernel tells a container about the machine: processors, memory, load, and the disk below its own root.
fn node() -> Workload {
    let flags = [
        // Its root is the engine's disk; by default that kind of file system is left out.
        "--collector.filesystem.fs-types-exclude=^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|mqueue|nsfs|proc|securityfs|sysfs|tmpfs|tracefs)$",
        "--collector.filesystem.mount-points-exclude=^/(dev|etc|proc|run|sys)($|/)",
        "--no-collector.arp",
        "--no-collector.bcache",
        "--no-collector.btrfs",
        "--no-collector.infiniband",
        "--no-collector.ipvs",
        "--no-collector.mdadm",
        "--no-collector.nfs",
        "--no-collector.nfsd",
        "--no-collector.systemd",
        "--no-collector.xfs",
        "--no-collector.zfs",
    ];
    exporter(Program::Node, flags.map(str::to_owned).into())
}

fn of_postgres(stack: &Stack) -> Workload {
    let flags = [
        format!("--config.file={LOGINS}"),
        "--collector.stat_wal_receiver".to_owned(),
        "--collector.stat_checkpointer".to_owned(),
        "--collector.long_running_transactions".to_owned(),
    ];
    let logins = context! {
        password => Text::secret(postgres::Login::Monitor.secret()),
        tls => postgres::is_encrypted(stack),
        authority => AUTHORITY_FILE,
    };
    let mut workload = exporter(Program::Postgres, flags.into());
    workload.files.push(file(LOGINS, 0o400, rendered!("exporters/postgres.yml.j2", logins), &OnChange::Restart));
    workload.files.extend(authority(stack));
    workload
}

fn of_redis(stack: &Stack) -> Workload {
    let mut flags = vec![
        format!("-redis.addr={}", redis::url(stack)),
        format!("-redis.user={}", redis::User::Monitor.name()),
        // The user may not see the configuration, and what matters of it is in INFO.
        "-config-command=-".to_owned(),
    ];
    if redis::is_encrypted(stack) {
        flags.push(format!("-tls-ca-cert-file={AUTHORITY_FILE}"));
    }
    let mut workload = exporter(Program::Redis, flags);
    let password = Text::new(Text::secret(redis::User::Monitor.secret()));
    workload.secret_env.insert("REDIS_PASSWORD".to_owned(), password);
    workload.files.extend(authority(stack));
    workload
}

fn of_elasticsearch() -> Workload {
    let flags = [
        // Any node: each of them tells about all.
        format!("--es.uri=https://{}:{}", elasticsearch::NAME, elasticsearch::HTTP),
        format!("--es.ca={AUTHORITY_FILE}"),
        "--es.all".to_owned(),
        "--es.indices".to_owned(),
        "--collector.snapshots".to_owned(),
    ];
    let mut workload = exporter(Program::Elasticsearch, flags.into());
    let user = elasticsearch::User::Monitor;
    workload.env.insert("ES_USERNAME".to_owned(), user.name().to_owned());
    workload.secret_env.insert("ES_PASSWORD".to_owned(), Text::new(Text::secret(user.secret())));
    workload.files.push(certificates::authority_file());
    workload
}

fn of_nginx() -> Workload {
    let uri = format!("http://{}:{}/status", nginx::member(), nginx::STATUS);
    exporter(Program::Nginx, vec![format!("--nginx.scrape-uri={uri}")])
}

/// Looks at the stack from outside its programs, as a client does.
fn blackbox(stack: &Stack) -> Workload {
    let flag = format!("--config.file={BLACKBOX}");
    let check = reload(&["prometheus-blackbox-exporter", "--config.check", &flag]);
    // Somebody's own certificate is signed by nobody whom the stack knows.
    let own_certificate = nginx::has_own_certificate(stack);
    let values = context! { server_name => nginx::member().to_string(), own_certificate };
    let modules = rendered!("blackbox.yml.j2", values);
    let mut workload = exporter(Program::Blackbox, vec![flag]);
    workload.files.push(file(BLACKBOX, 0o644, modules, &check));
    workload.files.extend(authority(stack));
    workload
}

fn exporter(program: Program, flags: Vec<String>) -> Workload {
    let mut workload = workload(program, &format!("prometheus-{}", program.name()), flags, LIMITS);
    workload.probes = workload.probes.map(|probes| probes.started(Probe::Tcp { port: program.port() }, 60));
    workload
}

/// Where the stack has one.
fn authority(stack: &Stack) -> Option<File> {
    stack.resource(&ResourceId::Secret(AUTHORITY.to_owned())).map(|_| certificates::authority_file())
}
