//! Beside the relay: how old the outbox is, and once in a while the removal of what nobody needs any more.

use std::time::Duration;

use sqlx::PgPool;
use tokio::{
    join,
    time::{Instant, interval},
};

use crate::{
    store::{
        StoreError, answered,
        leftovers::{self, Leftover},
        outbox,
    },
    telemetry,
};

const OBSERVE_EVERY: Duration = Duration::from_secs(5);
const CLEAN_UP_EVERY: Duration = Duration::from_secs(60);
/// Before the next one's turn. Small batches take turns until then, so what is written all day long is removed as fast.
const CLEAN_UP_WITHIN: Duration = Duration::from_secs(45);
const BATCH: i64 = 1_000;

pub(crate) async fn run(pool: PgPool) {
    join!(observe(&pool), clean_up_when_due(&pool));
}

async fn observe(pool: &PgPool) {
    let mut ticks = interval(OBSERVE_EVERY);
    loop {
        ticks.tick().await;
        let age = async { outbox::oldest_unpublished(&mut *pool.acquire().await?).await };
        match answered(age).await {
            Ok(seconds) => metrics::gauge!(telemetry::OUTBOX_OLDEST).set(seconds),
            Err(error) => tracing::debug!(%error, "the age of the outbox is unknown"),
        }
    }
}

async fn clean_up_when_due(pool: &PgPool) {
    let mut ticks = interval(OBSERVE_EVERY);
    loop {
        ticks.tick().await;
        if let Err(error) = clean_up(pool).await {
            tracing::warn!(%error, "old rows stay for now");
        }
    }
}

async fn clean_up(pool: &PgPool) -> Result<(), StoreError> {
    if !answered(leftovers::claim(pool, CLEAN_UP_EVERY)).await? {
        return Ok(());
    }
    let (started, mut removed) = (Instant::now(), [0; Leftover::ALL.len()]);
    let mut unfinished: Vec<usize> = (0..Leftover::ALL.len()).collect();
    let mut ended = Ok(());
    while !unfinished.is_empty() && started.elapsed() < CLEAN_UP_WITHIN && ended.is_ok() {
        let mut full = Vec::new();
        for position in unfinished {
            match answered(Leftover::ALL[position].purge(pool, BATCH)).await {
                Ok(batch) => {
                    removed[position] += batch;
                    if i64::try_from(batch) == Ok(BATCH) {
                        full.push(position);
                    }
                }
                Err(error) => ended = Err(error),
            }
        }
        unfinished = full;
    }
    for (leftover, removed) in Leftover::ALL.into_iter().zip(removed).filter(|(_, removed)| *removed > 0) {
        metrics::counter!(telemetry::CLEANED_UP, "table" => leftover.name()).increment(removed);
        tracing::info!(table = leftover.name(), removed, "old rows are gone");
    }
    ended
}

#[cfg(all(test, feature = "live-tests"))]
mod tests {
    use super::*;
    use crate::{store::pools, testing::Database};

    /// What 500 orders a second leave behind in a minute: three events, and a row of each of these.
    #[tokio::test]
    async fn one_turn_removes_what_a_minute_of_many_orders_leaves() {
        let database = Database::create().await;
        let pool = pools::write_pool(database.options.clone(), 2);
        sqlx::raw_sql(
            "INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, created_at, published_at) \
               SELECT gen_random_uuid(), 't', '1', 1, '{}', now() - interval '2 days', now() - interval '2 days' FROM generate_series(1, 90000); \
             INSERT INTO idempotency_keys (scope, key, fingerprint, created_at) \
               SELECT 'guest', n::text, 'f', now() - interval '3 days' FROM generate_series(1, 30000) AS n; \
             INSERT INTO inbox (consumer, message_id, processed_at) \
               SELECT 'c', gen_random_uuid(), now() - interval '8 days' FROM generate_series(1, 30000)",
        )
        .execute(&pool)
        .await
        .unwrap();
        clean_up(&pool).await.unwrap();
        let left = "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM idempotency_keys) + (SELECT count(*) FROM inbox)";
        assert_eq!(sqlx::query_scalar::<_, i64>(left).fetch_one(&pool).await.unwrap(), 0);
    }
}
