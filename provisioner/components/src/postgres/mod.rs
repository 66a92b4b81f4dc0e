//! PostgreSQL 17: one primary, replicas by streaming replication.
//!
//! Nothing that is declared here knows who is primary: that is the record [`Cluster`], so `up` after a failover changes
//! nothing. A cluster is initialised once, where neither a record nor data exists; a replica is cloned, never
//! initialised; a primary whose data is gone stays down until somebody decides.
//!
//! An image of somebody's own must provide `/bin/sh` with the usual small tools (`sed`, `grep`, `du`, `mktemp`, `sync`),
//! the programs of PostgreSQL 17 (`postgres`, `initdb`, `psql`, `pg_basebackup`, `pg_controldata`, `pg_rewind`,
//! `pg_waldump`) in `PATH` or where Debian keeps them, and a user `postgres` with the number 999. Its entry point
//! must run a command that it is given. Scripts and configuration files are put in, so nothing else is expected of it;
//! with TLS its user must be 999:999, to whom the key belongs.

mod candidate;
mod cluster;
mod control;
mod declare;
mod drift;
pub(crate) mod encryption;
pub(crate) mod external;
pub mod failover;
#[cfg(test)]
mod golden;
pub mod ledger;
mod login;
mod lsn;
mod observe;
pub mod rejoin;
mod roles;
mod run;
mod settings;
pub(crate) mod sql;
mod synchronous;
mod tasks;
mod verify;

use std::collections::BTreeMap;

use async_trait::async_trait;
use provisioner_core::component::{Access, Component, Dependency, NotReady, Situation, Task, Tasks, Variable};
use provisioner_core::drift::Comparisons;
use provisioner_core::failure::Failure;
use provisioner_core::finding::Finding;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::observed::Observed;
use provisioner_core::stack::{External, Resource, Stack};

use crate::route;

pub use cluster::{Cluster, Layout, layout};
pub(crate) use declare::members;
pub use encryption::is_declared as is_encrypted;
pub use login::{DATABASE, HOME, Login, owner_url};

pub const NAME: &str = "postgres";
pub const PORT: u16 = 5432;

pub struct Postgres;

/// Every role that logs in exists, with its database.
pub(crate) fn roles_made() -> Dependency {
    Dependency::task(NAME, tasks::ROLES)
}

#[async_trait]
impl Component for Postgres {
    fn name(&self) -> &'static str {
        NAME
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        declare::declare(manifest)
    }

    fn external(&self, manifest: &Manifest) -> Option<External> {
        external::of(manifest)
    }

    fn tasks(&self, situation: &Situation<'_>) -> Tasks {
        tasks::tasks(situation)
    }

    fn role(&self, member: &Member, observed: &Observed) -> Option<String> {
        let cluster = Cluster::read(&observed.records).ok()??;
        cluster.role(member).map(str::to_owned)
    }

    fn variables(&self, stack: &Stack) -> Vec<Variable> {
        if let Some(external) = stack.external(NAME) {
            return external::variables(external);
        }
        let Some(route) = stack.members(route::NAME).next() else { return Vec::new() };
        let (inside, outside) = encryption::parameters(stack);
        let variable = |name, host: &str, port| Variable {
            name,
            prefix: login::prefix(Login::App),
            host: host.to_owned(),
            port,
            member: Some(route.member.clone()),
            suffix: format!("/{DATABASE}{inside}"),
            suffix_outside: Some(format!("/{DATABASE}{outside}")),
        };
        vec![
            variable("DATABASE_URL", route::READ_WRITE, route::READ_WRITE_PORT),
            variable("DATABASE_REPLICA_URL", route::READ_ONLY, route::READ_ONLY_PORT),
        ]
    }

    async fn observe(&self, access: &Access<'_>) -> BTreeMap<String, String> {
        observe::facts(access).await
    }

    async fn drift(&self, access: &Access<'_>) -> Comparisons {
        drift::drift(access).await
    }

    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        observe::ready(access, member).await
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
