//! Staff changes the catalogue and its stock: nothing is overwritten unseen, nothing goes below zero, all is written down.

use std::sync::Arc;

use reqwest::Response;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    people::{Person, Who},
    permissions::admin,
    shop::{Shop, fresh_key, gate_to, header, setting, through},
};

const PRODUCTS: &str = "/api/v1/admin/products";
pub(crate) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and what follows";

fn new_product(sku: &str) -> Value {
    json!({ "sku": sku, "name": "Lamp", "brand": "Lantern House", "category": "lighting", "price_cents": 4900, "currency": "EUR" })
}

async fn shop() -> (Shop, Person) {
    let shop = Shop::open().await;
    let person = admin(&shop).await;
    let made = "INSERT INTO categories (slug, name) VALUES ('lighting', 'Lighting') ON CONFLICT DO NOTHING";
    sqlx::query(made).execute(&shop.database.pool().await).await.unwrap();
    (shop, person)
}

impl Shop {
    async fn change(
        &self,
        who: &Person,
        method: &str,
        sku: &str,
        etag: Option<&str>,
        body: Option<&Value>,
    ) -> Response {
        let mut request = self.request(method, &format!("{PRODUCTS}/{sku}"), Who::Session(who));
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        request.send().await.unwrap()
    }

    async fn move_stock(&self, who: &Person, sku: &str, key: &str, body: &Value) -> (u16, Value) {
        let request = self.request("POST", &format!("/api/v1/admin/inventory/{sku}/movements"), Who::Session(who));
        let request = request.header("idempotency-key", key).header("content-type", "application/json");
        let response = request.body(body.to_string()).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn audited(&self, who: &Person, query: &str) -> Vec<Value> {
        let (status, body) = self.call("GET", &format!("/api/v1/admin/audit?{query}"), Who::Session(who), None).await;
        assert_eq!(status, 200, "{body}");
        body["items"].as_array().unwrap().clone()
    }
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    (status, response.json::<Value>().await.unwrap()["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn of_many_changes_of_one_version_one_is_made() {
    let (shop, person) = shop().await;
    let made = shop.send("POST", PRODUCTS, Who::Session(&person), Some(&new_product("LAMP-1"))).await;
    assert_eq!((made.status().as_u16(), header(&made, "etag").as_str()), (201, "\"1\""));
    assert_eq!(header(&made, "location"), "/api/v1/admin/products/LAMP-1");
    let (shop, person, mut changing) = (Arc::new(shop), Arc::new(person), JoinSet::new());
    for cents in 1..=16 {
        let (shop, person) = (Arc::clone(&shop), Arc::clone(&person));
        changing.spawn(async move {
            let body = json!({ "price_cents": cents });
            code(shop.change(&person, "PATCH", "LAMP-1", Some("\"1\""), Some(&body)).await).await
        });
    }
    let answers = changing.join_all().await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 1, "{answers:?}");
    let stale = (412, "version_stale".to_owned());
    assert_eq!(answers.iter().filter(|answer| **answer == stale).count(), 15, "{answers:?}");
    let read = shop.change(&person, "GET", "LAMP-1", None, None).await;
    assert_eq!(header(&read, "etag"), "\"2\"");
    assert_eq!(shop.audited(&person, "entity=product&entity_id=LAMP-1").await.len(), 2, "one made, one changed");
}

#[tokio::test]
async fn a_change_needs_the_version_that_was_read_and_says_all_its_faults() {
    let (shop, person) = shop().await;
    shop.call("POST", PRODUCTS, Who::Session(&person), Some(&new_product("LAMP-1"))).await;
    let patch = json!({ "name": "Other" });
    assert_eq!(
        code(shop.change(&person, "PATCH", "LAMP-1", None, Some(&patch)).await).await,
        (428, "if_match_missing".to_owned())
    );
    assert_eq!(code(shop.change(&person, "DELETE", "LAMP-1", None, None).await).await.0, 428);
    for tag in ["\"9\"", "W/\"1\"", "1", "\"x\""] {
        assert_eq!(code(shop.change(&person, "PATCH", "LAMP-1", Some(tag), Some(&patch)).await).await.0, 412, "{tag}");
    }
    assert_eq!(code(shop.change(&person, "PATCH", "NO-SUCH", Some("\"1\""), Some(&patch)).await).await.0, 404);
    for (bad, path) in [
        (json!({ "price_cents": -1 }), "price_cents"),
        (json!({ "category": "no-such" }), "category"),
        (json!({ "currency": "eur" }), "currency"),
        (json!({ "name": "a\u{0}b" }), "name"),
        (json!({ "attrs": { "a": "\u{0}" } }), "attrs"),
    ] {
        let response = shop.change(&person, "PATCH", "LAMP-1", Some("\"1\""), Some(&bad)).await;
        let (status, body) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
        assert_eq!((status, &body["errors"][0]["path"]), (422, &json!(path)), "{body}");
    }
    for field in ["id", "version", "hidden", "active", "on_hand"] {
        let response = shop.change(&person, "PATCH", "LAMP-1", Some("\"1\""), Some(&json!({ field: 7 }))).await;
        assert_eq!(code(response).await, (422, "invalid_body".to_owned()), "{field}");
    }
    assert_eq!(shop.audited(&person, "entity=product").await.len(), 1, "what is refused is no change");

    let whole = json!({ "name": "Lamp", "brand": "B", "category": "lighting", "price_cents": 1, "currency": "EUR" });
    let put = shop.change(&person, "PUT", "LAMP-1", Some("\"1\""), Some(&whole)).await;
    assert_eq!((put.status().as_u16(), header(&put, "etag").as_str()), (200, "\"2\""));
    assert_eq!(shop.change(&person, "PATCH", "LAMP-1", Some("*"), Some(&patch)).await.status(), 200);
    let audit = shop.audited(&person, "entity=product&entity_id=LAMP-1").await;
    let last = &audit[0];
    assert_eq!((&last["before"]["name"], &last["after"]["name"]), (&json!("Lamp"), &json!("Other")), "{last}");
    assert_eq!((&last["actor"], &last["action"]), (&json!(person.email), &json!("product.update")));
    assert!(last["request_id"].as_str().is_some_and(|id| !id.is_empty()), "{last}");
    let taken = shop.send("POST", PRODUCTS, Who::Session(&person), Some(&new_product("LAMP-1"))).await;
    assert_eq!(code(taken).await, (409, "sku_taken".to_owned()));
}

#[tokio::test]
async fn what_is_taken_off_sale_is_found_and_sold_no_more_until_it_comes_back() {
    let (shop, person) = shop().await;
    shop.call("POST", PRODUCTS, Who::Session(&person), Some(&new_product("LAMP-1"))).await;
    shop.move_stock(&person, "LAMP-1", &fresh_key(), &json!({ "delta": 5, "reason": "restock" })).await;
    assert_eq!(shop.get("/api/v1/products/LAMP-1").await.status(), 200);
    shop.buy(Who::Session(&person), "LAMP-1", 1).await;
    let cart = json!({ "qty": 2 });
    assert_eq!(shop.call("PUT", "/api/v1/cart/items/LAMP-1", Who::Session(&person), Some(&cart)).await.0, 200);

    let gone = shop.change(&person, "DELETE", "LAMP-1", Some("\"1\""), None).await;
    assert_eq!(gone.json::<Value>().await.unwrap()["state"], "inactive");
    assert_eq!(shop.get("/api/v1/products/LAMP-1").await.status(), 404, "whatever the cache had");
    assert_eq!(shop.read("/api/v1/products?brand=Lantern+House&category=lighting").await.2["items"], json!([]));
    let items = json!([{ "sku": "LAMP-1", "qty": 1 }]);
    let order = shop.try_to_buy(Who::Session(&person), &fresh_key(), &items).await;
    assert_eq!(code(order).await, (422, "unknown_sku".to_owned()));
    assert_eq!(shop.call("PUT", "/api/v1/cart/items/LAMP-1", Who::Session(&person), Some(&cart)).await.0, 422);
    let (_, held) = shop.call("GET", "/api/v1/cart", Who::Session(&person), None).await;
    assert_eq!(held["items"][0]["in_stock"], false, "{held}");

    let back = shop.change(&person, "PATCH", "LAMP-1", Some("\"2\""), Some(&json!({ "state": "listed" }))).await;
    assert_eq!(back.status(), 200);
    assert_eq!(shop.get("/api/v1/products/LAMP-1").await.status(), 200);
    shop.buy(Who::Session(&person), "LAMP-1", 1).await;
    assert_eq!(shop.count("outbox WHERE topic = 'search.index_product' AND payload->>'sku' = 'LAMP-1'").await, 6);
}

#[tokio::test]
async fn stock_that_many_take_at_once_never_goes_below_zero_and_the_ledger_adds_up() {
    let (shop, person) = shop().await;
    let sku = shop.skus(1).await.remove(0);
    shop.set_stock(&sku, 10).await;
    let (shop, person, mut moving) = (Arc::new(shop), Arc::new(person), JoinSet::new());
    for _ in 0..20 {
        let (shop, person, sku) = (Arc::clone(&shop), Arc::clone(&person), sku.clone());
        moving.spawn(async move {
            let body = json!({ "delta": -1, "reason": "loss", "note": "not on its shelf" });
            shop.move_stock(&person, &sku, &fresh_key(), &body).await
        });
    }
    let answers = moving.join_all().await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == 201).count(), 10, "{answers:?}");
    let short = answers.iter().filter(|(status, body)| *status == 409 && body["code"] == "stock_out_of_range");
    assert_eq!(short.count(), 10, "{answers:?}");
    assert_eq!(shop.stock(&sku).await, 0);

    let (key, body) = (fresh_key(), json!({ "delta": 7, "reason": "restock" }));
    let first = shop.move_stock(&person, &sku, &key, &body).await;
    assert_eq!((first.0, &first.1["on_hand"]), (201, &json!(7)));
    assert_eq!(shop.move_stock(&person, &sku, &key, &body).await, first, "sent twice, it counts once");
    let other = json!({ "delta": 8, "reason": "restock" });
    assert_eq!(shop.move_stock(&person, &sku, &key, &other).await.1["code"], "idempotency_key_reused");
    assert_eq!(shop.stock(&sku).await, 7);
    assert_eq!(shop.count("outbox WHERE topic = 'custom.product_back_in_stock'").await, 1);
    assert_eq!(shop.count("audit_log WHERE action = 'stock.move'").await, 11);
    assert_eq!(shop.count("stock_movements WHERE reason IN ('loss', 'restock')").await, 11);

    let path = format!("/api/v1/admin/inventory/{sku}/movements?limit=10");
    let (_, page) = shop.call("GET", &path, Who::Session(&person), None).await;
    assert_eq!((&page["on_hand"], &page["items"][0]["delta"]), (&json!(7), &json!(7)));
    let next = format!("{path}&cursor={}", page["next_cursor"].as_str().unwrap());
    let (_, rest) = shop.call("GET", &next, Who::Session(&person), None).await;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
    for (bad, path) in
        [(json!({ "delta": 0, "reason": "loss" }), "delta"), (json!({ "delta": 2_000_000, "reason": "loss" }), "delta")]
    {
        let (status, answer) = shop.move_stock(&person, &sku, &fresh_key(), &bad).await;
        assert_eq!((status, &answer["errors"][0]["path"]), (422, &json!(path)));
    }
}

#[tokio::test]
async fn a_picture_is_what_its_bytes_say_and_is_shown_where_it_was_put() {
    let folder = std::env::temp_dir().join(format!("app-live-{}", uuid::Uuid::new_v4()));
    let shop = Shop::open_with(&[("APP_MEDIA_DIR", folder.to_str().unwrap())]).await;
    let person = admin(&shop).await;
    let sku = shop.skus(1).await.remove(0);
    let place = |position: &str| format!("{PRODUCTS}/{sku}/media/{position}");
    let put = async |position: &str, bytes: Vec<u8>| {
        let request = shop.request("PUT", &format!("{}?alt=Front", place(position)), Who::Session(&person));
        code(request.header("content-type", "image/png").body(bytes).send().await.unwrap()).await
    };
    assert_eq!(put("0", PNG.to_vec()).await.0, 200);
    let (_, _, product) = shop.read(&format!("/api/v1/products/{sku}")).await;
    let medium = &product["media"][0];
    assert_eq!((&medium["content_type"], &medium["alt"]), (&json!("image/png"), &json!("Front")), "{product}");
    let file = folder.join(medium["url"].as_str().unwrap().strip_prefix("/media/").unwrap());
    assert_eq!(std::fs::read(file).unwrap(), PNG);

    assert_eq!(put("0", b"GIF89a and more".to_vec()).await.0, 200, "in its place");
    for (bytes, expected) in [
        (b"<svg onload=alert(1)>".to_vec(), (415, "unsupported_media_type".to_owned())),
        (Vec::new(), (415, "unsupported_media_type".to_owned())),
        ([PNG, &vec![0; 5 * 1024 * 1024]].concat(), (413, "payload_too_large".to_owned())),
    ] {
        assert_eq!(put("1", bytes).await, expected);
    }
    let large = [PNG, &vec![0; 4 * 1024 * 1024]].concat();
    assert_eq!(put("1", large).await.0, 200);
    for bad in ["20", "-1", "x", "..%2F..%2Fx"] {
        assert_eq!(put(bad, PNG.to_vec()).await.0, 404, "{bad}");
    }
    let (_, listed) = shop.call("GET", &format!("{PRODUCTS}/{sku}/media"), Who::Session(&person), None).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    assert_eq!(shop.call("DELETE", &place("0"), Who::Session(&person), None).await.0, 204);
    assert_eq!(shop.call("DELETE", &place("0"), Who::Session(&person), None).await.0, 404);
    assert_eq!(shop.count("audit_log WHERE action IN ('media.put', 'media.remove')").await, 4);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_picture_is_put_to_a_server_and_one_that_is_away_costs_uploads_alone() {
    let server = setting("APP_TEST_MEDIA_URL");
    let gate = gate_to(&server, 8090).await;
    let url = through(&server, &gate);
    let shop = Shop::open_with(&[("APP_MEDIA_URL", url.as_str())]).await;
    let person = admin(&shop).await;
    let sku = shop.skus(1).await.remove(0);
    let put = async |bytes: &[u8]| {
        let request = shop.request("PUT", &format!("{PRODUCTS}/{sku}/media/0"), Who::Session(&person));
        request.body(bytes.to_vec()).send().await.unwrap()
    };
    let served = async |answer: Response| {
        let medium: Value = answer.json().await.unwrap();
        let url = server.join(medium["url"].as_str().unwrap()).unwrap();
        shop.http.get(url).send().await.unwrap().bytes().await.unwrap()
    };
    let large = [PNG, uuid::Uuid::new_v4().as_bytes(), &vec![7; 4 * 1024 * 1024]].concat();
    for bytes in [PNG, &large, &large] {
        let answer = put(bytes).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(served(answer).await, bytes, "whole, and twice the same");
    }

    gate.shut().await;
    let refused = put(PNG).await;
    assert_eq!(header(&refused, "retry-after"), "1");
    assert_eq!(code(refused).await, (503, "media_unavailable".to_owned()));
    assert_eq!(shop.count("audit_log WHERE action = 'media.put'").await, 3, "what was not stored is no change");
    assert_eq!(shop.eventually_ready(200).await["degraded"], json!(["media"]));
    assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 201);
    gate.reopen();
    assert_eq!(put(PNG).await.status(), 200);
    assert_eq!(shop.eventually_ready(200).await["degraded"], json!([]));
}

#[tokio::test]
async fn whoever_does_not_know_the_password_puts_nothing() {
    let mut stranger = setting("APP_TEST_MEDIA_URL");
    stranger.set_password(Some("guessed")).unwrap();
    let shop = Shop::open_with(&[("APP_MEDIA_URL", stranger.as_str())]).await;
    let person = admin(&shop).await;
    let request = shop.request("PUT", &format!("{PRODUCTS}/PROBE-0/media/0"), Who::Session(&person));
    assert_eq!(code(request.body(PNG).send().await.unwrap()).await, (503, "media_unavailable".to_owned()));
    let log = shop.log.lock().unwrap().join("\n");
    assert!(log.contains("found status 401") && !log.contains("guessed"), "{log}");
}

#[tokio::test]
async fn without_a_place_for_them_pictures_are_refused() {
    let (shop, person) = shop().await;
    let request = shop.request("PUT", &format!("{PRODUCTS}/PROBE-0/media/0"), Who::Session(&person));
    let refused = request.body(PNG).send().await.unwrap();
    assert_eq!(code(refused).await, (503, "media_not_set_up".to_owned()));
    assert_eq!(shop.count("product_media").await, 0);
}
