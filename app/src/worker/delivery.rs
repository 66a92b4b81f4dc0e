//! One delivered message and the ways to be rid of it.

use lapin::{
    message::Delivery,
    options::{BasicAckOptions, BasicRejectOptions},
    types::{AMQPValue, FieldTable, LongString, ShortString},
};
use uuid::Uuid;

use crate::messaging::{
    ATTEMPT, DEAD, ERROR, REASON, REQUEUE,
    broker::{BrokerError, Link, Outgoing, Receipt},
};

const ERROR_CHARACTERS: usize = 200;

/// Where a copy goes before the original is acknowledged.
#[derive(Debug)]
pub(crate) enum Destination<'a> {
    Retry {
        exchange: &'static str,
        attempt: u32,
    },
    Dead {
        reason: &'a str,
        error: &'a str,
    },
    /// To the queue that gave it up, as if it came for the first time.
    Again,
}

pub(crate) fn attempt(delivery: &Delivery) -> u32 {
    let value = delivery.properties.headers().as_ref().and_then(|headers| headers.inner().get(ATTEMPT));
    let number = match value {
        Some(AMQPValue::ShortShortUInt(n)) => i64::from(*n),
        Some(AMQPValue::ShortShortInt(n)) => i64::from(*n),
        Some(AMQPValue::ShortUInt(n)) => i64::from(*n),
        Some(AMQPValue::ShortInt(n)) => i64::from(*n),
        Some(AMQPValue::LongUInt(n)) => i64::from(*n),
        Some(AMQPValue::LongInt(n)) => i64::from(*n),
        Some(AMQPValue::LongLongInt(n)) => *n,
        _ => 1,
    };
    u32::try_from(number).unwrap_or(1).max(1)
}

pub(crate) async fn acknowledge(delivery: &Delivery) -> Result<(), BrokerError> {
    match delivery.acker.ack(BasicAckOptions::default()).await {
        // Not usable any more: the channel is gone, and the message is back in its queue.
        Ok(_) => Ok(()),
        Err(error) => Err(BrokerError::Refused("acknowledge", error)),
    }
}

/// Back to the queue. This counts as a delivery, so a message cannot circle here for ever.
pub(crate) async fn give_back(delivery: &Delivery) -> Result<(), BrokerError> {
    let back = delivery.acker.reject(BasicRejectOptions { requeue: true }).await;
    back.map(drop).map_err(|error| BrokerError::Refused("reject", error))
}

/// True when the broker has the copy.
pub(crate) async fn copy(
    link: &Link,
    delivery: &Delivery,
    queue: &str,
    to: &Destination<'_>,
) -> Result<bool, BrokerError> {
    let receipts = link.publish(&[outgoing(delivery, queue, to)]).await?;
    if receipts == [Receipt::Confirmed] {
        return Ok(true);
    }
    tracing::error!(queue, ?to, ?receipts, "the broker did not take a copy: the message goes back to its queue");
    Ok(false)
}

fn outgoing(delivery: &Delivery, queue: &str, to: &Destination<'_>) -> Outgoing {
    let mut headers = FieldTable::default();
    let mut attempts = attempt(delivery);
    let exchange = match to {
        Destination::Retry { exchange, attempt } => {
            attempts = *attempt;
            *exchange
        }
        Destination::Dead { reason, error } => {
            let short: String = error.chars().take(ERROR_CHARACTERS).collect();
            headers.insert(REASON.into(), AMQPValue::LongString(LongString::from(*reason)));
            headers.insert(ERROR.into(), AMQPValue::LongString(LongString::from(short)));
            DEAD
        }
        Destination::Again => {
            attempts = 1;
            REQUEUE
        }
    };
    headers.insert(ATTEMPT.into(), AMQPValue::LongInt(i32::try_from(attempts).unwrap_or(i32::MAX)));
    let message_id = delivery.properties.message_id().clone();
    Outgoing {
        exchange,
        routing_key: queue.into(),
        // Even a message that came without an id needs one here, to be known again if the broker returns it.
        message_id: message_id.unwrap_or_else(|| ShortString::from(Uuid::new_v4().to_string())),
        topic: delivery.properties.kind().clone().unwrap_or_else(|| delivery.routing_key.clone()),
        headers,
        body: delivery.data.clone(),
    }
}

#[cfg(test)]
mod tests {
    use lapin::BasicProperties;

    use super::*;

    fn delivery(attempt: Option<AMQPValue>) -> Delivery {
        let mut delivery = Delivery::mock(1, "events".into(), "custom.a".into(), false, b"body".to_vec());
        if let Some(value) = attempt {
            let mut headers = FieldTable::default();
            headers.insert(ATTEMPT.into(), value);
            delivery.properties = BasicProperties::default().with_headers(headers).with_message_id("id-1".into());
        }
        delivery
    }

    #[test]
    fn attempts_are_counted_whatever_kind_of_number_a_broker_makes_of_them() {
        assert_eq!(attempt(&delivery(None)), 1);
        for value in [AMQPValue::LongInt(3), AMQPValue::LongLongInt(3), AMQPValue::ShortShortUInt(3)] {
            assert_eq!(attempt(&delivery(Some(value))), 3);
        }
        for odd in [AMQPValue::LongInt(-1), AMQPValue::LongInt(0), AMQPValue::Boolean(true)] {
            assert_eq!(attempt(&delivery(Some(odd))), 1);
        }
    }

    #[test]
    fn a_copy_is_addressed_by_the_queue_and_says_why_it_is_dead() {
        let text = |copy: &Outgoing, name: &str| match copy.headers.inner().get(name) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            Some(AMQPValue::LongInt(number)) => number.to_string(),
            other => format!("{other:?}"),
        };
        let first = delivery(Some(AMQPValue::LongInt(2)));
        let retry = outgoing(&first, "q.custom", &Destination::Retry { exchange: "retry.5s", attempt: 3 });
        assert_eq!(
            (retry.exchange, retry.routing_key.as_str(), retry.body.as_slice()),
            ("retry.5s", "q.custom", b"body".as_slice())
        );
        assert_eq!((text(&retry, ATTEMPT), text(&retry, REASON)), ("3".to_owned(), "None".to_owned()));
        let long = "é".repeat(300);
        let dead = outgoing(&first, "q.custom", &Destination::Dead { reason: "undecodable", error: &long });
        assert_eq!((dead.exchange, dead.message_id.as_str()), ("dead", "id-1"));
        assert_eq!((text(&dead, ATTEMPT), text(&dead, REASON)), ("2".to_owned(), "undecodable".to_owned()));
        assert_eq!(text(&dead, ERROR), "é".repeat(200));
        let again = outgoing(&first, "q.custom", &Destination::Again);
        assert_eq!(
            (again.exchange, again.routing_key.as_str(), again.message_id.as_str()),
            ("requeue", "q.custom", "id-1")
        );
        assert_eq!((text(&again, ATTEMPT), text(&again, REASON)), ("1".to_owned(), "None".to_owned()));
    }
}
