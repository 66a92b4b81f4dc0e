//! Proof that search works: as customers ask, and from an order through outbox, broker and worker to the index.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::stack::Stack;
use provisioner_core::wait::{self, Look, WaitError};
use rand::Rng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::verify::{PROBE, get};
use super::{NAME, workers};
use crate::checks::{self, nonce, unlimited};
use crate::http::Site;
use crate::{elasticsearch, nginx, rabbitmq};

/// The shop's own name for its index.
const INDEX: &str = "products";
/// A node that was just started needs seconds for its first searches, and a backend that met one goes round it for a while.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const INDEXED_LIMIT: Duration = Duration::from_secs(20);
const EVERY: Duration = Duration::from_millis(200);

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    if elasticsearch::members(access.stack).next().is_none() {
        return Vec::new();
    }
    let mut findings = vec![check(NAME, "search", Level::L2, search(access)).await];
    if is_indexing(access.stack) {
        findings.push(check(NAME, "order-search", Level::L3, order_search(access)).await);
    }
    findings
}

/// A change is seen in search only where the stack itself has every part of its way.
pub(super) fn is_indexing(stack: &Stack) -> bool {
    stack.workload(&rabbitmq::member()).is_some()
        && ["relay", "search"].iter().all(|worker| workers::has(stack, worker))
}

/// As customers ask: by a word of a product's name, with the counts of its brands.
async fn search(access: &Access<'_>) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    let listed = get(&site, "/api/v1/products?limit=1").await?.expect(200, "GET /api/v1/products")?.json()?;
    let word = word(listed["items"][0]["name"].as_str().unwrap_or_default());
    let path = format!("/api/v1/search?limit=5&q={word}");
    let found = answered(&site, &path).await?;
    let (total, brands) =
        (found["total"].as_u64().unwrap_or(0), found["facets"]["brands"].as_array().map_or(0, Vec::len));
    if total == 0 || brands == 0 {
        return Err(Broken::fail(format!("{path}: {total} products of {brands} brands, expected some")));
    }
    Ok(format!("{word:?}: {total} products of {brands} brands"))
}

/// The word of a product's name that tells most.
pub(super) fn word(name: &str) -> &str {
    name.split(|c: char| !c.is_alphanumeric()).max_by_key(|word| word.len()).unwrap_or_default()
}

/// What the search engine answers, once it does: until then the database stands in for it.
pub(super) async fn answered(site: &Site, path: &str) -> Result<Value, Broken> {
    let answered = wait::until(ANSWER_LIMIT, EVERY, || async {
        match get(site, path).await.and_then(|reply| reply.expect(200, &format!("GET {path}"))?.json()) {
            Ok(found) if found["degraded"] == false => Look::Done(found),
            Ok(_) => Look::Pending("degraded: PostgreSQL answered".to_owned()),
            Err(broken) => Look::Broken(broken),
        }
    });
    answered.await.map_err(|error| broken(path, error))
}

async fn order_search(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, nginx::CHECKS).await?;
    let before = stock(access, PROBE).await?.ok_or_else(|| Broken::fail(format!("{PROBE} is not in index {INDEX}")))?;
    // Another run that orders at the same time takes away another number, and gives one back when it cancels.
    let qty = rand::rng().random_range(3..=20);
    let body = json!({ "email": "check@provisioner.invalid", "items": [{ "sku": PROBE, "qty": qty }] });
    let key = format!("check-{}", nonce());
    let request = || site.request(Method::POST, "/api/v1/orders").header("idempotency-key", &key).json(&body);
    let begin = Instant::now();
    unlimited("POST /api/v1/orders", request).await?.expect(201, "POST /api/v1/orders")?;
    let now = stock_falls(access, PROBE, before - qty + 1).await?;
    Ok(format!(
        "an order of {qty} changed the stock of {PROBE} in the index from {before} to {now} after {} ms",
        begin.elapsed().as_millis()
    ))
}

/// Waits until the index has no more than `expected` of a product.
pub(super) async fn stock_falls(access: &Access<'_>, sku: &str, expected: i64) -> Result<i64, Broken> {
    let indexed = wait::until(INDEXED_LIMIT, EVERY, || async {
        match stock(access, sku).await {
            Ok(Some(now)) if now <= expected => Look::Done(now),
            Ok(now) => Look::Pending(format!("{sku} has {now:?} in the index, expected {expected}")),
            Err(broken) => Look::Broken(broken),
        }
    });
    indexed.await.map_err(|error| broken("order", error))
}

pub(super) async fn stock(access: &Access<'_>, sku: &str) -> Result<Option<i64>, Broken> {
    let query = json!({ "size": 1, "query": { "term": { "sku": sku } } });
    let found: Value = elasticsearch::search(access, INDEX, &query).await?;
    Ok(found["hits"]["hits"][0]["_source"]["on_hand"].as_i64())
}

fn broken(what: &str, error: WaitError<Broken>) -> Broken {
    match error {
        WaitError::Broken(broken) => broken,
        WaitError::TimedOut { after, last } => {
            Broken::fail(format!("{what}: not within {} s: {last}", after.as_secs()))
        }
    }
}
