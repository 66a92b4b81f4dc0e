//! The rows that a drill wrote, as members hold them.

use std::collections::BTreeMap;
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::wait::{self, Look, WaitError};

use super::cluster::Cluster;
use super::login::{HOME, Login};
use super::sql::{Session, SqlError};

const LIMIT: Duration = Duration::from_secs(5);
const LAG_LIMIT: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_millis(50);

/// Runs of numbers that follow each other, each with its first and last, by writer: a hundred thousand rows without a
/// gap are one.
pub type Ranges = BTreeMap<u16, Vec<(u64, u64)>>;

/// Forgets the rows of earlier drills.
pub async fn clear(access: &Access<'_>, primary: &Member) -> Result<(), Failure> {
    let failed = |error: SqlError| Failure::because(format!("empty the ledger on {primary}"), error);
    let session = Session::on(access, primary, Login::Ledger, HOME, LIMIT).await?;
    // Under `required` it would wait for a replica, and nothing that anybody needs depends on it.
    session.execute("SET synchronous_commit = local").await.map_err(failed)?;
    session.execute("TRUNCATE ledger.entries, ledger.members").await.map_err(failed)
}

/// Which of a run's rows a member holds, primary or replica: those that came through the route, and those that members
/// were asked to write directly.
pub async fn rows(access: &Access<'_>, member: &Member, run: u64) -> Result<(Ranges, Ranges), Failure> {
    let session = Session::on(access, member, Login::Ledger, HOME, LIMIT).await?;
    caught_up(access, &session, member).await?;
    let entries = ranges(&session, member, "SELECT writer AS who, number FROM ledger.entries WHERE run = $1", run);
    let entries = entries.await?;
    let query = "SELECT member AS who, number FROM ledger.members WHERE run = $1";
    Ok((entries, ranges(&session, member, query, run).await?))
}

/// A replica may lag on purpose or under load: it is read once it has replayed what its primary holds now. What it lacks
/// after the limit is lacking.
async fn caught_up(access: &Access<'_>, session: &Session, member: &Member) -> Result<(), Failure> {
    let primary = Cluster::current(access).await?.primary;
    if primary == *member {
        return Ok(());
    }
    let failed = |member: &Member, error: SqlError| Failure::because(format!("ask {member} how far it is"), error);
    let end = Session::on(access, &primary, Login::Ledger, HOME, LIMIT).await?;
    let end = end.text("SELECT pg_current_wal_lsn()::text", &[]).await.map_err(|error| failed(&primary, error))?;
    let query = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, true)";
    let waited = wait::until(LAG_LIMIT, EVERY, async || {
        match session.row(query, &[&end]).await.and_then(|row| Ok(row.try_get(0)?)) {
            Ok(true) => Look::Done(()),
            Ok(false) => Look::Pending(format!("{member} has not replayed {end}")),
            Err(error) => Look::Broken(error),
        }
    });
    match waited.await {
        Ok(()) | Err(WaitError::TimedOut { .. }) => Ok(()),
        Err(error) => Err(Failure::because(format!("wait for {member}"), error)),
    }
}

async fn ranges(session: &Session, member: &Member, numbers: &str, run: u64) -> Result<Ranges, Failure> {
    let query = format!(
        "SELECT who, min(number), max(number) FROM ( \
         SELECT who, number, number - row_number() OVER (PARTITION BY who ORDER BY number) AS island \
         FROM ({numbers}) AS numbers) AS islands GROUP BY who, island"
    );
    let doing = || format!("read the ledger on {member}");
    let run = i64::try_from(run).map_err(|error| Failure::because(doing(), error))?;
    let found = session.rows(&query, &[&run]).await.map_err(|error| Failure::because(doing(), error))?;
    let mut ranges = Ranges::new();
    for row in found {
        let read = || Ok::<(i32, i64, i64), tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        let (writer, first, last) = read().map_err(|error| Failure::because(doing(), error))?;
        let writer = u16::try_from(writer).map_err(|error| Failure::because(doing(), error))?;
        ranges.entry(writer).or_default().push((first.unsigned_abs(), last.unsigned_abs()));
    }
    Ok(ranges)
}
