//! Proof that accounts work, by a customer who is the checks' own: it signs up once, and its password is a secret of the stack.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::manifest::{AppChecks, Manifest};
use provisioner_core::stack::{Fingerprint, Resource, Secret};
use provisioner_core::wait::{self, Look, WaitError};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, COOKIE, HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::NAME;
use super::orders::{Buyer, Ledger, RECIPIENT, order_id};
use super::session::{CSRF, Session, ask, refused};
use super::verify::PROBE;
use crate::checks::nonce;
use crate::nginx;

const SECRET: &str = "app-probe";
const PASSWORD_LENGTH: usize = 32;
const READ_AFTER: HeaderName = HeaderName::from_static("x-read-after");
const LINE: &str = "/api/v1/cart/items/PROBE-0";
const QUANTITY: i64 = 2;
/// What belongs to an account.
const OWN: [&str; 3] = ["/api/v1/me", "/api/v1/cart", "/api/v1/orders"];
/// What is for staff.
const STAFF: [&str; 10] = [
    "products",
    "orders",
    "users",
    "outbox",
    "audit",
    "dead-letters",
    "inventory/PROBE-0/movements",
    "analytics/sales",
    "analytics/top-products",
    "analytics/low-stock",
];
/// Would find nobody if it were let through.
const CHANGE: &str = "/api/v1/admin/users/00000000-0000-0000-0000-000000000000";
const QUIET_LIMIT: Duration = Duration::from_secs(12);
const QUIET_EVERY: Duration = Duration::from_millis(200);

/// The password of the checks' customer.
pub(super) fn secret(manifest: &Manifest) -> Option<Resource> {
    let is_shop = manifest.app.checks == AppChecks::Shop;
    is_shop.then(|| Resource::Secret(Secret::password(SECRET, PASSWORD_LENGTH)))
}

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    let mut session = None;
    let entering = async {
        let (entered, evidence) = Session::begin(access).await?;
        session = Some(entered);
        Ok(evidence)
    };
    let account = check(NAME, "account", Level::L2, entering).await;
    let known = || session.as_ref().ok_or_else(|| Broken::unknown("nobody is logged in"));
    vec![
        account,
        check(NAME, "accounts-closed", Level::L2, accounts_closed(access)).await,
        check(NAME, "csrf", Level::L2, async { known()?.csrf_refused().await }).await,
        check(NAME, "account-order", Level::L2, async { known()?.order(access).await }).await,
        check(NAME, "api-token", Level::L2, async { known()?.token().await }).await,
        check(NAME, "admin-closed", Level::L2, async { known()?.admin_closed().await }).await,
        check(NAME, "logout", Level::L2, async { known()?.end().await }).await,
    ]
}

async fn accounts_closed(access: &Access<'_>) -> Result<String, Broken> {
    let site = nginx::customers(access).await?;
    for path in OWN {
        ask(&site, Method::GET, path, HeaderMap::new(), None).await?.expect(401, &format!("GET {path} by nobody"))?;
    }
    Ok(format!("{}: 401 to nobody", OWN.join(", ")))
}

impl Session {
    async fn begin(access: &Access<'_>) -> Result<(Self, String), Broken> {
        let site = nginx::customers(access).await?;
        let password = access.secret(SECRET).await.map_err(|failure| Broken::Unknown(failure.chain()))?;
        let (session, is_new) = Self::log_in_or_sign_up(access, site, &address(&password), &password).await?;
        let what = "GET /api/v1/me";
        let me = session.ask(Method::GET, "/api/v1/me", None).await?.expect(200, what)?.json()?;
        if me["email"] != session.email || me["role"] != "customer" {
            return Err(Broken::fail(format!(
                "{what}: {} as {}, expected {} as \"customer\"",
                me["email"], me["role"], session.email
            )));
        }
        let evidence = format!("{} {}", session.email, if is_new { "signed up" } else { "logged in" });
        Ok((session, evidence))
    }

    /// A foreign page can have a browser send the cookie, and nothing else.
    async fn csrf_refused(&self) -> Result<String, Broken> {
        let body = json!({ "qty": 1 });
        let alone = HeaderMap::from_iter([(COOKIE, self.cookie.clone())]);
        let mut wrong = alone.clone();
        wrong.insert(CSRF, HeaderValue::from_static("wrong"));
        for (headers, with) in [(alone, "the cookie alone"), (wrong, "a wrong X-CSRF-Token")] {
            let what = format!("PUT {LINE} with {with}");
            refused(ask(&self.site, Method::PUT, LINE, headers, Some(&body)).await?, 403, "csrf_token_wrong", &what)?;
        }
        Ok(format!("PUT {LINE} with the cookie alone, with a wrong X-CSRF-Token: 403"))
    }

    /// Again where somebody else orders of the same product, or in the same cart, at the same time.
    async fn order(&self, access: &Access<'_>) -> Result<String, Broken> {
        let ledger = Ledger::open(access).await?;
        let waited = wait::until(QUIET_LIMIT, QUIET_EVERY, || async {
            match self.order_once(ledger.as_ref()).await {
                Ok(Seen::Alone(evidence)) => Look::Done(evidence),
                Ok(Seen::Beside(who)) => Look::Pending(who),
                Err(broken) => Look::Broken(broken),
            }
        });
        waited.await.map_err(|error| match error {
            WaitError::Broken(broken) => broken,
            WaitError::TimedOut { after, last } => {
                Broken::Unknown(format!("order from the cart undisturbed: not within {} s: {last}", after.as_secs()))
            }
        })
    }

    async fn order_once(&self, ledger: Option<&Ledger>) -> Result<Seen, Broken> {
        let what = format!("PUT {LINE}");
        let cart = self.ask(Method::PUT, LINE, Some(&json!({ "qty": QUANTITY }))).await?.expect(200, &what)?.json()?;
        if !cart["items"].as_array().is_some_and(|lines| lines.iter().any(|line| line["qty"] == QUANTITY)) {
            return Err(Broken::fail(format!("{what}: {}, expected a line of {QUANTITY}", cart["items"])));
        }
        let before = match ledger {
            Some(ledger) => Some(ledger.stock().await?),
            None => None,
        };
        let buyer = Buyer::known(self.site.clone(), self.headers());
        let placed = buyer.ask(&nonce(), &json!({ "email": RECIPIENT, "from_cart": true })).await?;
        if placed.status == 409 && placed.json()?["code"] == "cart_empty" {
            return Ok(Seen::Beside("somebody else has ordered what was in the cart".to_owned()));
        }
        let placed = placed.expect(201, "POST /api/v1/orders from the cart")?;
        let id = order_id(&placed)?;
        let position = placed.headers.get(&READ_AFTER).cloned();
        let source = buyer.taken_back(&id, self.listed(&id, position)).await?;
        let evidence = format!("order {id} from the cart, in the history at once ({source}), cancelled");
        let (Some(ledger), Some(before)) = (ledger, before) else { return Ok(Seen::Alone(evidence)) };
        let (after, moved) = (ledger.stock().await?, ledger.of_order(&id).await?);
        if moved != [-QUANTITY, QUANTITY] {
            let expected = [-QUANTITY, QUANTITY];
            return Err(Broken::fail(format!("order {id} moved the stock by {moved:?}, expected {expected:?}")));
        }
        // One change for the order and one for its end: whoever sees more was not alone.
        if after.changes != before.changes + 2 {
            return Ok(Seen::Beside(format!("others order {PROBE} as well")));
        }
        if after.on_hand != before.on_hand {
            return Err(Broken::fail(format!(
                "{PROBE}: {} pieces after the order was cancelled, expected {} as before",
                after.on_hand, before.on_hand
            )));
        }
        Ok(Seen::Alone(format!("{evidence}; {} pieces of {PROBE} as before", after.on_hand)))
    }

    /// Whatever server answers, it has what was just written.
    async fn listed(&self, id: &str, position: Option<HeaderValue>) -> Result<String, Broken> {
        let position = position.ok_or_else(|| Broken::fail("an order of an account has no X-Read-After"))?;
        let (path, mut headers) = ("/api/v1/orders?limit=100", self.headers());
        headers.insert(READ_AFTER, position);
        let what = format!("GET {path}");
        let reply = ask(&self.site, Method::GET, path, headers, None).await?.expect(200, &what)?;
        let history = reply.json()?;
        let is_there = history["items"].as_array().is_some_and(|orders| orders.iter().any(|order| order["id"] == id));
        if !is_there {
            return Err(Broken::fail(format!("{what} from {}: no order {id}", reply.header("x-source"))));
        }
        Ok(reply.header("x-source").to_owned())
    }

    async fn token(&self) -> Result<String, Broken> {
        let (path, what) = ("/api/v1/me/tokens", "POST /api/v1/me/tokens");
        let wanted = json!({ "name": "provisioner verify", "scopes": ["read"], "days": 1 });
        let made = self.ask(Method::POST, path, Some(&wanted)).await?.expect(201, what)?.json()?;
        let (Some(id), Some(token)) = (made["id"].as_str(), made["token"].as_str()) else {
            return Err(Broken::fail(format!("{what}: no id or no token, expected both")));
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(Broken::fail)?;
        bearer.set_sensitive(true);
        let with = || HeaderMap::from_iter([(AUTHORIZATION, bearer.clone())]);
        let used = async {
            let what = "GET /api/v1/me with a token";
            let me = ask(&self.site, Method::GET, "/api/v1/me", with(), None).await?.expect(200, what)?.json()?;
            if me["email"] != self.email {
                return Err(Broken::fail(format!("{what}: {}, expected {}", me["email"], self.email)));
            }
            let what = format!("PUT {LINE} with a token that may only read");
            let body = json!({ "qty": 1 });
            refused(ask(&self.site, Method::PUT, LINE, with(), Some(&body)).await?, 403, "forbidden", &what)
        };
        let used = used.await;
        let path = format!("{path}/{id}");
        self.ask(Method::DELETE, &path, None).await?.expect(204, &format!("DELETE {path}"))?;
        used?;
        let what = "GET /api/v1/me with a token that was withdrawn";
        refused(ask(&self.site, Method::GET, "/api/v1/me", with(), None).await?, 401, "invalid_token", what)?;
        Ok("a token that may read was made, used, kept to reading, withdrawn and refused".to_owned())
    }

    async fn admin_closed(&self) -> Result<String, Broken> {
        let reads = STAFF.map(|name| (Method::GET, format!("/api/v1/admin/{name}"), None));
        let change = (Method::PATCH, CHANGE.to_owned(), Some(json!({ "is_active": false })));
        for (method, path, body) in reads.iter().chain([&change]) {
            let what = format!("{method} {path}");
            let customer = self.ask(method.clone(), path, body.as_ref()).await?;
            refused(customer, 403, "forbidden", &format!("{what} by a customer"))?;
            let nobody = ask(&self.site, method.clone(), path, HeaderMap::new(), body.as_ref()).await?;
            refused(nobody, 401, "not_logged_in", &format!("{what} by nobody"))?;
        }
        Ok(format!("{} reads and a change: 403 to a customer, 401 to nobody", STAFF.len()))
    }

    async fn end(&self) -> Result<String, Broken> {
        let path = "/api/v1/auth/logout";
        self.ask(Method::POST, path, None).await?.expect(204, &format!("POST {path}"))?;
        let what = "GET /api/v1/me with the cookie of a session that is over";
        refused(self.ask(Method::GET, "/api/v1/me", None).await?, 401, "session_over", what)?;
        Ok("the session was ended, and its cookie is refused".to_owned())
    }
}

/// What an order showed, and whether nobody else ordered meanwhile.
enum Seen {
    Alone(String),
    Beside(String),
}

/// Follows from the password: a database that comes from another stack holds another customer, not one whose password
/// nobody knows; and nobody can sign up with it first.
fn address(password: &str) -> String {
    format!("check-{}@provisioner.invalid", Fingerprint::of_bytes(password.as_bytes()).as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_follows_from_the_password_and_does_not_tell_it() {
        assert_eq!(address("hunter2"), address("hunter2"));
        assert_ne!(address("hunter2"), address("hunter3"));
        assert!(!address("hunter2").contains("hunter"));
    }
}
