//! The keys of a manifest, their bounds and their defaults, section by section. The defaults fit a laptop: the dev stack
//! of all of them asks for less than 2 GiB.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde_json::Value;

use super::read::Table;
use super::{
    App, AppChecks, AppSource, Elasticsearch, Environment, HostFiles, Mail, MailServer, Manifest, Media, Nginx,
    NginxTls, OwnPair, Redis, Route, Service, bounds, external, kubernetes, messaging, monitoring, postgres,
};
use crate::name::StackName;
use crate::stack::Fingerprint;

const MIB: u64 = 1 << 20;
const IMAGE: &str = "an image reference such as registry.example/team/app:1.2";

const CHECKS: [(&str, AppChecks); 2] = [("health", AppChecks::Health), ("shop", AppChecks::Shop)];

/// `None` only where a problem was noted.
pub(super) fn manifest(mut table: Table<'_>) -> Option<Manifest> {
    let name = name(&mut table);
    let environment = table.choice("environment", &Environment::ALL).unwrap_or(Environment::Dev);
    let expose = table
        .value("expose", "an IP address to publish on, such as 127.0.0.1 or 0.0.0.0", |value| {
            value.as_str()?.parse().ok()
        })
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let certificate_days = count(&mut table, "certificate_days", 1, 3650).unwrap_or(365);
    let kubernetes = table.has("kubernetes").then(|| kubernetes::kubernetes(table.section("kubernetes")));
    let nginx = nginx(table.section("nginx"));
    let is_kept = matches!(nginx.tls.as_ref().and_then(|tls| tls.own.as_ref()), Some(OwnPair::Kept { .. }));
    if is_kept && kubernetes.is_none() {
        let found = "a Secret without a section `kubernetes`".to_owned();
        table.problem("nginx.tls.secret", found, "nothing: on Docker `certificate` and `key` name files");
    }
    let has_route = table.is_set("route");
    let route = route(table.section("route"));
    let postgres = postgres::postgres(table.section("postgres"));
    if has_route && postgres.external.is_some() {
        let found = "a section beside `postgres.external`".to_owned();
        table.problem("route", found, "nothing: clients go to the external server themselves");
    }
    let redis = redis(table.section("redis"));
    let rabbitmq = table.has("rabbitmq").then(|| messaging::rabbitmq(table.section("rabbitmq")));
    let elasticsearch = table.has("elasticsearch").then(|| elasticsearch(table.section("elasticsearch")));
    let mail = table.has("mail").then(|| messaging::mail(table.section("mail")));
    let monitoring = table.has("monitoring").then(|| monitoring::monitoring(table.section("monitoring")));
    let app = if table.has("app") {
        app(table.section("app"))
    } else {
        table.problem("app", "nothing".to_owned(), "a section with `image:` or `binary:`");
        None
    };
    let takes_pictures = app.as_ref().is_some_and(|app| app.checks == AppChecks::Shop);
    let media = (table.has("media") || takes_pictures).then(|| media(table.section("media")));
    let is_shop = app.as_ref().is_some_and(|app| matches!(app.source, AppSource::Binary { .. }));
    let workers = messaging::workers(&mut table, is_shop);
    if environment == Environment::Production && matches!(mail, Some(Some(Mail { server: MailServer::Sink(_), .. }))) {
        table.problem("mail.host", "nothing".to_owned(), "a mail server: production delivers its mails");
    }
    table.finish();
    Some(Manifest {
        name: name?,
        environment,
        expose,
        certificate_days,
        kubernetes,
        nginx,
        route,
        postgres,
        redis,
        rabbitmq,
        elasticsearch,
        mail: mail.flatten(),
        media,
        monitoring,
        app: app?,
        workers,
    })
}

fn name(table: &mut Table<'_>) -> Option<StackName> {
    if !table.has("name") {
        table.problem("name", "nothing".to_owned(), "a name for the stack, such as dev");
    }
    let expected = "1 to 32 lower-case letters, digits or hyphens, starting with a letter";
    table.value("name", expected, |value| StackName::new(value.as_str()?).ok())
}

pub(super) fn service(table: &mut Table<'_>, memory_mib: u64, cpu_millis: u32) -> Service {
    Service {
        image: table.value("image", IMAGE, |value| value.as_str().filter(|text| is_image(text)).map(str::to_owned)),
        memory_bytes: table.value("memory", bounds::MEMORY, bounds::memory).unwrap_or(memory_mib * MIB),
        cpu_millis: table.value("cpus", bounds::CPUS, bounds::cpus).unwrap_or(cpu_millis),
        disk_bytes: None,
    }
}

/// One that keeps data on volumes of its own.
pub(super) fn keeper(table: &mut Table<'_>, memory_mib: u64, cpu_millis: u32) -> Service {
    let disk_bytes = table.value("disk", bounds::DISK, bounds::disk);
    Service { disk_bytes, ..service(table, memory_mib, cpu_millis) }
}

fn nginx(mut table: Table<'_>) -> Nginx {
    let nginx = Nginx {
        service: service(&mut table, 64, 1000),
        http_port: port(&mut table, "http_port").unwrap_or(8080),
        rate_limit: count(&mut table, "rate_limit", 1, 1_000_000).unwrap_or(50),
        burst: count(&mut table, "burst", 0, 1_000_000).unwrap_or(100),
        body_max_bytes: table.integer("body_max_bytes", 1, 1 << 30).unwrap_or(MIB),
        tls: table.has("tls").then(|| nginx_tls(table.section("tls"))),
    };
    if nginx.tls.as_ref().is_some_and(|tls| tls.https_port == nginx.http_port) {
        table.problem("tls.port", nginx.http_port.to_string(), "another port than http_port");
    }
    table.finish();
    nginx
}

fn nginx_tls(mut table: Table<'_>) -> NginxTls {
    let file = |table: &mut Table<'_>, key| table.text(key, "the path of a PEM file").map(PathBuf::from);
    let (certificate, key) = (file(&mut table, "certificate"), file(&mut table, "key"));
    let kept = kubernetes::secret(&mut table, "secret");
    if kept.is_some() && (certificate.is_some() || key.is_some()) {
        table.problem("secret", "a Secret beside files".to_owned(), "one of both");
    }
    let own = match (key, certificate) {
        (Some(key), Some(certificate)) => {
            Some(OwnPair::Files(HostFiles { files: vec![key, certificate], digest: unread() }))
        }
        (None, None) => kept.map(|secret| OwnPair::Kept { secret, digest: None }),
        (Some(_), None) => {
            table.problem("certificate", "a key without a certificate".to_owned(), "both or neither");
            None
        }
        (None, Some(_)) => {
            table.problem("key", "a certificate without a key".to_owned(), "both or neither");
            None
        }
    };
    let names = table.words("names").unwrap_or_else(|| vec!["localhost".to_owned()]);
    if let Some(name) = names.iter().find(|name| !is_host(name.strip_prefix("*.").unwrap_or(name))) {
        table.problem("names", format!("{name:?}"), "host names and addresses such as shop.example");
    }
    let tls =
        NginxTls { https_port: port(&mut table, "port").unwrap_or(8443), only: flag(&mut table, "only"), names, own };
    table.finish();
    tls
}

/// Of no bytes, until whoever loads the manifest has read the files.
pub(super) fn unread() -> Fingerprint {
    Fingerprint::of_bytes(&[])
}

pub(super) fn flag(table: &mut Table<'_>, key: &'static str) -> bool {
    table.value(key, "true or false", Value::as_bool).unwrap_or(false)
}

pub(super) fn is_host(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
    !text.is_empty() && text.len() < 254 && text.chars().all(is_plain) && !text.starts_with(['-', '.'])
}

fn route(mut table: Table<'_>) -> Route {
    let route =
        Route { service: service(&mut table, 64, 500), replicas: count(&mut table, "replicas", 1, 3).unwrap_or(1) };
    table.finish();
    route
}

fn redis(mut table: Table<'_>) -> Redis {
    let redis = Redis {
        external: external::redis(&mut table),
        service: keeper(&mut table, 128, 500),
        tls: flag(&mut table, "tls"),
        settings: table.settings("settings", is_redis_setting, ["yes", "no"]).into_iter().collect(),
    };
    table.finish();
    redis
}

/// Elasticsearch's own advice: the other half is for the file cache and for what Java needs beside its heap.
fn elasticsearch(mut table: Table<'_>) -> Elasticsearch {
    let external = external::elasticsearch(&mut table);
    let service = keeper(&mut table, 1024, 2000);
    let heap = table.value("heap", bounds::MEMORY, bounds::memory);
    let heap_bytes = heap.unwrap_or(service.memory_bytes / 8 * 3 / MIB * MIB);
    if heap_bytes > service.memory_bytes / 2 {
        let found = format!("{} MiB of {} MiB", heap_bytes / MIB, service.memory_bytes / MIB);
        table.problem("heap", found, "at most half of the memory");
    }
    let nodes = count(&mut table, "nodes", 1, 9).unwrap_or(3);
    if nodes == 2 {
        table.problem("nodes", "2".to_owned(), "1, or 3 and more: of two nodes neither may go");
    }
    let settings = table.settings("settings", is_elasticsearch_setting, ["true", "false"]).into_iter().collect();
    table.finish();
    Elasticsearch { external, service, nodes, heap_bytes, settings }
}

fn media(mut table: Table<'_>) -> Media {
    let media = match flag(&mut table, "shared_volume") {
        true => Media::SharedVolume,
        false => Media::Member(keeper(&mut table, 64, 500)),
    };
    table.finish();
    media
}

fn app(mut table: Table<'_>) -> Option<App> {
    let is_named = table.is_set("image") || table.is_set("binary");
    let image = table.value("image", IMAGE, |value| value.as_str().filter(|text| is_image(text)).map(str::to_owned));
    let binary = table.text("binary", "the path of a static Linux binary");
    let source = match (image, binary) {
        (Some(image), None) => Some(AppSource::Image(image)),
        (None, Some(file)) => Some(AppSource::Binary { file: PathBuf::from(file), digest: unread() }),
        (Some(_), Some(_)) => {
            table.problem("binary", "`binary` beside `image`".to_owned(), "one of the two");
            None
        }
        // What was named is no image: said already.
        (None, None) if is_named => None,
        (None, None) => {
            table.problem("image", "neither `image` nor `binary`".to_owned(), "one of the two");
            None
        }
    };
    let is_shop = matches!(source, Some(AppSource::Binary { .. }));
    let default = |words: [&str; 2]| is_shop.then(|| words.map(str::to_owned).to_vec());
    if !is_shop && !table.has("serve") {
        table.problem("serve", "nothing".to_owned(), "the command that serves, such as [gunicorn, shop.wsgi]");
    }
    // Read to the end even without a source, so that all problems come out at once.
    let env = env(&mut table);
    let secret_env = secret_env(&mut table, &env);
    let rest = App {
        source: AppSource::Image(String::new()),
        memory_bytes: table.value("memory", bounds::MEMORY, bounds::memory).unwrap_or(128 * MIB),
        cpu_millis: table.value("cpus", bounds::CPUS, bounds::cpus).unwrap_or(1000),
        replicas: count(&mut table, "replicas", 1, 200).unwrap_or(2),
        serve: table.words("serve").or_else(|| default(["/usr/local/bin/app", "serve"])).unwrap_or_default(),
        migrate: table.words("migrate").or_else(|| default(["/usr/local/bin/app", "migrate"])),
        seed: table.words("seed").or_else(|| default(["/usr/local/bin/app", "seed"])),
        port: port(&mut table, "port").unwrap_or(8000),
        health: path(&mut table, "health").unwrap_or_else(|| "/readyz".to_owned()),
        env,
        secret_env,
        checks: table.choice("checks", &CHECKS).unwrap_or(if is_shop { AppChecks::Shop } else { AppChecks::Health }),
        smoke: path(&mut table, "smoke"),
    };
    table.finish();
    source.map(|source| App { source, ..rest })
}

pub(super) fn path(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    table.value(key, "a path that starts with /, such as /readyz", |value| {
        let is_path = |text: &&str| {
            text.starts_with('/') && text.chars().all(|c| c.is_ascii_alphanumeric() || "/_.~?=&%-".contains(c))
        };
        value.as_str().filter(is_path).map(str::to_owned)
    })
}

fn env(table: &mut Table<'_>) -> BTreeMap<String, String> {
    table.settings("env", is_variable, ["true", "false"]).into_iter().collect()
}

fn secret_env(table: &mut Table<'_>, env: &BTreeMap<String, String>) -> BTreeMap<String, HostFiles> {
    let files = table.settings("secret_env", is_secret_variable, ["true", "false"]);
    for (name, _) in files.iter().filter(|(name, _)| env.contains_key(name)) {
        let found = "a file beside `env`, which names it too".to_owned();
        table.problem(&format!("secret_env.{name}"), found, "one of the two");
    }
    files
        .into_iter()
        .map(|(name, file)| (name, HostFiles { files: vec![PathBuf::from(file)], digest: unread() }))
        .collect()
}

pub(super) fn port(table: &mut Table<'_>, key: &'static str) -> Option<u16> {
    table.integer(key, 1, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
}

pub(super) fn count(table: &mut Table<'_>, key: &'static str, from: u32, to: u32) -> Option<u32> {
    table.integer(key, from.into(), to.into()).and_then(|count| u32::try_from(count).ok())
}

fn is_image(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    !text.is_empty() && text.len() < 256 && text.chars().all(is_plain) && !text.starts_with(['-', '/', ':'])
}

fn is_variable(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Upper case alone: an engine's own secret is named after it, in lower case.
fn is_secret_variable(name: &str) -> bool {
    is_variable(name) && !name.contains(|c: char| c.is_ascii_lowercase())
}

/// What the provisioner decides itself, so that a line for it in redis.conf would have no effect.
const REDIS_RESERVED: [&str; 17] = [
    "aclfile",
    "appendonly",
    "bind",
    "daemonize",
    "dir",
    "include",
    "loadmodule",
    "logfile",
    "port",
    "rename-command",
    "requirepass",
    "tls-auth-clients",
    "tls-cert-file",
    "tls-key-file",
    "tls-port",
    "unixsocket",
    "user",
];

/// Names that begin like this belong to the provisioner: who is in the cluster, where data lies, who gets in.
const ELASTICSEARCH_RESERVED: [&str; 9] = [
    "bootstrap.",
    "cluster.initial_master_nodes",
    "cluster.name",
    "discovery.",
    "http.port",
    "network.",
    "node.name",
    "path.",
    "xpack.security.",
];

fn is_elasticsearch_setting(name: &str) -> bool {
    !ELASTICSEARCH_RESERVED.iter().any(|reserved| name.starts_with(reserved))
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.')
}

fn is_redis_setting(name: &str) -> bool {
    !REDIS_RESERVED.contains(&name)
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
