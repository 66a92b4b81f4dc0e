//! What others tell the shop: once each, and passed on by the outbox.

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::{
    StoreError,
    outbox::{self, Event},
};

/// `custom.*` is the topic that a queue wants: the shop's own tasks.
pub(crate) const RECEIVED: &str = "custom.webhook.received";

/// False: it was here before.
pub(crate) async fn receive(
    connection: &mut PgConnection,
    provider: &str,
    event_id: &str,
    body: &Value,
    request_id: &str,
) -> Result<bool, StoreError> {
    let mut tx = connection.begin().await?;
    let insert = sqlx::query("INSERT INTO webhook_events (provider, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING");
    if insert.bind(provider).bind(event_id).execute(&mut *tx).await?.rows_affected() == 0 {
        return Ok(false);
    }
    let event = Event {
        topic: RECEIVED,
        aggregate_id: format!("{provider}:{event_id}"),
        aggregate_version: 1,
        payload: json!({ "provider": provider, "event_id": event_id, "body": body }),
    };
    outbox::append(&mut tx, &[event], request_id).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(true)
}
