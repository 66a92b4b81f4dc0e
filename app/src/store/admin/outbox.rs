//! What waits to be published. Not what it says: that is the customers' own.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use crate::store::StoreError;

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = OutboxEntry)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    message_id: Uuid,
    topic: String,
    aggregate_id: String,
    attempts: i32,
    last_error: Option<String>,
    next_attempt_at: String,
    created_at: String,
}

pub(crate) async fn pending(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let query = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE published_at IS NULL");
    Ok(query.fetch_one(connection).await?)
}

/// Oldest first.
pub(crate) async fn list(connection: &mut PgConnection, after: i64, limit: i64) -> Result<Vec<Entry>, StoreError> {
    let query = sqlx::query_as(
        "SELECT id, message_id, topic, aggregate_id, attempts, last_error, iso_utc(next_attempt_at) AS next_attempt_at, \
           iso_utc(created_at) AS created_at FROM outbox WHERE published_at IS NULL AND id > $1 ORDER BY id LIMIT $2",
    );
    Ok(query.bind(after).bind(limit).fetch_all(connection).await?)
}
