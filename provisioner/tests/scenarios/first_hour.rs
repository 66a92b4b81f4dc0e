//! What the README promises for the first hour.

use std::process::Command;
use std::time::Duration;

use crate::harness::{Scenario, Stack, eventually, root};
use crate::http;
use crate::selling::{sql, stock};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("everything_is_verified_after_up", everything_is_verified_after_up),
    ("a_verification_leaves_no_order_and_no_mail_behind", a_verification_leaves_nothing_behind),
    ("a_second_up_changes_nothing_and_keeps_every_container", a_second_up_changes_nothing),
    ("status_names_members_roles_and_the_entrance", status_names_members_roles_and_the_entrance),
    ("products_are_listed_and_an_order_is_taken_once", products_are_listed_and_an_order_is_taken_once),
    ("the_listing_is_served_stale_while_every_backend_is_down", the_listing_is_served_stale),
    ("env_leads_psql_to_the_primary_and_to_a_replica", env_leads_psql),
    ("exec_streams_and_passes_the_exit_code", exec_passes_the_exit_code),
    ("every_system_is_reached_at_the_port_that_people_know", every_system_is_reached_at_its_port),
    ("search_finds_with_a_typo_and_by_facets", search_finds_with_a_typo_and_by_facets),
    ("https_is_served_by_the_stacks_own_authority", https_is_served_by_the_stacks_own_authority),
];

/// Checks that must be among the findings, so that a verification which looks at nothing does not pass for one.
const PROVEN: [(&str, &str); 11] = [
    ("postgres", "L3"),
    ("route", "L2"),
    ("redis", "L2"),
    ("nginx", "L2"),
    ("nginx", "L3"),
    ("app", "L2"),
    ("app", "L3"),
    ("rabbitmq", "L2"),
    ("rabbitmq", "L3"),
    ("mail", "L2"),
    ("elasticsearch", "L3"),
];

/// And of the app, whose checks are many, these.
const OF_THE_SHOP: [&str; 13] = [
    "account",
    "csrf",
    "account-order",
    "api-token",
    "admin-closed",
    "logout",
    "order",
    "order-cancel",
    "order-mail",
    "order-search",
    "suggest",
    "documented",
    "webhooks",
];

fn everything_is_verified_after_up() {
    let findings = Stack::dev().json(&["verify"]);
    let findings = findings.as_array().unwrap();
    for (component, level) in PROVEN {
        let is_there = findings.iter().any(|finding| finding["component"] == component && finding["level"] == level);
        assert!(is_there, "no {level} check of {component}");
    }
    for check in OF_THE_SHOP {
        let is_there = findings.iter().any(|finding| finding["component"] == "app" && finding["check"] == check);
        assert!(is_there, "no check {check} of the app");
    }
    for finding in findings {
        assert_eq!(finding["verdict"], "pass", "{finding}");
        assert!(finding["evidence"].as_str().is_some_and(|evidence| !evidence.is_empty()), "{finding}");
    }
}

fn a_verification_leaves_nothing_behind() {
    let stack = Stack::dev();
    let before = stock(&stack, "PROBE-0");
    stack.verify();
    assert_eq!(stock(&stack, "PROBE-0"), before);
    let checks = "FROM orders WHERE email LIKE 'check%@provisioner.invalid'";
    assert_ne!(sql(&stack, &format!("SELECT count(*) {checks}")), "0");
    assert_eq!(sql(&stack, &format!("SELECT count(*) {checks} AND status <> 'cancelled'")), "0");
    assert_eq!(sql(&stack, "SELECT count(*) FROM users WHERE email LIKE 'check-%@provisioner.invalid'"), "1");
    assert_eq!(sql(&stack, "SELECT count(*) FROM api_tokens WHERE name = 'provisioner verify'"), "0");
    let mailbox = stack.json(&["open", "mail", "--print"]);
    let listed = http::get(&format!("{}api/messages", mailbox["url"].as_str().unwrap())).json();
    let of_one_order = |mail: &&serde_json::Value| mail["to"].as_str().is_some_and(|to| to.starts_with("check-"));
    assert_eq!(listed["messages"].as_array().unwrap().iter().find(of_one_order), None);
}

fn a_second_up_changes_nothing() {
    let stack = Stack::dev();
    let before = stack.containers();
    let report = stack.json(&["up", "--no-verify"]);
    assert_eq!(report["steps"].as_array().map(Vec::len), Some(0), "{report}");
    assert_eq!(stack.containers(), before);
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0);
}

fn status_names_members_roles_and_the_entrance() {
    let stack = Stack::dev();
    let status = stack.json(&["status"]);
    let members = status["members"].as_array().unwrap();
    let roles: Vec<_> =
        members.iter().filter(|member| member["component"] == "postgres").map(|member| &member["role"]).collect();
    assert_eq!(roles, ["primary", "replica"]);
    assert!(members.iter().all(|member| member["state"] == "running"), "{status}");
    assert!(stack.http().starts_with("http://127.0.0.1:"));
}

fn products_are_listed_and_an_order_is_taken_once() {
    let stack = Stack::dev();
    let base = stack.http();
    let listed = http::get(&format!("{base}/api/v1/products?limit=5"));
    assert_eq!(listed.status, 200, "{}", listed.body);
    let listed = listed.json();
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), 5);
    let sku = items[0]["sku"].as_str().unwrap();
    let first = http::order(&base, "scenario-once", sku);
    assert_eq!(first.status, 201, "{}", first.body);
    let again = http::order(&base, "scenario-once", sku);
    assert_eq!(again.json()["id"], first.json()["id"]);
    let other = http::order(&base, "scenario-once", items[1]["sku"].as_str().unwrap());
    assert_eq!(other.status, 422, "{}", other.body);
}

fn the_listing_is_served_stale() {
    let stack = Stack::dev();
    let url = format!("{}/api/v1/products?limit=7", stack.http());
    assert_eq!(http::get(&url).status, 200);
    stack.ok(&["stop", "app"]);
    let stale = eventually("a stale answer", Duration::from_secs(30), || {
        let answer = http::get(&url);
        assert_eq!(answer.status, 200, "{}", answer.body);
        (answer.header("X-Cache") == Some("STALE")).then_some(answer)
    });
    assert_eq!(stale.json()["items"].as_array().unwrap().len(), 7);
    stack.ok(&["up"]);
}

fn env_leads_psql() {
    let stack = Stack::dev();
    let script = r#"eval "$(cat)"; for url in "$DATABASE_URL" "$DATABASE_REPLICA_URL"; do
        psql "$url" -Atc 'select pg_is_in_recovery()'; done"#;
    let mut shell = Command::new("bash")
        .args(["-euc", script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), stack.ok(&["env"]).as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "f\nt\n");
}

/// The names and ports of the architecture, as programs inside the stack use them. Of NGINX 80 and 443 are for those outside:
/// inside it would need a privilege for them.
const PORTS: &str = "nginx-1:8080 nginx-1:8443 media-1:8090 backend-1:8000 postgres-rw:5432 postgres-ro:5433 redis-1:6379 \
    rabbitmq-1:5672 elasticsearch:9200";

fn every_system_is_reached_at_its_port() {
    let stack = Stack::dev();
    let program = "import socket, sys\nfor name in sys.argv[1:]:\n    host, port = name.split(':')\n    \
        socket.create_connection((host, int(port)), 3).close()\n    print(name)";
    let mut arguments = vec!["exec", "mail-1", "--", "python3", "-c", program];
    arguments.extend(PORTS.split_whitespace());
    let reached = stack.ok(&arguments);
    assert_eq!(reached.split_whitespace().collect::<Vec<_>>(), PORTS.split_whitespace().collect::<Vec<_>>());
}

fn search_finds_with_a_typo_and_by_facets() {
    let stack = Stack::dev();
    let url = format!("{}/api/v1/search?q=merno+beanie&limit=3", stack.http());
    let found = eventually("search that is not degraded", Duration::from_secs(30), || {
        let answer = http::get(&url);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let found = answer.json();
        (found["degraded"] == false).then_some(found)
    });
    assert!(found["items"][0]["name"].as_str().unwrap().contains("Merino Beanie"), "{found}");
    let brands = found["facets"]["brands"].as_array().unwrap();
    assert!(brands.len() > 1, "{found}");
    let brand = brands[0]["value"].as_str().unwrap().replace(' ', "+").replace('&', "%26");
    let narrowed = http::get(&format!("{url}&brand={brand}")).json();
    assert_eq!(narrowed["total"], brands[0]["count"], "{narrowed}");
    assert_eq!(narrowed["facets"]["brands"], found["facets"]["brands"], "a facet is counted without its own filter");
}

fn https_is_served_by_the_stacks_own_authority() {
    let stack = Stack::dev();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, stack.ok(&["config", "ca"])).unwrap();
    let status = stack.json(&["status"]);
    let entrypoints = status["entrypoints"].as_array().unwrap();
    let https = entrypoints.iter().find(|entrypoint| entrypoint["name"] == "https").unwrap();
    let port = https["url"].as_str().unwrap().rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
    let url = format!("https://localhost:{port}/api/v1/products?limit=1");
    let asked = |trust: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-w", "%{http_version} %{http_code}", "-o", "/dev/null"]).args(trust).arg(&url);
        curl.output().unwrap()
    };
    let trusting = asked(&["--cacert", file.to_str().unwrap()]);
    assert_eq!(String::from_utf8_lossy(&trusting.stdout), "2 200", "{}", String::from_utf8_lossy(&trusting.stderr));
    assert_eq!(asked(&[]).status.code(), Some(60), "curl must not believe a stranger's authority");
}

fn exec_passes_the_exit_code() {
    let stack = Stack::dev();
    let ran = stack.run(&["exec", "redis-1", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "out\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("err"));
    assert!(root().join("manifests/dev.yaml").is_file());
}
