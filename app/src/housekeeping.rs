//! Beside the relay: how old the outbox is, and once in a while the removal of what nobody needs any more.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::interval;

use crate::{
    store::{
        StoreError,
        leftovers::{self, Leftover},
        outbox,
    },
    telemetry,
};

const OBSERVE_EVERY: Duration = Duration::from_secs(5);
const CLEAN_UP_EVERY: Duration = Duration::from_secs(60);
const BATCH: u64 = 1_000;
const BATCHES: u32 = 20;

pub(crate) async fn run(pool: PgPool) {
    let mut ticks = interval(OBSERVE_EVERY);
    loop {
        ticks.tick().await;
        match outbox::oldest_unpublished(&pool).await {
            Ok(seconds) => metrics::gauge!(telemetry::OUTBOX_OLDEST).set(seconds),
            Err(error) => tracing::debug!(%error, "the age of the outbox is unknown"),
        }
        if let Err(error) = clean_up(&pool).await {
            tracing::warn!(%error, "old rows stay for now");
        }
    }
}

async fn clean_up(pool: &PgPool) -> Result<(), StoreError> {
    if !leftovers::claim(pool, CLEAN_UP_EVERY).await? {
        return Ok(());
    }
    for leftover in Leftover::ALL {
        let mut removed = 0;
        for _ in 0..BATCHES {
            let batch = leftover.purge(pool, i64::try_from(BATCH).unwrap_or(i64::MAX)).await?;
            removed += batch;
            if batch < BATCH {
                break;
            }
        }
        if removed > 0 {
            metrics::counter!(telemetry::CLEANED_UP, "table" => leftover.name()).increment(removed);
            tracing::info!(table = leftover.name(), removed, "old rows are gone");
        }
    }
    Ok(())
}
