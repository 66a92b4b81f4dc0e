//! What is left of the shop when a backing system is away.

use serde_json::{Value, json};

use crate::{
    people::PASSWORD,
    shop::{Shop, eventually, fresh_key, gate_to, header, setting, through},
};

#[tokio::test]
async fn without_redis_the_shop_is_slower_and_nothing_else() {
    let shop = Shop::open().await;
    let path = "/api/v1/products?limit=3";
    shop.read(path).await;
    assert_eq!(shop.read(path).await.1, "redis");
    shop.redis_gate.shut().await;
    eventually("what Redis said is forgotten", async || (shop.read(path).await.1 == "replica").then_some(())).await;
    for _ in 0..20 {
        let (status, source, _) = shop.read(path).await;
        assert_eq!((status, source.as_str()), (200, "replica"));
    }
    assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 201);
    let ready = shop.eventually_ready(200).await;
    assert_eq!(ready["degraded"], json!(["redis"]));
    shop.redis_gate.reopen();
    eventually("Redis is used again", async || (shop.read(path).await.1 == "redis").then_some(())).await;
    eventually("nothing is degraded", async || {
        (shop.eventually_ready(200).await["degraded"] == json!([])).then_some(())
    })
    .await;
}

/// The connections that a restarted Redis has closed are noticed by nobody until they are used.
#[tokio::test]
async fn whoever_comes_first_after_redis_was_restarted_can_log_in() {
    let shop = Shop::open().await;
    let ada = shop.register("ada").await;
    shop.redis_gate.shut().await;
    shop.redis_gate.reopen();
    shop.log_in(&ada.email, PASSWORD).await;
}

#[tokio::test]
async fn without_rabbitmq_the_shop_is_degraded_and_ready() {
    let url = setting("APP_TEST_AMQP_URL");
    let gate = gate_to(&url, 5672).await;
    let shop = Shop::open_with(&[("AMQP_URL", through(&url, &gate).as_str())]).await;
    let eventually_degraded = async |expected: Value| {
        eventually(&format!("degraded is {expected}"), async || {
            (shop.eventually_ready(200).await["degraded"] == expected).then_some(())
        })
        .await;
    };
    eventually_degraded(json!([])).await;
    gate.shut().await;
    eventually_degraded(json!(["rabbitmq"])).await;
    assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 201);
    gate.reopen();
    eventually_degraded(json!([])).await;
}

#[tokio::test]
async fn without_the_replica_the_primary_answers() {
    let shop = Shop::open().await;
    shop.replica_gate.shut().await;
    for price in 0..5 {
        let (status, source, _) = shop.read(&format!("/api/v1/products?min_price={price}")).await;
        assert_eq!((status, source.as_str()), (200, "primary"));
    }
    assert_eq!(shop.eventually_ready(200).await["degraded"], json!(["replica"]));
    shop.replica_gate.reopen();
    eventually("the replica is used again", async || {
        (shop.read(&format!("/api/v1/products?brand={}", fresh_key())).await.1 == "replica").then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_the_primary_reads_go_on_and_orders_are_refused_until_it_is_back() {
    let shop = Shop::open().await;
    shop.primary_gate.shut().await;
    shop.eventually_ready(503).await;
    assert_eq!(shop.get("/livez").await.status(), 200);
    let (status, source, _) = shop.read("/api/v1/products").await;
    assert_eq!((status, source.as_str()), (200, "replica"));
    let key = fresh_key();
    let refused = shop.order(&key, &[("PROBE-0", 1)]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after").as_str()), (503, "1"));
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "database_unavailable");
    shop.primary_gate.reopen();
    shop.eventually_ready(200).await;
    assert_eq!(shop.order(&key, &[("PROBE-0", 1)]).await.status(), 201);
}

#[tokio::test]
async fn a_demoted_primary_is_noticed_and_left_without_a_restart() {
    let shop = Shop::open().await;
    assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 201);
    shop.database.set_read_only(true).await;
    let refused = shop.order(&fresh_key(), &[("PROBE-0", 1)]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "retry-after").as_str()), (503, "1"));
    let unready = shop.eventually_ready(503).await;
    assert_eq!(unready["reasons"], json!(["primary: no connection that can write"]));
    assert_eq!(shop.read("/api/v1/products").await.0, 200);
    shop.database.set_read_only(false).await;
    shop.eventually_ready(200).await;
    assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 201);
}
