//! The cart: what is in it, and the order that empties it.

use serde_json::{Value, json};

use crate::{
    people::{Person, Who},
    shop::{Shop, fresh_key, header},
};

const CART: &str = "/api/v1/cart";

impl Shop {
    async fn order_the_cart(&self, person: &Person, key: &str) -> reqwest::Response {
        let request = self.request("POST", "/api/v1/orders", Who::Session(person)).header("idempotency-key", key);
        request.header("content-type", "application/json").body(r#"{"from_cart": true}"#).send().await.unwrap()
    }

    async fn put(&self, person: &Person, sku: &str, qty: i64) -> (u16, Value) {
        self.call("PUT", &format!("{CART}/items/{sku}"), Who::Session(person), Some(&json!({ "qty": qty }))).await
    }
}

#[tokio::test]
async fn a_cart_is_filled_changed_and_emptied_by_its_owner() {
    let shop = Shop::open().await;
    let (ada, bob) = (shop.register("ada").await, shop.register("bob").await);
    let skus = shop.skus(3).await;
    assert_eq!(
        shop.call("GET", CART, Who::Session(&ada), None).await,
        (200, json!({ "items": [], "total_cents": {} }))
    );
    shop.put(&ada, &skus[1], 2).await;
    shop.put(&ada, &skus[0], 1).await;
    let (status, cart) = shop.put(&ada, &skus[1], 3).await;
    assert_eq!((status, &cart["items"][0]["sku"], &cart["items"][1]["qty"]), (200, &json!(skus[0]), &json!(3)));
    let mut total = 0;
    for (line, qty) in cart["items"].as_array().unwrap().iter().zip([1, 3]) {
        let price =
            shop.read(&format!("/api/v1/products/{}", line["sku"].as_str().unwrap())).await.2["price_cents"].clone();
        assert_eq!((&line["unit_cents"], &line["line_cents"]), (&price, &json!(price.as_i64().unwrap() * qty)));
        total += price.as_i64().unwrap() * qty;
    }
    let currency = cart["items"][0]["currency"].as_str().unwrap();
    assert_eq!(cart["total_cents"][currency], total);
    let line = format!("{CART}/items/{}", skus[1]);
    assert_eq!(shop.call("GET", &line, Who::Session(&ada), None).await, (200, cart["items"][1].clone()));
    assert_eq!(shop.call("GET", &line, Who::Session(&bob), None).await.0, 404);
    shop.call("DELETE", CART, Who::Session(&bob), None).await;

    shop.set_stock(&skus[1], 2).await;
    let (_, cart) = shop.call("GET", CART, Who::Session(&ada), None).await;
    assert_eq!((&cart["items"][0]["in_stock"], &cart["items"][1]["in_stock"]), (&json!(true), &json!(false)));
    let (_, cart) = shop.call("DELETE", &line, Who::Session(&ada), None).await;
    assert_eq!(cart["items"].as_array().unwrap().len(), 1);
    let whole = json!({ "items": [{ "sku": skus[2], "qty": 1 }, { "sku": skus[2], "qty": 2 }] });
    let (_, cart) = shop.call("PUT", CART, Who::Session(&ada), Some(&whole)).await;
    assert_eq!((cart["items"].as_array().unwrap().len(), &cart["items"][0]["qty"]), (1, &json!(3)));
    let (_, cart) = shop.call("DELETE", CART, Who::Session(&ada), None).await;
    assert_eq!(cart, json!({ "items": [], "total_cents": {} }));
}

#[tokio::test]
async fn a_cart_has_limits_that_nobody_passes_by_hurrying() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let skus = shop.skus(60).await;
    let puts = futures_util::future::join_all(skus.iter().map(|sku| shop.put(&ada, sku, 1))).await;
    let (full, put): (Vec<_>, Vec<_>) = puts.into_iter().partition(|(status, _)| *status != 200);
    assert_eq!((put.len(), shop.count("cart_items").await), (50, 50));
    for (status, problem) in full {
        assert_eq!((status, &problem["code"]), (409, &"cart_full".into()));
    }
    for qty in [0, -1, 1_001, i64::MAX] {
        let (status, problem) = shop.put(&ada, &skus[0], qty).await;
        assert_eq!((status, &problem["code"]), (422, &"invalid_cart".into()), "{qty}");
    }
    let together = json!({ "items": [{ "sku": skus[0], "qty": 600 }, { "sku": skus[0], "qty": 600 }] });
    let many: Vec<Value> = skus.iter().map(|sku| json!({ "sku": sku, "qty": 1 })).collect();
    for (body, code) in [
        (together, "invalid_cart"),
        (json!({ "items": many }), "invalid_cart"),
        (json!({ "items": [] }), "invalid_cart"),
        (json!({ "items": [{ "sku": "NO-SUCH", "qty": 1 }] }), "unknown_sku"),
    ] {
        let (status, problem) = shop.call("PUT", CART, Who::Session(&ada), Some(&body)).await;
        assert_eq!((status, &problem["code"]), (422, &code.into()), "{problem}");
    }
    assert_eq!(shop.put(&ada, "NO-SUCH", 1).await.0, 422);
    assert_eq!(shop.count("cart_items").await, 50, "a refused change changes nothing");
}

#[tokio::test]
async fn ordering_the_cart_empties_it_with_the_order_or_not_at_all() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let skus = shop.skus(2).await;
    shop.set_stock(&skus[0], 1).await;
    shop.put(&ada, &skus[0], 2).await;
    shop.put(&ada, &skus[1], 1).await;
    let key = fresh_key();
    let refused = shop.order_the_cart(&ada, &key).await;
    assert_eq!(refused.status(), 409);
    assert_eq!(refused.json::<Value>().await.unwrap()["skus"], json!([skus[0]]));
    assert_eq!((shop.count("cart_items").await, shop.count("orders").await), (2, 0));

    shop.set_stock(&skus[0], 2).await;
    let placed = shop.order_the_cart(&ada, &key).await;
    assert_eq!(placed.status(), 201);
    let order: Value = placed.json().await.unwrap();
    assert_eq!(order["items"].as_array().unwrap().len(), 2);
    assert_eq!((shop.count("cart_items").await, shop.stock(&skus[0]).await), (0, 0));

    // The answer was lost, and something new is in the cart by now.
    shop.put(&ada, &skus[1], 1).await;
    let again = shop.order_the_cart(&ada, &key).await;
    assert_eq!((again.status().as_u16(), header(&again, "idempotent-replay").as_str()), (201, "true"));
    assert_eq!(again.json::<Value>().await.unwrap(), order);
    assert_eq!(shop.count("cart_items").await, 1);

    let (one_key, other_key) = (fresh_key(), fresh_key());
    let (one, other) = tokio::join!(shop.order_the_cart(&ada, &one_key), shop.order_the_cart(&ada, &other_key));
    let mut statuses = [one.status().as_u16(), other.status().as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "one cart is one order");
    let empty = shop.order_the_cart(&ada, &fresh_key()).await;
    assert_eq!(empty.json::<Value>().await.unwrap()["code"], "cart_empty");

    let guest = shop.post(Some(&fresh_key()), r#"{"email": "a@b", "from_cart": true}"#).await;
    assert_eq!((guest.status().as_u16(), shop.count("orders").await), (422, 2));
}
