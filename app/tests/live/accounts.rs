//! Accounts: who gets in, for how long, and what is left of it afterwards.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{
    people::{PASSWORD, Person, Who, app_admin, somewhere},
    shop::{Shop, eventually, fresh_key, header},
};

const LOGIN: &str = "/api/v1/auth/login";
const ME: &str = "/api/v1/me";

#[tokio::test]
async fn an_account_from_its_registration_to_its_logout() {
    let shop = Shop::open().await;
    let email = "Ada.Lovelace@Example.org";
    let body = json!({ "email": email, "password": PASSWORD, "name": "Ada" });
    let (status, account) = shop.call("POST", "/api/v1/auth/register", Who::Guest, Some(&body)).await;
    assert_eq!(
        (status, &account["email"], &account["role"]),
        (201, &"ada.lovelace@example.org".into(), &"customer".into())
    );
    let (status, problem) = shop.call("POST", "/api/v1/auth/register", Who::Guest, Some(&body)).await;
    assert_eq!((status, &problem["code"]), (409, &"address_taken".into()));
    let ada = shop.log_in("ADA.lovelace@example.org", PASSWORD).await;
    let (_, me) = shop.call("GET", ME, Who::Session(&ada), None).await;
    let mut expected = account.clone();
    expected["csrf_token"] = ada.csrf.clone().into();
    assert_eq!(me, expected);
    let (status, me) = shop.call("PATCH", ME, Who::Session(&ada), Some(&json!({ "name": "Countess" }))).await;
    assert_eq!((status, &me["name"]), (200, &"Countess".into()));
    let out = shop.send("POST", "/api/v1/auth/logout", Who::Session(&ada), None).await;
    assert_eq!(out.status(), 204);
    assert!(header(&out, "set-cookie").starts_with("session=; Path=/; Max-Age=0; "), "{}", header(&out, "set-cookie"));
    let (status, problem) = shop.call("GET", ME, Who::Session(&ada), None).await;
    assert_eq!((status, &problem["code"]), (401, &"session_over".into()));
}

#[tokio::test]
async fn the_cookie_is_out_of_reach_of_scripts_and_secure_behind_https() {
    let shop = Shop::open().await;
    let body = json!({ "email": "ada@example.org", "password": PASSWORD });
    let plain = shop.send("POST", "/api/v1/auth/register", Who::Guest, Some(&body)).await;
    let attributes = |cookie: &str| cookie.split_once("; ").unwrap().1.to_owned();
    assert_eq!(attributes(&header(&plain, "set-cookie")), "Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax");
    assert_eq!(header(&plain, "cache-control"), "no-store");
    let login = shop.request("POST", LOGIN, Who::Guest).header("x-forwarded-proto", "https");
    let https = login.header("content-type", "application/json").body(body.to_string()).send().await.unwrap();
    assert_eq!(attributes(&header(&https, "set-cookie")), "Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax; Secure");
}

#[tokio::test]
async fn a_session_begins_under_a_new_secret_and_the_old_one_is_worth_nothing() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let body = json!({ "email": ada.email, "password": PASSWORD });
    // What somebody else has put into the browser: another's session, and one that was never given out.
    let eve = shop.register("eve").await;
    let made_up = Person { session: "A".repeat(43), ..eve.clone() };
    for planted in [&eve, &made_up] {
        let response = shop.send("POST", LOGIN, Who::WithoutCsrf(planted), Some(&body)).await;
        assert_eq!(response.status(), 200);
        assert!(!header(&response, "set-cookie").contains(&planted.session));
        let (status, _) = shop.call("GET", ME, Who::Session(planted), None).await;
        assert_eq!(status, 401, "whoever planted it is not logged in by it");
    }
    assert_eq!(shop.call("GET", ME, Who::Session(&ada), None).await.0, 200, "another browser stays logged in");
    for key in shop.redis.keys("sess:*").await {
        assert!(!key.contains(&ada.session), "Redis knows digests alone");
    }
}

#[tokio::test]
async fn a_new_password_ends_all_sessions_and_tokens_but_the_one_that_set_it() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let elsewhere = shop.log_in(&ada.email, PASSWORD).await;
    let token = shop.token(&ada, &["read"]).await;
    let path = "/api/v1/auth/password";
    let wrong = json!({ "current": "not the password", "new": "another long one" });
    let (status, problem) = shop.call("POST", path, Who::Session(&ada), Some(&wrong)).await;
    assert_eq!((status, &problem["code"]), (403, &"wrong_credentials".into()));
    let short = json!({ "current": PASSWORD, "new": "short" });
    assert_eq!(shop.call("POST", path, Who::Session(&ada), Some(&short)).await.0, 422);
    assert_eq!(shop.call("GET", ME, Who::Session(&elsewhere), None).await.0, 200);

    let right = json!({ "current": PASSWORD, "new": "another long one" });
    let response = shop.send("POST", path, Who::Session(&ada), Some(&right)).await;
    assert_eq!(response.status(), 200);
    let cookie = header(&response, "set-cookie");
    let session = cookie.strip_prefix("session=").unwrap().split(';').next().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    let now = Person { session, csrf: body["csrf_token"].as_str().unwrap().to_owned(), ..ada.clone() };
    assert_eq!(shop.call("GET", ME, Who::Session(&now), None).await.0, 200);
    for old in [Who::Session(&ada), Who::Session(&elsewhere), Who::Token(&token)] {
        assert_eq!(shop.call("GET", ME, old, None).await.0, 401, "{old:?}");
    }
    let old = json!({ "email": ada.email, "password": PASSWORD });
    assert_eq!(shop.call("POST", LOGIN, Who::Guest, Some(&old)).await.0, 401);
    shop.log_in(&ada.email, "another long one").await;
}

/// In both orders: the one who comes first waits for the row of the user first.
#[tokio::test]
async fn no_token_survives_a_new_password_that_is_set_at_the_same_time() {
    let shop = Arc::new(Shop::open().await);
    let pool = shop.database.pool().await;
    for token_first in [true, false] {
        let ada = shop.register("ada").await;
        let thief = shop.log_in(&ada.email, PASSWORD).await;
        let mut blocker = pool.begin().await.unwrap();
        sqlx::query("SELECT 1 FROM users FOR UPDATE").execute(&mut *blocker).await.unwrap();
        let change = json!({ "current": PASSWORD, "new": "another long one" });
        let token = json!({ "name": "x", "scopes": ["read"] });
        let mut requests =
            [("/api/v1/me/tokens", thief, token), ("/api/v1/auth/password", ada.clone(), change)].to_vec();
        if !token_first {
            requests.reverse();
        }
        let mut running = Vec::new();
        for (path, person, body) in requests {
            let shop = Arc::clone(&shop);
            running
                .push(tokio::spawn(async move { shop.call("POST", path, Who::Session(&person), Some(&body)).await }));
            let waiting = i64::try_from(running.len()).unwrap();
            eventually("the request waits", async || {
                let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
                let found: i64 = sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap();
                (found == waiting).then_some(())
            })
            .await;
        }
        blocker.rollback().await.unwrap();
        let mut statuses = Vec::new();
        for request in running {
            statuses.push(request.await.unwrap().0);
        }
        assert_eq!(statuses, if token_first { [201, 200] } else { [200, 401] });
        assert_eq!(shop.count("api_tokens").await, 0, "token first: {token_first}");
    }
}

#[tokio::test]
async fn a_token_has_scopes_and_an_end_and_can_be_withdrawn() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let tokens = "/api/v1/me/tokens";
    let wanted = json!({ "name": "my script", "scopes": ["read", "read"], "days": 7 });
    let (status, made) = shop.call("POST", tokens, Who::Session(&ada), Some(&wanted)).await;
    assert_eq!((status, &made["scopes"]), (201, &json!(["read"])));
    let token = made["token"].as_str().unwrap();
    let (status, me) = shop.call("GET", ME, Who::Token(token), None).await;
    assert_eq!((status, me.get("csrf_token")), (200, None));
    let (status, problem) =
        shop.call("PUT", "/api/v1/cart/items/PROBE-0", Who::Token(token), Some(&json!({ "qty": 1 }))).await;
    assert_eq!((status, &problem["detail"]), (403, &"the token lacks the scope order".into()));

    let (_, listed) = shop.call("GET", tokens, Who::Session(&ada), None).await;
    let listed = &listed["items"][0];
    assert!(listed["last_used_at"].is_string() && listed.get("token").is_none(), "{listed}");
    let stored: Vec<u8> =
        sqlx::query_scalar("SELECT digest FROM api_tokens").fetch_one(&shop.database.pool().await).await.unwrap();
    assert_eq!(stored.len(), 32);

    for (body, path) in [
        (json!({ "name": "x", "scopes": [] }), "scopes"),
        (json!({ "name": "x", "scopes": ["admin:read"] }), "scopes"),
        (json!({ "name": "", "scopes": ["read"] }), "name"),
        (json!({ "name": "x", "scopes": ["read"], "days": 367 }), "days"),
    ] {
        let (status, problem) = shop.call("POST", tokens, Who::Session(&ada), Some(&body)).await;
        assert_eq!((status, &problem["errors"][0]["path"]), (422, &path.into()), "{body}");
    }

    let other = shop.register("eve").await;
    let path = format!("{tokens}/{}", listed["id"].as_str().unwrap());
    assert_eq!(shop.call("DELETE", &path, Who::Session(&other), None).await.0, 404);
    assert_eq!(shop.call("GET", ME, Who::Token(token), None).await.0, 200);
    assert_eq!(shop.call("DELETE", &path, Who::Session(&ada), None).await.0, 204);
    assert_eq!(shop.call("DELETE", &path, Who::Session(&ada), None).await.0, 404);
    let (status, problem) = shop.call("GET", ME, Who::Token(token), None).await;
    assert_eq!((status, &problem["code"]), (401, &"invalid_token".into()));

    let token = shop.token(&ada, &["read"]).await;
    sqlx::query("UPDATE api_tokens SET expires_at = now()").execute(&shop.database.pool().await).await.unwrap();
    assert_eq!(shop.call("GET", ME, Who::Token(&token), None).await.0, 401, "it has run out");
}

#[tokio::test]
async fn fifty_tokens_at_once_are_no_more_than_fifty() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let body = json!({ "name": "x", "scopes": ["read"] });
    let made = futures_util::future::join_all(
        (0..60).map(|_| shop.call("POST", "/api/v1/me/tokens", Who::Session(&ada), Some(&body))),
    )
    .await;
    assert_eq!(made.iter().filter(|(status, _)| *status == 201).count(), 50);
    assert_eq!(shop.count("api_tokens").await, 50);
}

#[tokio::test]
async fn a_role_that_is_taken_away_is_gone_at_once_and_so_is_an_account() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    shop.set_role(&ada, "staff").await;
    let order = shop.buy(Who::Session(&shop.register("bob").await), "PROBE-0", 1).await;
    let path = format!("/api/v1/orders/{}", order["id"].as_str().unwrap());
    let token = shop.token(&ada, &["read", "admin:read"]).await;
    assert_eq!(shop.call("GET", &path, Who::Token(&token), None).await.0, 200);
    shop.set_role(&ada, "customer").await;
    assert_eq!(shop.call("GET", &path, Who::Token(&token), None).await.0, 404);
    assert_eq!(shop.call("GET", &path, Who::Session(&ada), None).await.0, 404);
    sqlx::query("UPDATE users SET is_active = false WHERE email = $1")
        .bind(&ada.email)
        .execute(&shop.database.pool().await)
        .await
        .unwrap();
    for who in [Who::Token(&token), Who::Session(&ada)] {
        assert_eq!(shop.call("GET", ME, who, None).await.0, 401);
    }
    let login = json!({ "email": ada.email, "password": PASSWORD });
    assert_eq!(shop.call("POST", LOGIN, Who::Guest, Some(&login)).await.0, 401);
}

#[tokio::test]
async fn the_operator_makes_an_administrator_whose_account_nobody_else_can_open() {
    let shop = Shop::open().await;
    let output = app_admin(&shop.database, "Root@Example.org", "the first password\n").await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("a new administrator"), "{said}");
    assert!(!said.contains("the first password"));
    let root = shop.log_in("root@example.org", "the first password").await;
    assert_eq!(shop.call("GET", ME, Who::Session(&root), None).await.1["role"], "admin");

    // Somebody was faster with the address, and waits.
    let eve = shop.register("eve").await;
    let token = shop.token(&eve, &["read", "order"]).await;
    let output = app_admin(&shop.database, &eve.email, "the operator's choice").await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("an administrator now"), "{said}");
    for who in [Who::Session(&eve), Who::Token(&token)] {
        assert_eq!(shop.call("GET", ME, who, None).await.0, 401);
    }
    let login = json!({ "email": eve.email, "password": PASSWORD });
    assert_eq!(shop.call("POST", LOGIN, Who::Guest, Some(&login)).await.0, 401);
    let promoted = shop.log_in(&eve.email, "the operator's choice").await;
    assert_eq!(shop.call("GET", ME, Who::Session(&promoted), None).await.1["role"], "admin");

    for (email, password) in [("nobody", "a long password"), ("ada@example.org", "short")] {
        assert!(!app_admin(&shop.database, email, password).await.status.success(), "{email}");
    }
    assert_eq!(shop.count("users").await, 2);
}

#[tokio::test]
async fn guesses_are_counted_by_account_and_by_address() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let login = async |email: &str, password: &str, address: &str| {
        let body = json!({ "email": email, "password": password }).to_string();
        let request = shop.http.post(format!("{}{LOGIN}", shop.base)).header("x-real-ip", address);
        request.header("content-type", "application/json").body(body).send().await.unwrap()
    };
    for _ in 0..10 {
        assert_eq!(login(&ada.email.to_uppercase(), "not her password", &somewhere()).await.status(), 401);
    }
    let refused = login(&ada.email, PASSWORD, &somewhere()).await;
    assert_eq!(refused.status(), 429, "even with the right one: the answer must not tell");
    assert!((1..=300).contains(&header(&refused, "retry-after").parse::<u32>().unwrap()));
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "too_many_tries");

    shop.redis.forget_limits().await;
    for turn in 0..25 {
        assert_eq!(
            login(&ada.email, PASSWORD, &somewhere()).await.status(),
            200,
            "{turn}: who knows it does not guess"
        );
    }
    for _ in 0..30 {
        assert_eq!(login(&format!("{}@example.org", fresh_key()), PASSWORD, "192.0.2.1").await.status(), 401);
    }
    assert_eq!(login(&ada.email, PASSWORD, "192.0.2.1").await.status(), 429);
    assert_eq!(login(&ada.email, PASSWORD, "192.0.2.2").await.status(), 200);

    shop.redis.forget_limits().await;
    let register = async |address: &str| {
        let body = json!({ "email": format!("{}@example.org", fresh_key()), "password": PASSWORD }).to_string();
        let request = shop.http.post(format!("{}/api/v1/auth/register", shop.base)).header("x-real-ip", address);
        request.header("content-type", "application/json").body(body).send().await.unwrap().status().as_u16()
    };
    for _ in 0..20 {
        assert_eq!(register("192.0.2.1").await, 201);
    }
    assert_eq!((register("192.0.2.1").await, register("192.0.2.2").await), (429, 201));
    let keys = shop.redis.keys("rl:*").await.join(" ");
    assert!(!keys.contains("example.org") && !keys.contains("192.0.2"), "{keys}");
}

#[tokio::test]
async fn without_redis_tokens_work_and_sessions_wait_for_it() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let token = shop.token(&ada, &["read", "order"]).await;
    shop.redis_gate.shut().await;
    assert_eq!(shop.call("GET", ME, Who::Token(&token), None).await.0, 200);
    shop.buy(Who::Token(&token), "PROBE-0", 1).await;
    shop.buy(Who::Guest, "PROBE-0", 1).await;
    let login = |password: &str| json!({ "email": ada.email, "password": password });
    for (method, path, body) in [
        ("GET", ME, None),
        ("POST", "/api/v1/orders", None),
        ("POST", LOGIN, Some(login(PASSWORD))),
        ("POST", LOGIN, Some(login("not her password"))),
    ] {
        let (status, problem) = shop.call(method, path, Who::Session(&ada), body.as_ref()).await;
        assert_eq!((status, &problem["code"]), (503, &"sessions_unavailable".into()), "{method} {path}");
    }
    let body = json!({ "email": "bob@example.org", "password": PASSWORD });
    let (status, account) = shop.call("POST", "/api/v1/auth/register", Who::Guest, Some(&body)).await;
    assert_eq!((status, account.get("csrf_token")), (201, None), "an account, and no session yet");
    let metrics = shop.http.get(format!("{}/metrics", shop.metrics)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"limits_total{limit="register-address",result="unknown"} 1"#), "{metrics}");
    shop.redis_gate.reopen();
    eventually("the session goes on", async || {
        (shop.call("GET", ME, Who::Session(&ada), None).await.0 == 200).then_some(())
    })
    .await;
    shop.log_in("bob@example.org", PASSWORD).await;
}

/// Redis goes while the change waits for the database: the new password counts, and the answer must not say otherwise.
#[tokio::test]
async fn a_password_that_was_changed_is_told_as_changed_without_redis_too() {
    let shop = Arc::new(Shop::open().await);
    let ada = shop.register("ada").await;
    let pool = shop.database.pool().await;
    let mut held = pool.begin().await.unwrap();
    sqlx::query("SELECT FROM users WHERE email = $1 FOR UPDATE").bind(&ada.email).execute(&mut *held).await.unwrap();
    let new = "another horse battery";
    let changing = tokio::spawn({
        let (shop, ada) = (Arc::clone(&shop), ada.clone());
        let body = json!({ "current": PASSWORD, "new": new });
        async move { shop.call("POST", "/api/v1/auth/password", Who::Session(&ada), Some(&body)).await }
    });
    eventually("the change waits", async || {
        let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (shop.count(waiting).await == 1).then_some(())
    })
    .await;
    shop.redis_gate.shut().await;
    held.commit().await.unwrap();
    let (status, body) = changing.await.unwrap();
    assert_eq!((status, &body["email"], &body["csrf_token"]), (200, &json!(ada.email), &Value::Null));
    shop.redis_gate.reopen();
    eventually("the new password opens the account", async || {
        let body = json!({ "email": ada.email, "password": new });
        (shop.call("POST", "/api/v1/auth/login", Who::Guest, Some(&body)).await.0 == 200).then_some(())
    })
    .await;
}
