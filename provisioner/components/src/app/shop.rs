//! Proof of what the shop has besides listing, ordering and accounts: caching by name, suggestions, its document, webhooks.

use std::collections::BTreeSet;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use reqwest::Method;
use serde_json::{Value, json};

use super::NAME;
use super::search::{answered, word};
use super::verify::get;
use crate::checks::{self, nonce, unlimited};
use crate::{elasticsearch, nginx};

const LIST: &str = "/api/v1/products?limit=1";
const DOCUMENT: &str = "/openapi.json";
const OPERATIONS_MIN: usize = 40;
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
const WEBHOOK_SECRETS: &str = "APP_WEBHOOK_SECRETS";
/// 32 zeros: a signature as to its form.
const FORGED: &str = "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    vec![
        check(NAME, "not-modified", Level::L2, not_modified(access)).await,
        check(NAME, "suggest", Level::L2, suggest(access)).await,
        check(NAME, "documented", Level::L2, documented(access)).await,
        check(NAME, "webhooks", Level::L2, webhooks(access)).await,
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
    // A stack without a search engine has nothing that could be degraded.
    let found = match access.stack.has(elasticsearch::NAME) {
        true => answered(&site, &path).await?,
        false => get(&site, &path).await?.expect(200, &format!("GET {path}"))?.json()?,
    };
    match found["products"].as_array().map_or(0, Vec::len) {
        0 => Err(Broken::fail(format!("GET {path}: no product, expected some"))),
        count => Ok(format!("{begun:?}: {count} products")),
    }
}

/// The document names what this release of the app serves.
async fn documented(access: &Access<'_>) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    let document = get(&site, DOCUMENT).await?.expect(200, &format!("GET {DOCUMENT}"))?.json()?;
    let operations = operations(&document);
    if operations < OPERATIONS_MIN {
        return Err(Broken::fail(format!("{DOCUMENT}: {operations} operations, expected {OPERATIONS_MIN} or more")));
    }
    Ok(format!("{operations} operations"))
}

/// A path has its methods, and may have what all of them share.
fn operations(document: &Value) -> usize {
    let paths = document["paths"].as_object().into_iter().flat_map(serde_json::Map::values);
    let names = paths.filter_map(Value::as_object).flat_map(serde_json::Map::keys);
    names.filter(|name| METHODS.contains(&name.as_str())).count()
}

/// The route is there; and whoever signs for a provider with another key than the provider's is turned away.
async fn webhooks(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, nginx::CHECKS).await?;
    let path = "/api/v1/webhooks/provisioner-check";
    get(&site, path).await?.expect(405, &format!("GET {path}"))?;
    let providers = providers(access).await?;
    for provider in &providers {
        let path = format!("/api/v1/webhooks/{provider}");
        let what = format!("POST {path} with a signature by nobody's key");
        let request = || {
            let signed = site.request(Method::POST, &path).header("webhook-id", nonce());
            signed.header("webhook-timestamp", "0").header("webhook-signature", FORGED).json(&json!({}))
        };
        let refused = unlimited(&what, request).await?.expect(401, &what)?.json()?;
        if refused["code"] != "webhook_signature_wrong" {
            return Err(Broken::fail(format!("{what}: 401 {}, expected \"webhook_signature_wrong\"", refused["code"])));
        }
    }
    if providers.is_empty() {
        return Ok("the route is there, no provider is set up".to_owned());
    }
    let names: Vec<String> = providers.into_iter().collect();
    Ok(format!("the route is there; a forged signature of {}: 401", names.join(", ")))
}

/// Their names, from where the app has them. What a file of the image names is not seen here.
async fn providers(access: &Access<'_>) -> Result<BTreeSet<String>, Broken> {
    let Some(backend) = super::backends(access.stack).next() else { return Ok(BTreeSet::new()) };
    let given = if backend.secret_env.contains_key(WEBHOOK_SECRETS) {
        access
            .secret(&super::given_secret(WEBHOOK_SECRETS))
            .await
            .map_err(|failure| Broken::Unknown(failure.chain()))?
    } else {
        backend.env.get(WEBHOOK_SECRETS).cloned().unwrap_or_default()
    };
    Ok(names(&given))
}

/// `provider=secret`, apart by commas or white space.
fn names(given: &str) -> BTreeSet<String> {
    let pairs = given.split(|c: char| c == ',' || c.is_whitespace());
    pairs.filter_map(|pair| pair.split_once('=')).map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_and_what_they_share_is_not() {
        let document = json!({ "paths": {
            "/a": { "get": {}, "post": {}, "parameters": [], "summary": "" },
            "/b": { "delete": {} },
        } });
        assert_eq!((operations(&document), operations(&json!({}))), (3, 0));
    }

    #[test]
    fn providers_are_named_without_their_secrets() {
        assert_eq!(names("pay=whsec_abc=,\nlabel=b c=d"), BTreeSet::from(["pay", "label", "c"].map(str::to_owned)));
        assert_eq!(names(""), BTreeSet::new());
    }
}
