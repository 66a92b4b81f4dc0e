//! What running members say about themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use provisioner_core::component::{Access, NotReady};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;

use super::cluster::Cluster;
use super::encryption::Encryption;
use super::login::{HOME, Login};
use super::sql::{Session, SqlError, Target, WRITING_TIMELINE};
use super::{NAME, PORT, synchronous};

/// A snapshot must not wait for a member that hangs.
const FACTS_LIMIT: Duration = Duration::from_secs(2);
const READY_LIMIT: Duration = Duration::from_secs(1);

/// Whom a replica is told to follow; empty: nobody.
pub(super) fn upstream_key(member: &Member) -> String {
    format!("{member}.upstream")
}

/// One SELECT a member. What cannot be read is left out.
pub(super) async fn facts(access: &Access<'_>) -> BTreeMap<String, String> {
    let members: Vec<&Member> = access.stack.members(NAME).map(|workload| &workload.member).collect();
    let running: Vec<&Member> = members.into_iter().filter(|member| access.observed.is_running(member)).collect();
    if running.is_empty() {
        return BTreeMap::new();
    }
    let Ok(password) = access.secret(Login::Monitor.secret()).await else { return BTreeMap::new() };
    let Ok(encryption) = Encryption::of(access).await else { return BTreeMap::new() };
    let asked = running.into_iter().map(|member| {
        let (password, encryption) = (&password, &encryption);
        async move {
            let asked = tokio::time::timeout(FACTS_LIMIT, member_facts(access, member, password, encryption)).await;
            asked.ok().and_then(Result::ok).unwrap_or_default()
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn member_facts(
    access: &Access<'_>,
    member: &Member,
    password: &str,
    encryption: &Encryption,
) -> Result<BTreeMap<String, String>, Failure> {
    let address = access.published(member, PORT)?;
    let role = Login::Monitor.role();
    let name = member.as_str();
    let target = Target { address, name, encryption, role, password: Some(password), database: HOME };
    let failed = |error: SqlError| Failure::because(format!("ask {member}"), error);
    let session = Session::open(&target, FACTS_LIMIT).await.map_err(failed)?;
    let query = format!(
        "SELECT pg_is_in_recovery(), current_setting('synchronous_standby_names'), \
         coalesce(substring(current_setting('primary_conninfo') FROM 'host=([^ ]*)'), ''), \
         CASE WHEN pg_is_in_recovery() THEN (SELECT timeline_id FROM pg_control_checkpoint()) \
         ELSE {WRITING_TIMELINE} END, \
         ARRAY(SELECT application_name FROM pg_stat_replication WHERE state = 'streaming' ORDER BY 1)"
    );
    let row = session.row(&query, &[]).await.map_err(failed)?;
    let failed = |error: tokio_postgres::Error| Failure::because(format!("ask {member}"), error);
    let in_recovery: bool = row.try_get(0).map_err(failed)?;
    let names: String = row.try_get(1).map_err(failed)?;
    let upstream: String = row.try_get(2).map_err(failed)?;
    let timeline: i32 = row.try_get(3).map_err(failed)?;
    let streaming: Vec<String> = row.try_get(4).map_err(failed)?;
    let mut facts = synchronous::facts(member, &names, &streaming);
    facts.insert(format!("{member}.in_recovery"), in_recovery.to_string());
    if in_recovery {
        facts.insert(upstream_key(member), upstream);
    }
    facts.insert(format!("{member}.timeline"), timeline.to_string());
    Ok(facts)
}

/// A client's way in: connection, password, a query, and the part that the record gives this member. An open port proves
/// nothing, nor does `pg_isready`, which asks for no password.
pub(super) async fn ready(access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
    let asked = tokio::time::timeout(READY_LIMIT, ask(access, member)).await;
    match asked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(NotReady(failure.chain())),
        Err(_) => Err(NotReady(format!("no answer within {} ms", READY_LIMIT.as_millis()))),
    }
}

async fn ask(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    // The superuser: it is the one role that exists before the roles are made.
    let session = Session::on(access, member, Login::Superuser, HOME, READY_LIMIT).await?;
    let failed = |error| Failure::because(format!("query {member}"), error);
    let in_recovery = session.flag("SELECT pg_is_in_recovery()").await.map_err(failed)?;
    let cluster = Cluster::current(access).await?;
    match (cluster.primary == *member, in_recovery) {
        (true, false) | (false, true) => Ok(()),
        (true, true) => Err(Failure::new(format!("{member} is in recovery, expected the primary"))),
        (false, false) => Err(Failure::new(format!("{member} takes writes, expected a replica"))),
    }
}
