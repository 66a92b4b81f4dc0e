//! Proof that the app works: alone, behind NGINX, and, for the shop, with real orders of its probe product by a guest and by
//! a customer of the checks' own.

use std::time::Duration;

use provisioner_core::component::{Access, NotReady};
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::name::Member;
use provisioner_core::stack::Workload;
use provisioner_core::wait::{self, Look, WaitError};
use reqwest::Method;

use super::{Contract, NAME, account, orders, search, shop, workers};
use crate::checks::{self, nonce, unlimited};
use crate::http::{Reply, Site};
use crate::nginx;

/// Can be read and ordered, is never listed, and never runs out.
pub(super) const PROBE: &str = "PROBE-0";
const RETRY_LIMIT: Duration = Duration::from_secs(5);
const RETRY_EVERY: Duration = Duration::from_millis(300);

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    let Some(first) = super::backends(access.stack).next().map(|workload| workload.member.clone()) else {
        return Vec::new();
    };
    let contract = match Contract::read(access.stack) {
        Ok(contract) => contract,
        Err(error) => return vec![check(NAME, "contract", Level::L0, async { Err(Broken::Unknown(error)) }).await],
    };
    let processes = async {
        let mut findings = Vec::new();
        for backend in super::backends(access.stack).map(|workload| &workload.member) {
            let process = async { checks::process(access, backend) };
            findings.push(check(NAME, &format!("process-{backend}"), Level::L0, process).await);
            let health = health(access, backend, &contract);
            findings.push(check(NAME, &format!("health-{backend}"), Level::L1, health).await);
        }
        for worker in workers::members(access.stack) {
            let member = &worker.member;
            let process = async { checks::process(access, member) };
            findings.push(check(NAME, &format!("process-{member}"), Level::L0, process).await);
            findings.push(check(NAME, &format!("health-{member}"), Level::L1, works(access, worker)).await);
        }
        let through = health_through_nginx(access, &contract);
        findings.push(check(NAME, "health-through-nginx", Level::L2, through).await);
        findings
    };
    if !contract.is_shop {
        return processes.await;
    }
    // Two at a time: more would have a stack that has just come up measured by how it bears its own checks.
    let (mut findings, others) = tokio::join!(
        async {
            let mut findings = processes.await;
            findings.push(check(NAME, "list", Level::L2, list(access)).await);
            findings.push(check(NAME, "read-path", Level::L2, read_path(access, &first, &contract)).await);
            findings.push(check(NAME, "probe-hidden", Level::L2, probe_hidden(access)).await);
            findings.extend(orders::verify(access).await);
            findings.extend(search::verify(access).await);
            findings.extend(shop::verify(access).await);
            findings
        },
        async {
            let mut findings = account::verify(access).await;
            findings.extend(orders::verify_mail(access).await);
            findings
        },
    );
    findings.extend(others);
    findings
}

async fn works(access: &Access<'_>, worker: &Workload) -> Result<String, Broken> {
    workers::ready(access, worker).await.map_err(|NotReady(reason)| Broken::Fail(reason))?;
    Ok(workers::proof(worker))
}

async fn health(access: &Access<'_>, backend: &Member, contract: &Contract) -> Result<String, Broken> {
    let site = backend_site(access, backend, contract).await?;
    get(&site, &contract.health).await?.expect(200, &format!("GET {} of {backend}", contract.health))?;
    Ok(format!("GET {}: 200", contract.health))
}

async fn backend_site(access: &Access<'_>, backend: &Member, contract: &Contract) -> Result<Site, Broken> {
    Site::of(access, backend, contract.port, Duration::from_secs(5)).await.map_err(Broken::Unknown)
}

pub(super) async fn get(site: &Site, path: &str) -> Result<Reply, Broken> {
    unlimited(&format!("GET {path}"), || site.request(Method::GET, path)).await
}

async fn health_through_nginx(access: &Access<'_>, contract: &Contract) -> Result<String, Broken> {
    let site = checks::nginx(access, nginx::CHECKS).await?;
    let what = format!("GET {} through NGINX", contract.health);
    get(&site, "/-/backend").await?.expect(200, &what)?;
    Ok(format!("{what}: 200"))
}

/// As customers see it.
async fn list(access: &Access<'_>) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    let reply = get(&site, "/api/v1/products?limit=20").await?.expect(200, "GET /api/v1/products")?;
    let skus = skus(&reply)?;
    if skus.is_empty() {
        return Err(Broken::fail("GET /api/v1/products: no items, expected at least 1"));
    }
    Ok(format!("{} products from outside, the first is {}", skus.len(), skus[0]))
}

/// A query that nobody asked before comes from the database, and from Redis when it is asked again.
async fn read_path(access: &Access<'_>, backend: &Member, contract: &Contract) -> Result<String, Broken> {
    let site = backend_site(access, backend, contract).await?;
    // The app reads over the route's way for reads, wherever that leads.
    let expected = "replica, then redis";
    // A backend goes round a store that was away and tries it again once a second.
    let settled = wait::until(RETRY_LIMIT, RETRY_EVERY, || async {
        let path = format!("/api/v1/products?limit=1&brand={}", nonce());
        let mut sources = Vec::new();
        for _ in 0..2 {
            match get(&site, &path).await.and_then(|reply| reply.expect(200, &format!("GET {path}"))) {
                Ok(reply) => sources.push(reply.header("x-source").to_owned()),
                Err(broken) => return Look::Broken(broken),
            }
        }
        let sources = sources.join(", then ");
        if sources == expected { Look::Done(()) } else { Look::Pending(sources) }
    });
    match settled.await {
        Ok(()) => Ok(format!("a listing came from {expected}")),
        Err(WaitError::TimedOut { last, .. }) => {
            Err(Broken::fail(format!("a listing came from {last}, expected {expected}")))
        }
        Err(WaitError::Broken(broken)) => Err(broken),
    }
}

async fn probe_hidden(access: &Access<'_>) -> Result<String, Broken> {
    let site = checks::nginx(access, nginx::CHECKS).await?;
    let path = format!("/api/v1/products/{PROBE}");
    let probe = get(&site, &path).await?.expect(200, &format!("GET {path}"))?.json()?;
    let brand = probe["brand"].as_str().unwrap_or_default();
    let listed = get(&site, &format!("/api/v1/products?limit=100&brand={brand}")).await?;
    if skus(&listed.expect(200, "GET /api/v1/products")?)?.iter().any(|sku| sku == PROBE) {
        return Err(Broken::fail(format!("{PROBE} is listed, expected it to be hidden")));
    }
    Ok(format!("{PROBE} can be read and is not listed"))
}

fn skus(reply: &Reply) -> Result<Vec<String>, Broken> {
    let page = reply.json()?;
    let items = page["items"].as_array().ok_or_else(|| Broken::fail("a listing has no items"))?;
    Ok(items.iter().filter_map(|item| item["sku"].as_str()).map(str::to_owned).collect())
}
