//! The index against a real Elasticsearch and a real primary: nothing that changed is lost, nothing old comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::{Mutex, MutexGuard};

use super::{
    bulk::{self, Bulk, Targets, Written},
    client::{Call, Client},
    documents,
    indexer::Indexer,
};
use crate::{
    config::SecretUrl,
    seed,
    store::pools,
    testing::{Database, setting},
};

const WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// All tests use the one alias that the app knows.
static TURN: Mutex<()> = Mutex::const_new(());

struct Bench {
    client: Client,
    pool: PgPool,
    _database: Database,
    _turn: MutexGuard<'static, ()>,
}

impl Bench {
    /// A seeded primary, and no index.
    async fn open() -> Self {
        let turn = TURN.lock().await;
        let database = Database::create().await;
        seed::run(&database.options, None).await.unwrap();
        let pool = pools::write_pool(database.options.clone(), 4);
        let bench = Self { client: client(), pool, _database: database, _turn: turn };
        for index in bench.indices().await {
            bench.call(Method::DELETE, &index, None).await;
        }
        bench
    }

    fn indexer(&self) -> Indexer {
        Indexer::new(client(), self.pool.clone())
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let call = Call::new(method, path, WITHIN);
        let call = if let Some(body) = body { call.json(&body) } else { call };
        self.client.send(&call).await.unwrap().success().unwrap()
    }

    async fn indices(&self) -> Vec<String> {
        let found = self.call(Method::GET, "products-*/_alias", None).await;
        found.as_object().unwrap().keys().cloned().collect()
    }

    /// By product: what may be found, as it is in the index.
    async fn indexed(&self) -> BTreeMap<i64, Value> {
        self.call(Method::POST, "products/_refresh", None).await;
        let body = json!({ "size": 10_000, "query": { "bool": { "must_not": { "term": { "hidden": true } } } } });
        let found = self.call(Method::POST, "products/_search", Some(body)).await;
        let hits = found["hits"]["hits"].as_array().unwrap();
        hits.iter().map(|hit| (hit["_source"]["id"].as_i64().unwrap(), hit["_source"].clone())).collect()
    }

    async fn wanted(&self) -> BTreeMap<i64, Value> {
        let all = documents::after(&self.pool, i64::MIN, 100_000).await.unwrap();
        let all = all.iter().map(|document| (document.id, json!(document)));
        all.filter(|(_, document)| document["hidden"] == false).collect()
    }

    /// Products that the index does not have as the primary does.
    async fn differences(&self) -> Vec<(Option<Value>, Option<Value>)> {
        let (mut indexed, wanted) = (self.indexed().await, self.wanted().await);
        let mut found: Vec<_> = wanted.into_iter().map(|(id, wanted)| (indexed.remove(&id), Some(wanted))).collect();
        found.extend(indexed.into_values().map(|indexed| (Some(indexed), None)));
        found.retain(|(indexed, wanted)| indexed != wanted);
        found
    }

    async fn change(&self, sql: &'static str, id: i64) {
        sqlx::query(sql).bind(id).execute(&self.pool).await.unwrap();
    }
}

fn client() -> Client {
    let url: SecretUrl = setting("APP_TEST_ELASTICSEARCH_URL").parse().unwrap();
    Client::new(&url, &crate::trust::Trust::default()).unwrap()
}

const SELL: &str = "UPDATE inventory SET on_hand = on_hand - 1 WHERE product_id = $1";
const RENAME: &str = "UPDATE products SET name = name || '!' WHERE id = $1";
const HIDE: &str = "UPDATE products SET hidden = NOT hidden WHERE id = $1";
const DELETE: &str = "WITH stock AS (DELETE FROM inventory WHERE product_id = $1) DELETE FROM products WHERE id = $1";

#[tokio::test]
async fn whoever_comes_first_fills_the_index_and_only_once() {
    let bench = Bench::open().await;
    // What a process that died while filling leaves.
    bench.call(Method::PUT, "products-1", Some(json!({ "aliases": { "products-next": {} } }))).await;
    let (a, b, c) = (bench.indexer(), bench.indexer(), bench.indexer());
    let (a, b, c) = tokio::join!(a.ensure(), b.ensure(), c.ensure());
    let results = [a, b, c];
    assert!(results.iter().any(Result::is_ok), "{results:?}");
    assert!(results.iter().flat_map(|result| result.as_ref().err()).all(|error| error.is_unavailable()), "{results:?}");
    bench.indexer().ensure().await.unwrap();
    assert_eq!(bench.indices().await, ["products-2"]);
    assert_eq!(bench.differences().await, []);
}

#[tokio::test]
async fn an_event_before_there_is_an_index_fills_it() {
    let bench = Bench::open().await;
    bench.indexer().apply(&[3, 3, 1]).await.unwrap();
    assert_eq!(bench.differences().await, []);
}

#[tokio::test]
async fn products_follow_the_primary_and_old_news_change_nothing() {
    let bench = Bench::open().await;
    let indexer = bench.indexer();
    indexer.ensure().await.unwrap();
    let before = documents::by_ids(&bench.pool, &[1, 2, 3, 4]).await.unwrap();
    // Stock alone has to count as news: no version of the product changes with it.
    for (sql, id) in [(SELL, 1), (RENAME, 2), (HIDE, 3), (DELETE, 4)] {
        bench.change(sql, id).await;
        indexer.apply(&[id]).await.unwrap();
    }
    let now = bench.indexed().await;
    assert_eq!(bench.differences().await, []);
    assert!(!now.contains_key(&3) && !now.contains_key(&4), "hidden and deleted products are not found");

    let mut late = Bulk::new(Targets::All);
    before.iter().for_each(|document| late.put(document));
    let call = Call::new(Method::POST, bulk::PATH, WITHIN).lines(late.into_lines());
    let reply = bench.client.send(&call).await.unwrap().success().unwrap();
    assert!(reply["items"].as_array().unwrap().iter().step_by(2).all(|item| item["index"]["status"] == 409), "{reply}");
    assert_eq!(bulk::judge(Targets::All, before.len(), &reply).unwrap(), Written::All);
    assert_eq!(bench.indexed().await, now);
    indexer.apply(&[1, 2, 3, 4]).await.unwrap();
    assert_eq!(bench.indexed().await, now, "the same event twice");
}

#[tokio::test]
async fn a_new_index_misses_nothing_that_changes_meanwhile() {
    let bench = Arc::new(Bench::open().await);
    bench.indexer().ensure().await.unwrap();
    let filling = {
        let bench = Arc::clone(&bench);
        tokio::spawn(async move {
            let mut last = String::new();
            for _ in 0..4 {
                last = bench.indexer().reindex().await.unwrap().index;
            }
            last
        })
    };
    let indexer = bench.indexer();
    let mut changes = 0;
    let mut ids = (1..=1_240).cycle().map(|id: i64| id * 7919 % 1_240 + 1);
    while !filling.is_finished() {
        let batch: Vec<i64> = ids.by_ref().take(5).collect();
        for (id, sql) in batch.iter().zip([SELL, RENAME, SELL, HIDE, DELETE]) {
            bench.change(sql, *id).await;
        }
        indexer.apply(&batch).await.unwrap();
        changes += batch.len();
    }
    let last = filling.await.unwrap();
    assert_eq!(last, "products-5");
    assert!(changes > 50, "{changes}");
    assert_eq!(bench.indices().await, [last], "the old ones are gone");
    assert_eq!(bench.differences().await, []);
}

#[tokio::test]
async fn one_fill_at_a_time_and_it_may_end_in_the_middle() {
    let bench = Bench::open().await;
    let indexer = bench.indexer();
    indexer.ensure().await.unwrap();
    let mut other = bench.pool.acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock($1)").bind(super::indexer::LOCK).execute(&mut *other).await.unwrap();
    let refused = indexer.reindex().await.unwrap_err();
    assert!(refused.is_unavailable() && refused.to_string().contains("another process"), "{refused}");
    other.close().await.unwrap();

    // Products can no longer be read as what they are: the fill fails after its index was made.
    sqlx::query("ALTER TABLE products ALTER COLUMN price_cents TYPE numeric").execute(&bench.pool).await.unwrap();
    let before = bench.indexed().await;
    indexer.reindex().await.unwrap_err();
    assert_eq!(bench.indices().await, ["products-1"], "what was half filled is removed, what answered still does");
    assert_eq!(bench.indexed().await, before);
}
