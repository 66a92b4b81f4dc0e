//! Every route for everybody. A route that is not in the table fails the test.

use std::{collections::BTreeSet, path::Path};

use serde_json::{Value, json};

use crate::{
    backstage::Bench,
    people::{Person, Who, app_admin},
    shop::{Shop, setting},
};

/// Who gets past the door. What is behind it may still refuse the request itself: 404, 409, 415, 422.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Everybody, and credentials are not looked at.
    Open,
    /// Guests too; who shows a token needs this scope.
    Guests(&'static str),
    /// Guests too, where it is theirs; a token of its owner needs this scope.
    Owned(&'static str),
    /// Whoever is known; a token needs this scope.
    Known(&'static str),
    /// A session of one's own, and no token.
    Session,
    Staff,
    Admin,
}

use Door::{Admin, Guests, Known, Open, Owned, Session, Staff};

pub(crate) const ROUTES: &[(&str, &str, Door)] = &[
    ("GET", "/api/v1/products", Open),
    ("GET", "/api/v1/products/{sku}", Open),
    ("GET", "/api/v1/categories", Open),
    ("GET", "/api/v1/brands", Open),
    ("GET", "/api/v1/search", Open),
    ("GET", "/api/v1/search/suggest", Open),
    ("POST", "/api/v1/auth/register", Open),
    ("POST", "/api/v1/auth/login", Open),
    ("POST", "/api/v1/auth/logout", Session),
    ("POST", "/api/v1/auth/password", Session),
    ("GET", "/api/v1/me", Known("read")),
    ("PATCH", "/api/v1/me", Session),
    ("GET", "/api/v1/me/tokens", Session),
    ("POST", "/api/v1/me/tokens", Session),
    ("DELETE", "/api/v1/me/tokens/{id}", Session),
    ("GET", "/api/v1/cart", Known("read")),
    ("PUT", "/api/v1/cart", Known("order")),
    ("DELETE", "/api/v1/cart", Known("order")),
    ("GET", "/api/v1/cart/items/{sku}", Known("read")),
    ("PUT", "/api/v1/cart/items/{sku}", Known("order")),
    ("DELETE", "/api/v1/cart/items/{sku}", Known("order")),
    ("GET", "/api/v1/orders", Known("read")),
    ("POST", "/api/v1/orders", Guests("order")),
    ("GET", "/api/v1/orders/{id}", Owned("read")),
    ("POST", "/api/v1/orders/{id}/cancel", Owned("order")),
    ("GET", "/api/v1/admin/products", Staff),
    ("POST", "/api/v1/admin/products", Admin),
    ("GET", "/api/v1/admin/products/{sku}", Staff),
    ("PUT", "/api/v1/admin/products/{sku}", Admin),
    ("PATCH", "/api/v1/admin/products/{sku}", Admin),
    ("DELETE", "/api/v1/admin/products/{sku}", Admin),
    ("GET", "/api/v1/admin/products/{sku}/media", Staff),
    ("PUT", "/api/v1/admin/products/{sku}/media/{position}", Admin),
    ("DELETE", "/api/v1/admin/products/{sku}/media/{position}", Admin),
    ("GET", "/api/v1/admin/inventory/{sku}/movements", Staff),
    ("POST", "/api/v1/admin/inventory/{sku}/movements", Staff),
    ("GET", "/api/v1/admin/orders", Staff),
    ("GET", "/api/v1/admin/orders/{id}", Staff),
    ("POST", "/api/v1/admin/orders/{id}/status", Staff),
    ("GET", "/api/v1/admin/users", Staff),
    ("GET", "/api/v1/admin/users/{id}", Staff),
    ("PATCH", "/api/v1/admin/users/{id}", Admin),
    ("GET", "/api/v1/admin/outbox", Staff),
    ("GET", "/api/v1/admin/audit", Staff),
    ("GET", "/api/v1/admin/dead-letters", Staff),
    ("GET", "/api/v1/admin/dead-letters/{queue}", Staff),
    ("POST", "/api/v1/admin/dead-letters/{queue}/replay", Admin),
    ("POST", "/api/v1/admin/dead-letters/{queue}/drop", Admin),
    ("GET", "/api/v1/admin/analytics/sales", Staff),
    ("GET", "/api/v1/admin/analytics/top-products", Staff),
    ("GET", "/api/v1/admin/analytics/low-stock", Staff),
    // Of a provider that is not set up: who may send is tested with one that is.
    ("POST", "/api/v1/webhooks/{provider}", Open),
    ("GET", "/openapi.json", Open),
    ("GET", "/docs", Open),
    ("GET", "/livez", Open),
    ("GET", "/readyz", Open),
    ("GET", "/version", Open),
];

#[test]
fn every_route_of_the_router_is_in_the_table() {
    let named: BTreeSet<(String, String)> =
        ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(routes_of_the_source(), named);
    assert_eq!(named.len(), ROUTES.len(), "a route is named twice");
}

#[tokio::test]
async fn every_route_lets_in_whom_it_should_and_nobody_else() {
    let media = std::env::temp_dir().join(format!("app-live-{}", uuid::Uuid::new_v4()));
    let amqp = setting("APP_TEST_AMQP_URL");
    let shop = Shop::open_with(&[("APP_MEDIA_DIR", media.to_str().unwrap()), ("AMQP_URL", amqp.as_str())]).await;
    // For its queues, and so that nobody else empties them meanwhile.
    let _bench = Bench::beside(&shop).await;
    let roles = ["customer", "staff", "admin"];
    let people = [shop.register("customer").await, shop.register("staff").await, admin(&shop).await];
    shop.set_role(&people[1], "staff").await;
    let scopes = ["read", "order", "admin:read", "admin:write"];
    let mut tokens = Vec::new();
    for scope in scopes {
        tokens.push(shop.token(&people[2], &[scope]).await);
    }
    let made_up = Person { session: "A".repeat(43), ..people[0].clone() };
    let document: Value = shop.get("/openapi.json").await.json().await.unwrap();
    let mut wrong = Vec::new();
    for (method, path, door) in ROUTES {
        let is_change = *method != "GET";
        let mut check = async |what: &str, who: Who<'_>, expected: &[(u16, &str)]| {
            let (status, body) = knock(&shop, method, path, who).await;
            let code = body["code"].as_str().unwrap_or_default().to_owned();
            let is_in = status != 401 && status != 403;
            // `wrong_credentials` is the answer of a login to somebody who was let in to try.
            let is_in = is_in || (*path == "/api/v1/auth/login" && code == "wrong_credentials");
            let is_right = match expected {
                [] => is_in && status < 500,
                refused => refused.contains(&(status, code.as_str())),
            };
            let known = &document["paths"][path][method.to_lowercase()]["responses"];
            if known.get(status.to_string()).is_none() && (status < 500 || known.get("5XX").is_none()) {
                wrong.push(format!("{method} {path} as {what}: {status} {code} is not in the document"));
            }
            if !is_right {
                wrong.push(format!("{method} {path} as {what}: {status} {code}, expected {expected:?}"));
            }
        };
        let unknown: &[(u16, &str)] = match door {
            Open | Guests(_) | Owned(_) => &[],
            _ => &[(401, "not_logged_in")],
        };
        check("guest", Who::Guest, unknown).await;
        if *door == Open {
            continue;
        }
        check("an unknown session", Who::Session(&made_up), &[(401, "session_over")]).await;
        check("an unknown token", Who::Token(&"A".repeat(43)), &[(401, "invalid_token")]).await;
        for (rank, (role, person)) in roles.iter().zip(&people).enumerate() {
            // The session that logs out would be missed by the routes that follow.
            let own = if path.ends_with("/logout") { shop.log_in_again(person).await } else { person.clone() };
            let expected: &[(u16, &str)] = match door {
                Door::Staff if rank < 1 => &[(403, "forbidden")],
                Door::Admin if rank < 2 => &[(403, "forbidden")],
                _ => &[],
            };
            if is_change {
                check(&format!("{role} without CSRF token"), Who::WithoutCsrf(&own), &[(403, "csrf_token_wrong")])
                    .await;
                let foreign = Person { csrf: people[(rank + 1) % 3].csrf.clone(), ..own.clone() };
                check(&format!("{role}, foreign CSRF"), Who::Session(&foreign), &[(403, "csrf_token_wrong")]).await;
            }
            check(role, Who::Session(&own), expected).await;
        }
        for (scope, token) in scopes.iter().zip(&tokens) {
            let may = match door {
                // Whose order one may see is tested with those that are there.
                Open | Owned(_) => true,
                Guests(needed) | Known(needed) => needed == scope,
                Session => false,
                Door::Staff | Door::Admin => *scope == if is_change { "admin:write" } else { "admin:read" },
            };
            check(&format!("token {scope}"), Who::Token(token), if may { &[] } else { &[(403, "forbidden")] }).await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With a body that no route accepts, so that nothing changes behind the door.
async fn knock(shop: &Shop, method: &str, path: &str, who: Who<'_>) -> (u16, Value) {
    let path = path.replace("{sku}", "NO-SUCH").replace("{position}", "0").replace("{queue}", "custom");
    let path = path.replace("{provider}", "nobody").replace("{id}", "00000000-0000-4000-8000-000000000000");
    assert!(!path.contains('{'), "{path}: give the parameter a value");
    let body = json!({ "no such field": true });
    let response = shop.send(method, &path, who, (method != "GET").then_some(&body)).await;
    let status = response.status().as_u16();
    // Not every answer is JSON: there is a page.
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

pub(crate) async fn admin(shop: &Shop) -> Person {
    let password = "the password of the admin";
    assert!(app_admin(&shop.database, "root@example.org", password).await.status.success());
    shop.log_in("root@example.org", password).await
}

impl Shop {
    async fn log_in_again(&self, person: &Person) -> Person {
        let password =
            if person.email.starts_with("root@") { "the password of the admin" } else { crate::people::PASSWORD };
        self.log_in(&person.email, password).await
    }
}

/// `.route("PATH", get(…).post(…))`, wherever the public router is put together.
fn routes_of_the_source() -> BTreeSet<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    let mut routes = BTreeSet::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            // Routes of the private listener are not for people.
            let public = source.split("pub(crate) fn private(").next().unwrap();
            for other in [".nest(", ".route_service(", ".nest_service(", "axum::routing::any", "on("] {
                let is_there = public.split(other).count() > 1 && (other != "on(" || public.contains("routing::on"));
                assert!(!is_there, "{}: {other} hides routes from this test", path.display());
            }
            for call in public.split(".route(").skip(1) {
                let arguments = &call[..end_of_call(call)];
                let (path, methods) = arguments.split_once(',').unwrap();
                let path = path.trim().strip_prefix('"').and_then(|path| path.strip_suffix('"'));
                let path = path.unwrap_or_else(|| panic!("{arguments}: expected a literal path"));
                let found: Vec<&str> = ["get", "post", "put", "patch", "delete"]
                    .into_iter()
                    .filter(|method| {
                        let methods = methods.trim();
                        methods.starts_with(&format!("{method}(")) || methods.contains(&format!(".{method}("))
                    })
                    .collect();
                assert!(!found.is_empty(), "{arguments}: expected get, post, put, patch or delete");
                routes.extend(found.into_iter().map(|method| (method.to_uppercase(), path.to_owned())));
            }
        }
    }
    routes
}

/// Where the parenthesis closes that was open before.
fn end_of_call(text: &str) -> usize {
    let mut depth = 1;
    text.find(|character: char| {
        depth += i32::from(character == '(') - i32::from(character == ')');
        depth == 0
    })
    .unwrap()
}
