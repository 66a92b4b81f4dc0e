//! Proof that NGINX does what its files say, mostly at the listener for checks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use reqwest::Method;
use tokio::time::Instant;

use super::reload::upstream;
use super::{CHECKS, NAME, STATUS, member, tls};
use crate::app::{self, Contract};
use crate::checks::{self, nonce, unlimited};
use crate::http::{Reply, Site};

const SECURITY_HEADERS: [&str; 8] = [
    "x-request-id",
    "x-content-type-options",
    "x-frame-options",
    "referrer-policy",
    "content-security-policy",
    "permissions-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
];

/// One path a location.
const PATHS: [&str; 13] = [
    "/",
    "/static/index.html",
    "/media/-/nowhere",
    "/api/v1/products?limit=1",
    "/api/v1/products/PROBE-0",
    "/api/v1/orders",
    "/api/v1/admin/products/PROBE-0/media/0",
    "/api/-/nowhere",
    "/admin/-/nowhere",
    "/openapi.json",
    "/docs",
    "/-/backend",
    "/-/nowhere",
];

/// More requests than this are no check but a load test.
const BURST_MAX: u32 = 3000;
const PARALLEL: usize = 64;
const SPREAD_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    if access.stack.workload(&member()).is_none() {
        return Vec::new();
    }
    let mut findings = vec![
        check(NAME, "process", Level::L0, async { checks::process(access, &member()) }).await,
        check(NAME, "health", Level::L1, health(access)).await,
        check(NAME, "static", Level::L2, static_files(access)).await,
        check(NAME, "security-headers", Level::L2, security_headers(access)).await,
        check(NAME, "request-id", Level::L2, request_id(access)).await,
        check(NAME, "gzip", Level::L2, gzip(access)).await,
    ];
    findings.extend(tls::verify(access).await);
    let is_shop = Contract::read(access.stack).is_ok_and(|contract| contract.is_shop);
    if is_shop {
        findings.push(check(NAME, "catalogue-cache", Level::L2, catalogue_cache(access)).await);
    }
    findings.push(check(NAME, "spread", Level::L3, spread(access)).await);
    // Last: it uses up what the listener for checks allows.
    findings.push(check(NAME, "rate-limit", Level::L2, rate_limit(access, is_shop)).await);
    findings
}

async fn get(site: &Site, path: &str) -> Result<Reply, Broken> {
    unlimited(&format!("GET {path}"), || site.request(Method::GET, path)).await
}

async fn health(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, STATUS).await?;
    get(&site, "/health").await?.expect(200, "GET /health")?;
    Ok("GET /health: 200".to_owned())
}

async fn static_files(access: &Access<'_>) -> Result<String, Broken> {
    let site = tls::customers(access).await?;
    let front = get(&site, "/").await?.expect(302, "GET /")?;
    let expected = "/static/index.html";
    if front.header("location") != expected {
        return Err(Broken::fail(format!("GET / leads to {:?}, expected {expected}", front.header("location"))));
    }
    let reply = get(&site, expected).await?.expect(200, &format!("GET {expected}"))?;
    if Some(reply.text().as_str()) != content(access, &format!("/srv{expected}")) {
        return Err(Broken::fail(format!("GET {expected}: other content than the stack's file /srv{expected}")));
    }
    Ok("/ leads to the landing page, which is served as it is".to_owned())
}

fn content<'a>(access: &Access<'a>, path: &str) -> Option<&'a str> {
    let files = &access.stack.workload(&member())?.files;
    files.iter().find(|file| file.path == path).map(|file| file.content.masked())
}

async fn security_headers(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, CHECKS).await?;
    for path in PATHS {
        let reply = get(&site, path).await?;
        has_security_headers(&reply, &format!("GET {path}"))?;
    }
    let public = tls::customers(access).await?;
    let reply = get(&public, "/-/backend").await?.expect(404, "GET /-/backend by the customers' port")?;
    has_security_headers(&reply, "GET /-/backend by the customers' port")?;
    if reply.headers.contains_key("x-upstream") {
        return Err(Broken::fail("customers are told which backend answered"));
    }
    Ok(format!("{} headers on each of {} locations", SECURITY_HEADERS.len(), PATHS.len()))
}

fn has_security_headers(reply: &Reply, what: &str) -> Result<(), Broken> {
    for name in SECURITY_HEADERS {
        let found = reply.headers.get_all(name).iter().count();
        if found != 1 || reply.header(name).is_empty() {
            return Err(Broken::fail(format!("{what}: {} with {name} {found} times, expected once", reply.status)));
        }
    }
    Ok(())
}

async fn request_id(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, CHECKS).await?;
    let asked = async |id: &str| {
        let request = || site.request(Method::GET, "/-/backend").header("x-request-id", id);
        let reply = unlimited("GET /-/backend", request).await?;
        Ok::<_, Broken>(reply.header("x-request-id").to_owned())
    };
    let ours = nonce();
    let answered = asked(&ours).await?;
    if answered != ours {
        return Err(Broken::fail(format!("request id {ours} came back as {answered:?}")));
    }
    let replaced = asked("a\"b c").await?;
    if replaced.len() != 32 || !replaced.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Broken::fail(format!("an unusable request id came back as {replaced:?}, expected a fresh one")));
    }
    Ok("a request id is passed on, an unusable one is replaced".to_owned())
}

async fn gzip(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, CHECKS).await?;
    let path = "/static/index.html";
    let request = || site.request(Method::GET, path).header("accept-encoding", "gzip");
    let reply = unlimited(&format!("GET {path}"), request).await?.expect(200, path)?;
    let encoding = reply.header("content-encoding");
    if encoding != "gzip" || !reply.body.starts_with(&[0x1f, 0x8b]) {
        return Err(Broken::fail(format!("GET {path}: content-encoding {encoding:?}, expected gzip")));
    }
    Ok(format!("GET {path}: {} bytes of gzip", reply.body.len()))
}

async fn catalogue_cache(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, CHECKS).await?;
    let path = unique_listing();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let reply = get(&site, &path).await?.expect(200, &format!("GET {path}"))?;
        seen.push(reply.header("x-cache").to_owned());
    }
    let request = || site.request(Method::GET, &path).header("cookie", "session=check");
    let personal = unlimited(&format!("GET {path}"), request).await?;
    seen.push(personal.header("x-cache").to_owned());
    let expected = ["MISS", "HIT", "BYPASS"];
    if seen == expected {
        Ok(format!("{}; BYPASS with a session", expected[..2].join(", ")))
    } else {
        Err(Broken::fail(format!("x-cache {}, expected {}", seen.join(", "), expected.join(", "))))
    }
}

fn unique_listing() -> String {
    format!("/api/v1/products?limit=1&check={}", nonce())
}

async fn spread(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, CHECKS).await?;
    let expected: BTreeSet<IpAddr> = app::backends(access.stack)
        .filter_map(|backend| access.observed.workload(&backend.member)?.internal_ip)
        .collect();
    let declared = app::backends(access.stack).count();
    if expected.len() < declared {
        return Err(Broken::fail(format!("{} of {declared} backends have an address", expected.len())));
    }
    let mut seen = BTreeSet::new();
    let deadline = Instant::now() + SPREAD_LIMIT;
    // Several at once, and again: least_conn leaves out a backend that has more to do than the others.
    while seen != expected && Instant::now() < deadline {
        let asked = stream::iter(0..4 * declared).map(|_| site.get("/-/backend")).buffer_unordered(PARALLEL);
        for reply in asked.collect::<Vec<_>>().await {
            let reply = reply.map_err(|error| Broken::fail(format!("GET /-/backend: {error}")))?;
            seen.extend(upstream(reply.header("x-upstream")));
        }
    }
    if seen == expected {
        return Ok(format!("requests reach all {declared} backends"));
    }
    let list = |set: &BTreeSet<IpAddr>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(Broken::fail(format!("requests reach {}, expected {}", list(&seen), list(&expected))))
}

/// Only the listener for checks gets more than it allows; customers have counters of their own.
async fn rate_limit(access: &Access<'_>, is_shop: bool) -> Result<String, Broken> {
    let (rate, burst) =
        limits(access).ok_or_else(|| Broken::unknown("the rate limit cannot be read from NGINX's files"))?;
    // What a second refills, and some that must be refused.
    let count = burst.saturating_add(rate).saturating_add(20);
    if count > BURST_MAX {
        return Err(Broken::Unknown(format!("{count} requests would be needed, expected at most {BURST_MAX}")));
    }
    let site = checks::nginx(access, CHECKS).await?;
    // Of the shop's listing the first answer is cached, so that the others cost no backend anything.
    let path = if is_shop { unique_listing() } else { "/api/-/nowhere".to_owned() };
    get(&site, &path).await?;

    let start = Instant::now();
    let answers: Vec<Result<Reply, String>> =
        stream::iter(0..count).map(|_| site.get(&path)).buffer_unordered(PARALLEL).collect().await;
    let took = start.elapsed();
    let replies = answers.into_iter().collect::<Result<Vec<_>, _>>().map_err(Broken::Unknown)?;
    let refused: Vec<&Reply> = replies.iter().filter(|reply| reply.status == 429).collect();
    let Some(first) = refused.first() else { return Err(never_refused(count, rate, burst, took)) };
    has_security_headers(first, "a 429")?;
    if first.header("retry-after").is_empty() {
        return Err(Broken::fail("a 429 has no retry-after"));
    }

    let public = tls::customers(access).await?;
    match public.get(&unique_listing()).await {
        Ok(reply) if reply.status == 429 => {
            return Err(Broken::unknown(
                "customers from this address are limited as well, perhaps by their own requests",
            ));
        }
        Ok(_) => {}
        Err(error) => return Err(Broken::Unknown(error)),
    }
    Ok(format!(
        "{} of {count} requests got 429 (rate {rate}/s, burst {burst}), customers were not limited",
        refused.len()
    ))
}

fn never_refused(count: u32, rate: u32, burst: u32, took: Duration) -> Broken {
    let allowed = f64::from(burst) + 1.0 + f64::from(rate) * took.as_secs_f64();
    let evidence =
        format!("none of {count} requests in {} ms got 429 (rate {rate}/s, burst {burst})", took.as_millis());
    // Sent too slowly to be refused says nothing about the limit.
    if f64::from(count) > allowed { Broken::Fail(evidence) } else { Broken::Unknown(evidence) }
}

fn limits(access: &Access<'_>) -> Option<(u32, u32)> {
    let rate = number_after(content(access, "/etc/nginx/site/limits.conf")?, "rate=")?;
    // No burst is not written at all.
    let burst = number_after(content(access, "/etc/nginx/site/api-limit.conf")?, "burst=").unwrap_or(0);
    Some((rate, burst))
}

fn number_after(text: &str, key: &str) -> Option<u32> {
    let (_, rest) = text.split_once(key)?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_slow_is_not_too_many() {
        let second = Duration::from_secs(1);
        assert!(matches!(never_refused(170, 50, 100, second / 10), Broken::Fail(_)));
        assert!(matches!(never_refused(170, 50, 100, second * 3), Broken::Unknown(_)));
    }

    #[test]
    fn the_limits_are_read_as_they_were_written() {
        let text = "limit_req_zone $binary_remote_addr$server_port zone=api:10m rate=50r/s;";
        assert_eq!(number_after(text, "rate="), Some(50));
        assert_eq!(number_after("limit_req zone=api;", "burst="), None);
    }

    #[test]
    fn the_answering_backend_is_the_last_one_tried() {
        assert_eq!(upstream("10.0.0.5:8000, 10.0.0.6:8000"), Some([10, 0, 0, 6].into()));
        assert_eq!(upstream(""), None);
    }
}
