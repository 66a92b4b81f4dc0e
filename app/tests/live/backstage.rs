//! What the tests of relay and workers stand on: a broker, a mail server, and processes that can be killed.
//!
//! `APP_TEST_AMQP_URL`: what the app itself may use. `APP_TEST_AMQP_ADMIN_URL`: somebody who may declare the topology in
//! the same vhost. The queues are emptied: use a broker for tests alone. These tests run one after another.

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind,
    message::BasicGetMessage,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use reqwest::Url;
use serde_json::Value;
use sqlx::PgPool;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::MutexGuard,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    gate::Gate,
    shop::{Database, Shop, app_succeeds, binary, eventually, gate_to, http_client, setting, through},
};

static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
const RETRIES: [(&str, i32); 5] = [("1s", 1_000), ("5s", 5_000), ("30s", 30_000), ("5m", 300_000), ("30m", 1_800_000)];
const TOPICS: [&str; 4] = ["email", "search", "custom", "probe"];

/// An empty broker, a database that is migrated but not seeded, and a mail server.
pub(crate) struct Bench {
    pool: PgPool,
    database_url: String,
    _database: Option<Database>,
    pub(crate) broker: Gate,
    pub(crate) channel: Channel,
    pub(crate) mail: MailServer,
    amqp: String,
    _connection: Connection,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    pub(crate) async fn open() -> Self {
        let database = Database::create().await;
        app_succeeds("migrate", &database).await;
        let (pool, url) = (database.pool().await, database.url.to_string());
        Self { _database: Some(database), ..Self::over(pool, url).await }
    }

    /// For a shop that is open.
    pub(crate) async fn beside(shop: &Shop) -> Self {
        Self::over(shop.database.pool().await, shop.database.url.to_string()).await
    }

    async fn over(pool: PgPool, database_url: String) -> Self {
        let alone = ONE_AT_A_TIME.lock().await;
        let admin = setting("APP_TEST_AMQP_ADMIN_URL");
        let connection = Connection::connect(admin.as_str(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        declare(&channel).await;
        let url = setting("APP_TEST_AMQP_URL");
        let broker = gate_to(&url, 5672).await;
        let amqp = through(&url, &broker);
        let mail = MailServer::start().await;
        Self {
            pool,
            database_url,
            _database: None,
            broker,
            channel,
            mail,
            amqp,
            _connection: connection,
            _alone: alone,
        }
    }

    pub(crate) async fn start(&self, command: &[&str]) -> Background {
        self.start_with(command, &[]).await
    }

    pub(crate) async fn start_with(&self, command: &[&str], settings: &[(&str, &str)]) -> Background {
        let mut binary = binary(command[0]);
        binary
            .args(&command[1..])
            .env("DATABASE_URL", &self.database_url)
            .env("AMQP_URL", &self.amqp)
            .env("SMTP_URL", format!("smtp://{}", self.mail.address))
            .env("MAIL_FROM", "shop@example.com")
            .env("APP_METRICS_LISTEN", "127.0.0.1:0")
            .env("APP_SHUTDOWN_SECONDS", "5")
            .envs(settings.iter().copied());
        Background::start(binary).await
    }

    /// Messages that are ready, without taking them.
    pub(crate) async fn ready(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
    }

    pub(crate) async fn take(&self, queue: &str) -> Option<BasicGetMessage> {
        let message = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap();
        if let Some(message) = &message {
            message.delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
        }
        message
    }

    pub(crate) async fn wait_for(&self, queue: &str) -> BasicGetMessage {
        eventually(&format!("a message in {queue}"), async || self.take(queue).await).await
    }

    pub(crate) async fn publish(&self, routing_key: &str, body: &str) {
        let properties = BasicProperties::default().with_message_id("test-1".into()).with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        self.channel
            .basic_publish("events".into(), routing_key.into(), options, body.as_bytes(), properties)
            .await
            .unwrap()
            .await
            .unwrap();
    }

    /// As a worker of somebody else's does.
    pub(crate) async fn give_up(&self, queue: &str, message: &BasicGetMessage) {
        self.bury(queue, "test-1", &message.delivery.data).await;
    }

    /// A dead letter.
    pub(crate) async fn bury(&self, queue: &str, id: &str, body: &[u8]) {
        let properties = BasicProperties::default().with_message_id(id.into()).with_delivery_mode(2);
        let options = BasicPublishOptions::default();
        let published = self.channel.basic_publish("dead".into(), queue.into(), options, body, properties).await;
        published.unwrap().await.unwrap();
    }

    pub(crate) async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap();
    }

    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    pub(crate) async fn eventually_count(&self, sql: &'static str, expected: i64) {
        eventually(&format!("{sql} is {expected}"), async || (self.count(sql).await == expected).then_some(())).await;
    }
}

pub(crate) fn header(message: &BasicGetMessage, name: &str) -> String {
    let headers = message.delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(name)) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        Some(AMQPValue::LongInt(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

pub(crate) fn json(message: &BasicGetMessage) -> Value {
    serde_json::from_slice(&message.delivery.data).unwrap()
}

/// The contract between the app and whoever runs the broker.
async fn declare(channel: &Channel) {
    for (name, kind) in
        [("unrouted", ExchangeKind::Fanout), ("dead", ExchangeKind::Direct), ("requeue", ExchangeKind::Direct)]
    {
        exchange(channel, name, kind, FieldTable::default()).await;
    }
    exchange(channel, "events", ExchangeKind::Topic, table(&[("alternate-exchange", "unrouted")])).await;
    queue(channel, "unrouted", FieldTable::default()).await;
    bind(channel, "unrouted", "unrouted", "").await;
    for topic in TOPICS {
        let (name, dead) = (format!("q.{topic}"), format!("q.dead.{topic}"));
        let mut arguments = at_least_once("dead");
        arguments.insert("x-dead-letter-routing-key".into(), text(&name));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(10));
        queue(channel, &name, arguments).await;
        queue(channel, &dead, FieldTable::default()).await;
        bind(channel, &name, "events", &format!("{topic}.#")).await;
        bind(channel, &name, "requeue", &name).await;
        bind(channel, &dead, "dead", &name).await;
    }
    for (delay, millis) in RETRIES {
        let (from, name) = (format!("retry.{delay}"), format!("q.retry.{delay}"));
        exchange(channel, &from, ExchangeKind::Fanout, FieldTable::default()).await;
        let mut arguments = at_least_once("requeue");
        arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(millis));
        queue(channel, &name, arguments).await;
        bind(channel, &name, &from, "").await;
    }
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table(pairs: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), text(value));
    }
    table
}

fn at_least_once(exchange: &str) -> FieldTable {
    table(&[
        ("x-dead-letter-exchange", exchange),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    ])
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind, arguments: FieldTable) {
    let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(name.into(), kind, options, arguments).await.unwrap();
}

async fn queue(channel: &Channel, name: &str, mut arguments: FieldTable) {
    arguments.insert("x-queue-type".into(), text("quorum"));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, arguments).await.unwrap();
    channel.queue_purge(name.into(), QueuePurgeOptions::default()).await.unwrap();
}

pub(crate) async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) {
    let options = QueueBindOptions::default();
    channel.queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default()).await.unwrap();
}

/// A relay or a worker.
pub(crate) struct Background {
    pub(crate) process: Child,
    private: String,
    http: reqwest::Client,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Background {
    pub(crate) async fn start(mut binary: Command) -> Self {
        let mut process = binary.spawn().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
                log.lock().unwrap().push(line);
                if event["message"] == "listening" {
                    return format!("http://{}", event["metrics_address"].as_str().unwrap());
                }
            }
            panic!("the process ended before it listened: {:?}", log.lock().unwrap());
        };
        let private = timeout(Duration::from_secs(20), listening).await.expect("the process must listen in time");
        let rest = Arc::clone(&log);
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                rest.lock().unwrap().push(line);
            }
        });
        Self { process, private, http: http_client(), log, reader }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("{}{path}", self.private)).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Waits for /readyz to answer so, and returns its reasons.
    pub(crate) async fn eventually_ready(&self, status: u16) -> String {
        eventually(&format!("/readyz answers {status}"), async || {
            let (found, body) = self.get("/readyz").await;
            (found == status).then_some(body)
        })
        .await
    }

    pub(crate) async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    pub(crate) async fn terminate(&mut self) {
        let pid = self.process.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).stdin(Stdio::null()).status().await.unwrap().success());
        let ended = timeout(Duration::from_secs(8), self.process.wait()).await;
        assert!(ended.expect("the process ends in time").unwrap().success());
        // Its last lines may still be in the pipe.
        (&mut self.reader).await.unwrap();
    }

    pub(crate) fn logged(&self, what: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }
}

/// Speaks as much SMTP as a client needs, keeps what it accepts, and refuses on demand.
pub(crate) struct MailServer {
    pub(crate) address: std::net::SocketAddr,
    pub(crate) gate: Gate,
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept {
    mails: Mutex<Vec<String>>,
    /// Answers to the next recipients, first one first; then everybody is welcome.
    refusals: Mutex<Vec<&'static str>>,
    /// So many times the mail is kept, and the answer lost with the connection.
    lost_answers: Mutex<u32>,
}

impl MailServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: Url = format!("smtp://{}", listener.local_addr().unwrap()).parse().unwrap();
        let kept = Arc::new(Kept::default());
        let server = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&server);
                // A client that is killed just goes away.
                tokio::spawn(async move { drop(talk(stream, &kept).await) });
            }
        });
        let gate = gate_to(&url, 25).await;
        Self { address: gate.address, gate, kept }
    }

    pub(crate) fn mails(&self) -> Vec<String> {
        self.kept.mails.lock().unwrap().clone()
    }

    pub(crate) fn refuse(&self, answers: &[&'static str]) {
        self.kept.refusals.lock().unwrap().extend(answers);
    }

    pub(crate) fn lose_answers(&self, times: u32) {
        *self.kept.lost_answers.lock().unwrap() = times;
    }
}

async fn talk(stream: TcpStream, kept: &Kept) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test\r\n").await?;
    let mut line = String::new();
    while {
        line.clear();
        stream.read_line(&mut line).await?
    } > 0
    {
        let answer = match line.split([' ', ':', '\r']).next().unwrap_or_default() {
            "EHLO" => "250-test\r\n250 8BITMIME",
            "RCPT" => {
                let mut refusals = kept.refusals.lock().unwrap();
                if refusals.is_empty() { "250 ok" } else { refusals.remove(0) }
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut mail = String::new();
                while !mail.ends_with("\r\n.\r\n") && stream.read_line(&mut mail).await? > 0 {}
                kept.mails.lock().unwrap().push(mail);
                let mut lost = kept.lost_answers.lock().unwrap();
                if *lost > 0 {
                    *lost -= 1;
                    return Ok(());
                }
                "250 kept"
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n").await,
            _ => "250 ok",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}
