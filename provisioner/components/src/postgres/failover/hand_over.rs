//! The planned end of a primary: proven to be possible while it serves, and then as short as it can be.

use std::time::Duration;

use provisioner_core::component::{Access, Task};
use provisioner_core::engine::Power;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::wait::{self, Look};

use super::super::cluster::{ChangeKind, Cluster};
use super::super::control::{self, Control, Reader, State};
use super::super::declare;
use super::super::login::{HOME, Login};
use super::super::lsn::Lsn;
use super::super::run::{CONNECT_LIMIT, value};
use super::super::sql::{Session, SqlError};
use super::steps::{abandon, arm, begin, stop};

const EVERY: Duration = Duration::from_millis(50);
/// Nobody can write meanwhile; a look takes a millisecond.
const POLL: Duration = Duration::from_millis(10);
/// Archiving a file takes milliseconds to a second; a shutdown waits for as long as it takes.
const ARCHIVE_LIMIT: Duration = Duration::from_secs(5);
/// A disk that hangs answers nobody.
const EXEC_LIMIT: Duration = Duration::from_secs(5);
/// As much as a large cache on a slow disk takes.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(600);
/// A shutdown after a checkpoint takes 0.2 s. What lasts longer is looked into.
const IN_ORDER: Duration = Duration::from_secs(2);
/// The shutdown and the promotion begin a WAL file each, of 16 MiB unless somebody chose another size, and a checkpoint
/// comes with both. A server that cannot write one ends in a panic, and does not start again on a full disk.
const ROOM_KB: u64 = 64 << 10;

/// Everything that could keep the shutdown from coming to its end, proven while the primary serves, and what can be done
/// beforehand. Where it fails the primary goes on as before.
pub(crate) async fn prepare(task: &Task, access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let to = Member::named(value(task, "to")?);
    for member in [member, &to] {
        room(access, member).await?;
    }
    let failed = |error: SqlError| Failure::because(format!("prepare {member} for its shutdown"), error);
    let session = Session::on(access, member, Login::Superuser, HOME, CONNECT_LIMIT).await?;
    // What it would write during its shutdown it writes while it still serves. Without a record in it the current WAL file
    // would not be ended either.
    session.execute_within("CHECKPOINT", CHECKPOINT_LIMIT).await.map_err(failed)?;
    if session.flag("SELECT current_setting('archive_mode') <> 'off'").await.map_err(failed)? {
        archives(access, member, &session).await?;
    }
    arm(task, &to, &Session::on(access, &to, Login::Superuser, HOME, CONNECT_LIMIT).await?).await?;
    begin(access, ChangeKind::Switchover, member, Some(&to)).await
}

/// One WAL file goes to the archive.
async fn archives(access: &Access<'_>, member: &Member, session: &Session) -> Result<(), Failure> {
    let failed = |error: SqlError| Failure::because(format!("let {member} archive"), error);
    // The position may be the first one of the next file (PostgreSQL 17 docs, 9.28.3).
    let file = session.text("SELECT pg_walfile_name(pg_switch_wal() - 1)", &[]).await.map_err(failed)?;
    // It is marked as ready before the switch returns, and as done by whatever archives it.
    let archived = "SELECT NOT EXISTS (SELECT FROM pg_ls_archive_statusdir() WHERE name = $1 || '.ready')";
    let waited = wait::until(ARCHIVE_LIMIT, EVERY, async || {
        match session.row(archived, &[&file]).await.and_then(|row| Ok(row.try_get(0)?)) {
            Ok(true) => Look::Done(()),
            Ok(false) => Look::Pending(format!("WAL file {file} is not archived")),
            Err(error) => Look::Broken(error),
        }
    });
    waited.await.map_err(|error| {
        Failure::because(format!("prove that archiving works on {member}, since its shutdown waits for that"), error)
            .hint(format!(
                "nothing was stopped, {member} is still the primary; what archive_command says is in: logs {member}"
            ))
    })?;
    access.output.line(&format!("{member} archives: {file} is done"));
    Ok(())
}

async fn room(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let data = format!("{}/17/main", declare::DATA_ROOT);
    let doing = || format!("look for room on the disk of {member}");
    let argv = ["df", "-P", "-k", &data, &format!("{data}/pg_wal")].map(str::to_owned);
    let told = async { access.engine.exec(member, &argv, None).await?.finish().await };
    let told = tokio::time::timeout(EXEC_LIMIT, told).await;
    let told = told.map_err(|_| Failure::new(format!("{}: `df` has no end within 5 s", doing())))??;
    let free = free_kb(&told.stdout).filter(|_| told.exit_code == 0).ok_or_else(|| {
        let said = format!("{}{}", told.stdout, told.stderr);
        Failure::new(format!("{}: `df` says {:?}, expected the room that is left", doing(), said.trim()))
    })?;
    if free < ROOM_KB {
        let failure = Failure::new(format!(
            "{}: {} MiB are left, expected {} MiB for the shutdown of one and the promotion of the other",
            doing(),
            free >> 10,
            ROOM_KB >> 10
        ));
        return Err(failure.hint(format!("nothing was stopped; make room on {member} first")));
    }
    Ok(())
}

/// The least that any of the file systems has left, from `df -P -k`.
fn free_kb(told: &str) -> Option<u64> {
    let lines = told.lines().skip(1);
    lines.map(|line| line.split_whitespace().nth(3)?.parse().ok()).collect::<Option<Vec<u64>>>()?.into_iter().min()
}

/// The primary stops in order: whoever streams from it gets everything, down to its last checkpoint.
pub(crate) async fn hand_over(task: &Task, access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let to = Member::named(value(task, "to")?);
    begin(access, ChangeKind::Switchover, member, Some(&to)).await?;
    let session = Session::on(access, &to, Login::Superuser, HOME, CONNECT_LIMIT).await?;
    if may_be_promoted(access, &session).await? {
        // By a run that was killed. All that is left to do here is that nobody else takes writes.
        let proof = stop(access, member, Power::Killed).await?;
        access.output.line(&format!("{member} has stopped: {}", proof.evidence));
        return Ok(());
    }
    // There while it runs; one that is down already is asked through the engine.
    let reader = Reader::open(access, member).await.ok();
    let Err(failure) = complete(access, member, &to, &session, reader).await else { return Ok(()) };
    match go_on(access, member).await {
        Ok(()) => Err(failure.hint(format!("{member} was started again and is still the primary: verify"))),
        Err(error) => Err(failure
            .within(format!("{member} is not primary again: {}", error.chain()))
            .hint(format!("provisioner switchover --to {to}, which carries it on"))),
    }
}

async fn may_be_promoted(access: &Access<'_>, session: &Session) -> Result<bool, Failure> {
    let is_replica = session.flag("SELECT pg_is_in_recovery()").await;
    let is_replica = is_replica.map_err(|error| Failure::because("ask whether it is still a replica", error))?;
    Ok(!is_replica || is_promoting(access).await?)
}

async fn is_promoting(access: &Access<'_>) -> Result<bool, Failure> {
    Ok(Cluster::current(access).await?.change.is_some_and(|change| change.promoting))
}

/// Nobody was told to promote itself, so the old primary serves again. It may still be on its way down.
async fn go_on(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    if is_promoting(access).await? {
        return Err(Failure::new("another run promotes somebody else"));
    }
    stop(access, member, Power::Killed).await?;
    access.engine.set(member, Power::Running).await?;
    abandon(access, member).await
}

async fn complete(
    access: &Access<'_>,
    member: &Member,
    to: &Member,
    session: &Session,
    reader: Option<Reader>,
) -> Result<(), Failure> {
    // Its data says so before the engine does: unmounting and unplugging a container takes 0.2 s, and nobody could write.
    let mut stopping = std::pin::pin!(stop(access, member, Power::Stopped));
    let control = async || match &reader {
        Some(reader) => reader.control().await,
        None => control::control(access, member).await,
    };
    // It ends what it sends after its control file says so.
    let receives = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)";
    let limit = Duration::from_secs(declare::STOP_GRACE_SECS.into());
    let waited = wait::until(limit, POLL, async || match session.flag(receives).await {
        Ok(true) => Look::Pending(format!("{to} still receives")),
        Ok(false) => match control().await {
            Ok(control) => match has_all(member, &control, to, session).await {
                Ok(()) => Look::Done(()),
                Err(failure) => Look::Pending(failure.chain()),
            },
            // Its container is about to end.
            Err(failure) => Look::Pending(failure.chain()),
        },
        Err(error) => Look::Broken(error),
    });
    tokio::select! {
        proof = &mut stopping => {
            access.output.line(&format!("{member} has stopped: {}", proof?.evidence));
            has_all(member, &control::control(access, member).await?, to, session).await
        }
        waited = waited => waited.map_err(|error| Failure::because(format!("hand over from {member}"), error)),
    }
}

/// Its process ends too, or is ended: all that it may still wait for is its archiving.
pub(crate) async fn end(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let proof = match tokio::time::timeout(IN_ORDER, stop(access, member, Power::Stopped)).await {
        Ok(proof) => proof?,
        Err(_) => {
            let waiting = tokio::time::timeout(EXEC_LIMIT, unarchived(access, member)).await.ok().flatten();
            access.output.tell(&format!(
                "{member} has handed over everything and does not end: its process is killed{}",
                waiting.map(|files| format!("; not archived: {files}")).unwrap_or_default()
            ));
            stop(access, member, Power::Killed).await?
        }
    };
    access.output.line(&format!("{member} has stopped: {}", proof.evidence));
    Ok(())
}

/// WAL files that only the archive lacks: `to` has what is in them and does not archive what it has received, so no point
/// in time between them and the next base backup can be restored from the archive unless they are put there by hand.
async fn unarchived(access: &Access<'_>, member: &Member) -> Option<String> {
    let status = format!("{}/17/main/pg_wal/archive_status", declare::DATA_ROOT);
    let argv = ["ls", &status].map(str::to_owned);
    let listed = access.engine.exec(member, &argv, None).await.ok()?.finish().await.ok()?;
    let files: Vec<&str> = listed.stdout.lines().filter_map(|name| name.strip_suffix(".ready")).collect();
    (!files.is_empty()).then(|| files.join(", "))
}

/// Its data says that it has shut down, and `to` has all of it. From then on it has no client, acknowledges nothing and writes
/// no record any more, whatever its process still does: that is the proof that a promotion needs.
async fn has_all(member: &Member, control: &Control, to: &Member, session: &Session) -> Result<(), Failure> {
    if control.state != State::ShutDown {
        return Err(Failure::new(format!(
            "hand over from {member}: its control file says {:?}, expected a clean shutdown",
            control.state
        )));
    }
    let received = "SELECT greatest(coalesce(pg_last_wal_receive_lsn(), '0/0'), pg_last_wal_replay_lsn())::text";
    let failed = |error: SqlError| Failure::because(format!("ask {to} what it has received"), error);
    let received: Lsn = session
        .text(received, &[])
        .await
        .map_err(failed)?
        .parse()
        .map_err(|error| Failure::because(format!("ask {to} what it has received"), error))?;
    if received <= control.checkpoint {
        return Err(Failure::new(format!(
            "hand over from {member}: {to} has received {received}, expected more than the last checkpoint {}",
            control.checkpoint
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_room_of_all_file_systems_counts() {
        let head = "Filesystem     1024-blocks  Used Available Capacity Mounted on\n";
        let data = "/dev/sda1 1000000 1 70000 1% /var/lib/postgresql\n";
        let wal = "/dev/sdb1 1000000 1 1024 99% /var/lib/postgresql/17/main/pg_wal\n";
        assert_eq!(free_kb(&format!("{head}{data}{wal}")), Some(1024));
        assert_eq!(free_kb(&format!("{head}{data}overlay - - -\n")), None);
        assert_eq!(free_kb(head), None);
    }
}
