//! What consumers have done. A row is written in the transaction of the effect, so that a message delivered twice has
//! its effect once.

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// False when this consumer is done with the message. While another transaction is at it, this waits for that one.
pub(crate) async fn claim(tx: &mut PgConnection, consumer: &str, message: Uuid) -> Result<bool, StoreError> {
    let insert = sqlx::query("INSERT INTO inbox (consumer, message_id) VALUES ($1, $2) ON CONFLICT DO NOTHING");
    Ok(insert.bind(consumer).bind(message).execute(tx).await?.rows_affected() == 1)
}

pub(crate) async fn log_email(
    tx: &mut PgConnection,
    message: Uuid,
    recipient: &str,
    template: &str,
    order: Uuid,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO email_log (message_id, recipient, template, order_id) VALUES ($1, $2, $3, $4)")
        .bind(message)
        .bind(recipient)
        .bind(template)
        .bind(order)
        .execute(tx)
        .await?;
    Ok(())
}

pub(crate) async fn record_task(
    tx: &mut PgConnection,
    message: Uuid,
    topic: &str,
    data: &Value,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO custom_tasks (message_id, topic, data) VALUES ($1, $2, $3::text::jsonb)")
        .bind(message)
        .bind(topic)
        .bind(data.to_string())
        .execute(tx)
        .await?;
    Ok(())
}
