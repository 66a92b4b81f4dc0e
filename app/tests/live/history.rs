//! One's own orders: whose they are, what becomes of them, and that they are there at once.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    people::{Who, app_admin},
    shop::{Shop, fresh_key, header},
};

fn path(order: &Value) -> String {
    format!("/api/v1/orders/{}", order["id"].as_str().unwrap())
}

#[tokio::test]
async fn an_order_of_an_account_is_there_for_its_owner_and_staff_alone() {
    let shop = Shop::open().await;
    let (ada, bob, staff) = (shop.register("ada").await, shop.register("bob").await, shop.register("staff").await);
    shop.set_role(&staff, "staff").await;
    let order = shop.buy(Who::Session(&ada), "PROBE-0", 2).await;
    let email: String =
        sqlx::query_scalar("SELECT email FROM orders").fetch_one(&shop.database.pool().await).await.unwrap();
    assert_eq!(email, ada.email, "the account's own address");
    let (read, write) = (shop.token(&staff, &["admin:read"]).await, shop.token(&staff, &["order", "read"]).await);
    for (who, status) in [
        (Who::Session(&ada), 200),
        (Who::Session(&staff), 200),
        (Who::Token(&read), 200),
        (Who::Token(&write), 404),
        (Who::Session(&bob), 404),
        (Who::Guest, 404),
    ] {
        let (found, body) = shop.call("GET", &path(&order), who, None).await;
        assert_eq!(found, status, "{who:?}");
        if status == 200 {
            assert_eq!(body, order);
        }
    }
    for who in [Who::Session(&bob), Who::Guest, Who::Token(&read)] {
        assert_eq!(shop.call("POST", &format!("{}/cancel", path(&order)), who, None).await.0, 404, "{who:?}");
    }
    let order_only = shop.token(&ada, &["order"]).await;
    assert_eq!(shop.call("GET", &path(&order), Who::Token(&order_only), None).await.0, 403);
    let guests = shop.buy(Who::Guest, "PROBE-0", 1).await;
    for who in [Who::Guest, Who::Session(&bob)] {
        assert_eq!(shop.call("GET", &path(&guests), who, None).await.0, 200, "who knows the id of a guest's order");
    }
}

#[tokio::test]
async fn one_key_of_two_accounts_is_two_orders_and_of_one_account_one() {
    let shop = Arc::new(Shop::open().await);
    let (ada, bob) = (shop.register("ada").await, shop.register("bob").await);
    let (key, items) = (fresh_key(), json!([{ "sku": "PROBE-0", "qty": 1 }]));
    let mut ids = HashSet::new();
    for who in [Who::Session(&ada), Who::Session(&bob), Who::Guest] {
        let response = shop.try_to_buy(who, &key, &items).await;
        assert_eq!((response.status().as_u16(), header(&response, "idempotent-replay").as_str()), (201, ""));
        ids.insert(response.json::<Value>().await.unwrap()["id"].clone());
    }
    assert_eq!(ids.len(), 3, "nobody is answered with the order of somebody else");

    let key = fresh_key();
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let (shop, ada, key, items) = (Arc::clone(&shop), ada.clone(), key.clone(), items.clone());
        requests.spawn(async move {
            let response = shop.try_to_buy(Who::Session(&ada), &key, &items).await;
            (response.status().as_u16(), response.json::<Value>().await.unwrap())
        });
    }
    let answers = requests.join_all().await;
    let placed: HashSet<String> =
        answers.iter().filter(|(status, _)| *status == 201).map(|(_, body)| body["id"].to_string()).collect();
    assert_eq!(placed.len(), 1);
    assert!(answers.iter().all(|(status, body)| *status == 201 || body["code"] == "idempotency_key_running"));
    assert_eq!(shop.count("orders").await, 4);
}

#[tokio::test]
async fn the_history_shows_each_own_order_once_and_newest_first() {
    let shop = Shop::open().await;
    let (ada, bob) = (shop.register("ada").await, shop.register("bob").await);
    let mut placed = Vec::new();
    for turn in 0..7 {
        placed.push(shop.buy(Who::Session(&ada), "PROBE-0", turn + 1).await["number"].as_i64().unwrap());
        shop.buy(Who::Session(&bob), "PROBE-0", 1).await;
    }
    placed.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) =
            shop.call("GET", &format!("/api/v1/orders?limit=3&cursor={cursor}"), Who::Session(&ada), None).await;
        assert_eq!(status, 200, "{page}");
        seen.extend(page["items"].as_array().unwrap().iter().map(|order| order["number"].as_i64().unwrap()));
        match &page["next_cursor"] {
            Value::String(next) => cursor.clone_from(next),
            end => break assert!(end.is_null()),
        }
    }
    assert_eq!(seen, placed);
    for (query, code) in [("limit=0", "invalid_query"), ("limit=101", "invalid_query"), ("cursor=x", "invalid_cursor")]
    {
        let (status, problem) = shop.call("GET", &format!("/api/v1/orders?{query}"), Who::Session(&ada), None).await;
        assert_eq!((status, &problem["code"]), (400, &code.into()), "{query}");
    }
    let pool = shop.database.pool().await;
    let mut connection = pool.acquire().await.unwrap();
    sqlx::query("SET enable_seqscan = off").execute(&mut *connection).await.unwrap();
    let explain = "EXPLAIN SELECT id FROM orders WHERE user_id = '00000000-0000-4000-8000-000000000000' AND number < 1 ORDER BY number DESC LIMIT 3";
    let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&mut *connection).await.unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("orders_by_user") && !plan.contains("Sort"), "{plan}");
}

/// The replica of these tests is the primary through another gate, so that nothing lags by itself: the test says how far
/// an answer has to be.
#[tokio::test]
async fn a_read_after_a_write_goes_where_the_write_is() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    let response = shop.try_to_buy(Who::Session(&ada), &fresh_key(), &json!([{ "sku": "PROBE-0", "qty": 1 }])).await;
    let token = header(&response, "x-read-after");
    assert_eq!(token.len(), 20);
    assert_eq!(
        header(&response, "set-cookie"),
        format!("read_after={token}; Path=/api/; Max-Age=60; HttpOnly; SameSite=Lax")
    );
    let read = async |name: &str, value: &str| {
        let value =
            if name == "cookie" { format!("session={}; read_after={value}", ada.session) } else { value.to_owned() };
        let request = match name {
            "cookie" => shop.request("GET", "/api/v1/orders", Who::Guest),
            _ => shop.request("GET", "/api/v1/orders", Who::Session(&ada)),
        };
        let response = request.header(name, value).send().await.unwrap();
        (response.status().as_u16(), header(&response, "x-source"))
    };
    let far = "09999999999999999999";
    assert_eq!(read("x-read-after", &token).await, (200, "replica".to_owned()), "the replica has come that far");
    assert_eq!(read("x-read-after", far).await, (200, "primary".to_owned()));
    assert_eq!(read("cookie", far).await, (200, "primary".to_owned()));
    assert_eq!(read("cookie", "nonsense").await, (200, "replica".to_owned()));
    assert_eq!(read("x-read-after", "nonsense").await, (400, String::new()));
    let order: Value = response.json().await.unwrap();
    let cancelled = shop.send("POST", &format!("{}/cancel", path(&order)), Who::Session(&ada), None).await;
    assert!(header(&cancelled, "x-read-after") > token, "positions grow");
    let guests = shop.try_to_buy(Who::Guest, &fresh_key(), &json!([{ "sku": "PROBE-0", "qty": 1 }])).await;
    assert_eq!((header(&guests, "x-read-after"), header(&guests, "set-cookie")), (String::new(), String::new()));
}

#[tokio::test]
async fn cancelling_gives_the_stock_back_once_however_often_it_is_asked_for() {
    let shop = Arc::new(Shop::open().await);
    let ada = shop.register("ada").await;
    let skus = shop.skus(2).await;
    shop.set_stock(&skus[0], 3).await;
    let before = shop.stock(&skus[1]).await;
    let items = json!([{ "sku": skus[0], "qty": 3 }, { "sku": skus[1], "qty": 1 }]);
    let order: Value = shop.try_to_buy(Who::Session(&ada), &fresh_key(), &items).await.json().await.unwrap();
    assert_eq!(shop.stock(&skus[0]).await, 0);
    let in_stock = async || shop.read(&format!("/api/v1/products/{}", skus[0])).await.2["in_stock"].clone();
    assert_eq!(in_stock().await, false);

    let mut requests = JoinSet::new();
    for _ in 0..10 {
        let (shop, ada, path) = (Arc::clone(&shop), ada.clone(), format!("{}/cancel", path(&order)));
        requests.spawn(async move { shop.call("POST", &path, Who::Session(&ada), None).await });
    }
    let mut expected = order.clone();
    expected["status"] = "cancelled".into();
    for (status, body) in requests.join_all().await {
        assert_eq!((status, &body), (200, &expected));
    }
    assert_eq!((shop.stock(&skus[0]).await, shop.stock(&skus[1]).await), (3, before));
    crate::shop::eventually("listings show it again", async || (in_stock().await == true).then_some(())).await;

    let movements: Vec<(i32, String)> = sqlx::query_as("SELECT delta, reason FROM stock_movements ORDER BY product_id")
        .fetch_all(&shop.database.pool().await)
        .await
        .unwrap();
    assert_eq!(movements, [(3, "cancel".to_owned()), (1, "cancel".to_owned())]);
    assert_eq!(shop.count("stock_ledger").await, 4);
    let sum: i64 =
        sqlx::query_scalar("SELECT sum(delta) FROM stock_ledger").fetch_one(&shop.database.pool().await).await.unwrap();
    assert_eq!(sum, 0);
    let events: Vec<(String, i64, Option<String>)> = sqlx::query_as(
        "SELECT topic, count(*), max(payload->>'email') FROM outbox WHERE headers ? 'request_id' GROUP BY topic ORDER BY topic",
    )
    .fetch_all(&shop.database.pool().await)
    .await
    .unwrap();
    let counts: Vec<(&str, i64)> = events.iter().map(|(topic, count, _)| (topic.as_str(), *count)).collect();
    let expected = [
        ("custom.product_back_in_stock", 1),
        ("email.send_order_cancelled", 1),
        ("email.send_order_confirmation", 1),
        ("search.index_product", 4),
    ];
    assert_eq!(counts, expected);
    assert_eq!(events[1].2.as_ref(), Some(&ada.email));
    let back =
        "SELECT payload->>'sku', (payload->>'on_hand')::int FROM outbox WHERE topic = 'custom.product_back_in_stock'";
    let back: (String, i32) = sqlx::query_as(back).fetch_one(&shop.database.pool().await).await.unwrap();
    assert_eq!(back, (skus[0].clone(), 3), "those who wait for it are told");
    let stale = "outbox o JOIN inventory i ON i.product_id::text = o.aggregate_id JOIN products p ON p.id = i.product_id \
        WHERE o.headers ? 'request_id' AND o.aggregate_version = p.version + i.version";
    assert_eq!(shop.count(stale).await, 2, "the last event of each product carries the version of its stock now");

    let guests = shop.buy(Who::Guest, &skus[0], 1).await;
    assert_eq!(shop.call("POST", &format!("{}/cancel", path(&guests)), Who::Guest, None).await.0, 200);
}

#[tokio::test]
async fn what_is_on_its_way_is_not_cancelled() {
    let shop = Shop::open().await;
    let order = shop.buy(Who::Guest, "PROBE-0", 5).await;
    let pool = shop.database.pool().await;
    sqlx::raw_sql("ALTER TABLE orders DROP CONSTRAINT orders_status_check; UPDATE orders SET status = 'shipped'")
        .execute(&pool)
        .await
        .unwrap();
    let (status, problem) = shop.call("POST", &format!("{}/cancel", path(&order)), Who::Guest, None).await;
    assert_eq!((status, &problem["code"]), (409, &"not_cancellable".into()));
    assert_eq!((shop.stock("PROBE-0").await, shop.count("stock_movements").await), (999_999_995, 0));
}

/// Eight buyers who change their minds, over few pieces of few products: whatever came when, the books agree.
#[tokio::test]
async fn stock_is_what_it_was_less_what_is_ordered_after_any_mix_of_orders_and_cancels() {
    let shop = Arc::new(Shop::open().await);
    assert!(app_admin(&shop.database, "root@example.org", "the password of the admin").await.status.success());
    let skus = Arc::new(shop.skus(4).await);
    for sku in skus.iter() {
        shop.set_stock(sku, 20).await;
    }
    let mut buyers = JoinSet::new();
    for buyer in 0..8_usize {
        let (shop, skus) = (Arc::clone(&shop), Arc::clone(&skus));
        let person = shop.register("buyer").await;
        buyers.spawn(async move {
            let mut open = Vec::new();
            for turn in 0..12_usize {
                let (one, other) = ((buyer + turn) % 4, (buyer * 3 + turn * 5 + 1) % 4);
                let items = json!([{ "sku": skus[one], "qty": turn % 5 + 1 }, { "sku": skus[other], "qty": 1 }]);
                let response = shop.try_to_buy(Who::Session(&person), &fresh_key(), &items).await;
                match response.status().as_u16() {
                    201 => open.push(response.json::<Value>().await.unwrap()),
                    status => assert_eq!(status, 409),
                }
                if turn % 3 == 2 && !open.is_empty() {
                    let order = open.remove(turn % open.len());
                    let cancel = format!("{}/cancel", path(&order));
                    let (first, second) = tokio::join!(
                        shop.call("POST", &cancel, Who::Session(&person), None),
                        shop.call("POST", &cancel, Who::Session(&person), None)
                    );
                    assert_eq!((first.0, second.0), (200, 200));
                }
            }
        });
    }
    buyers.join_all().await;
    for sku in skus.iter() {
        let ordered: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(qty), 0) FROM order_items i JOIN orders o ON o.id = order_id JOIN products p ON p.id = product_id \
             WHERE sku = $1 AND status = 'placed'",
        )
        .bind(sku)
        .fetch_one(&shop.database.pool().await)
        .await
        .unwrap();
        let moved: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(delta), 0) FROM stock_ledger JOIN products p ON p.id = product_id WHERE sku = $1",
        )
        .bind(sku)
        .fetch_one(&shop.database.pool().await)
        .await
        .unwrap();
        let stock = i64::from(shop.stock(sku).await);
        assert_eq!((stock, stock), (20 - ordered, 20 + moved), "{sku}");
    }
    assert!(shop.count("orders WHERE status = 'cancelled'").await > 10);
    let deadlocks = shop.log.lock().unwrap().iter().filter(|line| line.contains("deadlock")).count();
    assert_eq!(deadlocks, 0);
}
