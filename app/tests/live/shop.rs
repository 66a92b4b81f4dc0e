//! A shop for one test: its database, its place in Redis, its process.

use std::{
    process::{Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use reqwest::{Client, Response, Url};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{interval, timeout},
};
use uuid::Uuid;

use crate::gate::Gate;

const PATIENCE: Duration = Duration::from_secs(20);
const REDIS_DATABASES: u8 = 16;
const CLAIM: &str = "app-live-test";
/// The rights that the README of app asks for, and no others.
const REDIS_USER: &str = "app-live";
const REDIS_RIGHTS: &str =
    "reset on >app-live ~products:* ~sess:* ~rl:* +@read +@write +@connection +@scripting -@dangerous";

#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
pub(crate) fn setting(name: &str) -> Url {
    let text =
        std::env::var(name).unwrap_or_else(|_| panic!("set {name} to run the live tests, see the README of app"));
    text.parse().unwrap_or_else(|_| panic!("{name} is not a URL"))
}

/// A database without tables.
pub(crate) struct Database {
    pub(crate) url: Url,
    name: String,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let name = format!("app_live_{}", Uuid::new_v4().simple());
        let mut url = setting("APP_TEST_DATABASE_URL");
        admin(&format!("CREATE DATABASE {name}")).await;
        url.set_path(&name);
        Self { url, name }
    }

    pub(crate) async fn pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(2).connect(self.url.as_str()).await.unwrap()
    }

    /// What a client of a demoted primary meets: sessions are cut, new ones cannot write.
    pub(crate) async fn set_read_only(&self, read_only: bool) {
        let on = if read_only { "on" } else { "off" };
        admin(&format!("ALTER DATABASE {} SET default_transaction_read_only = {on}", self.name)).await;
        admin(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'", self.name)).await;
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        in_own_runtime(async move { admin(&drop).await });
    }
}

/// Through the database of the setting: the test's own may be read-only.
async fn admin(sql: &str) {
    let mut connection = PgConnection::connect(setting("APP_TEST_DATABASE_URL").as_str())
        .await
        .expect("connect to APP_TEST_DATABASE_URL, with a role that has CREATEDB");
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Drop is not async and may run while a test panics.
fn in_own_runtime(work: impl Future<Output = ()> + Send + 'static) {
    let thread = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    });
    if thread.join().is_err() {
        eprintln!("the test left something behind");
    }
}

/// One of the numbered databases of the Redis server, claimed so that tests of other processes keep off.
pub(crate) struct RedisDatabase {
    pub(crate) url: Url,
}

impl RedisDatabase {
    async fn claim() -> Self {
        for number in 0..REDIS_DATABASES {
            let mut url = setting("APP_TEST_REDIS_URL");
            url.set_path(&number.to_string());
            let mut connection = redis_connection(&url).await;
            let claimed: Option<String> = redis::cmd("SET")
                .arg(CLAIM)
                .arg(1)
                .arg("NX")
                .arg("EX")
                .arg(300)
                .query_async(&mut connection)
                .await
                .unwrap();
            if claimed.is_some() {
                let mut user = redis::cmd("ACL");
                user.arg("SETUSER").arg(REDIS_USER).arg(REDIS_RIGHTS.split(' ').collect::<Vec<_>>());
                user.query_async::<()>(&mut connection).await.unwrap();
                return Self { url };
            }
        }
        panic!("all {REDIS_DATABASES} databases of APP_TEST_REDIS_URL are claimed by other tests");
    }
}

impl RedisDatabase {
    /// As the app, which may less than the tests.
    fn url_of_the_app(&self) -> Url {
        let mut url = self.url.clone();
        url.set_username(REDIS_USER).unwrap();
        url.set_password(Some(REDIS_USER)).unwrap();
        url
    }

    pub(crate) async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut connection = redis_connection(&self.url).await;
        redis::cmd("KEYS").arg(pattern).query_async(&mut connection).await.unwrap()
    }

    /// As if the windows of all limits were over.
    pub(crate) async fn forget_limits(&self) {
        let mut connection = redis_connection(&self.url).await;
        for key in self.keys("rl:*").await {
            redis::cmd("DEL").arg(key).query_async::<()>(&mut connection).await.unwrap();
        }
    }
}

impl Drop for RedisDatabase {
    fn drop(&mut self) {
        let url = self.url.clone();
        in_own_runtime(async move {
            let mut connection = redis_connection(&url).await;
            redis::cmd("FLUSHDB").query_async::<()>(&mut connection).await.unwrap();
        });
    }
}

pub(crate) async fn redis_connection(url: &Url) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url.as_str()).unwrap();
    client.get_multiplexed_async_connection().await.expect("connect to APP_TEST_REDIS_URL")
}

/// Runs `app COMMAND` to its end.
pub(crate) async fn app(command: &str, database: &Database) -> Output {
    app_with(command, database, &[]).await
}

pub(crate) async fn app_with(command: &str, database: &Database, settings: &[(&str, &str)]) -> Output {
    let settings = settings.iter().copied();
    let output = binary(command).env("DATABASE_URL", database.url.as_str()).envs(settings).output();
    timeout(PATIENCE, output).await.expect("app must end by itself").unwrap()
}

pub(crate) async fn app_succeeds(command: &str, database: &Database) {
    let output = app(command, database).await;
    assert!(output.status.success(), "app {command}: {}", String::from_utf8_lossy(&output.stdout));
}

pub(crate) fn binary(command: &str) -> Command {
    let mut binary = Command::new(env!("CARGO_BIN_EXE_app"));
    binary.arg(command).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    binary
}

/// A migrated and seeded shop that is ready. The replica is the same server behind a gate of its own.
pub(crate) struct Shop {
    pub(crate) primary_gate: Gate,
    pub(crate) replica_gate: Gate,
    pub(crate) redis_gate: Gate,
    pub(crate) base: String,
    pub(crate) metrics: String,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
    pub(crate) process: tokio::sync::Mutex<Child>,
    pub(crate) http: Client,
    pub(crate) database: Database,
    pub(crate) redis: RedisDatabase,
}

/// `app serve`. It ends with the value.
pub(crate) struct Backend {
    process: Child,
    pub(crate) base: String,
    metrics: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    async fn start(database: &Database, redis: &RedisDatabase, gates: [&Gate; 3], settings: &[(&str, &str)]) -> Self {
        let [primary, replica, cache] = gates;
        let mut process = binary("serve")
            .env("DATABASE_URL", through(&database.url, primary))
            .env("DATABASE_REPLICA_URL", through(&database.url, replica))
            .env("REDIS_URL", through(&redis.url_of_the_app(), cache))
            .env("APP_LISTEN", "127.0.0.1:0")
            .env("APP_METRICS_LISTEN", "127.0.0.1:0")
            .env("APP_DRAIN_SECONDS", "1")
            .env("APP_SHUTDOWN_SECONDS", "5")
            .envs(settings.iter().copied())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (base, metrics) = follow(&mut process, &log).await;
        Self { process, base, metrics, log }
    }
}

impl Shop {
    pub(crate) async fn open() -> Self {
        Self::open_with(&[]).await
    }

    pub(crate) async fn open_with(settings: &[(&str, &str)]) -> Self {
        let database = Database::create().await;
        app_succeeds("migrate", &database).await;
        app_succeeds("seed", &database).await;
        let redis = RedisDatabase::claim().await;
        let primary_gate = gate_to(&database.url, 5432).await;
        let replica_gate = gate_to(&database.url, 5432).await;
        let redis_gate = gate_to(&redis.url, 6379).await;
        let gates = [&primary_gate, &replica_gate, &redis_gate];
        let Backend { process, base, metrics, log } = Backend::start(&database, &redis, gates, settings).await;
        let process = tokio::sync::Mutex::new(process);
        let http = http_client();
        let shop = Self { primary_gate, replica_gate, redis_gate, base, metrics, log, process, http, database, redis };
        // Ready is a shop without Redis too.
        eventually("Redis answers", async || {
            let degraded = shop.eventually_ready(200).await["degraded"].to_string();
            (!degraded.contains("redis")).then_some(())
        })
        .await;
        shop
    }

    /// A second process beside the first one.
    pub(crate) async fn another(&self) -> Backend {
        let gates = [&self.primary_gate, &self.replica_gate, &self.redis_gate];
        Backend::start(&self.database, &self.redis, gates, &[]).await
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.http.get(format!("{}{path}", self.base)).send().await.unwrap()
    }

    /// Status, `X-Source` and body.
    pub(crate) async fn read(&self, path: &str) -> (u16, String, Value) {
        let response = self.get(path).await;
        let source = header(&response, "x-source");
        (response.status().as_u16(), source, response.json().await.unwrap())
    }

    pub(crate) async fn order(&self, key: &str, items: &[(&str, i64)]) -> Response {
        let items: Vec<Value> = items.iter().map(|(sku, qty)| json!({ "sku": sku, "qty": qty })).collect();
        self.post(Some(key), &json!({ "email": "ada@example.org", "items": items }).to_string()).await
    }

    pub(crate) async fn post(&self, key: Option<&str>, body: &str) -> Response {
        let mut request =
            self.http.post(format!("{}/api/v1/orders", self.base)).header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request.body(body.to_owned()).send().await.unwrap()
    }

    pub(crate) async fn stock(&self, sku: &str) -> i32 {
        let sql = "SELECT on_hand FROM inventory JOIN products ON id = product_id WHERE sku = $1";
        sqlx::query_scalar(sql).bind(sku).fetch_one(&self.database.pool().await).await.unwrap()
    }

    pub(crate) async fn set_stock(&self, sku: &str, on_hand: i32) {
        let sql = "UPDATE inventory SET on_hand = $2 FROM products WHERE id = product_id AND sku = $1";
        sqlx::query(sql).bind(sku).bind(on_hand).execute(&self.database.pool().await).await.unwrap();
    }

    pub(crate) async fn count(&self, what: &'static str) -> i64 {
        let sql = AssertSqlSafe(format!("SELECT count(*) FROM {what}"));
        sqlx::query_scalar(sql).fetch_one(&self.database.pool().await).await.unwrap()
    }

    /// Some SKUs that are for sale, in id order.
    pub(crate) async fn skus(&self, count: i64) -> Vec<String> {
        let sql = "SELECT sku FROM products WHERE NOT hidden ORDER BY id LIMIT $1";
        sqlx::query_scalar(sql).bind(count).fetch_all(&self.database.pool().await).await.unwrap()
    }

    pub(crate) async fn eventually_ready(&self, status: u16) -> Value {
        eventually(&format!("/readyz answers {status}"), async || {
            let response = self.get("/readyz").await;
            (response.status() == status).then_some(response)
        })
        .await
        .json()
        .await
        .unwrap()
    }
}

/// The app brings its own TLS settings; plain reqwest asks the process for a provider.
pub(crate) fn http_client() -> Client {
    // Another test may have installed it before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new()
}

pub(crate) fn header(response: &Response, name: &str) -> String {
    response.headers().get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

pub(crate) fn fresh_key() -> String {
    Uuid::new_v4().to_string()
}

/// The only wait: asks again until there is an answer or patience ends.
pub(crate) async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let started = Instant::now();
    let mut ticks = interval(Duration::from_millis(50));
    while started.elapsed() < PATIENCE {
        ticks.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
    }
    panic!("not within {PATIENCE:?}: {what}");
}

pub(crate) async fn gate_to(url: &Url, port: u16) -> Gate {
    Gate::open(format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(port))).await
}

pub(crate) fn through(url: &Url, gate: &Gate) -> String {
    let mut url = url.clone();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(gate.address.port())).unwrap();
    url.into()
}

/// Keeps reading the log, and finds the addresses in it.
async fn follow(process: &mut Child, log: &Arc<Mutex<Vec<String>>>) -> (String, String) {
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let listening = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("a log line is not JSON: {line}"));
            log.lock().unwrap().push(line);
            if event["message"] == "listening" {
                let url = |name: &str| format!("http://{}", event[name].as_str().unwrap());
                return (url("address"), url("metrics_address"));
            }
        }
        panic!("app serve ended before it listened: {:?}", log.lock().unwrap());
    };
    let addresses = timeout(PATIENCE, listening).await.expect("app serve must listen in time");
    let log = Arc::clone(log);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            log.lock().unwrap().push(line);
        }
    });
    addresses
}
