//! `app relay`: publishes what the outbox holds, and marks what the broker confirmed.
//!
//! A relay that dies between the confirm and the commit publishes again: consumers see such a message twice, with the
//! same id. None is lost. Any number of relays may run; they pass over each other's rows.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::Value;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::interval;

use crate::{
    background::{BROKER, Background, DATABASE, Status, reconnecting},
    config,
    messaging::{
        ATTEMPT, EVENTS,
        broker::{Broker, BrokerError, Link, Outgoing, Receipt},
        envelope::{Aggregate, Envelope, VERSION},
    },
    store::{
        StoreError,
        outbox::{self, Leftover, Pending},
    },
    telemetry,
};

const BATCH: usize = 100;
const POLL: Duration = Duration::from_millis(100);
const OBSERVE_EVERY: Duration = Duration::from_secs(5);
const PURGE_EVERY_TICKS: u32 = 12;
const PURGE_BATCH: u64 = 1_000;
const PURGE_BATCHES: u32 = 20;
/// Far below the broker's own limit, beyond which it would close the channel and with it the whole batch.
const BODY_LIMIT: usize = 1024 * 1024;
/// One for the batch, one for the housekeeping.
const POOL_SIZE: u32 = 2;

pub(crate) async fn run(config: config::Relay) -> anyhow::Result<()> {
    let Background { pool, broker, status, mut stop, .. } =
        Background::start(&config.background, "relay", POOL_SIZE).await?;
    let housekeeping = tokio::spawn(keep_house(pool.clone()));
    let mut link = None;
    let mut backoff = reconnecting();
    while !stop.is_asked() {
        match pass(&pool, &broker, &mut link, &status).await {
            Ok(found) => {
                backoff.reset();
                if found < BATCH {
                    stop.pause(POLL).await;
                }
            }
            Err(trouble) => {
                match trouble {
                    Trouble::Broker(error) => {
                        link = None;
                        status.missing(BROKER, &error);
                    }
                    Trouble::Store(error) => status.missing(DATABASE, &error),
                }
                stop.pause(backoff.pause()).await;
            }
        }
    }
    housekeeping.abort();
    if let Some(link) = link {
        link.close().await;
    }
    tracing::info!("stopped");
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// One batch; returns how many messages were due.
async fn pass(pool: &PgPool, broker: &Broker, link: &mut Option<Link>, status: &Status) -> Result<usize, Trouble> {
    if link.as_ref().is_none_or(|link| !link.is_open()) {
        *link = None;
    }
    let link = match link {
        Some(link) => link,
        None => link.insert(broker.connect().await?),
    };
    status.found(BROKER);
    let mut connection = pool.acquire().await?;
    let passed = transact(&mut connection, link).await;
    match &passed {
        Ok(_) => status.found(DATABASE),
        Err(Trouble::Store(error)) if error.condemns_connection() => connection.close_on_drop(),
        Err(_) => {}
    }
    passed
}

/// An early return rolls back, and the rows are due again.
async fn transact(connection: &mut PgConnection, link: &Link) -> Result<usize, Trouble> {
    let mut tx = connection.begin().await?;
    let due = outbox::due(&mut tx, i64::try_from(BATCH).unwrap_or(i64::MAX)).await?;
    if due.is_empty() {
        return Ok(0);
    }
    let found = due.len();
    let mut refused = Vec::new();
    let (mut ids, mut messages) = (Vec::with_capacity(found), Vec::with_capacity(found));
    for row in due {
        let id = row.id;
        match message(row) {
            Ok(message) => {
                ids.push(id);
                messages.push(message);
            }
            Err(why) => refused.push((id, why)),
        }
    }
    let mut published = Vec::with_capacity(messages.len());
    for (id, receipt) in ids.into_iter().zip(link.publish(&messages).await?) {
        match receipt {
            Receipt::Confirmed => published.push(id),
            Receipt::Returned(why) => {
                metrics::counter!(telemetry::OUTBOX_MESSAGES, "result" => "returned").increment(1);
                refused.push((id, format!("returned by the broker: {why}")));
            }
            Receipt::Nacked => {
                metrics::counter!(telemetry::OUTBOX_MESSAGES, "result" => "nacked").increment(1);
                refused.push((id, "refused by a queue".to_owned()));
            }
        }
    }
    if !published.is_empty() {
        outbox::mark_published(&mut tx, &published).await?;
    }
    if !refused.is_empty() {
        outbox::put_off(&mut tx, &refused).await?;
    }
    tx.commit().await.map_err(StoreError::of_commit)?;
    for (id, why) in &refused {
        tracing::warn!(outbox_id = id, why, "an event stays in the outbox");
    }
    let count = u64::try_from(published.len()).unwrap_or(u64::MAX);
    metrics::counter!(telemetry::OUTBOX_MESSAGES, "result" => "published").increment(count);
    Ok(found)
}

fn message(row: Pending) -> Result<Outgoing, String> {
    let message_id = row.message_id.to_string();
    let topic = ShortString::try_new(row.topic.as_str()).map_err(|error| format!("topic: {error}"))?;
    let data: Value = serde_json::from_str(&row.payload).map_err(|error| format!("payload: {error}"))?;
    let envelope = Envelope {
        id: row.message_id,
        topic: row.topic,
        v: VERSION,
        occurred_at: row.occurred_at,
        aggregate: Aggregate { id: row.aggregate_id, version: row.aggregate_version },
        traceparent: row.traceparent,
        data,
    };
    let body = serde_json::to_vec(&envelope).map_err(|error| format!("envelope: {error}"))?;
    if body.len() > BODY_LIMIT {
        return Err(format!("found a message of {} bytes, expected at most {BODY_LIMIT}", body.len()));
    }
    let mut headers = FieldTable::default();
    headers.insert(ATTEMPT.into(), AMQPValue::LongInt(1));
    Ok(Outgoing {
        exchange: EVENTS,
        routing_key: topic.clone(),
        message_id: message_id.as_str().into(),
        topic,
        headers,
        body,
    })
}

async fn keep_house(pool: PgPool) {
    let mut ticks = interval(OBSERVE_EVERY);
    for tick in 0_u32.. {
        ticks.tick().await;
        match outbox::oldest_unpublished(&pool).await {
            Ok(seconds) => metrics::gauge!(telemetry::OUTBOX_OLDEST).set(seconds),
            Err(error) => tracing::debug!(%error, "the age of the outbox is unknown"),
        }
        if tick % PURGE_EVERY_TICKS == 0
            && let Err(error) = purge(&pool).await
        {
            tracing::warn!(%error, "old rows stay for now");
        }
    }
}

async fn purge(pool: &PgPool) -> Result<(), StoreError> {
    for leftover in Leftover::ALL {
        let mut removed = 0;
        for _ in 0..PURGE_BATCHES {
            let batch = leftover.purge(pool, i64::try_from(PURGE_BATCH).unwrap_or(i64::MAX)).await?;
            removed += batch;
            if batch < PURGE_BATCH {
                break;
            }
        }
        if removed > 0 {
            tracing::info!(?leftover, removed, "old rows are gone");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Pending {
        Pending {
            id: 1,
            message_id: "0193e3a8-0000-7000-8000-000000000001".parse().unwrap(),
            topic: "search.index_product".to_owned(),
            aggregate_id: "7".to_owned(),
            aggregate_version: 3,
            payload: r#"{"product_id": 7}"#.to_owned(),
            traceparent: Some("00-1-2-01".to_owned()),
            occurred_at: "2026-11-22T18:00:00.000001Z".to_owned(),
        }
    }

    #[test]
    fn a_row_becomes_an_envelope_under_its_own_topic() {
        let message = message(row()).unwrap();
        assert_eq!((message.exchange, message.routing_key.as_str()), ("events", "search.index_product"));
        assert_eq!(message.message_id.as_str(), "0193e3a8-0000-7000-8000-000000000001");
        let envelope = Envelope::decode(&message.body).unwrap();
        assert_eq!((envelope.aggregate.version, envelope.traceparent.as_deref()), (3, Some("00-1-2-01")));
        assert_eq!(envelope.data["product_id"], 7);
    }

    #[test]
    fn what_would_close_the_channel_is_not_sent() {
        let long = Pending { topic: "t".repeat(256), ..row() };
        assert!(message(long).unwrap_err().starts_with("topic: "));
        let large = Pending { payload: Value::from("x".repeat(BODY_LIMIT)).to_string(), ..row() };
        assert!(message(large).unwrap_err().contains("expected at most 1048576"));
    }
}
