//! Proof that the route leads where the record says, and to nobody without a password.

use std::collections::BTreeSet;
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::name::Member;

use super::point::servers;
use super::state::{RO, RW, names};
use super::tasks::readers;
use super::{NAME, READ_ONLY, READ_ONLY_PORT, READ_WRITE, READ_WRITE_PORT};
use crate::checks;
use crate::postgres::encryption::Encryption;
use crate::postgres::sql::{Session, SqlError, Target};
use crate::postgres::{Cluster, DATABASE, Login};

const CONNECT_LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    let members: Vec<&Member> = access.stack.members(NAME).map(|workload| &workload.member).collect();
    if members.is_empty() {
        return Vec::new();
    }
    let process = async {
        let seen: Result<Vec<String>, Broken> = members.iter().map(|member| checks::process(access, member)).collect();
        Ok(seen?.join(", "))
    };
    vec![
        check(NAME, "process", Level::L0, process).await,
        check(NAME, "strangers-refused", Level::L1, strangers_refused(access, &members)).await,
        check(NAME, "rw-leads-to-primary", Level::L2, rw_leads_to_primary(access, &members)).await,
        check(NAME, "ro-leads-to-replica", Level::L2, ro_leads_to_replica(access, &members)).await,
        check(NAME, "agrees-with-record", Level::L3, agrees_with_record(access, &members)).await,
    ]
}

async fn open(
    access: &Access<'_>,
    member: &Member,
    port: u16,
    password: Option<&str>,
) -> Result<Result<Session, SqlError>, Broken> {
    let address = access.engine.address(member, port).await.map_err(Broken::unknown)?;
    let encryption = &Encryption::of(access).await.map_err(Broken::Unknown)?;
    let name = if port == READ_WRITE_PORT { READ_WRITE } else { READ_ONLY };
    let target = Target { address, name, encryption, role: Login::App.role(), password, database: DATABASE };
    Ok(Session::open(&target, CONNECT_LIMIT).await)
}

/// Through the route as the app goes: the address of the server that answered, and whether it is in recovery.
async fn answer(access: &Access<'_>, member: &Member, port: u16) -> Result<(String, bool), Broken> {
    let password = access.secret(Login::App.secret()).await.map_err(Broken::unknown)?;
    let failed = |error: SqlError| Broken::Fail(format!("through {member}:{port}: {error}"));
    let session = open(access, member, port, Some(&password)).await?.map_err(failed)?;
    let name = session.text("SELECT current_setting('cluster_name')", &[]).await.map_err(failed)?;
    let in_recovery = session.flag("SELECT pg_is_in_recovery()").await.map_err(failed)?;
    Ok((name, in_recovery))
}

async fn rw_leads_to_primary(access: &Access<'_>, members: &[&Member]) -> Result<String, Broken> {
    let mut seen = Vec::new();
    for member in members {
        let (name, in_recovery) = answer(access, member, READ_WRITE_PORT).await?;
        if in_recovery {
            return Err(Broken::Fail(format!("{member}:{READ_WRITE_PORT} leads to {name}, a replica")));
        }
        seen.push(format!("{member}:{READ_WRITE_PORT} leads to {name}, the primary"));
    }
    Ok(seen.join(", "))
}

async fn ro_leads_to_replica(access: &Access<'_>, members: &[&Member]) -> Result<String, Broken> {
    let (_, readers) = wanted(access).await?;
    let mut seen = Vec::new();
    for member in members {
        let (name, in_recovery) = answer(access, member, READ_ONLY_PORT).await?;
        if !readers.contains(&Member::named(name.as_str())) {
            let expected = names(&readers);
            return Err(Broken::Fail(format!("{member}:{READ_ONLY_PORT} leads to {name}, expected {expected}")));
        }
        let role = if in_recovery { "a replica" } else { "the primary, as there is no replica" };
        seen.push(format!("{member}:{READ_ONLY_PORT} leads to {name}, {role}"));
    }
    Ok(seen.join(", "))
}

async fn strangers_refused(access: &Access<'_>, members: &[&Member]) -> Result<String, Broken> {
    let mut seen = Vec::new();
    for member in members {
        for port in [READ_WRITE_PORT, READ_ONLY_PORT] {
            match open(access, member, port, None).await? {
                Err(SqlError::Connection(text)) if text.contains("password missing") => {}
                Err(error) => return Err(Broken::Unknown(format!("{member}:{port}: {error}"))),
                Ok(_) => return Err(Broken::Fail(format!("{member}:{port} lets app in without a password"))),
            }
            seen.push(format!("{member}:{port}"));
        }
    }
    Ok(format!("{} ask for a password", seen.join(", ")))
}

/// The primary and who takes the readers, by the record as it is now.
async fn wanted(access: &Access<'_>) -> Result<(Member, BTreeSet<Member>), Broken> {
    let cluster = Cluster::current(access).await.map_err(|failure| Broken::Unknown(failure.chain()))?;
    let readers = readers(&cluster.primary, &cluster.replicas);
    Ok((cluster.primary, readers))
}

async fn agrees_with_record(access: &Access<'_>, members: &[&Member]) -> Result<String, Broken> {
    let (primary, readers) = wanted(access).await?;
    let mut seen = Vec::new();
    for member in members {
        let state = servers(access, member).await.map_err(|failure| Broken::Unknown(failure.chain()))?;
        let open = |backend: &str| {
            let servers = state.iter().filter(|server| server.backend == backend && server.is_open);
            servers.map(|server| Member::named(server.server.as_str())).collect::<BTreeSet<_>>()
        };
        let (writes, reads) = (open(RW), open(RO));
        let found = format!("{member}: writes to {}, reads to {}", names(&writes), names(&reads));
        if writes != BTreeSet::from([primary.clone()]) || reads != readers {
            let expected = format!("writes to {primary}, reads to {}", names(&readers));
            return Err(Broken::Fail(format!("{found}, expected {expected}")));
        }
        seen.push(found);
    }
    Ok(seen.join("; "))
}
