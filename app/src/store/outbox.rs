//! Events are rows of the transaction that causes them; a relay publishes them later. Publishing beside the
//! transaction would lose events in a crash, or announce orders that were rolled back.

use serde_json::{Value, json};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::StoreError;
use crate::traces;

pub(crate) const ORDER_CONFIRMATION: &str = "email.send_order_confirmation";
pub(crate) const ORDER_CANCELLED: &str = "email.send_order_cancelled";
pub(crate) const INDEX_PRODUCT: &str = "search.index_product";
/// A product that had sold out can be bought again. For the shop's own tasks, such as telling those who wait.
pub(crate) const BACK_IN_STOCK: &str = "custom.product_back_in_stock";

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: &'static str,
    pub(crate) aggregate_id: String,
    pub(crate) aggregate_version: i64,
    pub(crate) payload: Value,
}

/// What goes along with every event of a request, as JSON.
pub(super) fn headers(request_id: &str) -> String {
    json!({ "request_id": request_id, "traceparent": traces::traceparent() }).to_string()
}

pub(crate) async fn append(tx: &mut PgConnection, events: &[Event], request_id: &str) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = events.iter().map(|_| Uuid::now_v7()).collect();
    let topics: Vec<&str> = events.iter().map(|event| event.topic).collect();
    let aggregates: Vec<&str> = events.iter().map(|event| event.aggregate_id.as_str()).collect();
    let versions: Vec<i64> = events.iter().map(|event| event.aggregate_version).collect();
    let payloads: Vec<String> = events.iter().map(|event| event.payload.to_string()).collect();
    sqlx::query(
        "INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers) \
         SELECT message_id, topic, aggregate_id, aggregate_version, payload::jsonb, $6::text::jsonb \
         FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[]) \
           AS event (message_id, topic, aggregate_id, aggregate_version, payload)",
    )
    .bind(ids)
    .bind(topics)
    .bind(aggregates)
    .bind(versions)
    .bind(payloads)
    .bind(headers(request_id))
    .execute(tx)
    .await?;
    Ok(())
}

/// All of these products, in the transaction that made them. A version 7 id is for the order of inserts; these need none.
pub(crate) async fn append_index_products(tx: &mut PgConnection, skus: &[&str]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload) \
         SELECT gen_random_uuid(), $1, p.id::text, p.version + i.version, \
           jsonb_build_object('product_id', p.id, 'sku', p.sku) \
         FROM products p JOIN inventory i ON i.product_id = p.id WHERE p.sku = ANY($2) ORDER BY p.id",
    )
    .bind(INDEX_PRODUCT)
    .bind(skus)
    .execute(tx)
    .await
    .map(drop)
}

#[derive(Debug, FromRow)]
pub(crate) struct Pending {
    pub(crate) id: i64,
    pub(crate) message_id: Uuid,
    pub(crate) topic: String,
    pub(crate) aggregate_id: String,
    pub(crate) aggregate_version: i64,
    /// JSON.
    pub(crate) payload: String,
    pub(crate) traceparent: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) occurred_at: String,
}

/// Locks what it returns until the transaction ends, and passes over what another relay has locked.
pub(crate) async fn due(tx: &mut PgConnection, limit: i64) -> Result<Vec<Pending>, StoreError> {
    let due = sqlx::query_as(
        "SELECT id, message_id, topic, aggregate_id, aggregate_version, payload::text AS payload, \
           headers->>'traceparent' AS traceparent, headers->>'request_id' AS request_id, \
           iso_utc(created_at) AS occurred_at \
         FROM outbox WHERE published_at IS NULL AND next_attempt_at <= now() AND topic <> 'catalogue.changed' \
         ORDER BY next_attempt_at, id LIMIT $1 FOR UPDATE SKIP LOCKED",
    );
    Ok(due.bind(limit).fetch_all(tx).await?)
}

/// The ids of changes that the cache has not heard of, locked like those of `due`. Triggers write them; they are for the
/// cache alone and do not go through the broker. The topic is part of the text, or the index for it would not be used.
pub(crate) async fn catalogue_changes(tx: &mut PgConnection, limit: i64) -> Result<Vec<i64>, StoreError> {
    let changes = sqlx::query_scalar(
        "SELECT id FROM outbox WHERE published_at IS NULL AND topic = 'catalogue.changed' ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED",
    );
    Ok(changes.bind(limit).fetch_all(tx).await?)
}

pub(crate) async fn mark_published(tx: &mut PgConnection, ids: &[i64]) -> Result<(), StoreError> {
    sqlx::query("UPDATE outbox SET published_at = now() WHERE id = ANY($1)").bind(ids).execute(tx).await?;
    Ok(())
}

/// Each of them alone waits twice as long as before, at most five minutes.
pub(crate) async fn put_off(tx: &mut PgConnection, refused: &[(i64, String)]) -> Result<(), StoreError> {
    let ids: Vec<i64> = refused.iter().map(|(id, _)| *id).collect();
    let errors: Vec<&str> = refused.iter().map(|(_, error)| error.as_str()).collect();
    sqlx::query(
        "UPDATE outbox o SET attempts = o.attempts + 1, last_error = r.error, \
           next_attempt_at = now() + least(power(2, least(o.attempts, 10)), 300) * interval '1 second' \
         FROM unnest($1::bigint[], $2::text[]) AS r (id, error) WHERE o.id = r.id",
    )
    .bind(ids)
    .bind(errors)
    .execute(tx)
    .await?;
    Ok(())
}

/// Seconds since the oldest event that is still here was written; 0 when none is.
pub(crate) async fn oldest_unpublished(connection: &mut PgConnection) -> Result<f64, StoreError> {
    let age = sqlx::query_scalar(
        "SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 FROM outbox WHERE published_at IS NULL",
    );
    Ok(age.fetch_one(connection).await?)
}
