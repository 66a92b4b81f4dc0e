//! Proof that what backends put there is what customers see, and that nobody else puts anything there.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use reqwest::Method;

use super::{NAME, PASSWORD, PORT, USER, member};
use crate::app::{self, Contract};
use crate::checks::{self, nonce, unlimited};
use crate::http::{Reply, Site};
use crate::nginx;

/// The smallest there is: its first bytes are all that the shop looks at.
const PICTURE: &[u8] = b"\x89PNG\r\n\x1a\n of a check";
const LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    if access.stack.workload(&member()).is_none() {
        return Vec::new();
    }
    let mut findings = vec![
        check(NAME, "process", Level::L0, async { checks::process(access, &member()) }).await,
        check(NAME, "health", Level::L1, health(access)).await,
        check(NAME, "picture", Level::L2, picture(access)).await,
        check(NAME, "closed", Level::L2, closed(access)).await,
    ];
    if let Ok(contract) = Contract::read(access.stack)
        && contract.is_shop
    {
        findings.push(check(NAME, "reached", Level::L3, reached(access, &contract)).await);
    }
    findings
}

async fn health(access: &Access<'_>) -> Result<String, Broken> {
    private(access).await?.get("/health").await.map_err(Broken::Fail)?.expect(200, "GET /health")?;
    Ok("GET /health: 200".to_owned())
}

async fn private(access: &Access<'_>) -> Result<Site, Broken> {
    Site::of(access, &member(), PORT, LIMIT).await.map_err(Broken::Unknown)
}

/// By the port of the backends, as a backend writes.
async fn write(access: &Access<'_>, method: Method, path: &str) -> Result<Reply, Broken> {
    let password = access.secret(PASSWORD).await.map_err(|error| Broken::Unknown(error.to_string()))?;
    let site = private(access).await?;
    let what = format!("{method} {path}");
    let request = || site.request(method.clone(), path).basic_auth(USER, Some(&password)).body(body(&method));
    unlimited(&what, request).await
}

fn body(method: &Method) -> Vec<u8> {
    if *method == Method::PUT { PICTURE.to_vec() } else { Vec::new() }
}

async fn picture(access: &Access<'_>) -> Result<String, Broken> {
    let path = format!("/media/provisioner/{}.png", nonce());
    write(access, Method::PUT, &path).await?.expect(201, &format!("PUT {path}"))?;
    let seen = seen(access, &path).await;
    // Whatever was seen, nothing of the check stays.
    let removed = write(access, Method::DELETE, &path).await;
    let evidence = seen?;
    removed?.expect(204, &format!("DELETE {path}"))?;
    let what = format!("GET {path} after its removal");
    get(&nginx::customers(access).await?, &path).await?.expect(404, &what)?;
    Ok(evidence)
}

async fn get(site: &Site, path: &str) -> Result<Reply, Broken> {
    unlimited(&format!("GET {path}"), || site.request(Method::GET, path)).await
}

async fn seen(access: &Access<'_>, path: &str) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    let what = format!("GET {path}");
    let reply = get(&site, path).await?.expect(200, &what)?;
    if reply.body != PICTURE {
        return Err(Broken::fail(format!("{what}: {} other bytes than were put there", reply.body.len())));
    }
    for (header, expected) in [
        ("content-type", "image/png"),
        ("cache-control", "public, max-age=3600"),
        ("x-content-type-options", "nosniff"),
    ] {
        let found = reply.header(header);
        if found != expected {
            return Err(Broken::fail(format!("{what}: {header} {found:?}, expected {expected}")));
        }
    }
    let etag = reply.header("etag").to_owned();
    let request = || site.request(Method::GET, path).header("if-none-match", &etag);
    unlimited(&what, request).await?.expect(304, &format!("{what} with If-None-Match: {etag}"))?;
    Ok("what is put there is served from outside as image/png for an hour, and is gone once it is removed".to_owned())
}

/// Neither by the entrance nor by the private port, unless with the password; and nobody lists what is there.
async fn closed(access: &Access<'_>) -> Result<String, Broken> {
    let path = format!("/media/provisioner/{}.png", nonce());
    let entrance = nginx::customers(access).await?;
    let port = private(access).await?;
    for (site, whose, expected) in [(&entrance, "the entrance", 405), (&port, "the private port", 401)] {
        for method in [Method::PUT, Method::DELETE] {
            let what = format!("{method} {path} by {whose} without a password");
            let request = || site.request(method.clone(), &path).body(body(&method));
            unlimited(&what, request).await?.expect(expected, &what)?;
        }
    }
    for hidden in ["/media/", "/media/.drafts", "/media/provisioner/"] {
        get(&entrance, hidden).await?.expect(404, &format!("GET {hidden}"))?;
    }
    get(&entrance, &path).await?.expect(404, &format!("GET {path}, which nobody put there"))?;
    Ok("PUT and DELETE: 405 by the entrance, 401 without the password; no listing".to_owned())
}

/// As every backend sees it.
async fn reached(access: &Access<'_>, contract: &Contract) -> Result<String, Broken> {
    let mut backends = Vec::new();
    for backend in app::backends(access.stack).map(|workload| &workload.member) {
        let site = Site::of(access, backend, contract.port, LIMIT).await.map_err(Broken::Unknown)?;
        let what = format!("GET /readyz of {backend}");
        // Ready or not, it says whom it misses.
        let found = get(&site, "/readyz").await?.json()?;
        let degraded = found["degraded"].as_array().ok_or_else(|| Broken::fail(format!("{what}: no list degraded")))?;
        if degraded.iter().any(|system| system == NAME) {
            return Err(Broken::fail(format!("{what}: {NAME} is among degraded, expected it to be reached")));
        }
        backends.push(backend.as_str());
    }
    Ok(format!("by {}", backends.join(", ")))
}
