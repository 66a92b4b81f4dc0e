//! Orders: stock, money, events and keys.

use std::{collections::HashSet, sync::Arc};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{PgPool, PgTransaction};
use tokio::task::{JoinHandle, JoinSet};

use crate::shop::{Shop, eventually, fresh_key, header};

#[tokio::test]
async fn an_order_takes_stock_and_writes_its_events() {
    let shop = Shop::open().await;
    let skus = shop.skus(2).await;
    let before = (shop.stock(&skus[0]).await, shop.stock(&skus[1]).await);
    let response = shop.order(&fresh_key(), &[(&skus[1], 1), (&skus[0], 3)]).await;
    assert_eq!(response.status(), 201);
    assert_eq!(
        (header(&response, "idempotent-replay").as_str(), header(&response, "cache-control").as_str()),
        ("", "no-store")
    );
    let order: Value = response.json().await.unwrap();
    let keys: Vec<&String> = order.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["created_at", "currency", "id", "items", "number", "status", "total_cents"]);
    assert_eq!((shop.stock(&skus[0]).await, shop.stock(&skus[1]).await), (before.0 - 3, before.1 - 1));

    let mut total = 0;
    for (sku, qty) in [(&skus[0], 3), (&skus[1], 1)] {
        let price = shop.read(&format!("/api/v1/products/{sku}")).await.2["price_cents"].as_i64().unwrap();
        let line = json!({ "sku": sku, "qty": qty, "unit_cents": price });
        assert!(order["items"].as_array().unwrap().contains(&line), "{order}");
        total += qty * price;
    }
    assert_eq!(order["total_cents"], total);

    let (status, _, found) = shop.read(&format!("/api/v1/orders/{}", order["id"].as_str().unwrap())).await;
    assert_eq!((status, &found), (200, &order));

    // The seed announces its products without a request.
    let sql = "SELECT topic, aggregate_id, payload::text, published_at IS NULL FROM outbox WHERE headers ? 'request_id' ORDER BY id";
    let events: Vec<(String, String, String, bool)> =
        sqlx::query_as(sql).fetch_all(&shop.database.pool().await).await.unwrap();
    let topics: Vec<&str> = events.iter().map(|event| event.0.as_str()).collect();
    assert_eq!(topics, ["email.send_order_confirmation", "search.index_product", "search.index_product"]);
    assert_eq!(events[0].1, order["id"].as_str().unwrap());
    assert!(
        events[0].2.contains("ada@example.org") && events[1].2.contains(&skus[0]) && events[2].2.contains(&skus[1]),
        "{events:?}"
    );
    assert!(events.iter().all(|event| event.3));
    let versions = "SELECT count(*) FROM outbox o JOIN inventory i ON i.product_id::text = o.aggregate_id JOIN products p ON p.id = i.product_id \
        WHERE o.headers ? 'request_id' AND o.aggregate_version = p.version + i.version AND i.version = 2";
    let grown: i64 = sqlx::query_scalar(versions).fetch_one(&shop.database.pool().await).await.unwrap();
    assert_eq!(grown, 2, "each event carries the version that the new stock has");
}

#[tokio::test]
async fn the_probe_product_can_be_ordered() {
    let shop = Shop::open().await;
    assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 201);
    assert_eq!(shop.stock("PROBE-0").await, 999_999_999);
}

#[tokio::test]
async fn out_of_stock_names_the_skus_and_takes_nothing() {
    let shop = Shop::open().await;
    let skus = shop.skus(3).await;
    shop.set_stock(&skus[1], 1).await;
    let before = shop.stock(&skus[0]).await;
    let key = fresh_key();
    let response = shop.order(&key, &[(&skus[0], 1), (&skus[1], 2), (&skus[2], 1)]).await;
    assert_eq!(response.status(), 409);
    let problem: Value = response.json().await.unwrap();
    assert_eq!((&problem["code"], &problem["skus"]), (&"out_of_stock".into(), &json!([skus[1]])));
    assert_eq!((shop.stock(&skus[0]).await, shop.stock(&skus[1]).await), (before, 1));
    for table in ["orders", "order_items", "outbox WHERE headers ? 'request_id'", "idempotency_keys"] {
        assert_eq!(shop.count(table).await, 0, "{table}");
    }
    shop.set_stock(&skus[1], 2).await;
    let again = shop.order(&key, &[(&skus[0], 1), (&skus[1], 2), (&skus[2], 1)]).await;
    assert_eq!(again.status(), 201, "a refused order does not use up its key");
}

#[tokio::test]
async fn lines_of_one_product_count_together() {
    let shop = Shop::open().await;
    let sku = &shop.skus(1).await[0];
    shop.set_stock(sku, 5).await;
    assert_eq!(shop.order(&fresh_key(), &[(sku, 3), (sku, 3)]).await.status(), 409, "each line alone would fit");
    let order: Value = shop.order(&fresh_key(), &[(sku, 3), (sku, 2)]).await.json().await.unwrap();
    assert_eq!((order["items"].as_array().unwrap().len(), &order["items"][0]["qty"]), (1, &5.into()));
    assert_eq!(shop.stock(sku).await, 0);
}

#[tokio::test]
async fn a_hundred_pieces_are_sold_exactly_a_hundred_times() {
    let shop = Arc::new(Shop::open().await);
    let sku = shop.skus(1).await.remove(0);
    shop.set_stock(&sku, 100).await;
    let mut buyers = JoinSet::new();
    for _ in 0..16 {
        let (shop, sku) = (Arc::clone(&shop), sku.clone());
        buyers.spawn(async move {
            let mut sold = 0;
            for _ in 0..10 {
                match shop.order(&fresh_key(), &[(&sku, 1)]).await.status() {
                    StatusCode::CREATED => sold += 1,
                    status => assert_eq!(status, 409),
                }
            }
            sold
        });
    }
    let sold: i32 = buyers.join_all().await.into_iter().sum();
    assert_eq!((sold, shop.stock(&sku).await, shop.count("orders").await), (100, 0, 100));
}

#[tokio::test]
async fn orders_with_the_same_products_in_any_order_do_not_deadlock() {
    let shop = Arc::new(Shop::open().await);
    let skus = Arc::new(shop.skus(6).await);
    let mut buyers = JoinSet::new();
    for buyer in 0..16 {
        let (shop, skus) = (Arc::clone(&shop), Arc::clone(&skus));
        buyers.spawn(async move {
            for turn in 0..5 {
                let mut items: Vec<(&str, i64)> = skus.iter().map(|sku| (sku.as_str(), 1)).collect();
                items.rotate_left((buyer + turn) % 6);
                if buyer % 2 == 0 {
                    items.reverse();
                }
                let status = shop.order(&fresh_key(), &items[..5]).await.status();
                assert!(status == 201 || status == 409, "{status}");
            }
        });
    }
    buyers.join_all().await;
    let deadlocks = shop.log.lock().unwrap().iter().filter(|line| line.contains("deadlock")).count();
    assert_eq!(deadlocks, 0);
}

#[tokio::test]
async fn fifty_requests_with_one_key_are_one_order() {
    let shop = Arc::new(Shop::open().await);
    let sku = shop.skus(1).await.remove(0);
    let (before, key) = (shop.stock(&sku).await, fresh_key());
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let (shop, sku, key) = (Arc::clone(&shop), sku.clone(), key.clone());
        requests.spawn(async move {
            let response = shop.order(&key, &[(&sku, 1)]).await;
            let replay = header(&response, "idempotent-replay") == "true";
            (response.status().as_u16(), replay, response.text().await.unwrap())
        });
    }
    let answers = requests.join_all().await;
    let bodies: HashSet<&String> = answers.iter().filter(|answer| answer.0 == 201).map(|answer| &answer.2).collect();
    assert_eq!(bodies.len(), 1, "every success is the same order: {answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer.0 == 201 && !answer.1).count(), 1, "one request did the work");
    // A busy machine may keep one waiting for a connection longer than the app has it wait: nothing was changed then either.
    for (status, _, body) in answers.iter().filter(|answer| answer.0 != 201) {
        let refusals = [(409, "idempotency_key_running"), (503, "database_unavailable")];
        assert!(refusals.iter().any(|(of, code)| status == of && body.contains(code)), "{status} {body}");
    }
    assert_eq!((shop.stock(&sku).await, shop.count("orders").await), (before - 1, 1));

    let replay = shop.order(&key, &[(&sku, 1)]).await;
    assert_eq!((replay.status().as_u16(), header(&replay, "idempotent-replay").as_str()), (201, "true"));
    assert!(bodies.contains(&replay.text().await.unwrap()));
}

#[tokio::test]
async fn a_second_request_is_turned_away_while_the_first_one_runs() {
    let shop = Arc::new(Shop::open().await);
    let pool = shop.database.pool().await;
    let mut blocker = pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM inventory FOR UPDATE").execute(&mut *blocker).await.unwrap();
    let (key, running) = (fresh_key(), Arc::clone(&shop));
    let first = tokio::spawn({
        let key = key.clone();
        async move { running.order(&key, &[("PROBE-0", 1)]).await }
    });
    eventually("the first request waits for the row", async || {
        let waiting = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE datname = current_database() AND locktype = 'advisory'";
        let locks: i64 = sqlx::query_scalar(waiting).fetch_one(&pool).await.unwrap();
        (locks == 1).then_some(())
    })
    .await;
    let second = shop.order(&key, &[("PROBE-0", 1)]).await;
    assert_eq!((second.status().as_u16(), header(&second, "retry-after").as_str()), (409, "1"));
    assert_eq!(second.json::<Value>().await.unwrap()["code"], "idempotency_key_running");
    blocker.rollback().await.unwrap();
    assert_eq!(first.await.unwrap().status(), 201);
    let third = shop.order(&key, &[("PROBE-0", 1)]).await;
    assert_eq!((third.status().as_u16(), header(&third, "idempotent-replay").as_str()), (201, "true"));
}

/// The first sessions of an order, while a row that it wants is held.
const WAITING: &str =
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// An order that waits for a row, what holds the row, and what waits for it.
async fn held_up(shop: &Arc<Shop>, pool: &PgPool, key: &str) -> (JoinHandle<Response>, PgTransaction<'static>, i32) {
    let mut blocker = pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM inventory FOR UPDATE").execute(&mut *blocker).await.unwrap();
    let (shop, key) = (Arc::clone(shop), key.to_owned());
    let order = tokio::spawn(async move { shop.order(&key, &[("PROBE-0", 1)]).await });
    let pid = eventually("the order waits for the row", async || {
        sqlx::query_scalar(WAITING).fetch_optional(pool).await.unwrap()
    })
    .await;
    (order, blocker, pid)
}

#[tokio::test]
async fn an_order_whose_session_is_ended_is_placed_on_another_one() {
    let shop = Arc::new(Shop::open().await);
    let pool = shop.database.pool().await;
    let (order, blocker, pid) = held_up(&shop, &pool, &fresh_key()).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&pool).await.unwrap();
    blocker.rollback().await.unwrap();
    assert_eq!(order.await.unwrap().status(), 201);
    assert_eq!((shop.count("orders").await, shop.stock("PROBE-0").await), (1, 999_999_999));
}

#[tokio::test]
async fn nobody_is_told_that_nothing_happened_when_the_order_may_have_been_placed() {
    let shop = Arc::new(Shop::open().await);
    let pool = shop.database.pool().await;
    let key = fresh_key();
    let (order, blocker, _) = held_up(&shop, &pool, &key).await;
    shop.primary_gate.shut().await;
    blocker.rollback().await.unwrap();
    let unknown = order.await.unwrap();
    assert_eq!((unknown.status().as_u16(), header(&unknown, "retry-after").as_str()), (503, "1"));
    assert_eq!(unknown.json::<Value>().await.unwrap()["code"], "outcome_unknown");
    eventually("the order is placed without anybody to hear of it", async || {
        (shop.count("orders").await == 1).then_some(())
    })
    .await;
    shop.primary_gate.reopen();
    shop.eventually_ready(200).await;
    let again = shop.order(&key, &[("PROBE-0", 1)]).await;
    assert_eq!((again.status().as_u16(), header(&again, "idempotent-replay").as_str()), (201, "true"));
    assert_eq!((shop.count("orders").await, shop.stock("PROBE-0").await), (1, 999_999_999));
}

/// The order has seen that its key is free, and somebody else has used it since.
#[tokio::test]
async fn a_key_that_was_used_meanwhile_undoes_the_order() {
    let shop = Arc::new(Shop::open().await);
    let pool = shop.database.pool().await;
    let first = shop.order("first", &[("PROBE-0", 1)]).await.text().await.unwrap();
    let (order, mut blocker, _) = held_up(&shop, &pool, "second").await;
    sqlx::query(
        "INSERT INTO idempotency_keys (scope, key, fingerprint, status, response) \
         SELECT scope, 'second', fingerprint, status, response FROM idempotency_keys",
    )
    .execute(&mut *blocker)
    .await
    .unwrap();
    blocker.commit().await.unwrap();
    let second = order.await.unwrap();
    assert_eq!((second.status().as_u16(), header(&second, "idempotent-replay").as_str()), (201, "true"));
    assert_eq!(second.text().await.unwrap(), first);
    assert_eq!((shop.count("orders").await, shop.stock("PROBE-0").await), (1, 999_999_999));
}

#[tokio::test]
async fn an_order_does_not_wait_for_ever_behind_another_session() {
    let shop = Shop::open().await;
    let pool = shop.database.pool().await;
    let mut blocker = pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM inventory FOR UPDATE").execute(&mut *blocker).await.unwrap();
    let key = fresh_key();
    let refused = shop.order(&key, &[("PROBE-0", 1)]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after").as_str()), (503, "1"));
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "contended");
    blocker.rollback().await.unwrap();
    assert_eq!(shop.order(&key, &[("PROBE-0", 1)]).await.status(), 201);
}

#[tokio::test]
async fn a_key_stands_for_one_payload() {
    let shop = Shop::open().await;
    let (skus, key) = (shop.skus(2).await, fresh_key());
    assert_eq!(shop.order(&key, &[(&skus[0], 1), (&skus[1], 1)]).await.status(), 201);
    assert_eq!(
        shop.order(&key, &[(&skus[1], 1), (&skus[0], 1)]).await.status(),
        201,
        "the same order, spelled otherwise"
    );
    let response = shop.order(&key, &[(&skus[0], 2)]).await;
    assert_eq!(response.status(), 422);
    assert_eq!(response.json::<Value>().await.unwrap()["code"], "idempotency_key_reused");
    assert_eq!(shop.count("orders").await, 1);
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong() {
    let shop = Shop::open().await;
    let order = |items: Value| json!({ "email": "a@b", "items": items }).to_string();
    let fine = order(json!([{ "sku": "PROBE-0", "qty": 1 }]));
    let cases = [
        (None, fine.clone(), 400, "idempotency_key_missing"),
        (Some(" "), fine.clone(), 400, "idempotency_key_invalid"),
        (Some("k"), "{".to_owned(), 400, "invalid_json"),
        (Some("k"), "[]".to_owned(), 422, "invalid_order"),
        (Some("k"), order(json!([])), 422, "invalid_order"),
        (Some("k"), order(json!([{ "sku": "PROBE-0", "qty": 0 }])), 422, "invalid_order"),
        (Some("k"), order(json!([{ "sku": "PROBE-0", "qty": 1.5 }])), 422, "invalid_order"),
        (Some("k"), order(json!([{ "sku": "NO-SUCH", "qty": 1 }])), 422, "unknown_sku"),
        (Some("k"), format!("{}{fine}", " ".repeat(64 * 1024)), 413, "payload_too_large"),
    ];
    for (key, body, status, code) in cases {
        let response = shop.post(key, &body).await;
        assert_eq!(header(&response, "content-type"), "application/problem+json");
        let problem: Value = response.json().await.unwrap();
        assert_eq!((&problem["status"], &problem["code"]), (&status.into(), &code.into()), "{problem}");
    }
    let form = shop.http.post(format!("{}/api/v1/orders", shop.base)).header("idempotency-key", "k").body(fine).send();
    assert_eq!(form.await.unwrap().status(), 415);
    assert_eq!(shop.get("/api/v1/orders/not-a-uuid").await.status(), 404);
    assert_eq!(shop.get("/api/v1/orders/00000000-0000-4000-8000-000000000000").await.status(), 404);
    assert_eq!(shop.count("orders").await, 0);
}
