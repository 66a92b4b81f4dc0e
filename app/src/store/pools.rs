//! Connection pools that notice a demoted primary.
//!
//! A session to a server that became read-only answers pings for ever, so the write pool asks the one question that
//! matters each time it hands out a connection. The ping that sqlx does by itself is off: it would not see this. Orders
//! and tokens go without the question where a session wrote a moment ago: their statements are refused by a server that
//! cannot write, and then tried on one that was asked.

use std::time::{Duration, Instant};

use sqlx::{
    Connection, Executor, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;
use tracing::Instrument;

use super::{
    StoreError,
    position::Position,
    warm::{Session, Warm},
};
use crate::{breaker::Breaker, telemetry, traces};

const GUARD_TIMEOUT: Duration = Duration::from_millis(300);
/// Longer than any statement, which whoever waited for it may have given up. The ping that sqlx does by itself on return has
/// no limit: it would keep the place of a session whose server went without a word for a quarter of an hour. It comes after this one.
const RETURN_WITHIN: Duration = Duration::from_secs(6);
/// A session that was used just now is not asked whether it is alive: who reads finds out, and goes elsewhere.
pub(super) const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// The cost of a page is that of memory and SSDs: with the server's default, which is that of disks that turn, a page of
/// a category is found by reading the whole catalogue in order.
const SESSION: &str = "SET statement_timeout = '5s'; SET lock_timeout = '2s'; \
     SET idle_in_transaction_session_timeout = '10s'; SET random_page_cost = 1.1";
const READ_SESSION: &str =
    "SET statement_timeout = '5s'; SET default_transaction_read_only = on; SET random_page_cost = 1.1";

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
        .before_acquire(|connection, used| {
            Box::pin(async move {
                let is_trusted = used.idle_for < TRUSTED_FOR;
                Ok(is_trusted || matches!(timeout(GUARD_TIMEOUT, connection.ping()).await, Ok(Ok(()))))
            })
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
        .after_release(|connection, _| {
            Box::pin(async move {
                let silent = |_| sqlx::Error::Protocol(format!("no answer within {RETURN_WITHIN:?}"));
                timeout(RETURN_WITHIN, connection.ping()).await.map_err(silent)?.map(|()| true)
            })
        })
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

/// What may be asked on a connection to whichever server.
pub(crate) trait Query: Sync {
    type Answer: Send;

    fn ask(&self, connection: &mut PgConnection) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send;
}

/// An answer, and the position of the server when it was asked, the least one if it was not: the answer is not older.
#[derive(Debug)]
pub(crate) struct Reading<T> {
    pub(crate) value: T,
    pub(crate) position: Position,
    pub(crate) source: Source,
}

struct Replica {
    pool: PgPool,
    warm: Warm,
    breaker: Breaker,
}

impl Replica {
    async fn reading<Q: Query>(&self, is_dated: bool, query: &Q) -> Result<Reading<Q::Answer>, StoreError> {
        let mut session = warm(Source::Replica, &self.warm).await?;
        let found = reading(&mut session, Source::Replica, is_dated, query).await;
        match &found {
            Ok(_) => session.keep(),
            Err(error) if error.condemns_connection() => session.close(),
            Err(_) => {}
        }
        found
    }

    /// Replay on the replica may cancel one query; only an absent replica is left alone for a while.
    fn note_failure(&self, error: &StoreError) {
        if !matches!(error, StoreError::Contended(_)) {
            self.breaker.trip();
        }
        metrics::counter!(telemetry::REPLICA_FALLBACKS).increment(1);
        tracing::warn!(%error, "read from the primary because the replica does not answer");
    }
}

/// The two ways to the data.
pub(crate) struct Databases {
    pub(super) primary: PgPool,
    /// For statements that a server which cannot write refuses, whatever they find.
    pub(super) writers: Warm,
    replica: Option<Replica>,
}

impl Databases {
    pub(crate) fn new(primary: PgPool, replica: Option<PgPool>) -> Self {
        let replica = replica.map(|pool| Replica {
            warm: Warm::new(pool.clone()),
            pool,
            breaker: Breaker::new(Duration::from_secs(1)),
        });
        Self { writers: Warm::new(primary.clone()), primary, replica }
    }

    /// A session of the primary that wrote a moment ago, or has just been asked whether it may. Who keeps it has written.
    pub(crate) async fn writer(&self) -> Result<Session<'_>, StoreError> {
        warm(Source::Primary, &self.writers).await
    }

    /// A session of the primary that can write, and how long it was waited for is measured.
    pub(crate) async fn connection(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        take(&self.primary, Source::Primary).await
    }

    /// Reads that may lag: the replica, or the primary when there is no replica or it is away. They may also take long, so
    /// they leave the sessions that are kept to others.
    pub(crate) async fn read<Q: Query>(&self, query: &Q) -> Result<Reading<Q::Answer>, StoreError> {
        if let Some(replica) = self.replica.as_ref().filter(|replica| replica.breaker.allows()) {
            match pool_reading(&replica.pool, Source::Replica, false, query).await {
                Ok(found) => {
                    replica.breaker.close();
                    return Ok(found);
                }
                Err(error) if !error.may_pass_elsewhere() => return Err(error),
                Err(error) => replica.note_failure(&error),
            }
        }
        pool_reading(&self.primary, Source::Primary, false, query).await
    }

    /// The same, but what is older than `changed` only when nobody has anything newer. `None`: any age will do, and none
    /// is asked.
    pub(crate) async fn read_since<Q: Query>(
        &self,
        changed: Option<Position>,
        query: &Q,
    ) -> Result<Reading<Q::Answer>, StoreError> {
        let mut older = None;
        if let Some(replica) = self.replica.as_ref().filter(|replica| replica.breaker.allows()) {
            match replica.reading(changed.is_some(), query).await {
                Ok(found) => {
                    replica.breaker.close();
                    if found.position >= changed.unwrap_or_default() {
                        return Ok(found);
                    }
                    older = Some(found);
                }
                Err(error) if !error.may_pass_elsewhere() => return Err(error),
                Err(error) => replica.note_failure(&error),
            }
        }
        match pool_reading(&self.primary, Source::Primary, changed.is_some(), query).await {
            Err(error) => older.ok_or(error),
            found => found,
        }
    }

    /// Whether there is one that gives no connection.
    pub(crate) async fn lacks_replica(&self) -> bool {
        let Some(replica) = &self.replica else { return false };
        replica.pool.acquire().await.is_err()
    }

    pub(crate) fn record_connections(&self) {
        record_connections(&self.primary, Source::Primary, &self.writers);
        if let Some(replica) = &self.replica {
            record_connections(&replica.pool, Source::Replica, &replica.warm);
        }
    }
}

/// Sessions that are kept are idle, and the pool takes them for busy ones.
fn record_connections(pool: &PgPool, source: Source, warm: &Warm) {
    let (size, idle) = (pool.size(), u32::try_from(pool.num_idle() + warm.kept()).unwrap_or(u32::MAX));
    let gauge = |state| metrics::gauge!(telemetry::POOL_CONNECTIONS, "pool" => source.name(), "state" => state);
    gauge("idle").set(f64::from(idle));
    gauge("busy").set(f64::from(size.saturating_sub(idle)));
}

/// A connection of one of the two pools; how long it was waited for is measured.
async fn take(pool: &PgPool, source: Source) -> Result<PoolConnection<Postgres>, StoreError> {
    Ok(waited(source, pool.acquire()).await?)
}

async fn warm(source: Source, sessions: &Warm) -> Result<Session<'_>, StoreError> {
    waited(source, sessions.take()).await
}

async fn waited<T>(source: Source, taking: impl Future<Output = T>) -> T {
    let _wait = Wait { source, since: Instant::now() };
    taking.await
}

/// Recorded at its end, also where whoever waited gave up.
struct Wait {
    source: Source,
    since: Instant,
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Self { source, since } = self;
        metrics::histogram!(telemetry::POOL_WAIT, "pool" => source.name()).record(since.elapsed().as_secs_f64());
    }
}

async fn pool_reading<Q: Query>(
    pool: &PgPool,
    source: Source,
    is_dated: bool,
    query: &Q,
) -> Result<Reading<Q::Answer>, StoreError> {
    let mut connection = take(pool, source).await?;
    let found = reading(&mut connection, source, is_dated, query).await;
    if found.as_ref().is_err_and(StoreError::condemns_connection) {
        connection.close_on_drop();
    }
    found
}

async fn reading<Q: Query>(
    connection: &mut PgConnection,
    source: Source,
    is_dated: bool,
    query: &Q,
) -> Result<Reading<Q::Answer>, StoreError> {
    let found = async {
        let position = if is_dated { Position::ask(connection).await? } else { Position::default() };
        Ok(Reading { value: query.ask(connection).await?, position, source })
    };
    found.instrument(traces::call("postgresql", source.name())).await
}

#[cfg(test)]
#[cfg(feature = "live-tests")]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::testing;

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

    /// Counts how often it is asked.
    struct Slow(AtomicU32);

    impl Query for Slow {
        type Answer = ();

        async fn ask(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
            self.0.fetch_add(1, Relaxed);
            connection.execute("SET statement_timeout = '50ms'").await?;
            Ok(connection.execute("SELECT pg_sleep(3)").await.map(drop)?)
        }
    }

    #[tokio::test]
    async fn a_session_whose_server_went_without_a_word_gives_its_place_back() {
        let (address, cut) = testing::way(testing::place("APP_TEST_DATABASE_URL", 5432)).await;
        let pool = write_pool(test_server().host("127.0.0.1").port(address.port()), 1);
        let mut session = pool.acquire().await.unwrap();
        cut.notify_waiters();
        assert!(timeout(Duration::from_millis(100), session.execute("SELECT 1")).await.is_err(), "nothing comes back");
        drop(session);
        let begin = Instant::now();
        while pool.acquire().await.is_err() {
            assert!(begin.elapsed() < 3 * RETURN_WITHIN, "its place is taken for ever");
        }
    }

    /// A heavy report must not move itself to the server that takes the orders.
    #[tokio::test]
    async fn what_is_too_slow_on_the_replica_is_not_tried_on_the_primary() {
        let databases = Databases::new(write_pool(test_server(), 1), Some(read_pool(test_server(), 1)));
        let slow = Slow(AtomicU32::new(0));
        let error = databases.read(&slow).await.unwrap_err();
        assert!(matches!(error, StoreError::TooSlow(_)), "{error}");
        assert_eq!(slow.0.into_inner(), 1);
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
