//! What was ordered is told to its customer once, whoever is killed on the way.

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Scenario, Stack, docker, eventually};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("no_event_is_lost_or_doubled_whoever_is_killed", no_event_is_lost_or_doubled),
    ("changed_queues_converge_on_a_live_broker", changed_queues_converge),
];

/// Less than the burst that NGINX lets through.
const ORDERS_A_ROUND: usize = 40;
const ARRIVAL_LIMIT: Duration = Duration::from_secs(90);
const MANIFEST: &str = "
postgres: { replicas: 0 }
rabbitmq: {}
mail: {}
app: { binary: ../target/x86_64-unknown-linux-musl/debug/app, replicas: 1 }
workers: { relay: {}, email: {} }
";

fn stack() -> Stack {
    let stack = Stack::of("sc-messaging", |_| format!("name: sc-messaging\n{MANIFEST}"));
    stack.ok(&["up", "--no-verify"]);
    stack
}

/// What is done to a member of that name in the middle of a stream of orders.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Restart(&'static str),
    Kill(&'static str),
}

const HARMS: [Harm; 7] = [
    Harm::Restart("rabbitmq-1"),
    Harm::Kill("rabbitmq-1"),
    Harm::Kill("worker-email-1"),
    Harm::Kill("worker-relay-1"),
    Harm::Kill("worker-search-1"),
    Harm::Kill("elasticsearch-2"),
    Harm::Restart("postgres-1"),
];

fn no_event_is_lost_or_doubled() {
    let stack = Stack::dev();
    let base = stack.http();
    let is_over = AtomicBool::new(false);
    let searched = std::thread::scope(|scope| {
        let searching = scope.spawn(|| search_until(&is_over, &base));
        let done = catch_unwind(AssertUnwindSafe(|| {
            for (round, harm) in HARMS.into_iter().enumerate() {
                ordered_under(&stack, &base, round, harm);
                stack.ok(&["up", "--no-verify"]);
            }
        }));
        is_over.store(true, Ordering::SeqCst);
        let searched = searching.join();
        if let Err(panic) = done {
            resume_unwind(panic);
        }
        searched.unwrap()
    });
    eprintln!("{} searches, {} of them degraded", searched.answered, searched.degraded);
    assert!(searched.answered > 50);
    // Two nodes of three live at any time.
    assert_eq!(searched.degraded, 0, "of {} searches", searched.answered);

    let ordered = HARMS.len() * ORDERS_A_ROUND;
    let mails = eventually("a mail for every order", ARRIVAL_LIMIT, || {
        let mails = mails(&stack);
        (mails.len() == ordered).then_some(mails)
    });
    let doubled: Vec<_> = mails.iter().filter(|(_, kept)| **kept != 1).collect();
    assert!(doubled.is_empty(), "doubled: {doubled:?}");
    let sold = sold(&stack);
    eventually("the stock in the index is the database's", ARRIVAL_LIMIT, || (indexed(&stack) == sold).then_some(()));
    stack.verify();
    assert!(stack.plan().contains("nothing to do"));
}

fn ordered_under(stack: &Stack, base: &str, round: usize, harm: Harm) {
    let order = |nth: usize| {
        let name = format!("order-{round}-{nth}");
        let place = || http::order_for(base, &name, "PROBE-0", &format!("{name}@example.com"));
        if harm == Harm::Restart("postgres-1") {
            // Without its database the shop sells nothing; the same key tries again, whatever became of the first try.
            eventually("an order is placed", ARRIVAL_LIMIT, || (place().status == 201).then_some(()));
            return;
        }
        let placed = place();
        assert_eq!(placed.status, 201, "{harm:?}: {}", placed.body);
    };
    (0..ORDERS_A_ROUND / 2).for_each(order);
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| (ORDERS_A_ROUND / 2..ORDERS_A_ROUND).for_each(order));
        match harm {
            Harm::Restart(member) => drop(docker(&["restart", &format!("{}-{member}", stack.name)])),
            Harm::Kill(member) => drop(docker(&["kill", &format!("{}-{member}", stack.name)])),
        }
        stream.join().unwrap();
    });
}

struct Searched {
    answered: usize,
    degraded: usize,
}

/// Asks again and again; every question is answered.
fn search_until(is_over: &AtomicBool, base: &str) -> Searched {
    let mut searched = Searched { answered: 0, degraded: 0 };
    while !is_over.load(Ordering::SeqCst) {
        let found = http::get(&format!("{base}/api/v1/search?q=merino&limit=1"));
        assert_eq!(found.status, 200, "{}", found.body);
        let found = found.json();
        assert!(found["total"].as_u64().is_some_and(|total| total > 0), "{found}");
        searched.answered += 1;
        searched.degraded += usize::from(found["degraded"] == true);
        std::thread::park_timeout(Duration::from_millis(200));
    }
    searched
}

/// What is left of the probe product, as the database has it.
fn sold(stack: &Stack) -> i64 {
    let sql = "SELECT on_hand FROM inventory JOIN products ON id = product_id WHERE sku = 'PROBE-0'";
    let told = stack.ok(&["exec", "postgres-1", "--", "psql", "-U", "postgres", "-d", "app", "-Atc", sql]);
    told.trim().parse().unwrap()
}

/// The same as the index has it.
fn indexed(stack: &Stack) -> i64 {
    let opened = stack.json(&["open", "elasticsearch", "--print"]);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let login = &opened["login"];
    let settings = format!("user = \"{}:{}\"\n", text(&login["user"]), text(&login["password"]));
    let url = format!("{}products/_search?q=sku:PROBE-0", text(&opened["url"]));
    let mut curl = Command::new("curl")
        .args(["-sSk", "-K", "-", &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    curl.stdin.take().unwrap().write_all(settings.as_bytes()).unwrap();
    let found: Value = serde_json::from_slice(&curl.wait_with_output().unwrap().stdout).unwrap();
    found["hits"]["hits"][0]["_source"]["on_hand"].as_i64().unwrap_or_else(|| panic!("{found}"))
}

/// Mails kept for each customer of this scenario.
fn mails(stack: &Stack) -> BTreeMap<String, usize> {
    let mailbox = stack.json(&["open", "mail", "--print"]);
    let listed = http::get(&format!("{}api/messages", mailbox["url"].as_str().unwrap())).json();
    let mut mails = BTreeMap::new();
    for mail in listed["messages"].as_array().unwrap() {
        let to = mail["to"].as_str().unwrap();
        if to.starts_with("order-") {
            *mails.entry(to.to_owned()).or_default() += 1;
        }
    }
    mails
}

fn changed_queues_converge() {
    let stack = stack();
    let before = stack.containers();
    let queues = |text: &str| format!("rabbitmq: {{ queues: {text} }}");
    let all = "{ custom: [custom.#], email: [email.#], search: [search.#], report: [report.#] }";
    let more = stack.changed(|text| text.replace("rabbitmq: {}", &queues(all)));
    more.ok(&["up", "--no-verify"]);
    assert!(more.plan().contains("nothing to do"));
    assert!(bindings().contains("events report.# q.report"), "{}", bindings());
    // A queue that is no longer named takes no new events and keeps those it has.
    stack.ok(&["up", "--no-verify"]);
    assert!(!bindings().contains("report.#"), "{}", bindings());
    assert!(stack.plan().contains("withheld: remove queue q.report"), "{}", stack.plan());
    assert!(broker(&["list_queues"]).contains("q.report"));
    assert_eq!(stack.containers(), before);
    stack.verify();
}

/// `EXCHANGE TOPIC QUEUE`, a line a binding, as the broker tells them.
fn bindings() -> String {
    let columns = ["source_name", "routing_key", "destination_name"];
    broker(&[&["list_bindings"], &columns[..]].concat()).replace('\t', " ")
}

fn broker(words: &[&str]) -> String {
    let (verb, rest) = words.split_first().unwrap();
    docker(&[&["exec", "sc-messaging-rabbitmq-1", "rabbitmqctl", "-q", verb, "--vhost", "app"], rest].concat())
}
