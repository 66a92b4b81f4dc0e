//! Messages of the checks, in the queues that are there for them. Whoever has the exclusive queue may use these: checks
//! of two operators at once go one after the other, and a check that died leaves the queue free.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicAckOptions, BasicGetOptions, BasicPublishOptions, BasicRejectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Confirmation};
use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use provisioner_core::wait::{self, Look, WaitError};

use super::User;
use super::amqp::{self, Link, RESOURCE_LOCKED, Refusal};
use crate::checks::nonce;

const OWN: &str = "probe.own";
const QUEUE: &str = "q.probe";
const DEAD: &str = "q.dead.probe";
const UNROUTED: &str = "unrouted";
const EVENTS: &str = "events";
/// The queue's limit is 10: the eleventh delivery that comes back is the last.
const DELIVERIES: usize = 11;
const PERSISTENT: u8 = 2;
/// Others may be at it; each needs about 2 s.
const TURN_LIMIT: Duration = Duration::from_secs(12);
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(10);
/// For a message that would otherwise stay where events without a queue are kept.
const SHORT_MILLIS: u64 = 500;
/// A second, and what a busy machine adds.
const RETRY_MILLIS: RangeInclusive<u128> = 1_000..=2_500;

/// The turn of one check.
struct Turn {
    link: Link,
}

/// With the queues to itself, and nothing in them.
async fn turn(access: &Access<'_>) -> Result<Turn, Broken> {
    let begin = Instant::now();
    loop {
        let link = amqp::connect(access, User::Probe).await?;
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        // The virtual host's default cannot be exclusive.
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
        match link.channel.queue_declare(OWN.into(), options, arguments).await {
            Ok(_) => {
                let turn = Turn { link };
                turn.drain().await?;
                return Ok(turn);
            }
            Err(error) if amqp::code(&error) == Some(RESOURCE_LOCKED) => {
                link.close().await;
                if begin.elapsed() > TURN_LIMIT {
                    return Err(Broken::unknown("another verification kept the probe queues for 12 s"));
                }
                wait::pause(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(Broken::fail(format!("declare {OWN} as probe: {error}"))),
        }
    }
}

fn failed(what: &str) -> impl Fn(lapin::Error) -> Broken {
    move |error| Broken::fail(format!("{what}: {error}"))
}

impl Turn {
    /// What checks that were cut off left behind.
    async fn drain(&self) -> Result<(), Broken> {
        for queue in [QUEUE, DEAD] {
            while let Some(message) = self.get(queue).await? {
                self.done(message).await?;
            }
        }
        Ok(())
    }

    async fn get(&self, queue: &str) -> Result<Option<BasicGetMessage>, Broken> {
        let got = self.link.channel.basic_get(queue.into(), BasicGetOptions::default()).await;
        got.map_err(failed(&format!("get from {queue}")))
    }

    async fn done(&self, message: BasicGetMessage) -> Result<(), Broken> {
        message.delivery.ack(BasicAckOptions::default()).await.map_err(failed("acknowledge"))?;
        Ok(())
    }

    /// The confirmation, which carries the message itself where no queue wanted it.
    async fn publish(&self, exchange: &str, key: &str, id: &str, expires: Option<u64>) -> Result<Confirmation, Broken> {
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(id.into());
        if let Some(millis) = expires {
            properties = properties.with_expiration(millis.to_string().into());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let body = format!(r#"{{"id":"{id}","type":"probe"}}"#);
        let what = format!("publish to {exchange}");
        let sent = self.link.channel.basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties);
        sent.await.map_err(failed(&what))?.await.map_err(failed(&what))
    }

    async fn publish_confirmed(&self, exchange: &str, key: &str, id: &str) -> Result<(), Broken> {
        match self.publish(exchange, key, id, None).await? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => {
                Err(Broken::fail(format!("{exchange} returned {key}, expected a queue for it")))
            }
            other => Err(Broken::fail(format!("{exchange} answered {other:?} to {key}, expected a confirmation"))),
        }
    }

    /// The message with this id; whatever else comes was left by a check that was cut off.
    async fn arrival(&self, queue: &str, id: &str) -> Result<BasicGetMessage, Broken> {
        let waited = wait::until(ARRIVAL_LIMIT, EVERY, || async {
            match self.get(queue).await {
                Ok(Some(message)) if message_id(&message) == id => Look::Done(message),
                Ok(Some(message)) => match self.done(message).await {
                    Ok(()) => Look::Pending("another message".to_owned()),
                    Err(broken) => Look::Broken(Stopped(broken)),
                },
                Ok(None) => Look::Pending("it is empty".to_owned()),
                Err(broken) => Look::Broken(Stopped(broken)),
            }
        });
        waited.await.map_err(|error| match error {
            WaitError::Broken(Stopped(broken)) => broken,
            WaitError::TimedOut { .. } => Broken::fail(format!("the probe did not come to {queue}: {error}")),
        })
    }

    async fn end<T>(self, result: Result<T, Broken>) -> Result<T, Broken> {
        self.link.close().await;
        result
    }
}

#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Stopped(Broken);

fn message_id(message: &BasicGetMessage) -> &str {
    message.delivery.properties.message_id().as_ref().map_or("", ShortString::as_str)
}

pub(super) async fn round_trip(access: &Access<'_>) -> Result<String, Broken> {
    let turn = turn(access).await?;
    let body = async {
        let id = nonce();
        let begin = Instant::now();
        turn.publish_confirmed(EVENTS, &format!("probe.{id}"), &id).await?;
        let confirmed = begin.elapsed();
        let message = turn.arrival(QUEUE, &id).await?;
        let arrived = begin.elapsed();
        turn.done(message).await?;
        let (confirmed, arrived) = (confirmed.as_millis(), arrived.as_millis());
        Ok(format!("probe.{id} was confirmed after {confirmed} ms and taken from {QUEUE} after {arrived} ms"))
    }
    .await;
    turn.end(body).await
}

/// What no queue wants is returned to its sender or kept, never dropped.
pub(super) async fn unroutable(access: &Access<'_>) -> Result<String, Broken> {
    let turn = turn(access).await?;
    let body = async {
        emptied(&turn).await?;
        let id = nonce();
        let bound = turn.link.channel.queue_bind(
            OWN.into(),
            UNROUTED.into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.map_err(failed("bind to unrouted"))?;
        let key = format!("unrouted.{id}");
        match turn.publish(EVENTS, &key, &id, Some(SHORT_MILLIS)).await? {
            Confirmation::Ack(None) => {}
            other => {
                return Err(Broken::fail(format!("{EVENTS} answered {other:?} to {key}, expected a confirmation")));
            }
        }
        let message = turn.arrival(OWN, &id).await?;
        turn.done(message).await?;
        match turn.publish("dead", &key, &id, None).await? {
            Confirmation::Ack(Some(back)) => Ok(format!(
                "an event without a queue came to {UNROUTED}, and a dead letter without one came back: {} {}",
                back.reply_code, back.reply_text
            )),
            other => Err(Broken::fail(format!("dead answered {other:?} to a key without a queue, expected a return"))),
        }
    }
    .await;
    turn.end(body).await
}

/// Nothing that the app published went where nobody looks. The check's own message is gone after half a second.
async fn emptied(turn: &Turn) -> Result<(), Broken> {
    let waited = wait::until(Duration::from_secs(3), Duration::from_millis(100), || async {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        match turn.link.channel.queue_declare(UNROUTED.into(), options, FieldTable::default()).await {
            Ok(queue) if queue.message_count() == 0 => Look::Done(()),
            Ok(queue) => Look::Pending(format!("{} events that no queue wanted, expected 0", queue.message_count())),
            Err(error) => Look::Broken(error),
        }
    });
    waited.await.map_err(|error| Broken::fail(format!("queue {UNROUTED}: {error}")))
}

/// A message that fails again and again ends among the dead letters and says why.
pub(super) async fn poison(access: &Access<'_>) -> Result<String, Broken> {
    let turn = turn(access).await?;
    let body = async {
        let id = nonce();
        turn.publish_confirmed(EVENTS, &format!("probe.poison.{id}"), &id).await?;
        for _ in 0..DELIVERIES {
            let message = turn.arrival(QUEUE, &id).await?;
            let rejected = message.delivery.reject(BasicRejectOptions { requeue: true }).await;
            rejected.map_err(failed("reject"))?;
        }
        let message = turn.arrival(DEAD, &id).await?;
        let reason = text_header(&message, "x-first-death-reason");
        let queue = text_header(&message, "x-first-death-queue");
        turn.done(message).await?;
        if (reason.as_str(), queue.as_str()) == ("delivery_limit", QUEUE) {
            Ok(format!("rejected {DELIVERIES} times, then in {DEAD}: {reason} of {queue}"))
        } else {
            Err(Broken::fail(format!(
                "in {DEAD} because of {reason:?} of {queue:?}, expected delivery_limit of {QUEUE}"
            )))
        }
    }
    .await;
    turn.end(body).await
}

fn text_header(message: &BasicGetMessage, name: &str) -> String {
    let headers = message.delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(name)) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        Some(AMQPValue::ShortString(text)) => text.to_string(),
        _ => String::new(),
    }
}

/// Through the shortest rung of the ladder and back to the queue that it is addressed to.
pub(super) async fn retry_delay(access: &Access<'_>) -> Result<String, Broken> {
    let turn = turn(access).await?;
    let body = async {
        let id = nonce();
        let begin = Instant::now();
        turn.publish_confirmed("retry.1s", QUEUE, &id).await?;
        let message = turn.arrival(QUEUE, &id).await?;
        let millis = begin.elapsed().as_millis();
        turn.done(message).await?;
        if RETRY_MILLIS.contains(&millis) {
            Ok(format!("retry.1s gave it back to {QUEUE} after {millis} ms"))
        } else {
            Err(Broken::fail(format!("retry.1s gave it back after {millis} ms, expected 1000 to 2500 ms")))
        }
    }
    .await;
    turn.end(body).await
}

/// The app may publish and consume, and can neither make nor bend anything.
pub(super) async fn app_limited(access: &Access<'_>) -> Result<String, Broken> {
    let mut link = amqp::connect(access, User::App).await?;
    let body = refusals(&mut link).await;
    link.close().await;
    body
}

async fn refusals(link: &mut Link) -> Result<String, Broken> {
    // Exclusive: were it allowed, it would be gone with the connection.
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    let declared = link.channel.queue_declare(format!("forbidden.{}", nonce()).into(), options, arguments).await;
    refused("declare a queue", declared.map(|_| ()))?;
    link.another_channel().await?;
    let bound = link.channel.queue_bind(
        "q.probe".into(),
        EVENTS.into(),
        "forbidden".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    refused("bind a queue", bound.await)?;
    link.another_channel().await?;
    let got = link.channel.basic_get(QUEUE.into(), BasicGetOptions::default()).await;
    refused("read the probe queue", got.map(|_| ()))?;
    Ok("to declare a queue, bind one and read a foreign one: ACCESS_REFUSED for app".to_owned())
}

fn refused(what: &str, answer: Result<(), lapin::Error>) -> Result<(), Broken> {
    match answer {
        Ok(()) => Err(Broken::fail(format!("app may {what}, expected ACCESS_REFUSED"))),
        Err(error) if amqp::code(&error) == Some(amqp::ACCESS_REFUSED) => Ok(()),
        Err(error) => Err(Broken::unknown(format!("{what} as app: {error}, expected ACCESS_REFUSED"))),
    }
}

/// Nobody comes in without a password of this stack.
pub(super) async fn strangers_refused(access: &Access<'_>) -> Result<String, Broken> {
    let greeting = amqp::greeting(access).await.map_err(Broken::Unknown)?;
    if greeting.contains("ANONYMOUS") {
        return Err(Broken::fail("the broker offers ANONYMOUS, expected PLAIN and AMQPLAIN"));
    }
    for (user, password) in [("guest", "guest".to_owned()), (User::App.name(), nonce())] {
        match amqp::log_in(access, user, password).await {
            Ok(link) => {
                link.close().await;
                return Err(Broken::fail(format!("{user} came in with a wrong password, expected ACCESS_REFUSED")));
            }
            Err(Refusal::Refused(error)) if amqp::code(&error) == Some(amqp::ACCESS_REFUSED) => {}
            Err(other) => return Err(Broken::unknown(format!("log in as {user}: {other}, expected ACCESS_REFUSED"))),
        }
    }
    Ok("guest, and app with a wrong password: ACCESS_REFUSED; no ANONYMOUS".to_owned())
}
