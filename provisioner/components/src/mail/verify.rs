//! Proof that mails are taken: by the sink with a mail of the check's own, by somebody's own server without one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::wait::{self, Look};
use reqwest::Method;
use rustls::RootCertStore;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio_rustls::TlsConnector;

use super::smtp::{self, Letter};
use super::{HTTP, NAME, SMTP, URL, member};
use crate::certificates::Trust;
use crate::checks::{self, nonce};
use crate::http::{self, Site};

const LIMIT: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(50);

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    if access.stack.workload(&member()).is_some() {
        return vec![
            check(NAME, "process", Level::L0, async { checks::process(access, &member()) }).await,
            check(NAME, "greeting", Level::L1, greeting(access)).await,
            check(NAME, "round-trip", Level::L2, round_trip(access)).await,
        ];
    }
    match own(access) {
        Some(server) => vec![check(NAME, "server", Level::L1, offers(&server)).await],
        None => Vec::new(),
    }
}

async fn address(access: &Access<'_>) -> Result<SocketAddr, Broken> {
    access.engine.address(&member(), SMTP).await.map_err(|error| Broken::Unknown(error.to_string()))
}

async fn greeting(access: &Access<'_>) -> Result<String, Broken> {
    smtp::greeting(address(access).await?).await.map_err(Broken::Fail)
}

/// A mail that lies in the sink.
#[derive(Debug, Deserialize)]
pub(crate) struct Arrived {
    id: String,
    pub(crate) subject: String,
    pub(crate) deliveries: u64,
}

#[derive(Deserialize)]
struct Listing {
    messages: Vec<Arrived>,
}

/// Waits for the one mail to `recipient` and removes it again, so that the sink holds no mail of a check.
pub(crate) async fn taken(access: &Access<'_>, recipient: &str, limit: Duration) -> Result<Arrived, Broken> {
    let site = Site::of(access, &member(), HTTP, LIMIT).await.map_err(Broken::Unknown)?;
    // Recipients of checks need no escaping.
    let path = format!("/api/messages?to={recipient}");
    let waited = wait::until(limit, EVERY, || async {
        let answered = site.get(&path).await;
        let reply = match answered {
            Ok(reply) if reply.status == 200 => reply,
            Ok(reply) => return Look::Broken(Unread(format!("GET {path}: {}, expected 200", reply.status))),
            Err(error) => return Look::Pending(error),
        };
        match serde_json::from_slice::<Listing>(&reply.body) {
            Ok(listing) => match listing.messages.into_iter().next() {
                Some(arrived) => Look::Done(arrived),
                None => Look::Pending(format!("no mail to {recipient}")),
            },
            Err(error) => Look::Broken(Unread(format!("GET {path}: {error}"))),
        }
    });
    let arrived = waited.await.map_err(Broken::fail)?;
    remove(&site, &arrived).await?.expect(204, "DELETE a mail")?;
    Ok(arrived)
}

/// Removes the mails to `recipient` that are there; one that another check removes first is gone, too.
pub(crate) async fn swept(access: &Access<'_>, recipient: &str) -> Result<(), Broken> {
    let site = Site::of(access, &member(), HTTP, LIMIT).await.map_err(Broken::Unknown)?;
    let path = format!("/api/messages?to={recipient}");
    let listed = site.get(&path).await.map_err(Broken::Unknown)?.expect(200, &format!("GET {path}"))?;
    let listing: Listing = serde_json::from_slice(&listed.body).map_err(Broken::fail)?;
    for arrived in &listing.messages {
        remove(&site, arrived).await?;
    }
    Ok(())
}

async fn remove(site: &Site, arrived: &Arrived) -> Result<http::Reply, Broken> {
    let path = format!("/messages/{}", arrived.id);
    http::reply(site.request(Method::DELETE, &path)).await.map_err(Broken::Unknown)
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unread(String);

async fn round_trip(access: &Access<'_>) -> Result<String, Broken> {
    let nonce = nonce();
    let to = format!("check-{nonce}@provisioner.invalid");
    let message_id = format!("{nonce}@provisioner.invalid");
    let letter = Letter { from: "check@provisioner.invalid", to: &to, message_id: &message_id, subject: "A check" };
    let address = address(access).await?;
    let begin = Instant::now();
    // The second one is the same mail: a worker that was killed between sending and noting it sends it again.
    for _ in 0..2 {
        smtp::send(address, &letter).await.map_err(Broken::Fail)?;
    }
    let arrived = taken(access, &to, LIMIT).await?;
    let millis = begin.elapsed().as_millis();
    match arrived.deliveries {
        2 => Ok(format!("a mail sent twice is there once, after {millis} ms, and was removed")),
        found => Err(Broken::fail(format!("a mail sent twice was counted {found} times, expected 2"))),
    }
}

/// Somebody's own server, as the app was told of it: the stack has no member for it.
#[derive(Debug, PartialEq, Eq)]
struct Server {
    host: String,
    port: u16,
    security: Security,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    None,
    StartTls,
    Tls,
}

fn own(access: &Access<'_>) -> Option<Server> {
    access.stack.workloads().find_map(|workload| parse(workload.secret_env.get(URL)?.masked()))
}

/// `smtp://user:MARKER@host:587?tls=required`; the marker for a password has an `@` itself.
fn parse(url: &str) -> Option<Server> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, port) = authority.rsplit('@').next()?.rsplit_once(':')?;
    let security = match (scheme, query) {
        ("smtps", _) => Security::Tls,
        (_, "tls=required") => Security::StartTls,
        _ => Security::None,
    };
    Some(Server { host: host.to_owned(), port: port.parse().ok()?, security })
}

/// No mail is sent, and nobody logs in. From the operator's machine, which may not be let through where the stack is.
async fn offers(server: &Server) -> Result<String, Broken> {
    let Server { host, port, security } = server;
    let unreached = |error: String| Broken::Unknown(format!("reach {host}:{port} from here: {error}"));
    let looked = tokio::time::timeout(LIMIT, tokio::net::lookup_host((host.as_str(), *port))).await;
    let mut found = match looked {
        Ok(found) => found.map_err(|error| unreached(error.to_string()))?,
        Err(_) => return Err(unreached("its name is not answered".to_owned())),
    };
    let address = found.next().ok_or_else(|| unreached("its name has no address".to_owned()))?;
    let stream = match tokio::time::timeout(LIMIT, smtp::connect(address)).await {
        Ok(stream) => stream.map_err(unreached)?,
        Err(_) => return Err(unreached("no answer".to_owned())),
    };
    let offers = match security {
        Security::Tls => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            let config = Trust::Authority(roots).client().map_err(Broken::Unknown)?;
            let name = ServerName::try_from(host.clone()).map_err(Broken::unknown)?;
            let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
            let stream = tokio::time::timeout(LIMIT, connecting).await.map_err(Broken::fail)?;
            smtp::offers(stream.map_err(|error| Broken::fail(format!("TLS with {host}: {error}")))?).await
        }
        Security::None | Security::StartTls => smtp::offers(stream).await,
    };
    let offers = offers.map_err(|error| Broken::fail(format!("greet {host}:{port}: {error}")))?;
    let greeting = offers.first().map(String::as_str).unwrap_or_default();
    if *security == Security::StartTls && !offers.iter().any(|offer| offer.eq_ignore_ascii_case("STARTTLS")) {
        return Err(Broken::fail(format!("{host}:{port} does not offer STARTTLS, which mail.security asks for")));
    }
    let word = match security {
        Security::None => "in clear",
        Security::StartTls => "STARTTLS offered",
        Security::Tls => "over TLS",
    };
    Ok(format!("{host}:{port}: {greeting}, {word}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_read_from_what_the_app_is_told() {
        let server = |port, security| Some(Server { host: "smtp.example.com".to_owned(), port, security });
        assert_eq!(parse("smtp://smtp.example.com:25"), server(25, Security::None));
        let login = "a%40b:@{secret:mail-password.url}@smtp.example.com";
        assert_eq!(parse(&format!("smtp://{login}:587?tls=required")), server(587, Security::StartTls));
        assert_eq!(parse(&format!("smtps://{login}:465")), server(465, Security::Tls));
    }
}
