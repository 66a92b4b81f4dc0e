//! Orders of the probe product, as checks place them. Each is cancelled again once it was seen what became of it: nothing that
//! checks order counts as turnover, and the stock is what it was.

use std::time::{Duration, Instant};

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::stack::Stack;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use super::jobs::DATABASE_URL;
use super::verify::{PROBE, get};
use super::{NAME, workers};
use crate::checks::{self, nonce, unlimited};
use crate::http::{Reply, Site};
use crate::postgres::sql::Session;
use crate::postgres::{self, Cluster, DATABASE, Login};
use crate::{mail, nginx, rabbitmq};

const ORDERS: &str = "/api/v1/orders";
/// Whom checks order for where nobody looks at the mail.
pub(super) const RECIPIENT: &str = "check@provisioner.invalid";
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const MAIL_LIMIT: Duration = Duration::from_secs(10);
/// With the one before it less than a check may take.
const CANCEL_MAIL_LIMIT: Duration = Duration::from_secs(8);
const SQL_LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    vec![
        check(NAME, "order", Level::L2, order(access)).await,
        check(NAME, "order-cancel", Level::L2, cancel(access)).await,
    ]
}

pub(super) async fn verify_mail(access: &Access<'_>) -> Option<Finding> {
    if !is_mailing(access.stack) {
        return None;
    }
    Some(check(NAME, "order-mail", Level::L3, order_mail(access)).await)
}

/// Somebody who orders: a guest, or whoever the headers say.
pub(super) struct Buyer {
    site: Site,
    headers: HeaderMap,
}

impl Buyer {
    pub(super) async fn guest(access: &Access<'_>) -> Result<Self, Broken> {
        Ok(Self { site: checks::nginx(access, nginx::CHECKS).await?, headers: HeaderMap::new() })
    }

    pub(super) fn known(site: Site, headers: HeaderMap) -> Self {
        Self { site, headers }
    }

    /// Whatever the answer is.
    pub(super) async fn ask(&self, key: &str, body: &Value) -> Result<Reply, Broken> {
        let request = || {
            let request = self.site.request(Method::POST, ORDERS).headers(self.headers.clone());
            request.header(IDEMPOTENCY_KEY, key).json(body)
        };
        unlimited(&format!("POST {ORDERS}"), request).await
    }

    pub(super) async fn place(&self, key: &str, recipient: &str, qty: i64) -> Result<Reply, Broken> {
        let body = json!({ "email": recipient, "items": [{ "sku": PROBE, "qty": qty }] });
        self.ask(key, &body).await?.expect(201, &format!("POST {ORDERS}"))
    }

    pub(super) async fn cancel(&self, id: &str) -> Result<(), Broken> {
        let path = format!("{ORDERS}/{id}/cancel");
        let what = format!("POST {path}");
        let request = || self.site.request(Method::POST, &path).headers(self.headers.clone());
        let cancelled = unlimited(&what, request).await?.expect(200, &what)?.json()?;
        match &cancelled["status"] {
            Value::String(status) if status == "cancelled" => Ok(()),
            status => Err(Broken::fail(format!("{what}: the order is {status}, expected \"cancelled\""))),
        }
    }

    /// What is to be seen of an order, which is cancelled whatever that was.
    pub(super) async fn taken_back<T>(
        &self,
        id: &str,
        seen: impl Future<Output = Result<T, Broken>>,
    ) -> Result<T, Broken> {
        let seen = seen.await;
        let cancelled = self.cancel(id).await;
        let seen = seen?;
        cancelled.map(|()| seen)
    }
}

pub(super) fn order_id(reply: &Reply) -> Result<String, Broken> {
    let order = reply.json()?;
    order["id"].as_str().map(str::to_owned).ok_or_else(|| Broken::fail("an order has no id"))
}

fn key() -> String {
    format!("check-{}", nonce())
}

async fn order(access: &Access<'_>) -> Result<String, Broken> {
    let (guest, key) = (Buyer::guest(access).await?, key());
    let placed = order_id(&guest.place(&key, RECIPIENT, 1).await?)?;
    let seen = async {
        let replay = guest.place(&key, RECIPIENT, 1).await?;
        if order_id(&replay)? != placed || replay.header("idempotent-replay") != "true" {
            return Err(Broken::fail(format!("the same Idempotency-Key made another order than {placed}")));
        }
        let path = format!("{ORDERS}/{placed}");
        let found = get(&guest.site, &path).await?.expect(200, &format!("GET {path}"))?;
        if order_id(&found)? != placed {
            return Err(Broken::fail(format!("GET {path}: another order")));
        }
        Ok(())
    };
    guest.taken_back(&placed, seen).await?;
    Ok(format!("order {placed} of {PROBE} was placed, replayed without a second one, read back and cancelled"))
}

/// Twice, as somebody who got no answer would.
async fn cancel(access: &Access<'_>) -> Result<String, Broken> {
    let (guest, ledger) = (Buyer::guest(access).await?, Ledger::open(access).await?);
    let placed = order_id(&guest.place(&key(), RECIPIENT, 1).await?)?;
    guest.cancel(&placed).await?;
    guest.cancel(&placed).await?;
    let Some(ledger) = ledger else { return Ok(format!("order {placed} of {PROBE} was placed and cancelled, twice")) };
    let moved = ledger.of_order(&placed).await?;
    if moved != [-1, 1] {
        return Err(Broken::fail(format!(
            "order {placed} of 1, cancelled twice, moved the stock by {moved:?}, expected [-1, 1]"
        )));
    }
    Ok(format!("order {placed} of {PROBE} was placed and cancelled, twice, and gave the stock back once"))
}

/// A mail of the shop is seen only where the stack itself has every part of its way.
pub(super) fn is_mailing(stack: &Stack) -> bool {
    stack.has(rabbitmq::NAME)
        && stack.has(mail::NAME)
        && ["relay", "email"].iter().all(|worker| workers::has(stack, worker))
}

/// From the order through outbox, broker and worker to the mail, and the same way once more when it is cancelled.
async fn order_mail(access: &Access<'_>) -> Result<String, Broken> {
    let guest = Buyer::guest(access).await?;
    let nonce = nonce();
    // An address of its own: the mails are found by it, whatever else arrives.
    let recipient = format!("check-{nonce}@provisioner.invalid");
    let begin = Instant::now();
    let placed = order_id(&guest.place(&format!("check-{nonce}"), &recipient, 1).await?)?;
    let seen = async { Ok((mail::taken(access, &recipient, MAIL_LIMIT).await?.subject, begin.elapsed().as_millis())) };
    let (confirmed, took) = guest.taken_back(&placed, seen).await?;
    let begin = Instant::now();
    let cancelled = mail::taken(access, &recipient, CANCEL_MAIL_LIMIT).await?.subject;
    if cancelled == confirmed {
        return Err(Broken::fail(format!("order {placed} was cancelled, and another mail says {confirmed:?}")));
    }
    let took_too = begin.elapsed().as_millis();
    // What other checks ordered, in whichever run, was not looked at.
    mail::swept(access, RECIPIENT).await?;
    Ok(format!("{confirmed:?} came {took} ms after order {placed}, {cancelled:?} {took_too} ms after it was cancelled"))
}

/// The probe product's stock as the primary has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stock {
    pub(super) on_hand: i64,
    /// Grows by one with every change of the stock, whoever makes it.
    pub(super) changes: i64,
    /// What the search index compares.
    pub(super) version: i64,
}

/// A session with the shop's own database.
pub(super) struct Ledger(Session);

impl Ledger {
    /// `None`: the manifest names a database of somebody's own.
    pub(super) async fn open(access: &Access<'_>) -> Result<Option<Self>, Broken> {
        let own = super::backends(access.stack).next().and_then(|backend| backend.secret_env.get(DATABASE_URL));
        if own.is_none_or(super::is_given) {
            return Ok(None);
        }
        if let Some(external) = access.stack.external(postgres::NAME) {
            return postgres::external::session(access, external).await.map(|session| Some(Self(session)));
        }
        let cluster = Cluster::current(access).await.map_err(|failure| Broken::Unknown(failure.chain()))?;
        let session = Session::on(access, &cluster.primary, Login::App, DATABASE, SQL_LIMIT).await;
        session.map(|session| Some(Self(session))).map_err(|failure| Broken::Unknown(failure.chain()))
    }

    pub(super) async fn stock(&self) -> Result<Stock, Broken> {
        let query = "SELECT i.on_hand::bigint, i.version, p.version + i.version \
                     FROM products p JOIN inventory i ON i.product_id = p.id WHERE p.sku = $1";
        let row = self.0.row(query, &[&PROBE]).await.map_err(unread)?;
        let number = |column| row.try_get::<_, i64>(column).map_err(unread);
        Ok(Stock { on_hand: number(0)?, changes: number(1)?, version: number(2)? })
    }

    /// By how much an order moved the stock, in that order.
    pub(super) async fn of_order(&self, id: &str) -> Result<Vec<i64>, Broken> {
        let query = "SELECT delta::bigint FROM stock_ledger WHERE order_id = $1::text::uuid ORDER BY created_at";
        let rows = self.0.rows(query, &[&id]).await.map_err(unread)?;
        rows.iter().map(|row| row.try_get(0).map_err(unread)).collect()
    }
}

fn unread(error: impl std::fmt::Display) -> Broken {
    Broken::Unknown(format!("read the stock of {PROBE}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers every request with this, and remembers what was asked.
    async fn answering(body: &'static str) -> (Buyer, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let site = Site::at(listener.local_addr().unwrap(), Duration::from_secs(1)).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let length = stream.read(&mut request).await.unwrap();
                let first = String::from_utf8_lossy(&request[..length]).lines().next().unwrap_or_default().to_owned();
                heard.lock().unwrap().push(first);
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all((head + body).as_bytes()).await.unwrap();
            }
        });
        (Buyer::known(site, HeaderMap::new()), asked)
    }

    #[tokio::test]
    async fn an_order_is_cancelled_whatever_was_seen_of_it() {
        let (buyer, asked) = answering(r#"{"status":"cancelled"}"#).await;
        assert_eq!(buyer.taken_back("7", async { Ok("well") }).await, Ok("well"));
        let broken = Broken::fail("no mail");
        assert_eq!(buyer.taken_back::<()>("8", async { Err(broken.clone()) }).await, Err(broken));
        let expected = ["7", "8"].map(|id| format!("POST /api/v1/orders/{id}/cancel HTTP/1.1"));
        assert_eq!(*asked.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn an_order_that_cannot_be_taken_back_is_a_failure() {
        let (buyer, _) = answering(r#"{"status":"placed"}"#).await;
        let why = "POST /api/v1/orders/7/cancel: the order is \"placed\", expected \"cancelled\"";
        assert_eq!(buyer.taken_back("7", async { Ok(()) }).await, Err(Broken::fail(why)));
    }
}
