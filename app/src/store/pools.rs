//! Connection pools that notice a demoted primary.
//!
//! A session to a server that became read-only answers pings for ever, so the write pool asks the one question that
//! matters each time it hands out a connection. The ping that sqlx does by itself is off: it would not see this.

use std::time::Duration;

use sqlx::{
    Connection, Executor, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use super::StoreError;
use crate::{breaker::Breaker, telemetry};

const GUARD_TIMEOUT: Duration = Duration::from_millis(300);
const SESSION: &str =
    "SET statement_timeout = '5s'; SET lock_timeout = '2s'; SET idle_in_transaction_session_timeout = '10s'";
const READ_SESSION: &str = "SET statement_timeout = '5s'; SET default_transaction_read_only = on";

/// A pool that only hands out sessions that can write.
pub(crate) fn write_pool(options: PgConnectOptions, size: u32) -> PgPool {
    settings(size)
        .after_connect(|connection, _| {
            Box::pin(async move {
                if !can_write(connection).await? {
                    return Err(sqlx::Error::Protocol(
                        "the server is read-only: it is not the primary, or not any more".to_owned(),
                    ));
                }
                connection.execute(SESSION).await.map(drop)
            })
        })
        .before_acquire(|connection, _| {
            Box::pin(async move { Ok(matches!(timeout(GUARD_TIMEOUT, can_write(connection)).await, Ok(Ok(true)))) })
        })
        .connect_lazy_with(options)
}

/// A pool for a server that may be a replica; its sessions refuse to write wherever they end up.
pub(crate) fn read_pool(options: PgConnectOptions, size: u32) -> PgPool {
    settings(size)
        .after_connect(|connection, _| Box::pin(async move { connection.execute(READ_SESSION).await.map(drop) }))
        .before_acquire(|connection, _| {
            Box::pin(async move { Ok(matches!(timeout(GUARD_TIMEOUT, connection.ping()).await, Ok(Ok(())))) })
        })
        .connect_lazy_with(options)
}

fn settings(size: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(Duration::from_secs(2))
        .max_lifetime(Duration::from_secs(5 * 60))
        .idle_timeout(Duration::from_secs(2 * 60))
        .test_before_acquire(false)
}

async fn can_write(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let read_only: String = sqlx::query_scalar("SHOW transaction_read_only").fetch_one(connection).await?;
    Ok(read_only == "off")
}

/// Which system an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Redis,
    Replica,
    Primary,
}

impl Source {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Replica => "replica",
            Self::Primary => "primary",
        }
    }
}

pub(crate) struct Replica {
    pub(crate) pool: PgPool,
    breaker: Breaker,
}

/// The two ways to the data.
pub(crate) struct Databases {
    pub(crate) primary: PgPool,
    pub(crate) replica: Option<Replica>,
}

impl Databases {
    pub(crate) fn new(primary: PgPool, replica: Option<PgPool>) -> Self {
        let replica = replica.map(|pool| Replica { pool, breaker: Breaker::new(Duration::from_secs(1)) });
        Self { primary, replica }
    }

    /// Reads that may lag: the replica, or the primary when there is no replica or it is away.
    pub(crate) async fn read<T, Fut>(&self, query: impl Fn(PgPool) -> Fut) -> Result<(T, Source), StoreError>
    where
        Fut: Future<Output = Result<T, StoreError>>,
    {
        if let Some(replica) = self.replica.as_ref().filter(|replica| replica.breaker.allows()) {
            match query(replica.pool.clone()).await {
                Ok(found) => {
                    replica.breaker.close();
                    return Ok((found, Source::Replica));
                }
                Err(error @ StoreError::Statement(_)) => return Err(error),
                // Replay on the replica may cancel one query; only an absent replica is left alone for a while.
                Err(error) => {
                    if !matches!(error, StoreError::Contended(_)) {
                        replica.breaker.trip();
                    }
                    metrics::counter!(telemetry::REPLICA_FALLBACKS).increment(1);
                    tracing::warn!(%error, "read from the primary because the replica does not answer");
                }
            }
        }
        Ok((query(self.primary.clone()).await?, Source::Primary))
    }
}

#[cfg(test)]
#[cfg(feature = "live-tests")]
mod tests {
    use super::*;

    #[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
    fn test_server() -> PgConnectOptions {
        let url = std::env::var("APP_TEST_DATABASE_URL").expect("set APP_TEST_DATABASE_URL to run the live tests");
        url.parse().unwrap()
    }

    async fn backend(pool: &PgPool, then: Option<&'static str>) -> i32 {
        let mut connection = pool.acquire().await.unwrap();
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
        if let Some(statement) = then {
            connection.execute(statement).await.unwrap();
        }
        pid
    }

    /// What a demotion does to a session that stays open: pings pass, writes fail.
    #[tokio::test]
    async fn the_write_pool_evicts_a_session_that_became_read_only() {
        let pool = write_pool(test_server(), 1);
        let healthy = backend(&pool, None).await;
        let demoted = backend(&pool, Some("SET default_transaction_read_only = on")).await;
        assert_eq!(healthy, demoted, "a session that can write is used again");
        let fresh = backend(&pool, None).await;
        assert_ne!(demoted, fresh, "a session that cannot write must not be handed out");
        assert_eq!(fresh, backend(&pool, None).await);
    }

    #[tokio::test]
    async fn sessions_have_time_limits() {
        let pool = write_pool(test_server(), 1);
        for (name, value) in
            [("statement_timeout", "5s"), ("lock_timeout", "2s"), ("idle_in_transaction_session_timeout", "10s")]
        {
            let found: String =
                sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(&pool).await.unwrap();
            assert_eq!(found, value, "{name}");
        }
        let pool = read_pool(test_server(), 1);
        let error = sqlx::query("CREATE TABLE never (id int)").execute(&pool).await.unwrap_err();
        assert!(
            matches!(StoreError::from(error), StoreError::Unavailable(_)),
            "reads must not write, wherever they land"
        );
    }
}
