//! The tasks of a change. Each looks at what is there first, so that it may be run again.

use std::collections::BTreeSet;
use std::time::Duration;

use provisioner_core::clock;
use provisioner_core::component::{Access, Task};
use provisioner_core::engine::{EngineError, Power, StopProof};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::record;
use provisioner_core::wait::{self, Look, WaitError};

use super::super::cluster::{Change, ChangeKind, Cluster, RECORD};
use super::super::declare;
use super::super::login::{HOME, Login};
use super::super::run::{CONNECT_LIMIT, make_slot, reserve_slot, slot_name, value};
use super::super::sql::{Session, SqlError, WRITING_TIMELINE, literal};
use super::super::{rejoin, synchronous};

/// Says to `follow` that `redirect` has been done.
pub(super) const REDIRECTED: &str = "redirected";
const EVERY: Duration = Duration::from_millis(10);
/// A receiver that is told to end does so at once; one that cannot (stopped, on a disk that hangs) is not waited for.
const FREEZE_LIMIT: Duration = Duration::from_secs(2);
/// It was with the former primary until a moment ago. One that is stopped or does not replay follows once it can; nothing
/// waits for it but the end of this run.
const FOLLOW_LIMIT: Duration = Duration::from_secs(15);
/// All that was received is replayed first; 1.8 GB took 5.8 s on a laptop.
const PROMOTE_LIMIT: Duration = Duration::from_secs(600);

/// Marks the change in the record. Whoever comes second finds the first one's and goes on with it.
pub(super) async fn begin(
    access: &Access<'_>,
    kind: ChangeKind,
    from: &Member,
    to: Option<&Member>,
) -> Result<(), Failure> {
    let mut clash = None;
    let begun = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current?;
        clash = None;
        if cluster.primary != *from {
            clash = Some(format!("the primary is {} by now, expected {from}", cluster.primary));
            return None;
        }
        match &mut cluster.change {
            // A switchover whose primary dies on the way is a failover from then on.
            Some(change) if change.kind == kind => return None,
            // Whoever was not yet told to promote itself stands for election like all others.
            Some(change) if kind == ChangeKind::Failover => {
                change.kind = kind;
                change.to = change.promoted().cloned();
            }
            Some(change) => {
                clash = Some(format!("a {} from {} is under way", change.kind.word(), change.from));
                return None;
            }
            None => {
                let since = clock::unix_seconds();
                cluster.change = Some(Change { kind, from: from.clone(), to: to.cloned(), promoting: false, since });
            }
        }
        Some(cluster)
    });
    begun.await?;
    clash.map_or(Ok(()), |reason| Err(Failure::new(format!("begin the {}: {reason}", kind.word()))))
}

/// Proof that the lost primary can acknowledge nothing any more. It is down and stays down; where the engine cannot show
/// that, everybody that it would have to wait for is frozen.
pub(crate) async fn fence(task: &Task, access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    begin(access, ChangeKind::Failover, member, None).await?;
    match stop(access, member, Power::Killed).await {
        Ok(proof) => {
            access.output.tell(&format!("{member} is fenced: {}", proof.evidence));
            Ok(())
        }
        Err(error) if task.with.contains_key("force") => {
            access.output.tell(&format!("{member} is not fenced, and --force goes on: {error}"));
            Ok(())
        }
        Err(error) => {
            let frozen = cannot_ack(access).await.map_err(|reason| {
                Failure::because(format!("fence {member}: {reason}"), error)
                    .hint("stop it by hand and prove it, then: failover")
                    .hint("if it may go on acknowledging writes that will be lost: failover --force")
            })?;
            access
                .output
                .tell(&format!("{member} cannot acknowledge: {frozen} are frozen, and it waits for one of them"));
            Ok(())
        }
    }
}

pub(super) async fn stop(access: &Access<'_>, member: &Member, how: Power) -> Result<StopProof, EngineError> {
    match access.engine.set(member, how).await {
        // There is nothing that could be stopped; the proof says whether that is so.
        Ok(()) | Err(EngineError::NotFound { .. }) => {}
        Err(error) => access.output.line(&error.to_string()),
    }
    access.engine.stopped(member).await
}

/// With every member frozen that a commit could wait for, no commit is acknowledged, wherever the old primary is and
/// whoever still reaches it.
async fn cannot_ack(access: &Access<'_>) -> Result<String, String> {
    let armed = Cluster::current(access).await.map_err(|failure| failure.chain())?.synchronous;
    if armed.is_empty() {
        return Err("it is not proven down, and its commits wait for nobody".to_owned());
    }
    for member in &armed {
        still(access, member).await.map_err(|failure| {
            format!(
                "it is not proven down, and its commits may wait for {member}, which is not frozen: {}",
                failure.failure.chain()
            )
        })?;
    }
    Ok(armed.iter().map(Member::as_str).collect::<Vec<_>>().join(", "))
}

/// Ends what a replica receives. The old primary is proven to acknowledge nothing any more, so a receiver that does not end
/// can add only what nobody was promised.
pub(crate) async fn freeze(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    match still(access, member).await {
        Err(failure) if failure.is_late => {
            access.output.tell(&format!(
                "{}, and nothing that was acknowledged can be among what it adds",
                failure.failure.chain()
            ));
            Ok(())
        }
        other => other.map_err(|failure| failure.failure),
    }
}

struct NotStill {
    failure: Failure,
    is_late: bool,
}

impl From<Failure> for NotStill {
    fn from(failure: Failure) -> Self {
        Self { failure, is_late: false }
    }
}

/// What the replica holds is final.
async fn still(access: &Access<'_>, member: &Member) -> Result<(), NotStill> {
    let failed = |error: SqlError| Failure::because(format!("freeze {member}"), error);
    let session = Session::on(access, member, Login::Superuser, HOME, CONNECT_LIMIT).await?;
    if !session.flag("SELECT pg_is_in_recovery()").await.map_err(failed)? {
        // Promoted by a run that was killed before it could say so.
        return Ok(());
    }
    session.execute("ALTER SYSTEM SET primary_conninfo = ''").await.map_err(failed)?;
    session.execute("SELECT pg_reload_conf()").await.map_err(failed)?;
    let frozen = "SELECT current_setting('primary_conninfo') = '' AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver)";
    let waited = wait::until(FREEZE_LIMIT, EVERY, async || match session.flag(frozen).await {
        Ok(true) => Look::Done(()),
        Ok(false) => Look::Pending("its receiver still runs".to_owned()),
        Err(error) => Look::Broken(error),
    });
    waited.await.map_err(|error| {
        let is_late = matches!(error, WaitError::TimedOut { .. });
        NotStill { failure: Failure::because(format!("freeze {member}"), error), is_late }
    })
}

/// The primary is still the old one, and nobody was promoted.
pub(crate) async fn abandon(access: &Access<'_>, primary: &Member) -> Result<(), Failure> {
    let undone = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current?;
        (cluster.primary == *primary && cluster.change.as_ref().is_some_and(|change| !change.promoting)).then(|| {
            cluster.change = None;
            cluster
        })
    });
    Ok(undone.await?)
}

/// Armed first, then promoted: no write may be acknowledged unprotected, and no slot may miss any of it.
pub(crate) async fn promote(task: &Task, access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let failed = |error: SqlError| Failure::because(format!("promote {member}"), error);
    let (session, ()) = tokio::try_join!(
        Session::on(access, member, Login::Superuser, HOME, CONNECT_LIMIT),
        choose(access, member, task.with.contains_key("force")),
    )?;
    if session.flag("SELECT pg_is_in_recovery()").await.map_err(failed)? {
        arm(task, member, &session).await?;
        session.execute("SELECT pg_promote(false)").await.map_err(failed)?;
    }
    // A long backlog is replayed before it takes writes; that is no failure.
    let takes_writes = "SELECT NOT pg_is_in_recovery()";
    await_true(&session, takes_writes, None, PROMOTE_LIMIT, "it still replays").await.map_err(failed_by(member))?;
    // What it really waits for: it may have been promoted by a run that was killed, which armed it for others.
    let (timeline, names): (i32, String) = session
        .row(&format!("SELECT {WRITING_TIMELINE}, current_setting('synchronous_standby_names')"), &[])
        .await
        .and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .map_err(failed)?;
    commit(access, member, timeline, &names).await?;
    access.output.line(&format!("{member} is primary on timeline {timeline}"));
    Ok(())
}

/// What is there already costs one question, because a switchover does it while the old primary still serves. A replica
/// ignores all of it.
pub(super) async fn arm(task: &Task, member: &Member, session: &Session) -> Result<(), Failure> {
    let names = value(task, "names")?;
    let slots: Vec<&str> = value(task, "slots")?.split(' ').filter(|slot| !slot.is_empty()).collect();
    let failed = |error: SqlError| Failure::because(format!("arm {member}"), error);
    let is_armed = "SELECT current_setting('synchronous_standby_names') = $1
         AND NOT EXISTS (SELECT FROM unnest($2::text[]) AS wanted
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = wanted AND wal_status IS DISTINCT FROM 'lost'))";
    let is_armed = session.row(is_armed, &[&names, &slots]).await.and_then(|row| Ok(row.try_get(0)?));
    if is_armed.map_err(failed)? {
        return Ok(());
    }
    for slot in slots {
        make_slot(session, slot).await.map_err(failed)?;
    }
    let set = format!("ALTER SYSTEM SET synchronous_standby_names = {}", literal(names));
    session.execute(&set).await.map_err(failed)?;
    session.execute("SELECT pg_reload_conf()").await.map_err(failed)?;
    let armed = "SELECT current_setting('synchronous_standby_names') = $1";
    await_true(session, armed, Some(names), CONNECT_LIMIT, "it does not yet wait for them")
        .await
        .map_err(|error| Failure::because(format!("arm {member}"), error))
}

fn failed_by(member: &Member) -> impl Fn(WaitError<SqlError>) -> Failure {
    move |error| Failure::because(format!("promote {member}"), error)
}

async fn await_true(
    session: &Session,
    query: &str,
    parameter: Option<&str>,
    limit: Duration,
    meanwhile: &str,
) -> Result<(), WaitError<SqlError>> {
    wait::until(limit, EVERY, async || {
        let answer = match parameter {
            Some(parameter) => session.row(query, &[&parameter]).await.and_then(|row| Ok(row.try_get(0)?)),
            None => session.flag(query).await,
        };
        match answer {
            Ok(true) => Look::Done(()),
            Ok(false) => Look::Pending(meanwhile.to_owned()),
            Err(error) => Look::Broken(error),
        }
    })
    .await
}

/// Written before the promotion, so that no second run ever promotes somebody else.
async fn choose(access: &Access<'_>, member: &Member, by_force: bool) -> Result<(), Failure> {
    let mut clash = None;
    let chosen = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current?;
        clash = None;
        if cluster.primary == *member {
            return None;
        }
        match &mut cluster.change {
            Some(change) if change.promoted().is_some_and(|to| to != member && !by_force) => {
                clash = change.to.as_ref().map(|to| format!("{to} is to be promoted"));
                None
            }
            Some(change) if change.promoted() == Some(member) => None,
            Some(change) => {
                change.to = Some(member.clone());
                change.promoting = true;
                Some(cluster)
            }
            None => {
                clash = Some(format!("no change is under way, and {} is primary", cluster.primary));
                None
            }
        }
    });
    chosen.await?;
    clash.map_or(Ok(()), |reason| Err(Failure::new(format!("promote {member}: {reason}"))))
}

async fn commit(access: &Access<'_>, member: &Member, timeline: i32, names: &str) -> Result<(), Failure> {
    let timeline = u32::try_from(timeline)
        .map_err(|error| Failure::because(format!("read timeline {timeline} of {member}"), error))?;
    let synchronous: BTreeSet<Member> = synchronous::members(names);
    let committed = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current?;
        if cluster.primary == *member {
            return None;
        }
        cluster.replicas.remove(member);
        cluster.primary = member.clone();
        cluster.epoch += 1;
        cluster.timeline = timeline;
        cluster.synchronous.clone_from(&synchronous);
        cluster.change = None;
        Some(cluster)
    });
    Ok(committed.await?)
}

/// A replica looks to the chosen one, which need not be primary yet: whoever streams from a replica goes on when that is promoted.
/// The first commit may wait for this one.
pub(crate) async fn redirect(task: &Task, access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let upstream = Member::named(value(task, "upstream")?);
    let failed = |error: SqlError| Failure::because(format!("let {member} follow {upstream}"), error);
    let slot = slot_name(member);
    let (source, session) = tokio::try_join!(
        Session::on(access, &upstream, Login::Superuser, HOME, CONNECT_LIMIT),
        Session::on(access, member, Login::Superuser, HOME, CONNECT_LIMIT),
    )?;
    reserve_slot(&source, &slot).await.map_err(failed)?;
    let conninfo = literal(&declare::conninfo(&upstream, member));
    session.execute(&format!("ALTER SYSTEM SET primary_conninfo = {conninfo}")).await.map_err(failed)?;
    let named = format!("ALTER SYSTEM SET primary_slot_name = {}", literal(&slot));
    session.execute(&named).await.map_err(failed)?;
    session.execute("SELECT pg_reload_conf()").await.map_err(failed)
}

/// A replica takes the new primary for its own, and a row proves it.
pub(crate) async fn follow(task: &Task, access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let upstream = Member::named(value(task, "upstream")?);
    if !task.with.contains_key(REDIRECTED) {
        redirect(task, access, member).await?;
    }
    rejoin::prove(access, &upstream, member, FOLLOW_LIMIT).await
}
