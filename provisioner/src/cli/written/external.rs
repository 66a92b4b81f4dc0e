//! Services that exist already, in the manifest's own keys.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use provisioner_core::manifest::{External, ExternalPostgres, ExternalRabbitmq, ExternalRedis, HostFiles};
use serde::Serialize;

/// A section of a system's own members, or of a service in their place.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Or<'a, T> {
    Own(T),
    External {
        #[serde(skip_serializing_if = "Option::is_none")]
        queues: Option<&'a BTreeMap<String, Vec<String>>>,
        external: WrittenExternal<'a>,
    },
}

#[derive(Serialize)]
pub(super) struct WrittenExternal<'a> {
    host: &'a str,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    password_file: Option<&'a Path>,
    tls: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<&'a Path>,
    #[serde(flatten)]
    more: More<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum More<'a> {
    Postgres {
        #[serde(skip_serializing_if = "Option::is_none")]
        read_host: Option<&'a str>,
        database: &'a str,
    },
    Redis {
        database: u64,
    },
    Rabbitmq {
        vhost: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        management: Option<WrittenManagement<'a>>,
    },
    Nothing {},
}

#[derive(Serialize)]
struct WrittenManagement<'a> {
    host: &'a str,
    port: u16,
}

impl<'a, T> Or<'a, T> {
    pub(super) fn new(external: Option<WrittenExternal<'a>>, own: impl FnOnce() -> T) -> Self {
        match external {
            Some(external) => Self::External { queues: None, external },
            None => Self::Own(own()),
        }
    }

    pub(super) fn with_queues(self, all: &'a BTreeMap<String, Vec<String>>) -> Self {
        match self {
            Self::External { external, .. } => Self::External { queues: Some(all), external },
            own @ Self::Own(_) => own,
        }
    }
}

impl<'a> WrittenExternal<'a> {
    pub(super) fn of(server: &'a External) -> Self {
        let External { host, port, user, password, ca } = server;
        let file = |files: &'a Option<HostFiles>| files.as_ref()?.files.first().map(PathBuf::as_path);
        Self {
            host,
            port: *port,
            user: user.as_deref(),
            password_file: file(password),
            tls: if ca.is_some() { "verify" } else { "off" },
            ca_file: file(ca),
            more: More::Nothing {},
        }
    }

    pub(super) fn postgres(external: &'a ExternalPostgres) -> Self {
        let ExternalPostgres { server, read_host, database } = external;
        Self { more: More::Postgres { read_host: read_host.as_deref(), database }, ..Self::of(server) }
    }

    pub(super) fn redis(external: &'a ExternalRedis) -> Self {
        Self { more: More::Redis { database: external.database }, ..Self::of(&external.server) }
    }

    pub(super) fn rabbitmq(external: &'a ExternalRabbitmq) -> Self {
        let ExternalRabbitmq { server, vhost, management } = external;
        let management = management.as_ref().map(|(host, port)| WrittenManagement { host, port: *port });
        Self { more: More::Rabbitmq { vhost, management }, ..Self::of(server) }
    }
}
