//! `app relay`: publishes what the outbox holds, and marks what the broker confirmed.
//!
//! A relay that dies between the confirm and the commit publishes again: consumers see such a message twice, with the
//! same id. None is lost. Any number of relays may run; they pass over each other's rows.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::Value;
use sqlx::{Connection, PgConnection, PgPool};

use crate::{
    background::{BROKER, Background, DATABASE, Status, reconnecting},
    cache::Cache,
    catalogue::invalidation,
    config, housekeeping,
    messaging::{
        ATTEMPT, EVENTS,
        broker::{Broker, BrokerError, Link, Outgoing, Receipt},
        envelope::{Aggregate, Envelope, VERSION},
    },
    redis_link::RedisLink,
    store::{
        StoreError, answered,
        outbox::{self, Pending},
    },
    telemetry, traces,
    trust::Trust,
};

const BATCH: usize = 100;
const POLL: Duration = Duration::from_millis(100);
/// Far below the broker's own limit, beyond which it would close the channel and with it the whole batch.
const BODY_LIMIT: usize = 1024 * 1024;
/// One for the batch, one for the changes of the catalogue, two for the housekeeping.
const POOL_SIZE: u32 = 4;

pub(crate) async fn run(config: config::Relay, trust: Trust) -> anyhow::Result<()> {
    let Background { pool, broker, trust, status, mut stop, .. } =
        Background::start(&config.background, trust, "relay", POOL_SIZE).await?;
    let housekeeping = tokio::spawn(housekeeping::run(pool.clone()));
    // Without Redis nothing is cached, and nobody needs to be told.
    let redis = config.redis_url.map(|url| url.redis(&trust)).transpose()?;
    let redis = redis.map(RedisLink::new).transpose().context("prepare the connection to Redis")?;
    let cache = Cache::new(redis.map(Arc::new));
    let invalidation = tokio::spawn(invalidation::run(pool.clone(), cache, stop.clone()));
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
    invalidation.abort();
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
    let (mut tx, due) = answered(async {
        let mut tx = connection.begin().await?;
        let due = outbox::due(&mut tx, i64::try_from(BATCH).unwrap_or(i64::MAX)).await?;
        Ok::<_, StoreError>((tx, due))
    })
    .await?;
    if due.is_empty() {
        return Ok(0);
    }
    let found = due.len();
    let mut refused = Vec::new();
    let (mut ids, mut messages) = (Vec::with_capacity(found), Vec::with_capacity(found));
    // Each lasts until the broker has confirmed the batch.
    let mut spans = Vec::with_capacity(found);
    for mut row in due {
        let id = row.id;
        let span = traces::publish(&row.topic, &row.message_id.to_string(), row.traceparent.as_deref());
        row.traceparent = traces::traceparent_of(&span).or(row.traceparent);
        spans.push(span);
        match message(row) {
            Ok(message) => {
                ids.push(id);
                messages.push(message);
            }
            Err(why) => refused.push((id, why)),
        }
    }
    let mut published = Vec::with_capacity(messages.len());
    let receipts = link.publish(&messages).await?;
    drop(spans);
    for (id, receipt) in ids.into_iter().zip(receipts) {
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
    answered(async {
        if !published.is_empty() {
            outbox::mark_published(&mut tx, &published).await?;
        }
        if !refused.is_empty() {
            outbox::put_off(&mut tx, &refused).await?;
        }
        Ok::<_, StoreError>(())
    })
    .await?;
    answered(tx.commit()).await.map_err(StoreError::of_commit)?;
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
        request_id: row.request_id,
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
            request_id: Some("r-1".to_owned()),
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
        assert_eq!(envelope.request_id.as_deref(), Some("r-1"));
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
