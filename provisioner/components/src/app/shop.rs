//! Proof of what the shop has besides listing and ordering: caching by name, suggestions, closed doors, cancelling.

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use reqwest::Method;
use serde_json::{Value, json};

use super::NAME;
use super::search::word;
use super::verify::{PROBE, get, order_id};
use crate::checks::{self, nonce, unlimited};
use crate::nginx;

const LIST: &str = "/api/v1/products?limit=1";
/// What belongs to an account, and what is for staff.
const CLOSED: [&str; 5] =
    ["/api/v1/me", "/api/v1/cart", "/api/v1/orders", "/api/v1/admin/orders", "/api/v1/admin/audit"];
const DOCUMENT: &str = "/openapi.json";

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    vec![
        check(NAME, "not-modified", Level::L2, not_modified(access)).await,
        check(NAME, "suggest", Level::L2, suggest(access)).await,
        check(NAME, "accounts-closed", Level::L2, accounts_closed(access)).await,
        check(NAME, "documented", Level::L2, documented(access)).await,
        check(NAME, "webhooks-closed", Level::L2, webhooks_closed(access)).await,
        check(NAME, "order-cancel", Level::L2, cancel(access)).await,
    ]
}

/// Who has an answer already is told so, and gets no body.
async fn not_modified(access: &Access<'_>) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    let known = get(&site, LIST).await?.expect(200, &format!("GET {LIST}"))?;
    let etag = known.header("etag").to_owned();
    if etag.is_empty() {
        return Err(Broken::fail(format!("GET {LIST}: no ETag")));
    }
    let what = format!("GET {LIST} with If-None-Match: {etag}");
    let request = || site.request(Method::GET, LIST).header("if-none-match", &etag);
    let again = unlimited(&what, request).await?.expect(304, &what)?;
    if !again.text().is_empty() {
        return Err(Broken::fail(format!("{what}: a body, expected none")));
    }
    Ok(format!("{what}: 304"))
}

/// By the beginning of a word of a product's name.
async fn suggest(access: &Access<'_>) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    let listed = get(&site, LIST).await?.expect(200, &format!("GET {LIST}"))?.json()?;
    let begun: String = word(listed["items"][0]["name"].as_str().unwrap_or_default()).chars().take(4).collect();
    let path = format!("/api/v1/search/suggest?q={begun}");
    let found = get(&site, &path).await?.expect(200, &format!("GET {path}"))?.json()?;
    match found["products"].as_array().map_or(0, Vec::len) {
        0 => Err(Broken::fail(format!("GET {path}: no product, expected some"))),
        count => Ok(format!("{begun:?}: {count} products")),
    }
}

async fn accounts_closed(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, nginx::CHECKS).await?;
    for path in CLOSED {
        get(&site, path).await?.expect(401, &format!("GET {path} by nobody"))?;
    }
    Ok(format!("{}: 401 to nobody", CLOSED.join(", ")))
}

/// The document names what this release of the app serves.
async fn documented(access: &Access<'_>) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    let document = get(&site, DOCUMENT).await?.expect(200, &format!("GET {DOCUMENT}"))?.json()?;
    let paths = document["paths"].as_object().cloned().unwrap_or_default();
    let missing: Vec<&str> = CLOSED.into_iter().filter(|path| !paths.contains_key(*path)).collect();
    if !missing.is_empty() {
        return Err(Broken::fail(format!("{DOCUMENT} does not have {}", missing.join(", "))));
    }
    let operations: usize = paths.values().filter_map(Value::as_object).map(serde_json::Map::len).sum();
    Ok(format!("{operations} operations"))
}

/// Whoever has no signature of a provider is turned away, and whoever has not even a known provider too.
async fn webhooks_closed(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, nginx::CHECKS).await?;
    let path = "/api/v1/webhooks/provisioner-check";
    let what = format!("POST {path} without a signature");
    let reply = unlimited(&what, || site.request(Method::POST, path).json(&json!({}))).await?;
    match reply.status {
        401 | 404 => Ok(format!("{what}: {}", reply.status)),
        status => Err(Broken::fail(format!("{what}: {status}, expected 401 or 404"))),
    }
}

/// Twice, as somebody who got no answer would.
async fn cancel(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, nginx::CHECKS).await?;
    let key = format!("check-{}", nonce());
    let body = json!({ "email": "check@provisioner.invalid", "items": [{ "sku": PROBE, "qty": 1 }] });
    let request = || site.request(Method::POST, "/api/v1/orders").header("idempotency-key", &key).json(&body);
    let what = "POST /api/v1/orders";
    let placed = order_id(&unlimited(what, request).await?.expect(201, what)?)?;
    let path = format!("/api/v1/orders/{placed}/cancel");
    let what = format!("POST {path}");
    let mut states = Vec::new();
    for _ in 0..2 {
        let cancelled = unlimited(&what, || site.request(Method::POST, &path)).await?.expect(200, &what)?.json()?;
        states.push(cancelled["status"].clone());
    }
    if states != [Value::from("cancelled"), Value::from("cancelled")] {
        return Err(Broken::fail(format!("{what}, twice: {states:?}, expected \"cancelled\"")));
    }
    Ok(format!("order {placed} of {PROBE} was placed and cancelled, twice"))
}
