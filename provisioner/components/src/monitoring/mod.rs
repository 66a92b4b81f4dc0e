//! Prometheus, Alertmanager, the exporters that tell them about every other system, and a page for alerts that nobody else
//! is told of. What they do is in `monitoring/` at the root of the repository.
//!
//! Nothing waits for any of them and none waits for anything: the stack serves without them.
//!
//! An image of somebody's own must provide the programs of Debian's packages by their names there (`prometheus`,
//! `promtool`, `amtool`, `prometheus-alertmanager`, `prometheus-*-exporter`), `python3`, `/bin/sh`, and a user with number
//! 999 who owns `metrics`, `alertmanager` and `pages` in `/var/lib/prometheus`.

mod declare;
mod exporters;
mod rules;
mod targets;
#[cfg(test)]
mod tests;
mod verify;
pub mod vitals;

use std::time::Duration;

use async_trait::async_trait;
use provisioner_core::component::{Access, Component, Entrypoint, NotReady};
use provisioner_core::finding::Finding;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::stack::{Resource, Stack};

use crate::http::Site;

pub(crate) const NAME: &str = "monitoring";

/// A program of the image, of which a stack has one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Prometheus,
    Alertmanager,
    Pages,
    Node,
    Postgres,
    Redis,
    Elasticsearch,
    Nginx,
    Blackbox,
}

impl Program {
    const ALL: [Self; 9] = [
        Self::Prometheus,
        Self::Alertmanager,
        Self::Pages,
        Self::Node,
        Self::Postgres,
        Self::Redis,
        Self::Elasticsearch,
        Self::Nginx,
        Self::Blackbox,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Prometheus => "prometheus",
            Self::Alertmanager => "alertmanager",
            Self::Pages => "pages",
            Self::Node => "node-exporter",
            Self::Postgres => "postgres-exporter",
            Self::Redis => "redis-exporter",
            Self::Elasticsearch => "elasticsearch-exporter",
            Self::Nginx => "nginx-exporter",
            Self::Blackbox => "blackbox-exporter",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Prometheus => 9090,
            Self::Alertmanager => 9093,
            Self::Pages => 8026,
            Self::Node => 9100,
            Self::Postgres => 9187,
            Self::Redis => 9121,
            Self::Elasticsearch => 9114,
            Self::Nginx => 9113,
            Self::Blackbox => 9115,
        }
    }

    /// Answers 200 when it can work, whatever is with the systems that it looks at.
    fn health(self) -> &'static str {
        match self {
            Self::Prometheus | Self::Alertmanager => "/-/ready",
            Self::Pages | Self::Redis => "/health",
            Self::Elasticsearch => "/healthz",
            Self::Blackbox => "/-/healthy",
            Self::Node | Self::Postgres | Self::Nginx => "/",
        }
    }

    fn member(self) -> Member {
        Member::nth(self.name(), 1)
    }

    /// Name and port inside the stack.
    fn address(self) -> String {
        format!("{}:{}", self.member(), self.port())
    }

    fn of(member: &Member) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.member() == *member)
    }

    async fn site(self, access: &Access<'_>, limit: Duration) -> Result<Site, String> {
        Site::of(access, &self.member(), self.port(), limit).await
    }
}

pub struct Monitoring;

#[async_trait]
impl Component for Monitoring {
    fn name(&self) -> &'static str {
        NAME
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        manifest.monitoring.as_ref().map(|section| declare::declare(manifest, section)).unwrap_or_default()
    }

    fn entrypoints(&self, stack: &Stack) -> Vec<Entrypoint> {
        let pages = [Program::Prometheus, Program::Alertmanager, Program::Pages];
        let present = pages.into_iter().filter(|program| stack.workload(&program.member()).is_some());
        present.map(|program| Entrypoint::new(program.name(), "http", &program.member(), program.port())).collect()
    }

    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        let unknown = || NotReady(format!("{member} is no member of {NAME}"));
        let program = Program::of(member).ok_or_else(unknown)?;
        let site = program.site(access, Duration::from_secs(1)).await.map_err(NotReady)?;
        let path = program.health();
        match site.get(path).await.map_err(NotReady)?.status {
            200 => Ok(()),
            status => Err(NotReady(format!("{path}: {status}, expected 200"))),
        }
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        verify::verify(access).await
    }
}
