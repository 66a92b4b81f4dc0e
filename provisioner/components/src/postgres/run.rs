//! Carries out what the plan decided.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use provisioner_core::component::{Access, Task};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::record;
use provisioner_core::stack::{ImageId, Job, Limits};
use provisioner_core::wait::{self, Look};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::cluster::{Cluster, RECORD};
use super::login::{HOME, Login};
use super::sql::{Session, SqlError, literal};
use super::{NAME, declare, drift, encryption, failover, rejoin, roles, synchronous, tasks};
use crate::certificates;

const BOOTSTRAP_LIMIT_SECS: u64 = 300;
/// A copy of a large database over a network takes hours.
pub(super) const CLONE_LIMIT_SECS: u64 = 6 * 60 * 60;
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A replica that was just started connects at once, one that was refused after `wal_retrieve_retry_interval`.
const STREAMING_LIMIT: Duration = Duration::from_secs(30);
const RETIRE_LIMIT: Duration = Duration::from_secs(15);
const OBJECT_IN_USE: &str = "55006";
const DUPLICATE_OBJECT: &str = "42710";
const RELOAD_LIMIT: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(50);

pub(super) async fn run(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    let Some(member) = &task.member else {
        return Err(Failure::new(format!("run {task}: it names no member")));
    };
    match task.name.as_str() {
        tasks::BOOTSTRAP => bootstrap(access, member).await,
        tasks::ROLES => roles::run(access, member, value(task, "fingerprint")?).await,
        tasks::CLONE => clone(access, member, &Member::named(value(task, "from")?)).await,
        tasks::REJOIN => {
            rejoin::run(access, member, &Member::named(value(task, "from")?), value(task, "method")?).await
        }
        tasks::REJOINED => {
            rejoin::prove(access, &Member::named(value(task, "from")?), member, rejoin::ARRIVAL_LIMIT).await
        }
        tasks::RESET => drift::reset(access, member).await,
        tasks::RETIRE => retire(access, member, &Member::named(value(task, "from")?)).await,
        tasks::FENCE => failover::steps::fence(task, access, member).await,
        tasks::FREEZE => failover::steps::freeze(access, member).await,
        tasks::PREPARE => failover::hand_over::prepare(task, access, member).await,
        tasks::END => failover::hand_over::end(access, member).await,
        tasks::HAND_OVER => failover::hand_over::hand_over(task, access, member).await,
        tasks::PROMOTE => failover::steps::promote(task, access, member).await,
        tasks::ABANDON => failover::steps::abandon(access, member).await,
        tasks::REDIRECT => failover::steps::redirect(task, access, member).await,
        tasks::FOLLOW => failover::steps::follow(task, access, member).await,
        tasks::RELEASE => set_names(access, member, value(task, "names")?).await,
        tasks::SYNCHRONOUS => {
            let names = value(task, "names")?;
            if !names.is_empty() && value(task, "policy")? == "preferred" {
                await_streaming(access, member).await?;
            }
            set_names(access, member, names).await
        }
        _ => Err(Failure::new(format!("run {task}: component {NAME} has no such task"))),
    }
}

pub(super) fn value<'a>(task: &'a Task, key: &str) -> Result<&'a str, Failure> {
    let value = task.with.get(key).map(String::as_str);
    value.ok_or_else(|| Failure::new(format!("run {task}: it does not say {key}")))
}

/// What `bootstrap` and `clone` print last.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Report {
    system_id: String,
    #[serde(default)]
    timeline: u32,
    adopted: bool,
}

fn report<R: DeserializeOwned>(tail: &str) -> Option<R> {
    tail.lines().rev().find_map(|line| serde_json::from_str(line.trim()).ok())
}

async fn bootstrap(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let password = declare::password(Login::Superuser, "SUPERUSER_PASSWORD");
    let mut job = job(access, member, "bootstrap", BOOTSTRAP_LIMIT_SECS);
    job.secret_env = password;
    let made: Report = run_job(access, &job).await?;
    let cluster = Cluster {
        system_id: made.system_id,
        primary: member.clone(),
        replicas: BTreeSet::new(),
        epoch: 1,
        timeline: made.timeline,
        synchronous: BTreeSet::new(),
        change: None,
    };
    let value = serde_json::to_value(&cluster).map_err(|error| Failure::because("write the record", error))?;
    access.engine.records().put_if(RECORD, 0, value).await?;
    if made.adopted {
        access.output.line(&format!("{member} holds a finished cluster already, which was kept"));
    }
    Ok(())
}

async fn clone(access: &Access<'_>, member: &Member, from: &Member) -> Result<(), Failure> {
    let cluster = Cluster::current(access).await?;
    if cluster.primary != *from {
        let found = &cluster.primary;
        return Err(Failure::new(format!("copy from {from}: the primary is {found} by now")).hint("provisioner up"));
    }
    let slot = slot_name(member);
    let session = Session::on(access, from, Login::Superuser, HOME, CONNECT_LIMIT).await?;
    let kept =
        session.flag(&format!("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE {})", keeps_wal(&slot))).await;
    let kept = kept.map_err(|error| Failure::because(format!("ask {from} for slot {slot}"), error))?;
    let made = make_slot(&session, &slot).await;
    made.map_err(|error| Failure::because(format!("make slot {slot} on {from}"), error))?;
    let mut job = job(access, member, "clone", CLONE_LIMIT_SECS);
    let_follow(access, &mut job, &cluster, member);
    // A finished copy can only catch up if the primary has kept everything since.
    job.env.insert("ADOPT".to_owned(), if kept { "yes" } else { "no" }.to_owned());
    let made: Report = run_job(access, &job).await?;
    if made.adopted {
        access.output.line(&format!("{member} holds a copy of the cluster already, which was kept"));
    }
    let joined = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current?;
        cluster.replicas.insert(member.clone()).then_some(cluster)
    });
    Ok(joined.await?)
}

/// What a job that makes a replica of the primary must know.
pub(super) fn let_follow(access: &Access<'_>, job: &mut Job, cluster: &Cluster, member: &Member) {
    job.secret_env = declare::password(Login::Replicator, "PGPASSWORD");
    job.env = BTreeMap::from([
        ("PRIMARY".to_owned(), cluster.primary.to_string()),
        ("MEMBER".to_owned(), member.to_string()),
        ("SLOT".to_owned(), slot_name(member)),
        ("SYSTEM_ID".to_owned(), cluster.system_id.clone()),
    ]);
    if encryption::is_declared(access.stack) {
        job.env.extend(encryption::client_env());
        job.files.push(certificates::authority_file());
    }
}

async fn retire(access: &Access<'_>, member: &Member, from: &Member) -> Result<(), Failure> {
    let slot = slot_name(member);
    let session = Session::on(access, from, Login::Superuser, HOME, CONNECT_LIMIT).await?;
    // Its last user's connection may take `wal_sender_timeout` to end.
    let waited = wait::until(RETIRE_LIMIT, EVERY, async || {
        let dropped = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {}",
            literal(&slot)
        );
        match session.execute(&dropped).await {
            Ok(()) => Look::Done(()),
            Err(error) if error.code() == Some(OBJECT_IN_USE) => Look::Pending(error.to_string()),
            Err(error) => Look::Broken(error),
        }
    });
    waited.await.map_err(|error| Failure::because(format!("drop slot {slot} on {from}"), error))?;
    let left = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current?;
        cluster.replicas.remove(member).then_some(cluster)
    });
    Ok(left.await?)
}

/// Slot names have no hyphens.
pub(super) fn slot_name(member: &Member) -> String {
    member.as_str().replace('-', "_")
}

/// The slot has been used, and everything since is still there.
fn keeps_wal(slot: &str) -> String {
    format!("slot_name = {} AND restart_lsn IS NOT NULL AND wal_status <> 'lost'", literal(slot))
}

/// A slot whose WAL is gone serves nobody any more. It holds WAL from its first use on, so a replica that never comes
/// costs no disk. Somebody else may make it at the same time.
pub(super) async fn make_slot(session: &Session, slot: &str) -> Result<(), SqlError> {
    make(session, slot, "wal_status = 'lost'", false).await
}

/// One that holds WAL at once, for a replica that is about to come: the copy for a former primary begins with a checkpoint,
/// which has removed the very segment that a slower replica asked for next.
pub(super) async fn reserve_slot(session: &Session, slot: &str) -> Result<(), SqlError> {
    let holds = format!(
        "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE {} OR (slot_name = {} AND active))",
        keeps_wal(slot),
        literal(slot)
    );
    // Whoever arms the new primary makes a missing one at the same time, and may come first: that one holds nothing.
    loop {
        make(session, slot, "(wal_status = 'lost' OR restart_lsn IS NULL)", true).await?;
        if session.flag(&holds).await? {
            return Ok(());
        }
    }
}

async fn make(session: &Session, slot: &str, useless: &str, reserve: bool) -> Result<(), SqlError> {
    let slot = literal(slot);
    let statements = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
         WHERE slot_name = {slot} AND {useless} AND NOT active; \
         SELECT pg_create_physical_replication_slot({slot}, {reserve}) \
         WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot});"
    );
    match session.execute(&statements).await {
        Err(error) if error.code() == Some(DUPLICATE_OBJECT) => Ok(()),
        other => other,
    }
}

pub(super) fn job(access: &Access<'_>, member: &Member, script: &'static str, timeout_secs: u64) -> Job {
    let limits = access.stack.workload(member).map_or_else(Limits::default, |workload| workload.limits.clone());
    Job {
        name: format!("{script}-{member}"),
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: declare::command(script),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: vec![declare::script("common.sh"), declare::script(script)],
        mounts: vec![declare::mount(member)],
        user: Some(declare::POSTGRES),
        scratch: declare::scratch(),
        limits,
        timeout_secs,
    }
}

/// Runs a job to its end and reads what it prints last.
pub(super) async fn run_job<R: DeserializeOwned>(access: &Access<'_>, job: &Job) -> Result<R, Failure> {
    let outcome = access.engine.run(job, access.images, access.output).await?;
    if outcome.exit_code != 0 {
        let failure = Failure::new(format!("{}: exit code {}, expected 0", job.name, outcome.exit_code));
        return Err(failure.output(outcome.tail));
    }
    report(&outcome.tail).ok_or_else(|| {
        let failure = Failure::new(format!("{}: its last line is no report of what it made", job.name));
        failure.output(outcome.tail)
    })
}

async fn await_streaming(access: &Access<'_>, primary: &Member) -> Result<(), Failure> {
    let session = Session::on(access, primary, Login::Superuser, HOME, CONNECT_LIMIT).await?;
    let waited = wait::until(STREAMING_LIMIT, EVERY, async || {
        match session.flag("SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')").await {
            Ok(true) => Look::Done(()),
            Ok(false) => Look::Pending("no replica streams".to_owned()),
            Err(error) => Look::Broken(error),
        }
    });
    waited.await.map_err(|error| Failure::because(format!("wait for a replica of {primary}"), error))
}

/// Kept by the server itself, so it survives its restart and no rendered file holds it.
async fn set_names(access: &Access<'_>, primary: &Member, names: &str) -> Result<(), Failure> {
    let doing = || format!("set synchronous_standby_names on {primary}");
    let failed = |error: SqlError| Failure::because(doing(), error);
    let session = Session::on(access, primary, Login::Superuser, HOME, CONNECT_LIMIT).await?;
    if session.flag("SELECT pg_is_in_recovery()").await.map_err(failed)? {
        return Err(Failure::new(format!("{}: it is in recovery, expected the primary", doing())));
    }
    let wanted = synchronous::members(names);
    // In between nobody can tell which of the two sets a commit waits for: it may be any one of either.
    note_synchronous(access, |found| synchronous::between(found, &wanted)).await?;
    session
        .execute(&format!("ALTER SYSTEM SET synchronous_standby_names = {}", literal(names)))
        .await
        .map_err(failed)?;
    session.execute("SELECT pg_reload_conf()").await.map_err(failed)?;
    let waited = wait::until(RELOAD_LIMIT, EVERY, async || {
        match session.text("SELECT current_setting('synchronous_standby_names')", &[]).await {
            Ok(found) if found == names => Look::Done(()),
            Ok(found) => Look::Pending(format!("it is {found:?}, expected {names:?}")),
            Err(error) => Look::Broken(error),
        }
    });
    waited.await.map_err(|error| Failure::because(doing(), error))?;
    note_synchronous(access, |_| wanted.clone()).await
}

async fn note_synchronous(
    access: &Access<'_>,
    next: impl Fn(&BTreeSet<Member>) -> BTreeSet<Member> + Send + Sync,
) -> Result<(), Failure> {
    let noted = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current?;
        let next = next(&cluster.synchronous);
        (next != cluster.synchronous).then(|| {
            cluster.synchronous = next;
            cluster
        })
    });
    Ok(noted.await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_found_among_other_lines() {
        let tail =
            "initdb: warning: x\n{\"system_id\":\"7\",\"timeline\":1,\"adopted\":false}\nwaiting for checkpoint\n";
        assert_eq!(report(tail), Some(Report { system_id: "7".to_owned(), timeline: 1, adopted: false }));
        assert_eq!(report::<Report>("done\n"), None);
    }

    #[test]
    fn a_slot_name_is_one_that_the_server_takes() {
        assert_eq!(slot_name(&Member::nth(NAME, 12)), "postgres_12");
    }
}
