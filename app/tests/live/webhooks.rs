//! Events of others: whoever can sign is heard, once.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::task::JoinSet;

use crate::{
    backstage::Bench,
    people::Who,
    permissions::admin,
    shop::{Shop, eventually, setting},
};

const KEY: &str = "a key of the provider pay";
const EVENTS: &str = "webhook_events";
const OUTBOX: &str = "outbox WHERE topic = 'custom.webhook.received'";

async fn shop() -> Shop {
    shop_with(&[]).await
}

async fn shop_with(more: &[(&str, &str)]) -> Shop {
    let file = std::env::temp_dir().join(format!("app-live-{}", uuid::Uuid::new_v4()));
    // A key in base64 that is in the file, and another provider's in the variable.
    std::fs::write(&file, format!("pay=whsec_{}\n", STANDARD.encode(KEY))).unwrap();
    let settings =
        [("APP_WEBHOOK_SECRETS_FILE", file.to_str().unwrap()), ("APP_WEBHOOK_SECRETS", "ship=another-key-of-26-bytes")];
    let shop = Shop::open_with(&[&settings, more].concat()).await;
    std::fs::remove_file(file).unwrap();
    shop
}

#[allow(clippy::disallowed_methods, reason = "a provider's clock")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn sign(key: &str, id: &str, timestamp: u64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

async fn send(shop: &Shop, provider: &str, id: &str, timestamp: u64, signature: &str, body: &str) -> (u16, Value) {
    let request = shop.http.post(format!("{}/api/v1/webhooks/{provider}", shop.base));
    let request =
        request.header("webhook-id", id).header("webhook-timestamp", timestamp).header("webhook-signature", signature);
    let response = request.header("content-type", "application/json").body(body.to_owned()).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn an_event_that_is_sent_many_times_at_once_is_one() {
    let shop = std::sync::Arc::new(shop().await);
    let body = r#"{"type": "paid", "amount": 12.50}"#;
    let (at, mut sending) = (now(), JoinSet::new());
    let signature = sign(KEY, "evt-1", at, body);
    for _ in 0..20 {
        let (shop, signature) = (std::sync::Arc::clone(&shop), signature.clone());
        sending.spawn(async move { send(&shop, "pay", "evt-1", at, &signature, body).await });
    }
    let answers = sending.join_all().await;
    assert!(answers.iter().all(|(status, _)| *status == 202), "{answers:?}");
    assert_eq!(answers.iter().filter(|(_, body)| body["status"] == "accepted").count(), 1, "{answers:?}");
    assert_eq!((shop.count(EVENTS).await, shop.count(OUTBOX).await), (1, 1));
    let payload: String =
        sqlx::query_scalar("SELECT payload::text FROM outbox WHERE topic = 'custom.webhook.received'")
            .fetch_one(&shop.database.pool().await)
            .await
            .unwrap();
    let payload: Value = serde_json::from_str(&payload).unwrap();
    assert_eq!(payload, json!({ "provider": "pay", "event_id": "evt-1", "body": { "type": "paid", "amount": 12.5 } }));
    let again = sign(KEY, "evt-2", at, body);
    assert_eq!(send(&shop, "pay", "evt-2", at, &again, body).await.1, json!({ "status": "accepted" }));
}

#[tokio::test]
async fn what_is_forged_old_or_of_another_provider_is_refused_and_leaves_nothing() {
    let shop = shop().await;
    let (at, body) = (now(), r#"{"type":"paid"}"#);
    let right = sign(KEY, "evt-1", at, body);
    for (what, provider, id, timestamp, signature, body, code) in [
        ("another body", "pay", "evt-1", at, right.as_str(), r#"{"type":"lost"}"#, "webhook_signature_wrong"),
        ("another id", "pay", "evt-2", at, &right, body, "webhook_signature_wrong"),
        ("another time", "pay", "evt-1", at + 1, &right, body, "webhook_signature_wrong"),
        ("another provider", "ship", "evt-1", at, &right, body, "webhook_signature_wrong"),
        (
            "another key",
            "pay",
            "evt-1",
            at,
            &sign("guessed guessed guessed", "evt-1", at, body),
            body,
            "webhook_signature_wrong",
        ),
        ("an old one", "pay", "evt-1", at - 400, &sign(KEY, "evt-1", at - 400, body), body, "webhook_time_wrong"),
        ("one to come", "pay", "evt-1", at + 400, &sign(KEY, "evt-1", at + 400, body), body, "webhook_time_wrong"),
    ] {
        let (status, answer) = send(&shop, provider, id, timestamp, signature, body).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), (401, code), "{what}");
    }
    assert_eq!(send(&shop, "nobody", "evt-1", at, &right, body).await.0, 404);
    for bad in ["not json", r#"{"a": "\u0000"}"#] {
        assert_eq!(send(&shop, "pay", "evt-1", at, &sign(KEY, "evt-1", at, bad), bad).await.0, 400, "{bad}");
    }
    let bare = shop.http.post(format!("{}/api/v1/webhooks/pay", shop.base)).body(body).send().await.unwrap();
    assert_eq!(bare.json::<Value>().await.unwrap()["code"], "webhook_headers_missing");
    assert_eq!((shop.count(EVENTS).await, shop.count(OUTBOX).await), (0, 0));
    let log = shop.log.lock().unwrap().join("\n");
    assert!(!log.contains(KEY) && !log.contains(&STANDARD.encode(KEY)) && !log.contains("another-key"), "{log}");
}

#[tokio::test]
async fn an_event_arrives_at_the_worker_of_custom_tasks() {
    let shop = shop().await;
    let bench = Bench::beside(&shop).await;
    let (_relay, _worker) = (bench.start(&["relay"]).await, bench.start(&["worker", "custom"]).await);
    let (at, body) = (now(), r#"{"type":"paid"}"#);
    assert_eq!(send(&shop, "pay", "evt-1", at, &sign(KEY, "evt-1", at, body), body).await.0, 202);
    eventually("the task is written", async || {
        (shop.count("custom_tasks WHERE topic = 'custom.webhook.received' AND data->'body'->>'type' = 'paid'").await
            == 1)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_payment_marks_its_order_once_and_what_does_not_fit_waits_for_a_person() {
    let amqp = setting("APP_TEST_AMQP_URL");
    let shop = shop_with(&[("AMQP_URL", amqp.as_str())]).await;
    let root = admin(&shop).await;
    let bench = Bench::beside(&shop).await;
    let (_relay, _worker) = (bench.start(&["relay"]).await, bench.start(&["worker", "custom"]).await);
    let order = shop.buy(Who::Guest, "PROBE-0", 2).await;
    let at = now();
    let say = async |provider: &str, key: &str, id: &str, change: Value| {
        let mut data = json!({ "order_id": order["id"], "amount_cents": order["total_cents"], "currency": "EUR" });
        data["currency"] = order["currency"].clone();
        for (name, value) in change.as_object().unwrap() {
            data[name] = value.clone();
        }
        let body = json!({ "type": "payment.succeeded", "data": data }).to_string();
        assert_eq!(send(&shop, provider, id, at, &sign(key, id, at, &body), &body).await.0, 202);
    };
    let dead = async |expected: u64| {
        eventually("the dead letter is there", async || {
            let (_, found) = shop.call("GET", "/api/v1/admin/dead-letters", Who::Session(&root), None).await;
            let queue = found["items"].as_array().unwrap().iter().find(|item| item["queue"] == "custom").cloned();
            (queue.unwrap()["messages"] == expected).then_some(())
        })
        .await;
    };
    say("ship", "another-key-of-26-bytes", "evt-0", json!({})).await;
    say("pay", KEY, "evt-1", json!({ "amount_cents": 1 })).await;
    dead(1).await;
    say("pay", KEY, "evt-2", json!({ "order_id": "00000000-0000-4000-8000-000000000000" })).await;
    dead(2).await;
    eventually("the other provider is heard", async || {
        (shop.count("custom_tasks WHERE data->>'provider' = 'ship'").await == 1).then_some(())
    })
    .await;
    assert_eq!(shop.count("orders WHERE paid_at IS NOT NULL").await, 0, "nothing of that is a payment");

    say("pay", KEY, "evt-3", json!({})).await;
    eventually("the order is paid", async || {
        (shop.count("orders WHERE paid_at IS NOT NULL AND status = 'placed'").await == 1).then_some(())
    })
    .await;
    let paid = format!(
        "audit_log WHERE action = 'order.pay' AND actor = 'pay' AND actor_id IS NULL AND entity_id = '{}'",
        order["id"].as_str().unwrap()
    );
    assert_eq!(shop.count(Box::leak(paid.into_boxed_str())).await, 1);
    let (_, audit) = shop.call("GET", "/api/v1/admin/audit", Who::Session(&root), None).await;
    assert_eq!((&audit["items"][0]["action"], &audit["items"][0]["actor_id"]), (&json!("order.pay"), &Value::Null));
    // Too late: the money was taken, so somebody must give it back.
    let late = shop.buy(Who::Guest, "PROBE-0", 2).await;
    let cancel = format!("/api/v1/orders/{}/cancel", late["id"].as_str().unwrap());
    assert_eq!(shop.call("POST", &cancel, Who::Guest, None).await.0, 200);
    say("pay", KEY, "evt-late", json!({ "order_id": late["id"] })).await;
    dead(3).await;
    assert_eq!(shop.count("orders WHERE paid_at IS NOT NULL").await, 1);
    let path = format!("/api/v1/admin/orders/{}", order["id"].as_str().unwrap());
    let (_, shown) = shop.call("GET", &path, Who::Session(&root), None).await;
    assert!(shown["paid_at"].is_string(), "{shown}");
    say("pay", KEY, "evt-4", json!({})).await;
    dead(4).await;
    let (_, letters) = shop.call("GET", "/api/v1/admin/dead-letters/custom", Who::Session(&root), None).await;
    let reasons: Vec<&str> =
        letters["items"].as_array().unwrap().iter().map(|letter| letter["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["other_amount", "unknown_order", "not_placed", "paid_before"]);
}
