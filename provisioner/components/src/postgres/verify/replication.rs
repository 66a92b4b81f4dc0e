//! Rows that are written on the primary arrive, and are written nowhere else.

use std::time::Duration;

use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::name::Member;
use provisioner_core::wait::{self, Look};
use tokio::time::Instant;

use super::{Scene, listed, unknown};
use crate::checks::nonce;
use crate::postgres::NAME;
use crate::postgres::login::{HOME, Login};
use crate::postgres::sql::Session;

const ARRIVAL_LIMIT: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_millis(5);
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

struct Marker {
    nonce: String,
    /// Where the primary's WAL ends with this row in it.
    lsn: String,
}

/// The commit waits for no replica: its arrival is what is measured.
async fn write_marker(session: &Session, primary: &Member) -> Result<Marker, Broken> {
    let nonce = nonce();
    session.execute("SET synchronous_commit = local").await.map_err(|error| unknown(primary, error))?;
    let statement = "INSERT INTO provisioner.marker (purpose, nonce) VALUES ('verify', $1) \
                     ON CONFLICT (purpose) DO UPDATE SET nonce = excluded.nonce, written_at = clock_timestamp() \
                     RETURNING nonce";
    let written = session.text(statement, &[&nonce]).await;
    written.map_err(|error| Broken::Fail(format!("write on {primary}: {error}")))?;
    let lsn = session.text("SELECT pg_current_wal_lsn()::text", &[]).await.map_err(|error| unknown(primary, error))?;
    Ok(Marker { nonce, lsn })
}

async fn primary_takes_write(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    let session = scene.open(primary, Login::Superuser, HOME).await?;
    let marker = write_marker(&session, primary).await?;
    Ok(format!("{primary} committed a row at {}", marker.lsn))
}

async fn marker_row_arrives(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    // Open before the row is written, or connecting would be measured.
    let readers =
        scene.each(scene.replicas(), async |replica: Member| scene.open(&replica, Login::Superuser, HOME).await).await?;
    let writer = scene.open(primary, Login::Superuser, HOME).await?;
    let marker = write_marker(&writer, primary).await?;
    let committed = Instant::now();
    let mut arrivals = Vec::new();
    for (replica, session) in &readers {
        let behind = behind(session, &marker).await.map_err(|error| unknown(replica, error))?;
        await_marker(replica, session, &marker).await?;
        let took = committed.elapsed();
        arrivals.push(format!("{replica}: {:.1} ms, {behind} bytes behind at first sight", took.as_secs_f64() * 1000.0));
    }
    Ok(arrivals.join("; "))
}

async fn behind(session: &Session, marker: &Marker) -> Result<String, crate::postgres::sql::SqlError> {
    let query = "SELECT greatest(pg_wal_lsn_diff($1::text::pg_lsn, pg_last_wal_replay_lsn()), 0)::bigint::text";
    session.text(query, &[&marker.lsn]).await
}

async fn await_marker(replica: &Member, session: &Session, marker: &Marker) -> Result<(), Broken> {
    let query = "SELECT coalesce((SELECT nonce FROM provisioner.marker WHERE purpose = 'verify'), '')";
    let waited = wait::until(ARRIVAL_LIMIT, EVERY, async || match session.text(query, &[]).await {
        Ok(found) if found == marker.nonce => Look::Done(()),
        Ok(_) => Look::Pending("an older row is there".to_owned()),
        Err(error) => Look::Broken(error),
    });
    waited.await.map_err(|error| match error {
        wait::WaitError::Broken(error) => unknown(replica, error),
        late @ wait::WaitError::TimedOut { .. } => Broken::Fail(format!("the row did not arrive on {replica}: {late}")),
    })
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
