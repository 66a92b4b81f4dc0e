//! What an attacker would try first.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    people::{PASSWORD, Who, app_admin},
    shop::{Shop, eventually, fresh_key, header},
};

/// Each means something to one of the systems behind the shop.
pub(crate) const HOSTILE: &[&str] = &[
    "' OR '1'='1",
    "'; DROP TABLE orders; --",
    "\" OR \"\"=\"",
    "1) UNION SELECT email FROM users --",
    "$1",
    "%' ESCAPE '",
    "\\",
    "{\"match_all\":{}}",
    "*) OR (*:*",
    "<script>alert(1)</script>",
    "../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "\r\nX-Injected: 1",
    "\u{0}",
    "products:*\r\nFLUSHALL\r\n",
    "\u{202e}\u{feff}\u{1f4a3}",
    "${jndi:ldap://x/y}",
    "{{7*7}}",
    "-9223372036854775808",
    "1e309",
    "NaN",
];

#[tokio::test]
async fn what_means_something_to_a_database_is_only_text_in_every_filter_and_path() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    shop.buy(Who::Session(&ada), "PROBE-0", 1).await;
    let filters = [
        ("/api/v1/products", &["cursor", "limit", "category", "brand", "min_price", "max_price", "sort"] as &[&str]),
        (
            "/api/v1/search",
            &["q", "category", "brand", "min_price", "max_price", "in_stock", "sort", "limit", "cursor"],
        ),
        ("/api/v1/orders", &["cursor", "limit"]),
    ];
    let users = shop.count("users").await;
    for text in HOSTILE {
        for (path, names) in filters {
            for name in names {
                let mut url = reqwest::Url::parse(&format!("{}{path}", shop.base)).unwrap();
                url.query_pairs_mut().append_pair(name, text);
                let cookie = format!("session={}", ada.session);
                let response = shop.http.get(url).header("cookie", cookie).send().await.unwrap();
                assert!(response.headers().get("x-injected").is_none());
                let (status, body) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
                assert!(matches!(status, 200 | 400), "{path}?{name}={text:?}: {status} {body}");
                let found = body["items"].as_array().map_or(0, Vec::len);
                // Of a text to search for, words that are in names may be found.
                assert!(found == 0 || *name == "q", "{path}?{name}={text:?} finds something: {body}");
            }
        }
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for (method, path) in [
            ("GET", "/api/v1/products/{}"),
            ("GET", "/api/v1/orders/{}"),
            ("POST", "/api/v1/orders/{}/cancel"),
            ("GET", "/api/v1/cart/items/{}"),
            ("PUT", "/api/v1/cart/items/{}"),
            ("DELETE", "/api/v1/cart/items/{}"),
            ("DELETE", "/api/v1/me/tokens/{}"),
        ] {
            let body = json!({ "qty": 1 });
            let path = path.replace("{}", &encoded);
            let (status, answer) = shop.call(method, &path, Who::Session(&ada), Some(&body)).await;
            let expected: &[u16] = match method {
                "PUT" => &[404, 422],
                // Nothing to remove is no error.
                "DELETE" => &[200, 404],
                _ => &[404],
            };
            assert!(expected.contains(&status), "{method} {path} ({text:?}): {status} {answer}");
        }
        for (method, path, body) in [
            ("POST", "/api/v1/auth/login", json!({ "email": text, "password": text })),
            ("POST", "/api/v1/auth/register", json!({ "email": text, "password": PASSWORD, "name": text })),
            ("PATCH", "/api/v1/me", json!({ "name": text })),
            ("POST", "/api/v1/me/tokens", json!({ "name": text, "scopes": ["read"] })),
            ("POST", "/api/v1/me/tokens", json!({ "name": "x", "scopes": [text] })),
            ("PUT", "/api/v1/cart", json!({ "items": [{ "sku": text, "qty": 1 }] })),
            ("POST", "/api/v1/auth/password", json!({ "current": text, "new": text })),
        ] {
            let (status, answer) = shop.call(method, path, Who::Session(&ada), Some(&body)).await;
            assert!(status < 500, "{method} {path} {body}: {status} {answer}");
        }
        shop.redis.forget_limits().await;
        let items = json!([{ "sku": text, "qty": 1 }]);
        assert_eq!(shop.try_to_buy(Who::Guest, &fresh_key(), &items).await.status(), 422, "{text:?}");
        if text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            // A key of printable characters is a key, and any other is refused.
            let known = json!([{ "sku": "PROBE-0", "qty": 1 }]);
            let status = shop.try_to_buy(Who::Guest, text, &known).await.status().as_u16();
            assert!(matches!(status, 201 | 400), "{text:?}: {status}");
            let (status, _) = shop.call("GET", "/api/v1/me", Who::Token(text), None).await;
            assert_eq!(status, 401, "{text:?}");
            let person = crate::people::Person { session: (*text).to_owned(), ..ada.clone() };
            let (status, _) = shop.call("GET", "/api/v1/me", Who::Session(&person), None).await;
            assert_eq!(status, 401, "{text:?}");
        }
    }
    assert_eq!(shop.count("users").await, users, "nobody registered by one of these");
    let (status, me) = shop.call("GET", "/api/v1/me", Who::Session(&ada), None).await;
    assert_eq!((status, &me["role"]), (200, &"customer".into()));
    shop.buy(Who::Session(&ada), "PROBE-0", 1).await;
}

#[tokio::test]
async fn nobody_gives_themselves_what_is_not_theirs_to_give() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let extras = [
        ("role", json!("admin")),
        ("id", json!("00000000-0000-4000-8000-000000000000")),
        ("is_active", json!(true)),
        ("session_epoch", json!(9)),
        ("password_hash", json!("$argon2id$")),
    ];
    for (name, value) in &extras {
        let mut body = json!({ "email": format!("{}@example.org", fresh_key()), "password": PASSWORD, "name": "x" });
        body[name] = value.clone();
        assert_eq!(shop.call("POST", "/api/v1/auth/register", Who::Guest, Some(&body)).await.0, 422, "{name}");
        let mut body = json!({ "name": "x" });
        body[name] = value.clone();
        assert_eq!(shop.call("PATCH", "/api/v1/me", Who::Session(&ada), Some(&body)).await.0, 422, "{name}");
        let mut body = json!({ "name": "x", "scopes": ["read"] });
        body[name] = value.clone();
        assert_eq!(shop.call("POST", "/api/v1/me/tokens", Who::Session(&ada), Some(&body)).await.0, 422, "{name}");
    }
    let email = json!({ "name": "x", "email": "root@example.org" });
    assert_eq!(shop.call("PATCH", "/api/v1/me", Who::Session(&ada), Some(&email)).await.0, 422);
    assert_eq!(shop.count("users WHERE role <> 'customer' OR name = 'x'").await, 0);

    // An order ignores what it does not know, and belongs to whoever sends it.
    let bob = shop.register("bob").await;
    let (_, bobs) = shop.call("GET", "/api/v1/me", Who::Session(&bob), None).await;
    let body = json!({ "items": [{ "sku": "PROBE-0", "qty": 1, "unit_cents": 0 }], "user_id": bobs["id"],
        "total_cents": 0, "status": "cancelled", "number": 1 });
    let request = shop.request("POST", "/api/v1/orders", Who::Session(&ada)).header("idempotency-key", fresh_key());
    let response = request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
    let order: Value = response.json().await.unwrap();
    assert_eq!(order["status"], "placed");
    assert!(order["total_cents"].as_i64().unwrap() > 0 && order["number"].as_i64().unwrap() > 100_000, "{order}");
    let path = format!("/api/v1/orders/{}", order["id"].as_str().unwrap());
    assert_eq!(shop.call("GET", &path, Who::Session(&bob), None).await.0, 404);
    assert_eq!(shop.call("GET", &path, Who::Session(&ada), None).await.0, 200);
}

#[tokio::test]
async fn a_form_of_a_foreign_page_changes_nothing() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    // What a browser sends without asking first: a form's content types, and the cookie if it was lax about that.
    for kind in ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"] {
        for path in ["/api/v1/auth/login", "/api/v1/auth/register", "/api/v1/auth/logout", "/api/v1/me/tokens"] {
            let request = shop.request("POST", path, Who::WithoutCsrf(&ada)).header("content-type", kind);
            let body = json!({ "email": ada.email, "password": PASSWORD, "name": "x", "scopes": ["read"] });
            let status = request.body(body.to_string()).send().await.unwrap().status().as_u16();
            assert!(matches!(status, 403 | 415), "{path} {kind}: {status}");
        }
    }
    assert_eq!(shop.call("GET", "/api/v1/me", Who::Session(&ada), None).await.0, 200, "still logged in");
    assert_eq!(shop.count("api_tokens").await, 0);
    let read = shop.request("GET", "/api/v1/me", Who::WithoutCsrf(&ada)).header("origin", "https://evil.example");
    let response = read.send().await.unwrap();
    assert!(response.headers().get("access-control-allow-origin").is_none(), "a foreign page may not read the answer");
}

#[tokio::test]
async fn a_login_takes_as_long_for_an_address_that_nobody_has() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let timed = async |email: &str| {
        let body = json!({ "email": email, "password": "not the password" });
        let started = Instant::now();
        let (status, problem) = shop.call("POST", "/api/v1/auth/login", Who::Guest, Some(&body)).await;
        assert_eq!((status, &problem["code"]), (401, &"wrong_credentials".into()));
        started.elapsed()
    };
    timed("warm-up@example.org").await;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        known.push(timed(&ada.email).await);
        unknown.push(timed(&format!("{}@example.org", fresh_key())).await);
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (known, unknown) = (median(&mut known), median(&mut unknown));
    // A look-up alone takes a millisecond or two; Argon2 is what can be seen through a network.
    assert!(unknown > Duration::from_millis(8), "{unknown:?}: no password was hashed");
    let ratio = known.as_secs_f64() / unknown.as_secs_f64();
    assert!((0.5..2.0).contains(&ratio), "known {known:?}, unknown {unknown:?}");
}

#[tokio::test]
async fn no_password_token_or_session_is_in_the_log() {
    let shop = Shop::open_with(&[("APP_LOG", "trace")]).await;
    let ada = shop.register("ada").await;
    let token = shop.token(&ada, &["read", "order"]).await;
    let wrong = "a password that is wrong";
    let new = "the password from now on";
    let login = json!({ "email": ada.email, "password": wrong });
    shop.call("POST", "/api/v1/auth/login", Who::Guest, Some(&login)).await;
    // Of the wrong type, and cut short: errors like to repeat what they could not read.
    for body in [format!(r#"{{"email":"a@b","password":["{wrong}"]}}"#), format!(r#"{{"password":"{wrong}"#)] {
        let request = shop.request("POST", "/api/v1/auth/login", Who::Guest).header("content-type", "application/json");
        assert!(request.body(body).send().await.unwrap().status().is_client_error());
    }
    shop.buy(Who::Token(&token), "PROBE-0", 1).await;
    shop.buy(Who::Session(&ada), "PROBE-0", 1).await;
    shop.call("GET", "/api/v1/me", Who::Session(&ada), None).await;
    shop.redis_gate.shut().await;
    shop.call("GET", "/api/v1/me", Who::Session(&ada), None).await;
    shop.redis_gate.reopen();
    shop.primary_gate.shut().await;
    shop.call("GET", "/api/v1/me", Who::Token(&token), None).await;
    shop.primary_gate.reopen();
    shop.eventually_ready(200).await;
    // Knowing it is the permission to read and to cancel.
    let order = shop.buy(Who::Guest, "PROBE-0", 1).await["id"].as_str().unwrap().to_owned();
    for (method, path) in
        [("GET", format!("/api/v1/orders/{order}")), ("POST", format!("/api/v1/orders/{order}/cancel"))]
    {
        assert_eq!(shop.call(method, &path, Who::Guest, None).await.0, 200);
    }
    shop.call("GET", "/api/v1/admin/orders?email=ada.lovelace@example.org", Who::Guest, None).await;
    let change = json!({ "current": PASSWORD, "new": new });
    let changed = eventually("the password is changed", async || {
        let response = shop.send("POST", "/api/v1/auth/password", Who::Session(&ada), Some(&change)).await;
        (response.status() == 200).then_some(response)
    })
    .await;
    let session = header(&changed, "set-cookie");
    let session = session.strip_prefix("session=").unwrap().split(';').next().unwrap().to_owned();
    let said = app_admin(&shop.database, "root@example.org", "the password of the admin").await.stdout;

    shop.request("GET", "/version", Who::Guest).header("x-request-id", "the-last-of-all").send().await.unwrap();
    let log = eventually("the log is read to its end", async || {
        let log = shop.log.lock().unwrap().join("\n");
        log.contains("the-last-of-all").then_some(log)
    })
    .await;
    assert!(log.contains("/api/v1/auth/password") && log.contains("/api/v1/orders/{id}"), "{log}");
    let log = format!("{log}\n{}", String::from_utf8(said).unwrap());
    for (what, secret) in [
        ("password", PASSWORD),
        ("wrong password", wrong),
        ("new password", new),
        ("password of the admin", "the password of the admin"),
        ("session", &ada.session),
        ("later session", &session),
        ("CSRF token", &ada.csrf),
        ("API token", &token),
        ("id of a guest's order", &order),
        ("query", "ada.lovelace"),
        ("hash", "$argon2id$"),
    ] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "the {what} is in the log");
    }
}
