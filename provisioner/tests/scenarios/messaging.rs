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
use crate::selling::{Sale, stock};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("no_event_is_lost_or_doubled_whoever_is_killed", no_event_is_lost_or_doubled),
    ("changed_queues_converge_on_a_live_broker", changed_queues_converge),
];

const ORDERS_A_ROUND: usize = 40;
/// So many mails at once are under way in the e-mail worker (its feed's `jobs`).
const MAILS_AT_ONCE: usize = 4;
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

impl Harm {
    /// The worker, or the database in which it would have noted what it sent, went between the mail server's 250 and the
    /// COMMIT: nobody knows any more that the mail is on its way.
    fn explains_a_repeat(self) -> bool {
        matches!(self, Self::Kill("worker-email-1") | Self::Restart("postgres-1"))
    }
}

fn no_event_is_lost_or_doubled() {
    let stack = Stack::dev();
    let base = stack.http();
    let sale = Sale::begin(&stack);
    let is_over = AtomicBool::new(false);
    let searched = std::thread::scope(|scope| {
        let searching = scope.spawn(|| search_until(&is_over, &base));
        let done = catch_unwind(AssertUnwindSafe(|| {
            for (round, harm) in HARMS.into_iter().enumerate() {
                ordered_under(&stack, &base, &sale, round, harm);
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

    let ordered = HARMS.len() * ORDERS_A_ROUND + sale.placed();
    let mails = eventually("a mail for every order", ARRIVAL_LIMIT, || {
        let mails = mails(&stack);
        (mails.len() == ordered).then_some(mails)
    });
    delivered_once(&mails);
    sale.adds_up(&stack);
    let left = stock(&stack, "PROBE-0");
    eventually("the stock in the index is the database's", ARRIVAL_LIMIT, || (indexed(&stack) == left).then_some(()));
    stack.verify();
    assert!(stack.plan().contains("nothing to do"));
}

/// How often each customer's mail was sent, by the mail server's own count: it keeps one of those with the same Message-ID.
fn delivered_once(mails: &BTreeMap<String, Vec<usize>>) {
    let explained = HARMS.into_iter().filter(|harm| harm.explains_a_repeat()).count();
    let kept_twice: Vec<_> = mails.iter().filter(|(_, kept)| kept.len() != 1).collect();
    assert!(kept_twice.is_empty(), "two mails of one order: {kept_twice:?}");
    let repeated: Vec<_> = mails.iter().filter(|(_, kept)| kept[0] != 1).collect();
    let repeats: usize = repeated.iter().map(|(_, kept)| kept[0] - 1).sum();
    eprintln!("{} mails, {repeats} of them sent again", mails.len());
    let most = explained * MAILS_AT_ONCE;
    assert!(repeats <= most, "{repeats} mails were sent again, {most} at most are explained: {repeated:?}");
    assert!(
        repeated.iter().all(|(_, kept)| kept[0] <= 1 + explained),
        "more often than anybody was hurt: {repeated:?}"
    );
}

fn ordered_under(stack: &Stack, base: &str, sale: &Sale, round: usize, harm: Harm) {
    let order = |nth: usize| {
        let name = format!("order-{round}-{nth}");
        let place = || http::order_of(base, &name, "PROBE-0", 1, &format!("{name}@example.com"));
        if harm == Harm::Restart("postgres-1") {
            // Without its database the shop sells nothing; the same key tries again, whatever became of the first try.
            eventually("an order is placed", ARRIVAL_LIMIT, || (place().status == 201).then_some(()));
            return;
        }
        let placed = http::let_through(place);
        assert_eq!(placed.status, 201, "{harm:?}: {}", placed.body);
    };
    (0..ORDERS_A_ROUND / 2).for_each(order);
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| (ORDERS_A_ROUND / 2..ORDERS_A_ROUND).for_each(order));
        let rush = scope.spawn(|| sale.rush(base, &format!("order-{round}-rush")));
        match harm {
            Harm::Restart(member) => drop(docker(&["restart", &format!("{}-{member}", stack.name)])),
            Harm::Kill(member) => drop(docker(&["kill", &format!("{}-{member}", stack.name)])),
        }
        stream.join().unwrap();
        rush.join().unwrap();
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
        let found = http::let_through(|| http::get(&format!("{base}/api/v1/search?q=merino&limit=1")));
        assert_eq!(found.status, 200, "{}", found.body);
        let found = found.json();
        assert!(found["total"].as_u64().is_some_and(|total| total > 0), "{found}");
        searched.answered += 1;
        searched.degraded += usize::from(found["degraded"] == true);
        std::thread::park_timeout(Duration::from_millis(200));
    }
    searched
}

/// What is left of the probe product, as the index has it.
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

/// Of each customer of this scenario how often each mail was sent.
fn mails(stack: &Stack) -> BTreeMap<String, Vec<usize>> {
    let mailbox = stack.json(&["open", "mail", "--print"]);
    let listed = http::get(&format!("{}api/messages", mailbox["url"].as_str().unwrap())).json();
    let mut mails: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for mail in listed["messages"].as_array().unwrap() {
        let to = mail["to"].as_str().unwrap();
        if to.starts_with("order-") {
            let deliveries = mail["deliveries"].as_u64().and_then(|count| usize::try_from(count).ok());
            mails.entry(to.to_owned()).or_default().push(deliveries.unwrap());
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
