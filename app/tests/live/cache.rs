//! What is cached: never older than what was announced, asked for once, and gone without harm.

use std::time::{Duration, Instant};

use reqwest::{Response, StatusCode};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::{
    backstage::Background,
    gate::Gate,
    shop::{Shop, binary, eventually, gate_to, header, redis_connection, through},
};

const CATEGORIES: &str = "/api/v1/categories";
const LISTING: &str = "/api/v1/products?limit=3";
const CACHED: &str = "public, max-age=5, stale-while-revalidate=5";
const RENAME: &str = "UPDATE categories SET name = 'Renamed' WHERE slug = 'knitwear'";

impl Shop {
    async fn redis(&self, command: &[&str]) -> redis::Value {
        let mut connection = redis_connection(&self.redis.url).await;
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
    }

    async fn forget_all(&self) {
        let all = "for _, key in ipairs(redis.call('KEYS', 'products:*')) do redis.call('DEL', key) end";
        self.redis(&["EVAL", all, "0"]).await;
    }

    async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(&self.database.pool().await).await.unwrap();
    }

    /// How many look-ups in Redis ended so.
    async fn looked_up(&self, result: &str) -> usize {
        let metrics = self.http.get(format!("{}/metrics", self.metrics)).send().await.unwrap().text().await.unwrap();
        let name = format!("cache_requests_total{{result=\"{result}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    }

    /// A relay for this shop, whose broker is away.
    async fn relay(&self) -> (Background, Gate) {
        let gate = gate_to(&self.redis.url, 6379).await;
        let mut relay = binary("relay");
        relay
            .env("DATABASE_URL", self.database.url.as_str())
            .env("REDIS_URL", through(&self.redis.url, &gate))
            .env("AMQP_URL", "amqp://127.0.0.1:1/none")
            .env("APP_METRICS_LISTEN", "127.0.0.1:0");
        (Background::start(relay).await, gate)
    }

    fn ask(&self, path: &str, times: usize) -> JoinSet<Response> {
        let mut asked = JoinSet::new();
        for _ in 0..times {
            let request = self.http.get(format!("{}{path}", self.base)).send();
            asked.spawn(async move { request.await.unwrap() });
        }
        asked
    }

    async fn known(&self, path: &str, tags: &str) -> Response {
        self.http.get(format!("{}{path}", self.base)).header("if-none-match", tags).send().await.unwrap()
    }
}

/// Keeps every query of the categories waiting, and counts them.
struct Held(PgConnection);

impl Held {
    async fn new(shop: &Shop) -> Self {
        let mut connection = PgConnection::connect(shop.database.url.as_str()).await.unwrap();
        sqlx::raw_sql("BEGIN; LOCK TABLE categories").execute(&mut connection).await.unwrap();
        Self(connection)
    }

    /// How many wait, once one does and the others had time to join it.
    async fn waiting_soon(&mut self) -> i64 {
        let sql = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                   WHERE NOT granted AND datname = current_database() AND relation = 'categories'::regclass";
        let started = Instant::now();
        loop {
            let waiting: i64 = sqlx::query_scalar(sql).fetch_one(&mut self.0).await.unwrap();
            if started.elapsed() > Duration::from_millis(500) || waiting > 1 {
                return waiting;
            }
        }
    }

    async fn release(mut self) {
        sqlx::raw_sql("COMMIT").execute(&mut self.0).await.unwrap();
    }
}

#[tokio::test]
async fn fifty_who_miss_at_once_are_one_query() {
    let shop = Shop::open().await;
    let mut held = Held::new(&shop).await;
    let asked = shop.ask(CATEGORIES, 50);
    eventually("all fifty are told that Redis has nothing", async || {
        (shop.looked_up("miss").await == 50).then_some(())
    })
    .await;
    assert_eq!(held.waiting_soon().await, 1);
    held.release().await;
    let mut bodies = std::collections::HashSet::new();
    for response in asked.join_all().await {
        assert_eq!(response.status(), 200);
        bodies.insert(response.text().await.unwrap());
    }
    assert_eq!(bodies.len(), 1);
}

#[tokio::test]
async fn what_is_old_is_served_at_once_and_renewed_by_one_query() {
    let shop = Shop::open().await;
    let (_, _, old) = shop.read(CATEGORIES).await;
    // No relay runs here, so nobody announces it.
    shop.sql(RENAME).await;
    // Fresh until 1970.
    shop.redis(&["SETRANGE", "products:entry:categories", "20", "0000000000"]).await;
    let mut held = Held::new(&shop).await;
    eventually("Redis is asked again", async || {
        shop.read(CATEGORIES).await;
        (shop.looked_up("stale").await > 0).then_some(())
    })
    .await;
    for response in shop.ask(CATEGORIES, 20).join_all().await {
        assert_eq!(header(&response, "x-source"), "redis");
        assert_eq!(response.json::<Value>().await.unwrap(), old);
    }
    assert_eq!(held.waiting_soon().await, 1);
    held.release().await;
    eventually("the new answer is in Redis", async || {
        let (_, source, body) = shop.read(CATEGORIES).await;
        (source == "redis" && body != old).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_kept_ends_within_a_minute_and_what_was_filled_together_does_not_age_together() {
    let shop = Shop::open().await;
    for sku in shop.skus(12).await {
        assert_eq!(shop.get(&format!("/api/v1/products/{sku}")).await.status(), 200);
    }
    let each = "local found = {} for _, key in ipairs(redis.call('KEYS', 'products:entry:*')) do \
                found[#found + 1] = {redis.call('TTL', key), redis.call('GETRANGE', key, 20, 29)} end return found";
    let entries: Vec<(i64, String)> = redis::from_redis_value(shop.redis(&["EVAL", each, "0"]).await).unwrap();
    assert_eq!(entries.len(), 12);
    assert!(entries.iter().all(|(seconds, _)| (1..=60).contains(seconds)), "{entries:?}");
    let until: std::collections::BTreeSet<&str> = entries.iter().map(|(_, until)| until.as_str()).collect();
    assert!(until.len() > 2, "fresh until {until:?}");
}

#[tokio::test]
async fn a_change_reaches_readers_in_time_though_the_broker_is_away() {
    let shop = Shop::open().await;
    let (_relay, _gate) = shop.relay().await;
    let announced = "outbox WHERE topic = 'catalogue.changed' AND published_at IS NOT NULL";
    eventually("the seed is announced", async || (shop.count(announced).await > 0).then_some(())).await;
    let mut worst = Duration::ZERO;
    for cents in 1_000..1_010 {
        shop.read(LISTING).await;
        assert_eq!(shop.read(LISTING).await.1, "redis");
        let change = "UPDATE products SET price_cents = $1 WHERE id = (SELECT min(id) FROM products WHERE NOT hidden)";
        sqlx::query(change).bind(cents).execute(&shop.database.pool().await).await.unwrap();
        let changed = Instant::now();
        eventually("the new price is listed", async || {
            (shop.read(LISTING).await.2["items"][0]["price_cents"] == cents).then_some(())
        })
        .await;
        worst = worst.max(changed.elapsed());
    }
    assert!(worst < Duration::from_secs(2), "{worst:?}");
    println!("from commit to reader: {worst:?} at worst of 10");
}

#[tokio::test]
async fn a_change_that_redis_could_not_hear_of_is_announced_when_it_is_back() {
    let shop = Shop::open().await;
    let (relay, gate) = shop.relay().await;
    let waiting = "outbox WHERE topic = 'catalogue.changed' AND published_at IS NULL";
    eventually("the seed is announced", async || (shop.count(waiting).await == 0).then_some(())).await;
    let (_, _, old) = shop.read(CATEGORIES).await;
    gate.shut().await;
    shop.sql(RENAME).await;
    eventually("the relay notices", async || (relay.logged("go round Redis") > 0).then_some(())).await;
    assert_eq!((shop.count(waiting).await, &shop.read(CATEGORIES).await.2), (1, &old));
    gate.reopen();
    eventually("the new name is listed", async || (shop.read(CATEGORIES).await.2 != old).then_some(())).await;
    eventually("the event is done", async || (shop.count(waiting).await == 0).then_some(())).await;
}

#[tokio::test]
async fn stock_that_goes_down_changes_no_cached_answer_until_it_is_gone() {
    let shop = Shop::open().await;
    let sku = &shop.skus(1).await[0];
    let changes = "outbox WHERE topic = 'catalogue.changed'";
    shop.set_stock(sku, 3).await;
    let before = shop.count(changes).await;
    assert_eq!(shop.order("one-of-three", &[(sku, 1)]).await.status(), 201);
    assert_eq!(shop.count(changes).await, before);
    assert_eq!(shop.order("the-rest", &[(sku, 2)]).await.status(), 201);
    assert_eq!(shop.count(changes).await, before + 1, "sold out");
    shop.set_stock(sku, 5).await;
    assert_eq!(shop.count(changes).await, before + 2, "there again");
}

#[tokio::test]
async fn servers_that_are_behind_are_passed_over_and_what_they_say_is_not_kept() {
    let shop = Shop::open().await;
    shop.redis(&["SET", "products:changed", "00000000000000000000"]).await;
    assert_eq!(shop.read(LISTING).await.1, "replica");
    assert_eq!(shop.read(LISTING).await.1, "redis");
    // Further than any server is.
    shop.redis(&["SET", "products:changed", "09000000000000000000"]).await;
    eventually("what was kept is out of date", async || (shop.read(LISTING).await.1 == "primary").then_some(())).await;
    for _ in 0..3 {
        let (status, source, _) = shop.read(LISTING).await;
        assert_eq!((status, source.as_str()), (200, "primary"));
    }
    shop.primary_gate.shut().await;
    let (status, source, _) = shop.read(LISTING).await;
    assert_eq!((status, source.as_str()), (200, "replica"), "old news are better than none");
    shop.redis(&["DEL", "products:changed"]).await;
    eventually("what was kept before is still there", async || (shop.read(LISTING).await.1 == "redis").then_some(()))
        .await;
}

#[tokio::test]
async fn an_answer_that_is_known_is_not_sent_again() {
    let shop = Shop::open().await;
    let sku = &shop.skus(1).await[0];
    for path in [LISTING, CATEGORIES, "/api/v1/brands", &format!("/api/v1/products/{sku}")] {
        let first = shop.get(path).await;
        let etag = header(&first, "etag");
        assert!(etag.len() > 20 && etag.starts_with('"') && etag.ends_with('"'), "{path}: {etag}");
        for tags in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
            let known = shop.known(path, &tags).await;
            assert_eq!(known.status(), StatusCode::NOT_MODIFIED, "{path}: {tags}");
            assert_eq!((header(&known, "etag"), header(&known, "cache-control")), (etag.clone(), CACHED.to_owned()));
            assert_eq!(known.bytes().await.unwrap().len(), 0);
        }
        shop.forget_all().await;
        let known = eventually("the replica is asked", async || {
            let known = shop.known(path, &etag).await;
            (header(&known, "x-source") == "replica").then_some(known)
        })
        .await;
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED, "{path}");
        assert_eq!(shop.known(path, "\"other\"").await.status(), 200, "{path}");
    }
    let (etag, before) = {
        let answer = shop.get(CATEGORIES).await;
        (header(&answer, "etag"), answer.text().await.unwrap())
    };
    shop.sql(RENAME).await;
    shop.forget_all().await;
    let changed = eventually("the new answer has another tag", async || {
        let answer = shop.known(CATEGORIES, &etag).await;
        (answer.status() == StatusCode::OK).then_some(answer)
    })
    .await;
    assert_ne!(changed.text().await.unwrap(), before);
}
