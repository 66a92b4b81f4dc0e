//! Proof that search works: as customers ask, and from an order through outbox, broker and worker to the index.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::stack::Stack;
use provisioner_core::wait::{self, Look, WaitError};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::orders::{Buyer, Ledger, RECIPIENT, Stock, order_id};
use super::verify::{PROBE, get};
use super::{NAME, workers};
use crate::checks::nonce;
use crate::http::Site;
use crate::{elasticsearch, nginx, rabbitmq};

/// The shop's own name for its index.
const INDEX: &str = "products";
/// A node that was just started needs seconds for its first searches, and a backend that met one goes round it for a while.
/// Less than a check may take, so that it can say what it saw.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// The same, and its order is cancelled in any case.
const INDEXED_LIMIT: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_millis(200);

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    if !access.stack.has(elasticsearch::NAME) {
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
    stack.has(rabbitmq::NAME) && ["relay", "search"].iter().all(|worker| workers::has(stack, worker))
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

/// By the version that the order gave to the stock: whoever else orders meanwhile makes it greater, never less.
async fn order_search(access: &Access<'_>) -> Result<String, Broken> {
    let (guest, ledger) = (Buyer::guest(access).await?, Ledger::open(access).await?);
    let before = indexed(access, PROBE).await?;
    let before = before.ok_or_else(|| Broken::fail(format!("{PROBE} is not in index {INDEX}")))?;
    let begin = Instant::now();
    let id = order_id(&guest.place(&format!("check-{}", nonce()), RECIPIENT, 1).await?)?;
    let seen = async {
        let wanted = match &ledger {
            Some(ledger) => ledger.stock().await?,
            // Of a database that cannot be read here, only that it is a newer one.
            None => Stock { version: before.version + 1, ..before },
        };
        let now = newer(access, wanted.version).await?;
        if ledger.is_some() && now.version == wanted.version && now.on_hand != wanted.on_hand {
            return Err(Broken::fail(format!(
                "version {} of {PROBE} has {} pieces in the index and {} in the database",
                now.version, now.on_hand, wanted.on_hand
            )));
        }
        let (from, Stock { version, on_hand, .. }, took) = (before.version, now, begin.elapsed().as_millis());
        Ok(format!(
            "an order changed {PROBE} in the index from version {from} to {version}, {on_hand} pieces, after {took} ms"
        ))
    };
    guest.taken_back(&id, seen).await
}

async fn newer(access: &Access<'_>, version: i64) -> Result<Stock, Broken> {
    let waited = wait::until(INDEXED_LIMIT, EVERY, || async {
        match indexed(access, PROBE).await {
            Ok(Some(now)) if now.version >= version => Look::Done(now),
            Ok(now) => {
                let found = now.map_or_else(|| "none".to_owned(), |now| now.version.to_string());
                Look::Pending(format!("the index has version {found} of {PROBE}, expected {version}"))
            }
            Err(broken) => Look::Broken(broken),
        }
    });
    waited.await.map_err(|error| broken("order", error))
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
    Ok(indexed(access, sku).await?.map(|stock| stock.on_hand))
}

async fn indexed(access: &Access<'_>, sku: &str) -> Result<Option<Stock>, Broken> {
    let query = json!({ "size": 1, "version": true, "query": { "term": { "sku": sku } } });
    let found: Value = elasticsearch::search(access, INDEX, &query).await?;
    let hit = &found["hits"]["hits"][0];
    let (Some(on_hand), Some(version)) = (hit["_source"]["on_hand"].as_i64(), hit["_version"].as_i64()) else {
        return Ok(None);
    };
    Ok(Some(Stock { on_hand, version, changes: 0 }))
}

fn broken(what: &str, error: WaitError<Broken>) -> Broken {
    match error {
        WaitError::Broken(broken) => broken,
        WaitError::TimedOut { after, last } => {
            Broken::fail(format!("{what}: not within {} s: {last}", after.as_secs()))
        }
    }
}
