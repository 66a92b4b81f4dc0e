//! An alert goes in at one end and comes out at the other.

use std::time::{Duration, Instant};

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;

use super::super::Program;
use super::api::{get, site, sum};
use super::targets::settled;
use crate::checks::nonce;
use crate::http::{self, Site};

/// Told every minute, looked at every half; whoever was away for a moment is told at the next one.
const WATCHDOG_LIMIT: f64 = 150.0;
/// Long past, so that it does not matter how this machine's clock and the engine's differ.
const BEGAN: &str = "2000-01-01T00:00:00Z";
const OVER: &str = "2000-01-01T00:00:01Z";

#[derive(Deserialize)]
struct Pages {
    pages: Vec<Page>,
}

#[derive(Deserialize)]
struct Page {
    status: String,
    seconds_ago: f64,
}

/// What counts as an alert's way out: the stack's own page, else what Alertmanager says of somebody's own.
fn has_pages(access: &Access<'_>) -> bool {
    access.stack.workload(&Program::Pages.member()).is_some()
}

/// Nobody is paged: alerts with this label go to the webhook alone.
async fn post(alertmanager: &Site, nonce: &str, is_over: bool) -> Result<(), Broken> {
    let mut alert = json!({
        "labels": {"alertname": "Synthetic", "synthetic": "true", "severity": "none", "nonce": nonce},
        "annotations": {"summary": "A check that alerts arrive"},
        "startsAt": BEGAN,
    });
    if is_over {
        alert["endsAt"] = json!(OVER);
    }
    let path = "/api/v2/alerts";
    let request = alertmanager.request(Method::POST, path).json(&json!([alert]));
    http::reply(request).await.map_err(Broken::Unknown)?.expect(200, &format!("POST {path}"))?;
    Ok(())
}

/// An alert of the check's own arrives, and so does its end.
pub(super) async fn synthetic(access: &Access<'_>) -> Result<String, Broken> {
    let (alertmanager, nonce) = (site(access, Program::Alertmanager).await?, nonce());
    let begin = Instant::now();
    if !has_pages(access) {
        return delivered(&alertmanager, &nonce).await;
    }
    let pages = site(access, Program::Pages).await?;
    let arrived = async {
        post(&alertmanager, &nonce, false).await?;
        told(&pages, &nonce, "firing").await?;
        let fired = begin.elapsed();
        post(&alertmanager, &nonce, true).await?;
        told(&pages, &nonce, "resolved").await?;
        Ok(fired)
    };
    let arrived: Result<Duration, Broken> = arrived.await;
    // Whatever came of it: the page is for people.
    let removed = http::reply(pages.request(Method::DELETE, &format!("/api/pages?nonce={nonce}"))).await;
    let fired = arrived?;
    removed.map_err(Broken::Unknown)?.expect(200, "DELETE /api/pages")?;
    Ok(format!("fired after {} ms, resolved after {} ms", fired.as_millis(), begin.elapsed().as_millis()))
}

async fn told(pages: &Site, nonce: &str, status: &str) -> Result<(), Broken> {
    let path = format!("/api/pages?nonce={nonce}");
    settled(|| async {
        let found = pages_of(pages, &path).await?;
        let is_told = found.iter().any(|page| page.status == status);
        Ok(if is_told { Vec::new() } else { vec![format!("the alert was posted, no page says that it is {status}")] })
    })
    .await
}

async fn pages_of(pages: &Site, path: &str) -> Result<Vec<Page>, Broken> {
    let reply = get(pages, path).await?;
    let found: Pages =
        serde_json::from_slice(&reply.body).map_err(|error| Broken::fail(format!("GET {path}: {error}")))?;
    Ok(found.pages)
}

/// Somebody's own receiver has said yes to one more than before, and to none of them no.
async fn delivered(alertmanager: &Site, nonce: &str) -> Result<String, Broken> {
    let counted = async || -> Result<(f64, f64), Broken> {
        let metrics = get(alertmanager, "/metrics").await?.text();
        let of_webhook: String = metrics
            .lines()
            .filter(|line| line.contains("integration=\"webhook\""))
            .flat_map(|line| [line, "\n"])
            .collect();
        let sum = |name| sum(&of_webhook, name).unwrap_or(0.0);
        Ok((sum("alertmanager_notifications_total"), sum("alertmanager_notifications_failed_total")))
    };
    let (sent_before, failed_before) = counted().await?;
    post(alertmanager, nonce, false).await?;
    settled(|| async {
        let (sent, failed) = counted().await?;
        if failed > failed_before {
            return Err(Broken::fail("the webhook of the manifest refuses notifications"));
        }
        Ok(if sent > sent_before { Vec::new() } else { vec!["the alert was posted and not sent on".to_owned()] })
    })
    .await?;
    post(alertmanager, nonce, true).await?;
    Ok("an alert was taken by the manifest's webhook".to_owned())
}

/// The one alert that always fires was told lately, so the next one would be too.
pub(super) async fn watchdog(access: &Access<'_>) -> Result<String, Broken> {
    if !has_pages(access) {
        let alertmanager = site(access, Program::Alertmanager).await?;
        return watched(&alertmanager).await;
    }
    let pages = site(access, Program::Pages).await?;
    let seen = async || -> Result<Option<f64>, Broken> {
        let found = pages_of(&pages, "/api/pages?alertname=Watchdog&status=firing").await?;
        Ok(found.iter().map(|page| page.seconds_ago).reduce(f64::min))
    };
    settled(|| async {
        Ok(match seen().await? {
            Some(seconds) if seconds <= WATCHDOG_LIMIT => Vec::new(),
            Some(seconds) => vec![format!("last told {seconds:.0} s ago, expected at most {WATCHDOG_LIMIT:.0}")],
            None => vec!["it was never told".to_owned()],
        })
    })
    .await?;
    let seconds = seen().await?.unwrap_or_default();
    Ok(format!("told {:.1} s ago", Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs_f64()))
}

/// Alertmanager holds it, so Prometheus goes on telling of it.
async fn watched(alertmanager: &Site) -> Result<String, Broken> {
    let path = "/api/v2/alerts?active=true&filter=alertname%3D%22Watchdog%22";
    settled(|| async {
        let found = get(alertmanager, path).await?.json()?;
        let is_there = found.as_array().is_some_and(|alerts| !alerts.is_empty());
        Ok(if is_there { Vec::new() } else { vec!["Alertmanager does not hold it".to_owned()] })
    })
    .await?;
    Ok("Alertmanager holds it".to_owned())
}
