//! Whatever staff changes is written down, whichever route it takes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    admin::PNG,
    backstage::Bench,
    people::{Person, Who},
    permissions::{ROUTES, admin},
    shop::{Shop, eventually, fresh_key, setting},
};

const ADMIN: &str = "/api/v1/admin/";

/// Route, path, body.
fn changes(order: &str, user: &str) -> Vec<(&'static str, &'static str, String, Value)> {
    let product = json!({ "name": "Lamp", "brand": "B", "category": "lighting", "price_cents": 1, "currency": "EUR" });
    let mut new = product.clone();
    new["sku"] = json!("LAMP-9");
    let lamp = || "products/LAMP-9".to_owned();
    let picture = || "products/LAMP-9/media/0".to_owned();
    let oldest = json!({ "limit": 1 });
    vec![
        ("POST", "products", "products".to_owned(), new),
        ("PUT", "products/{sku}", lamp(), product),
        ("PATCH", "products/{sku}", lamp(), json!({ "price_cents": 2 })),
        ("PUT", "products/{sku}/media/{position}", picture(), Value::Null),
        ("DELETE", "products/{sku}/media/{position}", picture(), Value::Null),
        (
            "POST",
            "inventory/{sku}/movements",
            "inventory/LAMP-9/movements".to_owned(),
            json!({ "delta": 3, "reason": "restock" }),
        ),
        ("DELETE", "products/{sku}", lamp(), Value::Null),
        ("POST", "orders/{id}/status", format!("orders/{order}/status"), json!({ "status": "refunded" })),
        ("PATCH", "users/{id}", format!("users/{user}"), json!({ "role": "staff" })),
        ("POST", "dead-letters/{queue}/replay", "dead-letters/custom/replay".to_owned(), oldest.clone()),
        ("POST", "dead-letters/{queue}/drop", "dead-letters/custom/drop".to_owned(), oldest),
    ]
}

async fn newest(shop: &Shop, who: &Person) -> Value {
    let (status, found) = shop.call("GET", "/api/v1/admin/audit?limit=1", Who::Session(who), None).await;
    assert_eq!(status, 200, "{found}");
    found["items"][0].clone()
}

#[tokio::test]
async fn every_change_of_staff_is_one_row_that_says_who_what_and_by_which_request() {
    let (amqp, media) =
        (setting("APP_TEST_AMQP_URL"), std::env::temp_dir().join(format!("app-live-{}", uuid::Uuid::new_v4())));
    let shop = Shop::open_with(&[("AMQP_URL", amqp.as_str()), ("APP_MEDIA_DIR", media.to_str().unwrap())]).await;
    let bench = Bench::beside(&shop).await;
    let (root, ada) = (admin(&shop).await, shop.register("ada").await);
    let (_, account) = shop.call("GET", "/api/v1/me", Who::Session(&ada), None).await;
    let order = shop.buy(Who::Guest, "PROBE-0", 1).await;
    let others = shop.buy(Who::Guest, "PROBE-0", 1).await;
    let worker = bench.start(&["worker", "custom"]).await;
    bench.publish("custom.a", "not json").await;
    bench.publish("custom.a", "not json").await;
    eventually("two dead letters", async || (bench.ready("q.dead.custom").await == 2).then_some(())).await;
    drop(worker);
    bench.sql("INSERT INTO categories (slug, name) VALUES ('lighting', 'Lighting') ON CONFLICT DO NOTHING").await;

    let changes = changes(order["id"].as_str().unwrap(), account["id"].as_str().unwrap());
    let tried: BTreeSet<(&str, String)> =
        changes.iter().map(|(method, route, ..)| (*method, format!("{ADMIN}{route}"))).collect();
    let known = ROUTES.iter().filter(|(method, path, _)| *method != "GET" && path.starts_with(ADMIN));
    assert_eq!(tried, known.map(|(method, path, _)| (*method, (*path).to_owned())).collect());

    let cancel = format!("/api/v1/orders/{}/cancel", others["id"].as_str().unwrap());
    let changes = changes.into_iter().map(|(method, _, path, body)| (method, format!("{ADMIN}{path}"), body));
    let changes: Vec<_> = changes.chain([("POST", cancel, Value::Null)]).collect();
    let first = newest(&shop, &root).await;
    assert_eq!(
        (&first["id"], &first["action"], &first["actor"]),
        (&json!(1), &json!("user.make_admin"), &json!("app admin"))
    );
    for (nth, (method, path, body)) in changes.into_iter().enumerate() {
        let request_id = format!("change-{nth}");
        let request = shop.request(method, &path, Who::Session(&root)).header("x-request-id", &request_id);
        let request = request.header("if-match", "*").header("idempotency-key", fresh_key());
        let request = if path.contains("/media/") {
            request.body(PNG)
        } else {
            request.header("content-type", "application/json").body(body.to_string())
        };
        let response = request.send().await.unwrap();
        assert!(response.status().is_success(), "{method} {path}: {}", response.text().await.unwrap());
        let row = newest(&shop, &root).await;
        assert_eq!(
            (&row["id"], &row["request_id"], &row["actor"]),
            (&json!(nth + 2), &json!(request_id), &json!("root@example.org")),
            "{method} {path}: {row}"
        );
        assert_ne!(row["before"], row["after"], "{method} {path}: {row}");
    }
    std::fs::remove_dir_all(media).unwrap();
}
