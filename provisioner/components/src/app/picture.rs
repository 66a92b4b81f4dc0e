//! A picture as the shop's staff uploads one and its customers see it. It takes an administrator, so it is for stacks that
//! are thrown away.

use provisioner_core::component::Access;
use provisioner_core::failure::Failure;
use provisioner_core::finding::Broken;
use reqwest::Method;

use super::session::Session;
use super::verify::{PROBE, get};
use super::{SHOP, backends};
use crate::checks::{nonce, unlimited};
use crate::http::Site;
use crate::nginx;

/// By the shop's own door, and back by the entrance.
pub(super) async fn uploaded(access: &Access<'_>) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    let administrator = administrator(access, &site).await?;
    // Never seen before, so that it is not there already.
    let picture = format!("GIF89a {}", nonce());
    let path = format!("/api/v1/admin/products/{PROBE}/media/0");
    let what = format!("PUT {path}");
    let request = || site.request(Method::PUT, &path).headers(administrator.headers()).body(picture.clone());
    let medium = unlimited(&what, request).await?.expect(200, &what)?.json()?;
    let url = medium["url"].as_str().ok_or_else(|| Broken::fail(format!("{what}: no url")))?;
    let seen = get(&site, url).await?.expect(200, &format!("GET {url}"))?;
    if seen.text() != picture {
        return Err(Broken::fail(format!("GET {url}: other bytes than were uploaded")));
    }
    let what = format!("DELETE {path}");
    administrator.ask(Method::DELETE, &path, None).await?.expect(204, &what)?;
    Ok(format!("a picture was uploaded and seen at {url}"))
}

/// Somebody who may upload.
async fn administrator(access: &Access<'_>, site: &Site) -> Result<Session, Broken> {
    let (email, password) = (format!("smoke-{}@provisioner.invalid", nonce()), nonce());
    appoint(access, &email, &password).await.map_err(|failure| Broken::Unknown(failure.chain()))?;
    Session::log_in(access, site.clone(), &email, &password).await
}

/// By the shop's own command, as an operator does.
async fn appoint(access: &Access<'_>, email: &str, password: &str) -> Result<(), Failure> {
    let backend = backends(access.stack).next().ok_or_else(|| Failure::new("the stack has no backend"))?;
    let argv = [SHOP, "admin", email].map(str::to_owned);
    let argv = access.engine.in_environment(backend, &argv);
    let input = Some(format!("{password}\n").into());
    let ended = access.engine.exec(&backend.member, &argv, input).await?.finish().await?;
    if ended.exit_code == 0 {
        return Ok(());
    }
    let failure = format!("app admin in {}: exit code {}, expected 0", backend.member, ended.exit_code);
    Err(Failure::new(failure).output(ended.stdout + &ended.stderr))
}
