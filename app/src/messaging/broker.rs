//! A connection to RabbitMQ with one channel that confirms.
//!
//! lapin can recover connections by itself; it is left off. Whoever holds a link drops it on the first error and
//! connects again: unconfirmed messages are then decided in one place, by the outbox or by the queue.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;
use futures_util::future::try_join_all;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    message::Delivery,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
        ConfirmSelectOptions, QueueDeclareOptions,
    },
    protocol::{AMQPErrorKind, AMQPSoftError},
    tcp::{AMQPUriTcpExt, RustlsConnector},
    types::{FieldTable, ShortString},
    uri::{AMQPScheme, AMQPUri},
};
use tokio::{sync::Mutex, time::timeout};

use crate::{config::SecretUrl, trust::Trust};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A broker that vanished without a word is missed after two of these.
const HEARTBEAT_SECONDS: u16 = 10;
const PERSISTENT: u8 = 2;
const CONSUMER_TAG: &str = "app";
const REPLY_SUCCESS: u16 = 200;

#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    #[error("reach the broker: {0}")]
    Unreachable(#[source] lapin::Error),
    #[error("{0} at the broker: {1}")]
    Refused(&'static str, #[source] lapin::Error),
    #[error("{0} at the broker: no answer within {1:?}")]
    Silent(&'static str, Duration),
}

/// What is needed to connect, checked once.
pub(crate) struct Broker {
    uri: AMQPUri,
    tls: RustlsConnector,
    name: String,
}

impl Broker {
    pub(crate) fn new(url: &SecretUrl, trust: &Trust, name: impl Into<String>) -> anyhow::Result<Self> {
        let mut uri = url.amqp()?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let tls = trust.tls().context("prepare TLS for the broker")?.into();
        Ok(Self { uri, tls, name: name.into() })
    }

    pub(crate) async fn connect(&self) -> Result<Link, BrokerError> {
        timeout(CONNECT_WITHIN, self.open()).await.unwrap_or(Err(BrokerError::Silent("connect", CONNECT_WITHIN)))
    }

    async fn open(&self) -> Result<Link, BrokerError> {
        let runtime = lapin::runtime::default_runtime().map_err(BrokerError::Unreachable)?;
        let tls = self.tls.clone();
        let stream = async move |uri: AMQPUri, runtime| {
            // lapin's own TLS set-up fails on a system without root certificates, so it gets a plain stream first.
            let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() }.connect_async(&runtime).await?;
            match uri.scheme {
                AMQPScheme::AMQP => Ok(plain),
                AMQPScheme::AMQPS => Ok(plain.into_rustls(&tls, &uri.authority.host).await?),
            }
        };
        let properties = ConnectionProperties::default().with_connection_name(self.name.clone().into());
        let connection = Connection::connector(self.uri.clone(), runtime, stream, properties)
            .await
            .map_err(BrokerError::Unreachable)?;
        let refused = |error| BrokerError::Refused("open a channel", error);
        let channel = connection.create_channel().await.map_err(refused)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(refused)?;
        Ok(Link { connection, channel, publishing: Mutex::new(()) })
    }
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) exchange: &'static str,
    pub(crate) routing_key: ShortString,
    pub(crate) message_id: ShortString,
    pub(crate) topic: ShortString,
    pub(crate) headers: FieldTable,
    pub(crate) body: Vec<u8>,
}

/// What the broker says to one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    Confirmed,
    /// No queue wants it. The broker confirms such a message all the same; only the return tells.
    Returned(String),
    /// A queue could not take it, for instance because it is full.
    Nacked,
}

pub(crate) struct Link {
    connection: Connection,
    channel: Channel,
    /// One batch at a time: only then is it certain whose message came back.
    publishing: Mutex<()>,
}

impl Link {
    /// Publishes all, then waits for all confirms. Receipts are in the order of the messages.
    pub(crate) async fn publish(&self, messages: &[Outgoing]) -> Result<Vec<Receipt>, BrokerError> {
        let _alone = self.publishing.lock().await;
        timeout(ANSWER_WITHIN, self.publish_and_wait(messages))
            .await
            .unwrap_or(Err(BrokerError::Silent("publish", ANSWER_WITHIN)))
    }

    async fn publish_and_wait(&self, messages: &[Outgoing]) -> Result<Vec<Receipt>, BrokerError> {
        let refused = |error| BrokerError::Refused("publish", error);
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            let properties = BasicProperties::default()
                .with_delivery_mode(PERSISTENT)
                .with_content_type("application/json".into())
                .with_message_id(message.message_id.clone())
                .with_type(message.topic.clone())
                .with_headers(message.headers.clone());
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let (exchange, key) = (message.exchange.into(), message.routing_key.clone());
            let sent = self.channel.basic_publish(exchange, key, options, &message.body, properties);
            confirms.push(sent.await.map_err(refused)?);
        }
        let mut receipts = Vec::with_capacity(messages.len());
        let mut returned = HashMap::new();
        for confirmation in try_join_all(confirms).await.map_err(refused)? {
            receipts.push(if confirmation.is_nack() { Receipt::Nacked } else { Receipt::Confirmed });
            // The confirm that carries a returned message need not be that message's own.
            if let Confirmation::Ack(Some(back)) | Confirmation::Nack(Some(back)) = confirmation
                && let Some(id) = back.delivery.properties.message_id()
            {
                returned.insert(id.clone(), back.reply_text.to_string());
            }
        }
        for (message, receipt) in messages.iter().zip(&mut receipts) {
            if let Some(why) = returned.remove(&message.message_id) {
                *receipt = Receipt::Returned(why);
            }
        }
        Ok(receipts)
    }

    /// A question that every broker answers and that changes nothing here.
    pub(crate) async fn ping(&self) -> Result<(), BrokerError> {
        match timeout(ANSWER_WITHIN, self.channel.basic_qos(1, BasicQosOptions::default())).await {
            Ok(answered) => answered.map_err(|error| BrokerError::Refused("ask", error)),
            Err(_) => Err(BrokerError::Silent("ask", ANSWER_WITHIN)),
        }
    }

    pub(crate) async fn consume(&self, queue: &str, prefetch: u16) -> Result<Consumer, BrokerError> {
        let refused = |error| BrokerError::Refused("consume", error);
        let consume = async {
            self.channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(refused)?;
            let options = BasicConsumeOptions::default();
            self.channel
                .basic_consume(queue.into(), CONSUMER_TAG.into(), options, FieldTable::default())
                .await
                .map_err(refused)
        };
        timeout(ANSWER_WITHIN, consume).await.unwrap_or(Err(BrokerError::Silent("consume", ANSWER_WITHIN)))
    }

    pub(crate) async fn stop_consuming(&self) -> Result<(), BrokerError> {
        let cancel = self.channel.basic_cancel(CONSUMER_TAG.into(), BasicCancelOptions::default());
        match timeout(ANSWER_WITHIN, cancel).await {
            Ok(cancelled) => cancelled.map_err(|error| BrokerError::Refused("stop consuming", error)),
            Err(_) => Err(BrokerError::Silent("stop consuming", ANSWER_WITHIN)),
        }
    }

    /// How many messages wait there; `None` when there is no such queue.
    pub(crate) async fn count(&self, queue: &str) -> Result<Option<u32>, BrokerError> {
        let refused = |error| BrokerError::Refused("count", error);
        let counted = async {
            // The broker closes the channel that asks for what is not there.
            let channel = self.connection.create_channel().await.map_err(refused)?;
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
                Ok(found) => found.message_count(),
                Err(error) if is_missing(&error) => return Ok(None),
                Err(error) => return Err(refused(error)),
            };
            channel.close(REPLY_SUCCESS, "counted".into()).await.map_err(refused)?;
            Ok(Some(found))
        };
        timeout(ANSWER_WITHIN, counted).await.unwrap_or(Err(BrokerError::Silent("count", ANSWER_WITHIN)))
    }

    /// The next message. It goes back when the link is closed, unless it was acknowledged.
    pub(crate) async fn get(&self, queue: &str) -> Result<Option<Delivery>, BrokerError> {
        match timeout(ANSWER_WITHIN, self.channel.basic_get(queue.into(), BasicGetOptions::default())).await {
            Ok(got) => got
                .map(|message| message.map(|message| message.delivery))
                .map_err(|error| BrokerError::Refused("get a message", error)),
            Err(_) => Err(BrokerError::Silent("get a message", ANSWER_WITHIN)),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// Messages that nobody acknowledged go back to their queue.
    pub(crate) async fn close(&self) {
        // Whatever goes wrong here, the connection is gone afterwards.
        let _ = timeout(ANSWER_WITHIN, self.connection.close(REPLY_SUCCESS, "stopping".into())).await;
    }
}

fn is_missing(error: &lapin::Error) -> bool {
    let lapin::ErrorKind::ProtocolError(error) = error.kind() else { return false };
    matches!(error.kind(), AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))
}
