//! Relay and workers: nothing is lost, nothing has its effect twice, nothing goes round for ever.

use std::{collections::HashSet, sync::Arc};

use lapin::types::FieldTable;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    backstage::{Bench, bind, header, json as body},
    shop::{Shop, eventually, fresh_key},
};

const UNPUBLISHED: &str = "SELECT count(*) FROM outbox WHERE published_at IS NULL";
const MAILED: &str = "SELECT count(*) FROM email_log";
const TASKS: &str = "SELECT count(*) FROM custom_tasks";
/// An order with one line, as the shop writes it.
const ORDER: &str = "INSERT INTO categories (slug, name) VALUES ('c', 'C'); \
    INSERT INTO products (sku, name, description, brand, category_id, price_cents, currency) SELECT 'SKU-1', 'N', 'D', 'B', id, 1250, 'EUR' FROM categories; \
    INSERT INTO orders (id, email, status, total_cents, currency) VALUES ('11111111-1111-4111-8111-111111111111', 'ada@example.org', 'placed', 3750, 'EUR'); \
    INSERT INTO order_items (order_id, product_id, qty, unit_cents) SELECT '11111111-1111-4111-8111-111111111111', id, 3, 1250 FROM products; \
    INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload) VALUES ('22222222-2222-4222-8222-222222222222', 'email.send_order_confirmation', '11111111-1111-4111-8111-111111111111', 1, '{\"order_id\": \"11111111-1111-4111-8111-111111111111\", \"email\": \"ada@example.org\"}')";

fn task(topic: &str, id: &str) -> String {
    json!({ "id": id, "type": topic, "v": 1, "occurred_at": "2026-11-22T18:00:00Z",
        "aggregate": { "id": "1", "version": 1 }, "traceparent": null, "data": { "a": [1, 2] } })
    .to_string()
}

#[tokio::test]
async fn an_event_is_published_in_its_envelope_with_its_properties() {
    let bench = Bench::open().await;
    bench.sql("INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers) VALUES ('0193e3a8-0000-7000-8000-000000000001', 'probe.hello', '7', 3, '{\"x\": 1}', '{\"traceparent\": \"00-abc-def-01\"}')").await;
    let relay = bench.start(&["relay"]).await;
    let message = bench.wait_for("q.probe").await;
    let envelope = body(&message);
    let occurred_at = envelope["occurred_at"].clone();
    assert_eq!(
        envelope,
        json!({ "id": "0193e3a8-0000-7000-8000-000000000001", "type": "probe.hello", "v": 1, "occurred_at": occurred_at,
            "aggregate": { "id": "7", "version": 3 }, "traceparent": "00-abc-def-01", "data": { "x": 1 } })
    );
    let properties = &message.delivery.properties;
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "0193e3a8-0000-7000-8000-000000000001");
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "probe.hello");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(header(&message, "x-attempt"), "1");
    bench.eventually_count(UNPUBLISHED, 0).await;
    relay.eventually_ready(200).await;
    let metrics = relay.get("/metrics").await.1;
    assert!(metrics.contains(r#"outbox_messages_total{result="published"} 1"#), "{metrics}");
    assert!(metrics.contains("outbox_oldest_unpublished_seconds"), "{metrics}");
}

#[tokio::test]
async fn an_event_that_no_queue_wants_stays_and_holds_up_no_other() {
    let bench = Bench::open().await;
    let unbound = bench.channel.queue_unbind("unrouted".into(), "unrouted".into(), "".into(), FieldTable::default());
    unbound.await.unwrap();
    bench.sql("INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload) SELECT gen_random_uuid(), t, '1', 1, '{\"email\": \"ada@example.org\"}' FROM unnest(ARRAY['nobody.asked', 'probe.a', 'probe.b']) AS t").await;
    let relay = bench.start(&["relay"]).await;
    bench.eventually_count(UNPUBLISHED, 1).await;
    bench.eventually_count("SELECT count(*) FROM outbox WHERE attempts >= 2 AND topic = 'nobody.asked' AND last_error = 'returned by the broker: NO_ROUTE'", 1).await;
    assert_eq!(bench.count("SELECT count(*) FROM outbox WHERE attempts > 0").await, 1);
    assert!(relay.get("/metrics").await.1.contains(r#"outbox_messages_total{result="returned"}"#));
    assert!(relay.logged("NO_ROUTE") >= 2 && relay.logged("ada@example.org") == 0);
    bind(&bench.channel, "unrouted", "unrouted", "").await;
    bench.eventually_count(UNPUBLISHED, 0).await;
    assert_eq!(bench.wait_for("unrouted").await.delivery.routing_key.as_str(), "nobody.asked");
}

#[tokio::test]
async fn old_rows_go_and_young_ones_stay() {
    let bench = Bench::open().await;
    bench.sql("INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, created_at, published_at) SELECT gen_random_uuid(), 'probe.old', '1', 1, '{}', now() - age, now() - age FROM unnest(ARRAY[interval '25 hours', '23 hours']) AS age; \
        INSERT INTO idempotency_keys (scope, key, fingerprint, created_at) SELECT 's', age::text, 'f', now() - age FROM unnest(ARRAY[interval '49 hours', '47 hours']) AS age; \
        INSERT INTO inbox (consumer, message_id, processed_at) SELECT 'c', gen_random_uuid(), now() - age FROM unnest(ARRAY[interval '8 days', '6 days']) AS age").await;
    let _relay = bench.start(&["relay"]).await;
    for rows in ["SELECT count(*) FROM outbox", "SELECT count(*) FROM idempotency_keys", "SELECT count(*) FROM inbox"] {
        bench.eventually_count(rows, 1).await;
    }
}

#[tokio::test]
async fn a_message_that_comes_twice_has_its_effect_once() {
    let bench = Bench::open().await;
    let worker = bench.start(&["worker", "custom"]).await;
    let message = task("custom.resize", "33333333-3333-4333-8333-333333333333");
    for _ in 0..2 {
        bench.publish("custom.resize", &message).await;
    }
    eventually("both are acknowledged", async || {
        let metrics = worker.get("/metrics").await.1;
        let seen = |result: &str| {
            metrics.contains(&format!(r#"worker_messages_total{{queue="q.custom",result="{result}"}} 1"#))
        };
        (seen("done") && seen("duplicate")).then_some(())
    })
    .await;
    assert_eq!(bench.count(TASKS).await, 1);
    assert_eq!(bench.count("SELECT count(*) FROM inbox WHERE consumer = 'custom'").await, 1);
    assert_eq!(
        bench
            .count("SELECT count(*) FROM custom_tasks WHERE topic = 'custom.resize' AND data = '{\"a\": [1, 2]}'")
            .await,
        1
    );
}

#[tokio::test]
async fn poison_goes_to_the_dead_letters_with_the_reason() {
    let bench = Bench::open().await;
    let _worker = bench.start(&["worker", "custom"]).await;
    let newer = task("custom.a", "33333333-3333-4333-8333-333333333333").replace("\"v\":1", "\"v\":9");
    let foreign = task("email.a", "33333333-3333-4333-8333-333333333334");
    for (poison, reason, error) in [
        ("not json", "undecodable", "read the envelope: expected ident at line 1 column 2"),
        (newer.as_str(), "undecodable", "found envelope version 9, expected 1"),
        (foreign.as_str(), "unknown_topic", "found a message of type \"email.a\""),
    ] {
        bench.publish("custom.a", poison).await;
        let dead = bench.wait_for("q.dead.custom").await;
        assert_eq!((header(&dead, "x-reason").as_str(), header(&dead, "x-error").as_str()), (reason, error));
        assert_eq!(
            (dead.delivery.data.as_slice(), dead.delivery.routing_key.as_str()),
            (poison.as_bytes(), "q.custom")
        );
    }
    assert_eq!((bench.ready("q.custom").await, bench.count(TASKS).await), (0, 0));
}

#[tokio::test]
async fn a_mail_that_is_refused_for_now_takes_the_retry_queue_and_arrives_once() {
    let bench = Bench::open().await;
    bench.sql(ORDER).await;
    bench.mail.refuse(&["450 4.2.1 ada@example.org is busy"]);
    let _relay = bench.start(&["relay"]).await;
    let worker = bench.start(&["worker", "email"]).await;
    eventually("the message waits in q.retry.5s", async || (bench.ready("q.retry.5s").await == 1).then_some(())).await;
    assert_eq!(bench.mail.mails().len(), 0);
    bench.eventually_count(MAILED, 1).await;
    let mails = bench.mail.mails();
    assert_eq!(mails.len(), 1);
    for line in [
        "Message-ID: <22222222-2222-4222-8222-222222222222@example.com>",
        "To: ada@example.org",
        "    3 x SKU-1  37.50 EUR",
        "Total: 37.50 EUR",
    ] {
        assert!(mails[0].contains(line), "{line} is not in\n{}", mails[0]);
    }
    let log = worker.log.lock().unwrap().join("\n");
    assert!(log.contains("<recipient> is busy") && !log.contains("ada@example.org"), "{log}");
}

/// It would be sent without end if the server were taken for one that is away.
#[tokio::test]
async fn a_mail_whose_answer_is_lost_uses_up_an_attempt_before_it_is_sent_again() {
    let bench = Bench::open().await;
    bench.sql(ORDER).await;
    bench.mail.lose_answers(1);
    let _relay = bench.start(&["relay"]).await;
    let worker = bench.start(&["worker", "email"]).await;
    eventually("the message waits in q.retry.5s", async || (bench.ready("q.retry.5s").await == 1).then_some(())).await;
    assert_eq!((bench.mail.mails().len(), bench.count(MAILED).await), (1, 0));
    bench.eventually_count(MAILED, 1).await;
    let mails = bench.mail.mails();
    let same_id = "Message-ID: <22222222-2222-4222-8222-222222222222@example.com>";
    assert!(mails.len() == 2 && mails.iter().all(|mail| mail.contains(same_id)), "{mails:?}");
    // It says so after the mail was written down.
    let is_told = async || (worker.logged(r#""attempt":2"#) == 1).then_some(());
    eventually("the second attempt is the one that ends it", is_told).await;
    assert_eq!(worker.logged("\"missing\""), 0, "the server was there");
}

#[tokio::test]
async fn a_cancelled_order_is_told_to_whoever_ordered() {
    let bench = Bench::open().await;
    bench.sql(ORDER).await;
    bench.sql("UPDATE outbox SET topic = 'email.send_order_cancelled'").await;
    let _relay = bench.start(&["relay"]).await;
    let _worker = bench.start(&["worker", "email"]).await;
    bench.eventually_count("SELECT count(*) FROM email_log WHERE template = 'order_cancelled'", 1).await;
    let mails = bench.mail.mails();
    assert!(mails.len() == 1 && mails[0].contains("is cancelled, and nothing of it will be sent:"), "{mails:?}");
    assert!(mails[0].contains("    3 x SKU-1  37.50 EUR"), "{}", mails[0]);
}

#[tokio::test]
async fn a_mail_that_is_refused_for_good_is_dead_at_once() {
    let bench = Bench::open().await;
    bench.sql(ORDER).await;
    bench.mail.refuse(&["550 5.1.1 no such user"]);
    let _relay = bench.start(&["relay"]).await;
    let _worker = bench.start(&["worker", "email"]).await;
    let dead = bench.wait_for("q.dead.email").await;
    assert_eq!(header(&dead, "x-reason"), "mail_refused");
    assert!(header(&dead, "x-error").contains("no such user"), "{}", header(&dead, "x-error"));
    assert_eq!((bench.mail.mails().len(), bench.count(MAILED).await), (0, 0));
    assert_eq!(bench.count("SELECT count(*) FROM inbox").await, 0, "a replay from the dead letters must not look done");
}

#[tokio::test]
async fn a_mail_server_that_is_away_is_waited_for_and_uses_up_no_attempt() {
    let bench = Bench::open().await;
    let mut worker = bench.start(&["worker", "email"]).await;
    worker.eventually_ready(200).await;
    bench.mail.gate.shut().await;
    bench.sql(ORDER).await;
    let _relay = bench.start(&["relay"]).await;
    let reasons = worker.eventually_ready(503).await;
    assert!(reasons.contains("mail server: "), "{reasons}");
    assert_eq!((bench.ready("q.retry.5s").await, bench.ready("q.dead.email").await), (0, 0));

    // A worker that has to stop hands the message on, unspent.
    worker.terminate().await;
    assert_eq!(bench.ready("q.retry.5s").await, 1);
    let parked = bench.wait_for("q.email").await;
    assert_eq!(header(&parked, "x-attempt"), "1");
    bench.publish("email.again", &String::from_utf8(parked.delivery.data).unwrap()).await;
    let worker = bench.start(&["worker", "email"]).await;
    // Not ready is a worker that has tried nothing yet, too.
    eventually("the outage is told", async || (worker.logged("\"missing\"") == 1).then_some(())).await;
    assert_eq!(bench.ready("q.email").await, 1, "nothing is taken while there is no mail server");
    bench.mail.gate.reopen();
    bench.eventually_count(MAILED, 1).await;
    worker.eventually_ready(200).await;
    assert_eq!((bench.mail.mails().len(), worker.logged("\"missing\"")), (1, 1), "an outage is one line in the log");
}

#[tokio::test]
async fn the_broker_and_the_database_may_go_and_come_back() {
    let bench = Bench::open().await;
    let relay = bench.start(&["relay"]).await;
    let worker = bench.start(&["worker", "custom"]).await;
    for turn in 0..3 {
        relay.eventually_ready(200).await;
        worker.eventually_ready(200).await;
        bench.broker.shut().await;
        bench.sql("INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload) VALUES (gen_random_uuid(), 'custom.a', '1', 1, '{}')").await;
        assert!(relay.eventually_ready(503).await.contains("broker: "));
        assert!(worker.eventually_ready(503).await.contains("broker: "));
        bench.broker.reopen();
        bench.eventually_count(TASKS, turn + 1).await;
    }
    bench.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").await;
    bench.publish("custom.b", &task("custom.b", "33333333-3333-4333-8333-333333333333")).await;
    bench.eventually_count(TASKS, 4).await;
    bench.eventually_count(UNPUBLISHED, 0).await;
}

#[tokio::test]
async fn workers_and_relay_end_with_success_when_asked_to() {
    let bench = Bench::open().await;
    for command in [&["relay"] as &[&str], &["worker", "custom"], &["worker", "email"]] {
        let mut process = bench.start(command).await;
        process.eventually_ready(200).await;
        process.terminate().await;
        assert_eq!(process.logged("\"stopped\""), 1, "{command:?}");
    }
    bench.broker.shut().await;
    let mut process = bench.start(&["worker", "custom"]).await;
    process.eventually_ready(503).await;
    process.terminate().await;
}

/// On threads of its own, so that the mail server answers while the test is busy killing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_orders_survive_killed_relays_and_workers_and_a_broker_that_goes_away() {
    let shop = Arc::new(Shop::open().await);
    let bench = Bench::beside(&shop).await;
    let mut relay = bench.start(&["relay"]).await;
    let mut worker = bench.start(&["worker", "email"]).await;
    let mut buyers = JoinSet::new();
    for _ in 0..5 {
        let shop = Arc::clone(&shop);
        buyers.spawn(async move {
            for _ in 0..10 {
                assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 201);
            }
        });
    }
    for turn in 1..=6 {
        eventually("some more mails went out", async || (bench.mail.mails().len() >= turn * 3).then_some(())).await;
        match turn % 3 {
            0 => {
                bench.broker.shut().await;
                bench.broker.reopen();
            }
            1 => {
                worker.kill().await;
                worker = bench.start(&["worker", "email"]).await;
            }
            _ => {
                relay.kill().await;
                relay = bench.start(&["relay"]).await;
            }
        }
    }
    buyers.join_all().await;
    bench.eventually_count(UNPUBLISHED, 0).await;
    bench.eventually_count(MAILED, 50).await;
    assert_eq!(bench.count("SELECT count(*) FROM inbox WHERE consumer = 'email'").await, 50);
    let mails = bench.mail.mails();
    let ids: HashSet<&str> =
        mails.iter().filter_map(|mail| mail.lines().find(|line| line.starts_with("Message-ID"))).collect();
    assert_eq!(ids.len(), 50, "a mail is lost");
    // Each of four jobs may be between the server's 250 and the COMMIT at each of two kills, and these kills are timed
    // for it: they come when a mail arrives. The effects in the database, counted above, are never doubled.
    assert!(mails.len() <= 58, "{} mails for 50 orders", mails.len());

    let (mut indexed, mut messages) = (HashSet::new(), 0);
    while let Some(message) = bench.take("q.search").await {
        indexed.insert(body(&message)["id"].as_str().unwrap().to_owned());
        messages += 1;
    }
    let events = bench.count("SELECT count(*) FROM outbox WHERE topic = 'search.index_product'").await;
    assert_eq!(i64::try_from(indexed.len()).unwrap(), events, "an event is lost");
    assert_eq!(events, shop.count("products").await + 50, "every product of the seed and every line of an order");
    assert_eq!(bench.ready("q.dead.email").await, 0);
    println!("50 orders: {} mails, {} events as {messages} messages", mails.len(), events);
}

#[tokio::test]
async fn the_version_of_a_document_grows_with_stock_and_with_the_product() {
    let bench = Bench::open().await;
    bench.sql(ORDER).await;
    bench.sql("INSERT INTO inventory (product_id, on_hand) SELECT id, 10 FROM products").await;
    let version = "SELECT p.version + i.version FROM products p JOIN inventory i ON i.product_id = p.id";
    assert_eq!(bench.count(version).await, 2);
    bench.sql("UPDATE inventory SET on_hand = on_hand - 1").await;
    assert_eq!(bench.count(version).await, 3);
    bench.sql("UPDATE products SET price_cents = 1").await;
    assert_eq!(bench.count(version).await, 4);
}
