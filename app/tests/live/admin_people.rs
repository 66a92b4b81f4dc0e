//! Staff and what customers did: orders, accounts, figures, and the log of what staff did.

use serde_json::{Value, json};

use crate::{
    people::{Person, Who},
    permissions::admin,
    shop::{Shop, eventually},
};

async fn get(shop: &Shop, who: &Person, path: &str) -> Value {
    let (status, body) = shop.call("GET", &format!("/api/v1/admin/{path}"), Who::Session(who), None).await;
    assert_eq!(status, 200, "{path}: {body}");
    body
}

async fn set_status(shop: &Shop, who: &Person, id: &Value, status: &str) -> (u16, Value) {
    let path = format!("/api/v1/admin/orders/{}/status", id.as_str().unwrap());
    shop.call("POST", &path, Who::Session(who), Some(&json!({ "status": status }))).await
}

#[tokio::test]
async fn an_order_is_found_by_its_filters_and_changes_only_forwards() {
    let shop = Shop::open().await;
    let (root, ada) = (admin(&shop).await, shop.register("ada").await);
    let sku = shop.skus(1).await.remove(0);
    shop.set_stock(&sku, 10).await;
    let first = shop.buy(Who::Session(&ada), &sku, 4).await;
    let second = shop.buy(Who::Guest, &sku, 3).await;

    let numbers = async |query: &str| {
        let found = get(&shop, &root, &format!("orders?{query}")).await;
        found["items"].as_array().unwrap().iter().map(|order| order["number"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(numbers("").await, [second["number"].clone(), first["number"].clone()], "newest first");
    assert_eq!(numbers(&format!("email={}", ada.email)).await, [first["number"].clone()]);
    assert_eq!(numbers("status=cancelled").await.len(), 0);
    assert_eq!(numbers("from=2026-01-01&to=9999-12-31").await.len(), 2);
    assert_eq!(numbers("to=2020-12-31").await.len(), 0);
    assert_eq!(numbers("email=%27%20OR%20true%20--").await.len(), 0);
    let page = get(&shop, &root, "orders?limit=1").await;
    let next = get(&shop, &root, &format!("orders?limit=1&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!((&next["items"][0]["number"], &next["next_cursor"]), (&first["number"], &Value::Null));
    for bad in ["from=2026-02-30", "status=lost", "limit=0", "cursor=x", "user=7", "email=%00"] {
        let path = format!("/api/v1/admin/orders?{bad}");
        assert_eq!(shop.call("GET", &path, Who::Session(&root), None).await.0, 400, "{bad}");
    }

    let read = get(&shop, &root, &format!("orders/{}", first["id"].as_str().unwrap())).await;
    assert_eq!((&read["email"], &read["items"][0]["qty"]), (&json!(ada.email), &json!(4)));
    let (status, cancelled) = set_status(&shop, &root, &first["id"], "cancelled").await;
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")));
    assert_eq!(shop.stock(&sku).await, 7, "its stock is back");
    assert_eq!(set_status(&shop, &root, &first["id"], "cancelled").await.0, 200, "again it changes nothing");
    assert_eq!(set_status(&shop, &root, &first["id"], "refunded").await.1["status"], "refunded");
    assert_eq!(set_status(&shop, &root, &second["id"], "refunded").await.1["status"], "refunded");
    assert_eq!(set_status(&shop, &root, &second["id"], "refunded").await.0, 200);
    assert_eq!(shop.stock(&sku).await, 7, "goods come back by a movement");
    for (order, status, code) in [(&first, "placed", "status_not_allowed"), (&second, "cancelled", "not_cancellable")] {
        let (refused, body) = set_status(&shop, &root, &order["id"], status).await;
        assert_eq!((refused, &body["code"]), (409, &json!(code)));
    }
    let own = format!("/api/v1/orders/{}/cancel", second["id"].as_str().unwrap());
    assert_eq!(shop.call("POST", &own, Who::Guest, None).await.1["code"], "not_cancellable");
    assert_eq!(shop.count("audit_log WHERE entity = 'order'").await, 3, "one a change");
    assert_eq!(shop.count("stock_movements WHERE reason = 'cancel'").await, 1);
}

#[tokio::test]
async fn staff_that_cancels_on_the_customers_own_route_is_written_down_too_and_customers_are_not() {
    let shop = Shop::open().await;
    let (root, ada) = (admin(&shop).await, shop.register("ada").await);
    for who in [&root, &ada] {
        let order = shop.buy(Who::Session(&ada), "PROBE-0", 1).await;
        let path = format!("/api/v1/orders/{}/cancel", order["id"].as_str().unwrap());
        assert_eq!(shop.call("POST", &path, Who::Session(who), None).await.0, 200);
    }
    assert_eq!(shop.count("audit_log WHERE action = 'order.cancel' AND actor = 'root@example.org'").await, 1);
    assert_eq!(shop.count("audit_log WHERE entity = 'order'").await, 1);
}

#[tokio::test]
async fn whoever_is_shut_out_is_out_at_once_and_nobody_shuts_themselves_out() {
    let shop = Shop::open().await;
    let (root, ada) = (admin(&shop).await, shop.register("ada").await);
    let token = shop.token(&ada, &["read"]).await;
    let found = get(&shop, &root, &format!("users?email={}", ada.email.to_uppercase())).await;
    let id = found["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    assert!(!found.to_string().contains("argon2"), "{found}");
    let change = async |id: &str, body: Value| {
        shop.call("PATCH", &format!("/api/v1/admin/users/{id}"), Who::Session(&root), Some(&body)).await
    };
    let (status, changed) = change(&id, json!({ "is_active": false })).await;
    assert_eq!((status, &changed["is_active"]), (200, &json!(false)));
    assert_eq!(shop.call("GET", "/api/v1/me", Who::Session(&ada), None).await.0, 401);
    assert_eq!(shop.call("GET", "/api/v1/me", Who::Token(&token), None).await.0, 401);
    let login = json!({ "email": ada.email, "password": crate::people::PASSWORD });
    assert_eq!(shop.call("POST", "/api/v1/auth/login", Who::Guest, Some(&login)).await.1["code"], "wrong_credentials");

    assert_eq!(change(&id, json!({ "is_active": true, "role": "staff" })).await.0, 200);
    assert_eq!(shop.call("GET", "/api/v1/me", Who::Session(&ada), None).await.0, 401, "the old session stays ended");
    let ada = shop.log_in(&ada.email, crate::people::PASSWORD).await;
    assert_eq!(get(&shop, &ada, "users?role=admin").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(shop.call("GET", "/api/v1/me", Who::Token(&token), None).await.0, 401);

    let own = get(&shop, &root, "users?role=admin").await["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(change(&own, json!({ "role": "customer" })).await.1["code"], "own_account");
    for (bad, status) in [(json!({}), 422), (json!({ "role": "root" }), 422), (json!({ "email": "a@b" }), 422)] {
        assert_eq!(change(&id, bad.clone()).await.0, status, "{bad}");
    }
    let audit = get(&shop, &root, "audit?entity=user").await;
    let entries = audit["items"].as_array().unwrap();
    assert_eq!(entries.len(), 3, "two changes and the first administrator: {audit}");
    assert_eq!((&entries[0]["before"]["role"], &entries[0]["after"]["role"]), (&json!("customer"), &json!("staff")));
}

#[tokio::test]
async fn figures_come_from_the_replica_and_count_what_was_sold() {
    let shop = Shop::open().await;
    let root = admin(&shop).await;
    let skus = shop.skus(2).await;
    for (sku, qty) in [(&skus[0], 3), (&skus[0], 2), (&skus[1], 1)] {
        shop.set_stock(sku, 10).await;
        shop.buy(Who::Guest, sku, qty).await;
    }
    let off = shop.buy(Who::Guest, &skus[1], 9).await;
    set_status(&shop, &root, &off["id"], "cancelled").await;
    let sold: i64 = sqlx::query_scalar("SELECT sum(total_cents)::bigint FROM orders WHERE status = 'placed'")
        .fetch_one(&shop.database.pool().await)
        .await
        .unwrap();
    shop.buy(Who::Guest, "PROBE-0", 20).await;
    let top = get(&shop, &root, "analytics/top-products").await;
    let pieces: Vec<(&Value, &Value)> =
        top["items"].as_array().unwrap().iter().map(|item| (&item["sku"], &item["pieces"])).collect();
    assert_eq!(pieces, [(&json!(skus[0]), &json!(5)), (&json!(skus[1]), &json!(1))]);
    let sales = get(&shop, &root, "analytics/sales").await;
    let sum =
        |name: &str| sales["items"].as_array().unwrap().iter().map(|item| item[name].as_i64().unwrap()).sum::<i64>();
    assert_eq!(sum("pieces"), 6, "{sales}");
    assert_eq!(sum("total_cents"), sold);
    let older =
        "UPDATE orders SET created_at = created_at - interval '1 day' WHERE number = (SELECT min(number) FROM orders)";
    sqlx::query(older).execute(&shop.database.pool().await).await.unwrap();
    let (mut pieces, mut pages, mut cursor) = (0, 0, String::new());
    loop {
        let page = get(&shop, &root, &format!("analytics/sales?limit=1&cursor={cursor}")).await;
        pieces += page["items"][0]["pieces"].as_i64().unwrap();
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = next.to_owned();
    }
    assert_eq!(pieces, 6);
    assert!(pages > 1, "the days are rows of their own");
    assert_eq!(get(&shop, &root, "analytics/sales?to=2020-01-01").await["items"], json!([]));
    shop.set_stock(&skus[1], 2).await;
    let low = get(&shop, &root, "analytics/low-stock?below=3").await;
    assert!(low["items"].as_array().unwrap().iter().any(|item| item["sku"] == skus[1].as_str()), "{low}");

    let path = "/api/v1/admin/analytics/sales";
    assert_eq!(crate::shop::header(&shop.send("GET", path, Who::Session(&root), None).await, "x-source"), "replica");
    shop.replica_gate.shut().await;
    eventually("the primary answers", async || {
        let response = shop.send("GET", path, Who::Session(&root), None).await;
        (crate::shop::header(&response, "x-source") == "primary").then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_outbox_shows_what_waits_and_not_what_it_says() {
    let shop = Shop::open().await;
    let root = admin(&shop).await;
    let published = "UPDATE outbox SET published_at = now()";
    sqlx::query(published).execute(&shop.database.pool().await).await.unwrap();
    shop.buy(Who::Guest, "PROBE-0", 1).await;
    let outbox = get(&shop, &root, "outbox?limit=100").await;
    let topics: Vec<&str> =
        outbox["items"].as_array().unwrap().iter().map(|item| item["topic"].as_str().unwrap()).collect();
    assert!(topics.contains(&"email.send_order_confirmation"), "{topics:?}");
    assert!(
        outbox["oldest_seconds"].as_f64().unwrap() > 0.0
            && outbox["pending"] == topics.len()
            && !outbox.to_string().contains("guest@example.org")
    );
}

#[tokio::test]
async fn nobody_rewrites_the_audit_log() {
    let shop = Shop::open().await;
    let (root, ada) = (admin(&shop).await, shop.register("ada").await);
    let order = shop.buy(Who::Session(&ada), "PROBE-0", 1).await;
    set_status(&shop, &root, &order["id"], "refunded").await;
    let pool = shop.database.pool().await;
    for sql in ["UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"] {
        let error = sqlx::query(sql).execute(&pool).await.unwrap_err().to_string();
        assert!(error.contains("only ever added to"), "{sql}: {error}");
    }
    assert_eq!(shop.count("audit_log WHERE entity = 'order'").await, 1);
}
