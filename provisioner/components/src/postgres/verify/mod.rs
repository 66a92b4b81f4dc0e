//! Proof that the cluster works: who may enter, that rows arrive, that members agree. Safe on a live stack: the only
//! row written is the provisioner's own, and nothing is locked, stopped or reloaded.

mod entry;
mod privileges;
mod replication;
mod tls;
mod topology;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::name::Member;

use super::cluster::Cluster;
use super::encryption::Encryption;
use super::login::Login;
use super::sql::{Session, SqlError, Target};
use super::{NAME, PORT};
use crate::checks;

const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// What every check needs.
struct Scene<'a> {
    access: &'a Access<'a>,
    cluster: Cluster,
    members: Vec<Member>,
    passwords: BTreeMap<String, String>,
    encryption: Encryption,
}

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    let members: Vec<Member> = access.stack.members(NAME).map(|workload| workload.member.clone()).collect();
    let mut findings = vec![check(NAME, "process", Level::L0, processes(access, &members)).await];
    let scene = match Scene::new(access, members).await {
        Ok(scene) => scene,
        Err(reason) => {
            findings.push(check(NAME, "login", Level::L1, async { Err(Broken::Unknown(reason)) }).await);
            return findings;
        }
    };
    let scene = &scene;
    let (entry, encryption, replication, topology, privileges) = tokio::join!(
        async {
            vec![
                check(NAME, "login", Level::L1, entry::login(scene)).await,
                check(NAME, "wrong-password-refused", Level::L1, entry::wrong_password_refused(scene)).await,
                check(NAME, "no-password-refused", Level::L1, entry::no_password_refused(scene)).await,
            ]
        },
        tls::findings(scene),
        replication::findings(scene),
        topology::findings(scene),
        async {
            vec![
                check(NAME, "app-cannot-change-schema", Level::L3, privileges::app_cannot_change_schema(scene)).await,
                check(NAME, "monitor-cannot-read-rows", Level::L3, privileges::monitor_cannot_read_rows(scene)).await,
                check(NAME, "ledger-keeps-to-its-schema", Level::L3, privileges::ledger_keeps_to_its_schema(scene))
                    .await,
            ]
        },
    );
    findings.extend([entry, encryption, replication, topology, privileges].into_iter().flatten());
    findings
}

async fn processes(access: &Access<'_>, members: &[Member]) -> Result<String, Broken> {
    let seen: Result<Vec<String>, Broken> = members.iter().map(|member| checks::process(access, member)).collect();
    Ok(seen?.join(", "))
}

impl<'a> Scene<'a> {
    async fn new(access: &'a Access<'a>, members: Vec<Member>) -> Result<Self, String> {
        let cluster = Cluster::current(access).await.map_err(|failure| failure.chain())?;
        let names: BTreeSet<String> = Login::ALL.iter().map(|login| login.secret().to_owned()).collect();
        let passwords = access.engine.secrets(&names).await.map_err(|error| error.to_string())?;
        let encryption = Encryption::of(access).await?;
        Ok(Self { access, cluster, members, passwords, encryption })
    }

    /// Members that should be replicas, whether or not the record has them.
    fn replicas(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| **member != self.cluster.primary)
    }

    fn password(&self, login: Login) -> Option<&str> {
        self.passwords.get(login.secret()).map(String::as_str)
    }

    async fn try_open(
        &self,
        member: &Member,
        login: Login,
        password: Option<&str>,
        database: &str,
    ) -> Result<Result<Session, SqlError>, Broken> {
        let address = self.access.engine.address(member, PORT).await.map_err(Broken::unknown)?;
        let (name, role, encryption) = (member.as_str(), login.role(), &self.encryption);
        let target = Target { address, name, encryption, role, password, database };
        Ok(Session::open(&target, CONNECT_LIMIT).await)
    }

    async fn open(&self, member: &Member, login: Login, database: &str) -> Result<Session, Broken> {
        let opened = self.try_open(member, login, self.password(login), database).await?;
        opened.map_err(|error| Broken::Unknown(format!("connect to {member} as {}: {error}", login.role())))
    }

    /// The same look at every one of `members`, all at once, in their order.
    async fn each<T, F>(
        &self,
        members: impl Iterator<Item = &Member>,
        look: impl Fn(Member) -> F,
    ) -> Result<Vec<(Member, T)>, Broken>
    where
        F: Future<Output = Result<T, Broken>>,
    {
        let members: Vec<&Member> = members.collect();
        let looks = members.iter().map(|member| look((*member).clone()));
        let seen: Result<Vec<T>, Broken> = join_all(looks).await.into_iter().collect();
        Ok(members.into_iter().cloned().zip(seen?).collect())
    }
}

/// A question that could not be asked.
fn unknown(member: &Member, error: impl std::fmt::Display) -> Broken {
    Broken::Unknown(format!("ask {member}: {error}"))
}

/// `postgres-1: 3, postgres-2: 3`
fn listed<T: std::fmt::Display>(seen: &[(Member, T)]) -> String {
    seen.iter().map(|(member, value)| format!("{member}: {value}")).collect::<Vec<_>>().join(", ")
}
