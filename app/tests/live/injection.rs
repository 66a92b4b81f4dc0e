//! What staff may ask and change, with texts that mean something to one of the systems behind the shop.

use serde_json::{Value, json};

use crate::{
    admin::PNG,
    backstage::Bench,
    people::Who,
    permissions::admin,
    security::HOSTILE,
    shop::{Shop, fresh_key, setting},
};

const FILTERS: &[(&str, &[&str])] = &[
    ("search/suggest", &["q"]),
    ("admin/products", &["cursor", "limit", "state"]),
    ("admin/orders", &["cursor", "limit", "status", "email", "user", "from", "to"]),
    ("admin/users", &["cursor", "limit", "role", "email"]),
    ("admin/inventory/PROBE-0/movements", &["cursor", "limit"]),
    ("admin/outbox", &["cursor", "limit"]),
    ("admin/audit", &["cursor", "limit", "actor", "entity", "entity_id"]),
    ("admin/dead-letters/custom", &["limit"]),
    ("admin/analytics/sales", &["cursor", "limit", "from", "to"]),
    ("admin/analytics/top-products", &["from", "to", "limit"]),
    ("admin/analytics/low-stock", &["below", "limit"]),
];

const PATHS: &[(&str, &str)] = &[
    ("GET", "products/{}"),
    ("PUT", "products/{}"),
    ("PATCH", "products/{}"),
    ("DELETE", "products/{}"),
    ("GET", "products/{}/media"),
    ("PUT", "products/{}/media/0"),
    ("PUT", "products/PROBE-0/media/{}"),
    ("DELETE", "products/PROBE-0/media/{}"),
    ("GET", "inventory/{}/movements"),
    ("POST", "inventory/{}/movements"),
    ("GET", "orders/{}"),
    ("POST", "orders/{}/status"),
    ("GET", "users/{}"),
    ("PATCH", "users/{}"),
    ("GET", "dead-letters/{}"),
    ("POST", "dead-letters/{}/replay"),
    ("POST", "dead-letters/{}/drop"),
];

#[tokio::test]
async fn what_means_something_to_a_database_is_only_text_for_staff_too() {
    let (amqp, media) = (setting("APP_TEST_AMQP_URL"), std::env::temp_dir());
    let shop = Shop::open_with(&[("AMQP_URL", amqp.as_str()), ("APP_MEDIA_DIR", media.to_str().unwrap())]).await;
    let _bench = Bench::beside(&shop).await;
    let root = admin(&shop).await;
    shop.buy(Who::Session(&root), "PROBE-0", 1).await;
    let (users, products) = (shop.count("users").await, shop.count("products").await);
    for text in HOSTILE {
        for (path, names) in FILTERS {
            for name in *names {
                let mut url = reqwest::Url::parse(&format!("{}/api/v1/{path}", shop.base)).unwrap();
                url.query_pairs_mut().append_pair(name, text);
                let response =
                    shop.http.get(url).header("cookie", format!("session={}", root.session)).send().await.unwrap();
                assert!(response.headers().get("x-injected").is_none());
                let (status, body) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
                assert!(matches!(status, 200 | 400), "{path}?{name}={text:?}: {status} {body}");
                let found = body["items"].as_array().map_or(0, Vec::len);
                assert_eq!(found, 0, "{path}?{name}={text:?} finds something: {body}");
            }
        }
        let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for (method, path) in PATHS {
            let path = format!("/api/v1/admin/{}", path.replace("{}", &encoded));
            let request = shop.request(method, &path, Who::Session(&root)).header("if-match", "*");
            let request = request.header("idempotency-key", fresh_key()).header("content-type", "application/json");
            let body = match *method {
                "PATCH" if path.contains("/users/") => json!({ "is_active": true }),
                "PATCH" => json!({ "price_cents": 1 }),
                "POST" if path.ends_with("/movements") => json!({ "delta": 1, "reason": "count" }),
                "POST" if path.ends_with("/status") => json!({ "status": "cancelled" }),
                "POST" => json!({ "all": true }),
                _ => product("X", "x"),
            };
            let is_picture = path.contains("/media/") && *method == "PUT";
            let bytes = if is_picture { PNG.to_vec() } else { body.to_string().into_bytes() };
            let response = request.body(bytes).send().await.unwrap();
            let status = response.status().as_u16();
            assert!(matches!(status, 404 | 422), "{method} {path} ({text:?}): {status}");
        }
        for (method, path, body) in [
            ("POST", "products", product(text, "x")),
            (
                "POST",
                "products",
                json!({ "sku": "X", "name": "x", "brand": "x", "category": text, "price_cents": 1, "currency": "EUR" }),
            ),
            (
                "POST",
                "products",
                json!({ "sku": "X", "name": "x", "brand": "x", "category": "x", "price_cents": 1, "currency": text }),
            ),
            ("POST", "orders/x/status", json!({ "status": text })),
            ("POST", "dead-letters/custom/drop", json!({ "message_ids": text })),
        ] {
            let (status, answer) =
                shop.call(method, &format!("/api/v1/admin/{path}"), Who::Session(&root), Some(&body)).await;
            assert!(matches!(status, 404 | 422), "{method} {path} {body}: {status} {answer}");
        }
        let ids = json!({ "message_ids": [text] });
        let (status, answer) =
            shop.call("POST", "/api/v1/admin/dead-letters/custom/drop", Who::Session(&root), Some(&ids)).await;
        assert_eq!((status, &answer["dropped"]), (200, &json!(0)), "{text:?}");
    }
    assert_eq!((shop.count("users").await, shop.count("products").await), (users, products));
    assert_eq!(shop.count("audit_log WHERE actor <> 'app admin'").await, 0, "nothing was changed");
    shop.buy(Who::Session(&root), "PROBE-0", 1).await;
}

fn product(sku: &str, category: &str) -> Value {
    json!({ "sku": sku, "name": "x", "brand": "x", "category": category, "price_cents": 1, "currency": "EUR" })
}
