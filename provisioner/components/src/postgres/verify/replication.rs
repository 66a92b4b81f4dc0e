//! Rows that are written on the primary arrive, and are written nowhere else.

use std::sync::OnceLock;
use std::time::Duration;

use futures_util::future::join_all;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::name::Member;
use provisioner_core::wait::{self, Look, WaitError};
use tokio::time::Instant;
use tokio_postgres::Statement;

use super::{Scene, listed, unknown};
use crate::checks::nonce;
use crate::postgres::NAME;
use crate::postgres::login::{HOME, Login};
use crate::postgres::lsn::Lsn;
use crate::postgres::sql::Session;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_millis(2);
/// read_only_sql_transaction
const READ_ONLY: &str = "25006";

/// Without replicas there is nothing to prove, and nothing is claimed.
pub(super) async fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = vec![check(NAME, "primary-takes-write", Level::L2, primary_takes_write(scene)).await];
    if scene.replicas().next().is_some() {
        findings.push(check(NAME, "marker-row-arrives", Level::L2, marker_row_arrives(scene)).await);
        findings.push(check(NAME, "replica-refuses-write", Level::L2, replica_refuses_write(scene)).await);
    }
    findings
}

/// Returns the row's nonce. The commit waits for no replica: its arrival is what is measured.
async fn write_marker(session: &Session, primary: &Member) -> Result<String, Broken> {
    let nonce = nonce();
    session.execute("SET synchronous_commit = local").await.map_err(|error| unknown(primary, error))?;
    let statement = "INSERT INTO provisioner.marker (purpose, nonce) VALUES ('verify', $1) \
                     ON CONFLICT (purpose) DO UPDATE SET nonce = excluded.nonce, written_at = clock_timestamp() \
                     RETURNING nonce";
    let written = session.text(statement, &[&nonce]).await;
    written.map_err(|error| Broken::Fail(format!("write on {primary}: {error}")))
}

async fn primary_takes_write(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    let session = scene.open(primary, Login::Superuser, HOME).await?;
    write_marker(&session, primary).await?;
    let lsn = session.text("SELECT pg_current_wal_lsn()::text", &[]).await.map_err(|error| unknown(primary, error))?;
    Ok(format!("{primary} committed a row at {lsn}"))
}

async fn marker_row_arrives(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    // Ready before the row is written, or that would be measured.
    let readers = scene.each(scene.replicas(), async |replica: Member| reader(scene, &replica).await).await?;
    let writer = scene.open(primary, Login::Superuser, HOME).await?;
    let nonce = write_marker(&writer, primary).await?;
    let committed = Instant::now();
    let lsn = async {
        let text =
            writer.text("SELECT pg_current_wal_lsn()::text", &[]).await.map_err(|error| unknown(primary, error))?;
        text.parse::<Lsn>().map_err(|error| unknown(primary, error))
    };
    let arrivals = join_all(readers.iter().map(|(replica, reader)| arrival(replica, reader, &nonce, committed)));
    let (lsn, arrivals) = tokio::join!(lsn, arrivals);
    let lsn = lsn?;
    let mut seen = Vec::new();
    for ((replica, _), arrival) in readers.iter().zip(arrivals) {
        let Arrival { took, first_seen } = arrival?;
        let (ms, bytes) = (took.as_secs_f64() * 1000.0, lsn.0.saturating_sub(first_seen.0));
        seen.push(format!("{replica}: {ms:.1} ms after the commit, {bytes} bytes behind at first sight"));
    }
    Ok(seen.join("; "))
}

struct Arrival {
    took: Duration,
    /// What the replica had replayed when it was first asked.
    first_seen: Lsn,
}

struct Reader {
    session: Session,
    query: Statement,
}

async fn reader(scene: &Scene<'_>, replica: &Member) -> Result<Reader, Broken> {
    let session = scene.open(replica, Login::Superuser, HOME).await?;
    let query = "SELECT coalesce((SELECT nonce FROM provisioner.marker WHERE purpose = 'verify'), '') || ' ' \
                 || coalesce(pg_last_wal_replay_lsn()::text, '')";
    let query = session.prepare(query).await.map_err(|error| unknown(replica, error))?;
    // The first use reads the catalogue.
    session.text_of(&query).await.map_err(|error| unknown(replica, error))?;
    Ok(Reader { session, query })
}

async fn arrival(replica: &Member, reader: &Reader, nonce: &str, committed: Instant) -> Result<Arrival, Broken> {
    let first_seen = OnceLock::new();
    let waited = wait::until(ARRIVAL_LIMIT, EVERY, async || match reader.session.text_of(&reader.query).await {
        Ok(found) => {
            let (row, replayed) = found.split_once(' ').unwrap_or_default();
            first_seen.get_or_init(|| replayed.parse().unwrap_or_default());
            if row == nonce { Look::Done(()) } else { Look::Pending("an older row is there".to_owned()) }
        }
        Err(error) => Look::Broken(error),
    });
    match waited.await {
        Ok(()) => Ok(Arrival { took: committed.elapsed(), first_seen: first_seen.get().copied().unwrap_or_default() }),
        Err(WaitError::Broken(error)) => Err(unknown(replica, error)),
        Err(late @ WaitError::TimedOut { .. }) => {
            Err(Broken::Fail(format!("the row did not arrive on {replica}: {late}")))
        }
    }
}

async fn replica_refuses_write(scene: &Scene<'_>) -> Result<String, Broken> {
    let each = scene.each(scene.replicas(), async |replica: Member| {
        let session = scene.open(&replica, Login::Superuser, HOME).await?;
        // In a transaction that is never committed, in case it is taken after all.
        let statement = "BEGIN; UPDATE provisioner.marker SET nonce = nonce WHERE false; ROLLBACK";
        match session.execute(statement).await {
            Err(error) if error.code() == Some(READ_ONLY) => Ok(READ_ONLY),
            Err(error) => Err(unknown(&replica, error)),
            Ok(()) => Err(Broken::Fail(format!("{replica} takes writes"))),
        }
    });
    Ok(listed(&each.await?))
}
