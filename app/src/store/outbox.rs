//! Events are rows of the transaction that causes them; a relay publishes them later. Publishing beside the
//! transaction would lose events in a crash, or announce orders that were rolled back.

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

pub(crate) const ORDER_CONFIRMATION: &str = "email.send_order_confirmation";
pub(crate) const INDEX_PRODUCT: &str = "search.index_product";

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: &'static str,
    pub(crate) aggregate_id: String,
    pub(crate) aggregate_version: i64,
    pub(crate) payload: Value,
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
    .bind(json!({ "request_id": request_id }).to_string())
    .execute(tx)
    .await?;
    Ok(())
}
