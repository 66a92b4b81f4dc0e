//! What a worker gave up is given to it again, once the reason is gone.

use serde_json::{Value, json};

use crate::{
    backstage::{Background, Bench},
    people::{Person, Who},
    permissions::admin,
    shop::{Shop, eventually, setting},
};

const LETTERS: &str = "/api/v1/admin/dead-letters";

async fn shop_and_staff() -> (Shop, Person, Bench) {
    let amqp = setting("APP_TEST_AMQP_URL");
    let shop = Shop::open_with(&[("AMQP_URL", amqp.as_str())]).await;
    let person = admin(&shop).await;
    let bench = Bench::beside(&shop).await;
    (shop, person, bench)
}

async fn waiting(shop: &Shop, person: &Person, queue: &str) -> u64 {
    let (status, body) = shop.call("GET", LETTERS, Who::Session(person), None).await;
    assert_eq!(status, 200, "{body}");
    let items = body["items"].as_array().unwrap();
    items.iter().find(|item| item["queue"] == queue).unwrap()["messages"].as_u64().unwrap()
}

async fn eventually_waiting(shop: &Shop, person: &Person, queue: &str, expected: u64) {
    eventually(&format!("{expected} dead letters of {queue}"), async || {
        (waiting(shop, person, queue).await == expected).then_some(())
    })
    .await;
}

async fn replay(shop: &Shop, person: &Person, queue: &str, body: &Value) -> Value {
    let path = format!("{LETTERS}/{queue}/replay");
    let (status, answer) = shop.call("POST", &path, Who::Session(person), Some(body)).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn workers(bench: &Bench) -> (Background, Background) {
    (bench.start(&["relay"]).await, bench.start(&["worker", "email"]).await)
}

#[tokio::test]
async fn a_mail_that_was_refused_for_good_is_sent_after_a_replay_and_once() {
    let (shop, person, bench) = shop_and_staff().await;
    let _workers = workers(&bench).await;
    bench.mail.refuse(&["550 no such user"]);
    shop.buy(Who::Guest, "PROBE-0", 1).await;
    eventually_waiting(&shop, &person, "email", 1).await;

    let (status, listed) = shop.call("GET", &format!("{LETTERS}/email"), Who::Session(&person), None).await;
    assert_eq!((status, listed["items"].as_array().unwrap().len()), (200, 1), "{listed}");
    let letter = &listed["items"][0];
    assert_eq!((&letter["topic"], &letter["attempts"]), (&json!("email.send_order_confirmation"), &json!(1)));
    assert!(letter["reason"].is_string() && letter["error"].as_str().unwrap().contains("550"), "{letter}");
    assert!(!listed.to_string().contains("guest@example.org"), "{listed}");
    eventually_waiting(&shop, &person, "email", 1).await;

    let other = json!({ "message_ids": ["some-other"] });
    let nothing = json!({ "replayed": 0, "refused": 0, "remaining": 1 });
    assert_eq!(replay(&shop, &person, "email", &other).await, nothing);
    eventually_waiting(&shop, &person, "email", 1).await;
    let this = json!({ "message_ids": [letter["message_id"]] });
    let replayed = replay(&shop, &person, "email", &this).await;
    assert_eq!((&replayed["replayed"], &replayed["refused"]), (&json!(1), &json!(0)));
    eventually("the mail is there", async || (bench.mail.mails().len() == 1).then_some(())).await;
    eventually_waiting(&shop, &person, "email", 0).await;
    assert_eq!(replay(&shop, &person, "email", &json!({ "all": true })).await["replayed"], 0, "it is gone");
    let named = format!(
        "audit_log WHERE action = 'dead_letters.replay' AND entity_id = 'email' AND before->0->>'message_id' = '{}'",
        letter["message_id"].as_str().unwrap()
    );
    assert_eq!(shop.count(Box::leak(named.into_boxed_str())).await, 1);
    assert_eq!(shop.count("audit_log WHERE entity = 'queue'").await, 1, "what changes nothing is no change");
}

#[tokio::test]
async fn a_replay_takes_no_more_than_it_was_asked_to_and_poison_comes_back() {
    let (shop, person, bench) = shop_and_staff().await;
    let _worker = bench.start(&["worker", "custom"]).await;
    for _ in 0..3 {
        bench.publish("custom.a", "not json").await;
    }
    eventually_waiting(&shop, &person, "custom", 3).await;
    assert_eq!(replay(&shop, &person, "custom", &json!({ "limit": 2 })).await["replayed"], 2);
    eventually_waiting(&shop, &person, "custom", 3).await;
    let ids = "SELECT coalesce(sum(jsonb_array_length(before)), 0)::bigint FROM audit_log WHERE entity = 'queue'";
    assert_eq!(bench.count(ids).await, 2);
    assert_eq!(replay(&shop, &person, "custom", &json!({ "all": true })).await["replayed"], 3, "each of them once");
    eventually_waiting(&shop, &person, "custom", 3).await;
    assert_eq!(bench.count(ids).await, 5);
    assert_eq!(shop.call("GET", &format!("{LETTERS}/custom?limit=101"), Who::Session(&person), None).await.0, 400);
    assert_eq!(shop.call("GET", &format!("{LETTERS}/probe"), Who::Session(&person), None).await.0, 404);
}

#[tokio::test]
async fn what_is_dropped_is_named_by_the_audit_log_and_nothing_else_goes() {
    let (shop, person, bench) = shop_and_staff().await;
    let worker = bench.start(&["worker", "custom"]).await;
    for _ in 0..3 {
        bench.publish("custom.a", "not json").await;
    }
    eventually_waiting(&shop, &person, "custom", 3).await;
    drop(worker);
    let path = format!("{LETTERS}/custom/drop");
    let drop_them = async |body: Value| shop.call("POST", &path, Who::Session(&person), Some(&body)).await;
    for unclear in [json!({}), json!({ "limit": 1, "all": true }), json!({ "message_ids": [] })] {
        let (status, answer) = drop_them(unclear).await;
        assert_eq!((status, &answer["code"]), (422, &json!("invalid_choice")));
    }
    assert_eq!(drop_them(json!({ "limit": 1 })).await.1, json!({ "dropped": 1, "remaining": 2 }));
    assert_eq!(drop_them(json!({ "message_ids": ["some-other"] })).await.1, json!({ "dropped": 0, "remaining": 2 }));
    // What was passed over comes back a moment after the answer.
    eventually_waiting(&shop, &person, "custom", 2).await;
    assert_eq!(drop_them(json!({ "all": true })).await.1, json!({ "dropped": 2, "remaining": 0 }));
    let named = "SELECT sum(jsonb_array_length(before))::bigint FROM audit_log WHERE action = 'dead_letters.drop'";
    assert_eq!(bench.count(named).await, 3);
    let staff = shop.register("staff").await;
    shop.set_role(&staff, "staff").await;
    assert_eq!(shop.call("POST", &path, Who::Session(&staff), Some(&json!({ "all": true }))).await.0, 403);
}

#[tokio::test]
async fn a_letter_that_is_named_is_found_behind_many_others() {
    let (shop, person, bench) = shop_and_staff().await;
    for _ in 0..510 {
        bench.bury("q.custom", "another", b"{}").await;
    }
    bench.bury("q.custom", "wanted", b"{}").await;
    eventually_waiting(&shop, &person, "custom", 511).await;
    let path = format!("{LETTERS}/custom/drop");
    let wanted = json!({ "message_ids": ["wanted"] });
    let (status, dropped) = shop.call("POST", &path, Who::Session(&person), Some(&wanted)).await;
    assert_eq!((status, dropped), (200, json!({ "dropped": 1, "remaining": 510 })));
    eventually_waiting(&shop, &person, "custom", 510).await;
    let others = json!({ "message_ids": ["another"] });
    let (_, dropped) = shop.call("POST", &path, Who::Session(&person), Some(&others)).await;
    assert_eq!(dropped, json!({ "dropped": 500, "remaining": 10 }), "no more at once than of all");
}

/// `probe` stands for a queue that a manifest adds, and `nowhere` for one that is not made yet.
#[tokio::test]
async fn the_queues_are_those_that_the_file_names_and_one_that_is_missing_hides_no_other() {
    let file = std::env::temp_dir().join(format!("app-live-queues-{}", crate::shop::fresh_key()));
    std::fs::write(&file, "nowhere\ncustom\nprobe\n").unwrap();
    let amqp = setting("APP_TEST_AMQP_URL");
    let settings = [("AMQP_URL", amqp.as_str()), ("APP_QUEUES_FILE", file.to_str().unwrap())];
    let shop = Shop::open_with(&settings).await;
    let person = admin(&shop).await;
    let bench = Bench::beside(&shop).await;
    bench.publish("probe.a", "{}").await;
    let dead = bench.wait_for("q.probe").await;
    bench.give_up("q.probe", &dead).await;

    let (status, listed) = shop.call("GET", LETTERS, Who::Session(&person), None).await;
    let expected = json!([{ "queue": "custom", "messages": 0 }, { "queue": "probe", "messages": 1 }]);
    assert_eq!((status, &listed["items"]), (200, &expected));
    for (queue, status) in [("nowhere", 404), ("email", 404), ("probe", 200)] {
        let path = format!("{LETTERS}/{queue}");
        assert_eq!(shop.call("GET", &path, Who::Session(&person), None).await.0, status, "{queue}");
    }
    eventually_waiting(&shop, &person, "probe", 1).await;
    assert_eq!(replay(&shop, &person, "probe", &json!({ "all": true })).await["replayed"], 1);
    bench.wait_for("q.probe").await;

    std::fs::write(&file, "email\n").unwrap();
    assert_eq!(waiting(&shop, &person, "email").await, 0, "no restart is needed");
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn without_a_broker_dead_letters_are_refused_and_nothing_else_is() {
    let shop = Shop::open().await;
    let person = admin(&shop).await;
    let (status, body) = shop.call("GET", LETTERS, Who::Session(&person), None).await;
    assert_eq!((status, &body["code"]), (503, &json!("broker_not_set_up")));
    assert_eq!(shop.call("GET", "/api/v1/admin/outbox", Who::Session(&person), None).await.0, 200);
}
