//! Proof that the encrypted entrance is what it should be.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::stack::{Resource, ResourceId, SecretSource, Stack};
use reqwest::Method;

use super::{HTTP, HTTPS, NAME, member};
use crate::certificates::{self, Trust};
use crate::checks;
use crate::http::Site;
use crate::tls::{self, OldVersion};

const LIMIT: Duration = Duration::from_secs(5);
/// Exists only where plain HTTP leads to HTTPS.
const REDIRECT: &str = "/etc/nginx/site/redirect.conf";

pub(super) fn is_only_way(stack: &Stack) -> bool {
    stack.workload(&member()).is_some_and(|nginx| nginx.files.iter().any(|file| file.path == REDIRECT))
}

/// The listener that customers use: plain unless HTTPS is the only way in.
pub(crate) async fn customers(access: &Access<'_>) -> Result<Site, Broken> {
    if !is_only_way(access.stack) {
        return checks::nginx(access, HTTP).await;
    }
    let trust = trust(access).await?;
    Site::tls(access, &member(), HTTPS, LIMIT, trust).await.map_err(Broken::Unknown)
}

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    if access.stack.workload(&member()).is_none_or(|nginx| nginx.port("https").is_none()) {
        return Vec::new();
    }
    let mut findings = vec![
        check(NAME, "tls", Level::L1, serves(access)).await,
        check(NAME, "tls-old-refused", Level::L1, old_refused(access)).await,
        check(NAME, "http2", Level::L2, http2(access)).await,
    ];
    if is_only_way(access.stack) {
        findings.push(check(NAME, "redirect", Level::L2, redirect(access)).await);
    }
    findings
}

/// Not one that the stack's own authority signed.
pub(crate) fn has_own_certificate(stack: &Stack) -> bool {
    let resource = stack.resource(&ResourceId::Secret(certificates::secret_of(NAME)));
    let Some(Resource::Secret(secret)) = resource else { return false };
    matches!(secret.source, SecretSource::Files { .. } | SecretSource::Kept { .. })
}

/// Somebody's own certificate is known by itself, one of the stack's by who signed it.
async fn trust(access: &Access<'_>) -> Result<Trust, Broken> {
    let secret = certificates::secret_of(NAME);
    let trust = if has_own_certificate(access.stack) {
        Trust::pinned(access, &secret).await
    } else {
        Trust::authority(access).await
    };
    trust.map_err(Broken::Unknown)
}

/// The first name that the certificate is for.
fn name(stack: &Stack) -> String {
    match stack.resource(&ResourceId::Secret(certificates::secret_of(NAME))) {
        Some(Resource::Secret(secret)) => match &secret.source {
            SecretSource::Certificate { names, .. } => names.first().cloned().unwrap_or_default(),
            _ => "localhost".to_owned(),
        },
        _ => "localhost".to_owned(),
    }
}

async fn serves(access: &Access<'_>) -> Result<String, Broken> {
    let name = name(access.stack).replace('*', "any");
    certificates::serves(access, &member(), HTTPS, &name, &trust(access).await?).await
}

async fn old_refused(access: &Access<'_>) -> Result<String, Broken> {
    let address = access.engine.address(&member(), HTTPS).await.map_err(|error| Broken::Unknown(error.to_string()))?;
    match tls::old_version(address, LIMIT).await.map_err(Broken::Unknown)? {
        OldVersion::Refused => Ok("TLS 1.1: refused".to_owned()),
        OldVersion::Accepted => Err(Broken::fail("TLS 1.1 is accepted, expected an alert")),
    }
}

async fn http2(access: &Access<'_>) -> Result<String, Broken> {
    let address = access.engine.address(&member(), HTTPS).await.map_err(|error| Broken::Unknown(error.to_string()))?;
    let mut config = trust(access).await?.client().map_err(Broken::Unknown)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = name(access.stack).replace('*', "any");
    let handshake = tls::handshake(address, &name, config, LIMIT).await.map_err(Broken::fail)?;
    match handshake.protocol.as_deref() {
        Some("h2") => Ok("HTTP/2 is chosen where a client offers it".to_owned()),
        found => Err(Broken::fail(format!("{} is chosen, expected h2", found.unwrap_or("no protocol")))),
    }
}

async fn redirect(access: &Access<'_>) -> Result<String, Broken> {
    let plain = checks::nginx(access, HTTP).await?;
    let path = "/api/v1/products?limit=1";
    let request = || plain.request(Method::GET, path).header("host", "shop.example");
    let reply = checks::unlimited("GET over plain HTTP", request).await?.expect(308, "GET over plain HTTP")?;
    let location = reply.header("location");
    if !location.starts_with("https://shop.example") || !location.ends_with(path) {
        return Err(Broken::fail(format!("plain HTTP leads to {location:?}, expected https://shop.example…{path}")));
    }
    let encrypted = customers(access).await?;
    let reply = checks::unlimited("GET over HTTPS", || encrypted.request(Method::GET, "/static/index.html")).await?;
    let found = reply.header("strict-transport-security");
    if found.is_empty() {
        return Err(Broken::fail("no strict-transport-security over HTTPS"));
    }
    Ok(format!("308 to HTTPS, where browsers are told {found}"))
}
