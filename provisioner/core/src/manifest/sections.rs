//! The keys of a manifest, their bounds and their defaults, section by section. The defaults fit a laptop: the dev stack
//! of all of them asks for less than 2 GiB.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::read::Table;
use super::{
    App, AppChecks, AppSource, Environment, Manifest, Nginx, Postgres, Redis, Route, Service, Synchronous, bounds,
};
use crate::name::StackName;
use crate::stack::Fingerprint;

const MIB: u64 = 1 << 20;
const IMAGE: &str = "an image reference such as registry.example/team/app:1.2";

const SYNCHRONOUS: [(&str, Synchronous); 3] =
    [("off", Synchronous::Off), ("preferred", Synchronous::Preferred), ("required", Synchronous::Required)];
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
    let nginx = nginx(table.section("nginx"));
    let route = route(table.section("route"));
    let postgres = postgres(table.section("postgres"));
    let redis = redis(table.section("redis"));
    let app = if table.has("app") {
        app(table.section("app"))
    } else {
        table.problem("app", "nothing".to_owned(), "a section with `image:` or `binary:`");
        None
    };
    table.finish();
    Some(Manifest { name: name?, environment, expose, nginx, route, postgres, redis, app: app? })
}

fn name(table: &mut Table<'_>) -> Option<StackName> {
    if !table.has("name") {
        table.problem("name", "nothing".to_owned(), "a name for the stack, such as dev");
    }
    let expected = "1 to 32 lower-case letters, digits or hyphens, starting with a letter";
    table.value("name", expected, |value| StackName::new(value.as_str()?).ok())
}

fn service(table: &mut Table<'_>, memory_mib: u64, cpu_millis: u32) -> Service {
    Service {
        image: table.value("image", IMAGE, |value| value.as_str().filter(|text| is_image(text)).map(str::to_owned)),
        memory_bytes: table.value("memory", bounds::MEMORY, bounds::memory).unwrap_or(memory_mib * MIB),
        cpu_millis: table.value("cpus", bounds::CPUS, bounds::cpus).unwrap_or(cpu_millis),
    }
}

fn nginx(mut table: Table<'_>) -> Nginx {
    let nginx = Nginx {
        service: service(&mut table, 64, 1000),
        http_port: port(&mut table, "http_port").unwrap_or(8080),
        rate_limit: count(&mut table, "rate_limit", 1, 1_000_000).unwrap_or(50),
        burst: count(&mut table, "burst", 0, 1_000_000).unwrap_or(100),
        body_max_bytes: table.integer("body_max_bytes", 1, 1 << 30).unwrap_or(MIB),
    };
    table.finish();
    nginx
}

fn route(mut table: Table<'_>) -> Route {
    let route =
        Route { service: service(&mut table, 64, 500), replicas: count(&mut table, "replicas", 1, 3).unwrap_or(1) };
    table.finish();
    route
}

fn postgres(mut table: Table<'_>) -> Postgres {
    let expected =
        "1: PostgreSQL takes writes on one node, and which one it is belongs to run time, not to the manifest";
    let _ = table.value("primaries", expected, |value| (value.as_u64() == Some(1)).then_some(()));
    let postgres = Postgres {
        service: service(&mut table, 384, 1000),
        replicas: count(&mut table, "replicas", 0, 8).unwrap_or(1),
        synchronous: table.choice("synchronous", &SYNCHRONOUS).unwrap_or(Synchronous::Preferred),
        settings: table.settings("settings", is_postgres_setting, ["on", "off"]).into_iter().collect(),
    };
    if postgres.replicas == 0 && postgres.synchronous == Synchronous::Required {
        table.problem("synchronous", "required with 0 replicas".to_owned(), "at least 1 replica, or preferred or off");
    }
    table.finish();
    postgres
}

fn redis(mut table: Table<'_>) -> Redis {
    let redis = Redis {
        service: service(&mut table, 128, 500),
        settings: table.settings("settings", is_redis_setting, ["yes", "no"]).into_iter().collect(),
    };
    table.finish();
    redis
}

fn app(mut table: Table<'_>) -> Option<App> {
    let image = table.value("image", IMAGE, |value| value.as_str().filter(|text| is_image(text)).map(str::to_owned));
    let binary = table.text("binary", "the path of a static Linux binary");
    let source = match (image, binary) {
        (Some(image), None) => Some(AppSource::Image(image)),
        (None, Some(file)) => {
            // The digest of no bytes, until whoever loads the manifest has read the file.
            Some(AppSource::Binary { file: PathBuf::from(file), digest: Fingerprint::of_bytes(&[]) })
        }
        (Some(_), Some(_)) => {
            table.problem("binary", "`binary` beside `image`".to_owned(), "one of the two");
            None
        }
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
    let rest = App {
        source: AppSource::Image(String::new()),
        memory_bytes: table.value("memory", bounds::MEMORY, bounds::memory).unwrap_or(128 * MIB),
        cpu_millis: table.value("cpus", bounds::CPUS, bounds::cpus).unwrap_or(1000),
        replicas: count(&mut table, "replicas", 1, 200).unwrap_or(2),
        serve: table.words("serve").or_else(|| default(["/usr/local/bin/app", "serve"])).unwrap_or_default(),
        migrate: table.words("migrate").or_else(|| default(["/usr/local/bin/app", "migrate"])),
        seed: table.words("seed").or_else(|| default(["/usr/local/bin/app", "seed"])),
        port: port(&mut table, "port").unwrap_or(8000),
        health: health(&mut table),
        env: env(&mut table),
        checks: table.choice("checks", &CHECKS).unwrap_or(if is_shop { AppChecks::Shop } else { AppChecks::Health }),
    };
    table.finish();
    source.map(|source| App { source, ..rest })
}

fn health(table: &mut Table<'_>) -> String {
    let path = table.value("health", "a path that starts with /, such as /readyz", |value| {
        let is_path = |text: &&str| {
            text.starts_with('/') && text.chars().all(|c| c.is_ascii_alphanumeric() || "/_.~?=&%-".contains(c))
        };
        value.as_str().filter(is_path).map(str::to_owned)
    });
    path.unwrap_or_else(|| "/readyz".to_owned())
}

fn env(table: &mut Table<'_>) -> BTreeMap<String, String> {
    table.settings("env", is_variable, ["true", "false"]).into_iter().collect()
}

fn port(table: &mut Table<'_>, key: &'static str) -> Option<u16> {
    table.integer(key, 1, u64::from(u16::MAX)).and_then(|port| u16::try_from(port).ok())
}

fn count(table: &mut Table<'_>, key: &'static str, from: u32, to: u32) -> Option<u32> {
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

/// What the provisioner decides itself, so that a line for it would have no effect.
const POSTGRES_RESERVED: [&str; 18] = [
    "config_file",
    "data_directory",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "include",
    "include_dir",
    "include_if_exists",
    "listen_addresses",
    "max_wal_senders",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
    "unix_socket_directories",
    "wal_level",
    "wal_log_hints",
];

/// The same for redis.conf.
const REDIS_RESERVED: [&str; 13] = [
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
    "unixsocket",
    "user",
];

/// Parameter names, custom ones with a dot included (PostgreSQL 17 docs, 19.1.2 and 19.16).
fn is_postgres_setting(name: &str) -> bool {
    !POSTGRES_RESERVED.contains(&name)
        && !name.starts_with("provisioner.")
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.')
}

fn is_redis_setting(name: &str) -> bool {
    !REDIS_RESERVED.contains(&name)
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}
