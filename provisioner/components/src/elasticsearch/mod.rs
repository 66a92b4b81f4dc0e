//! Elasticsearch 8: a cluster whose nodes speak TLS to each other and to everybody else, with users and roles from files.
//!
//! A cluster is founded once, where neither a record nor data exists. A node whose volume is new waits to be told whether
//! it founds the cluster or joins the one that is recorded ([`Cluster`]); it never guesses. Where too few volumes are left
//! for a majority, nothing is started until somebody decides.
//!
//! An image of somebody's own must be laid out as the one of Elasticsearch's makers (`/usr/share/elasticsearch`, user
//! 1000, group 0) and have `/bin/sh`, `base64`, `od`, `sed`, `sha256sum` and `sync`.

mod client;
mod cluster;
mod declare;
mod drift;
mod external;
#[cfg(test)]
mod golden;
mod probe;
mod run;
mod scratch;
mod tasks;
mod verify;

use std::time::Duration;

use async_trait::async_trait;
use provisioner_core::component::{Access, Component, Entrypoint, NotReady, Situation, Task, Tasks, Variable};
use provisioner_core::drift::Comparisons;
use provisioner_core::failure::Failure;
use provisioner_core::finding::{Broken, Finding};
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::stack::{External, Resource, Stack, Text};
use reqwest::Method;
use serde_json::Value;

pub use cluster::Cluster;
pub use declare::{MAPS_MIN, OPEN_FILES_MIN, adapts, maps_files};

pub(crate) const NAME: &str = "elasticsearch";
pub(crate) const HTTP: u16 = 9200;
const TRANSPORT: u16 = 9300;
const SEARCH_LIMIT: Duration = Duration::from_secs(5);

/// Users of the file realm, and the secrets that hold their passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Admin,
    App,
    /// Reads figures and no documents.
    Monitor,
}

impl User {
    const ALL: [Self; 3] = [Self::Admin, Self::App, Self::Monitor];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::App => "app",
            Self::Monitor => "monitor",
        }
    }

    pub(crate) fn secret(self) -> &'static str {
        match self {
            Self::Admin => "elasticsearch-admin",
            Self::App => "elasticsearch-app",
            Self::Monitor => "elasticsearch-monitor",
        }
    }
}

pub struct Elasticsearch;

/// The nodes of a stack, in order.
pub(crate) fn members(stack: &Stack) -> impl Iterator<Item = &Member> {
    stack.members(NAME).map(|workload| &workload.member)
}

/// What the administrator finds in an index.
pub(crate) async fn search(access: &Access<'_>, index: &str, query: &Value) -> Result<Value, Broken> {
    let node = match access.stack.external(NAME) {
        Some(external) => client::Node::external(access, external, SEARCH_LIMIT).await,
        None => {
            let first = members(access.stack).next().ok_or_else(|| Broken::unknown("the stack has no node"))?;
            client::Node::of(access, first, SEARCH_LIMIT).await
        }
    };
    let node = node.map_err(Broken::Unknown)?;
    node.call(Method::POST, &format!("/{index}/_search"), Some(query)).await
}

#[async_trait]
impl Component for Elasticsearch {
    fn name(&self) -> &'static str {
        NAME
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        let Some(section) = &manifest.elasticsearch else { return Vec::new() };
        match (&section.external, external::of(manifest)) {
            (Some(server), Some(external)) => external.secrets(server),
            _ => declare::declare(manifest, section),
        }
    }

    fn external(&self, manifest: &Manifest) -> Option<External> {
        external::of(manifest)
    }

    fn tasks(&self, situation: &Situation<'_>) -> Tasks {
        tasks::tasks(situation)
    }

    fn variables(&self, stack: &Stack) -> Vec<Variable> {
        if let Some(external) = stack.external(NAME) {
            return vec![external::variable(external)];
        }
        let first = stack.members(NAME).next();
        let variable = first.map(|workload| Variable {
            name: "ELASTICSEARCH_URL",
            prefix: Text::new(format!("https://{}:{}@", User::App.name(), Text::secret(User::App.secret()))),
            host: NAME.to_owned(),
            port: HTTP,
            member: Some(workload.member.clone()),
            suffix: String::new(),
            suffix_outside: None,
        });
        variable.into_iter().collect()
    }

    fn entrypoints(&self, stack: &Stack) -> Vec<Entrypoint> {
        if let Some(external) = stack.external(NAME) {
            return vec![external::entrypoint(external)];
        }
        let first = stack.members(NAME).next();
        let entrypoint = first.map(|workload| {
            Entrypoint::new(NAME, "https", &workload.member, HTTP).login(User::Admin.name(), User::Admin.secret())
        });
        entrypoint.into_iter().collect()
    }

    async fn drift(&self, access: &Access<'_>) -> Comparisons {
        drift::drift(access).await
    }

    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        probe::ready(access, member).await.map_err(NotReady)
    }

    async fn run(&self, task: &Task, access: &Access<'_>) -> Result<(), Failure> {
        run::run(task, access).await
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        match access.stack.external(NAME) {
            Some(external) => external::verify(access, external).await,
            None => verify::verify(access).await,
        }
    }
}
