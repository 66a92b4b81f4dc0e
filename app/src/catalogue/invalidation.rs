//! From a change of the catalogue to the cache.
//!
//! Triggers write an event for every change of a product, a category or a picture, and when a product sells out or is
//! there again; other changes of stock are in no answer that is cached. The relay announces them to Redis itself, so a
//! broker that is away delays nothing. While Redis is away the events wait; what it may have kept meanwhile ends with
//! its time to live.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};

use crate::{
    background::reconnecting,
    cache::Cache,
    process::Stop,
    state::AppState,
    store::{StoreError, answered, outbox, position::Position},
};

const POLL: Duration = Duration::from_millis(100);
const BATCH: i64 = 1_000;

/// Best effort, so that the change is seen at once and also where no relay runs.
pub(crate) async fn announce_at_once(state: &AppState) {
    let position = async { Position::ask(&mut *state.databases.connection().await?).await };
    match position.await {
        Ok(position) => {
            state.cache.announce(position).await;
        }
        Err(error) => tracing::warn!(%error, "the relay will announce the change"),
    }
}

pub(crate) async fn run(pool: PgPool, cache: Cache, mut stop: Stop) {
    let mut backoff = reconnecting();
    while !stop.is_asked() {
        let pause = match pass(&pool, &cache).await {
            Ok(true) => {
                backoff.reset();
                POLL
            }
            Ok(false) => backoff.pause(),
            Err(error) => {
                // The relay's other loop says on /readyz that the database is away.
                tracing::debug!(%error, "changes of the catalogue wait");
                backoff.pause()
            }
        };
        stop.pause(pause).await;
    }
}

/// False: Redis is away.
async fn pass(pool: &PgPool, cache: &Cache) -> Result<bool, StoreError> {
    let mut connection = pool.acquire().await?;
    let announced = answered(announce(&mut connection, cache)).await;
    if announced.as_ref().is_err_and(StoreError::condemns_connection) {
        connection.close_on_drop();
    }
    announced
}

async fn announce(connection: &mut PgConnection, cache: &Cache) -> Result<bool, StoreError> {
    let mut tx = connection.begin().await?;
    let changes = outbox::catalogue_changes(&mut tx, BATCH).await?;
    if changes.is_empty() {
        return Ok(true);
    }
    // After the events could be seen, and so not before any of their changes.
    let position = Position::ask(&mut tx).await?;
    if !cache.announce(position).await {
        return Ok(false);
    }
    outbox::mark_published(&mut tx, &changes).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(true)
}
