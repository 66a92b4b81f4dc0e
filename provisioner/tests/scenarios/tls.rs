//! PostgreSQL and Redis over TLS: switched on, renewed while they run, and switched off again.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::harness::{Scenario, Stack, docker};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] =
    &[("encryption_is_renewed_without_a_restart_of_postgresql_and_may_go_again", encryption_comes_and_goes)];

fn encryption_comes_and_goes() {
    let stack = Stack::of("sc-tls", |text| {
        let text = text.replace("postgres:\n", "certificate_days: 90\n\npostgres:\n  tls: true\n");
        let text = text.replace("redis:\n", "redis:\n  tls: true\n");
        // One backend: each is replaced twice.
        text.replace("  replicas: 2\n", "  replicas: 1\n")
    });
    stack.ok(&["up", "--no-verify"]);
    let findings = findings(&stack);
    for check in [
        "postgres tls",
        "postgres plaintext-refused",
        "postgres replication-encrypted",
        "redis tls",
        "redis plaintext-refused",
    ] {
        assert_eq!(findings.get(check).map(String::as_str), Some("pass"), "{check}: {findings:#?}");
    }
    takes_an_order(&stack, "over-tls");
    let served = certificate(&stack);
    let before = databases(&stack);

    let renewed = stack.changed(|text| text.replace("certificate_days: 90", "certificate_days: 30"));
    let plan = renewed.plan();
    for member in ["postgres-1", "postgres-2"] {
        assert!(plan.contains(&format!("reload workload {member}")), "{plan}");
    }
    renewed.ok(&["up", "--no-verify"]);
    assert_eq!(databases(&stack), before);
    assert_ne!(certificate(&stack), served);
    takes_an_order(&stack, "over-renewed-tls");

    let plain = renewed.changed(|text| text.replace("  tls: true\n", ""));
    plain.ok(&["up"]);
    takes_an_order(&plain, "in-clear");
    let url = plain.ok(&["env"]);
    assert!(!url.contains("sslmode") && !url.contains("rediss:"), "the URLs still ask for TLS");
    plain.ok(&["down", "--volumes", "--yes"]);
}

/// Component and check to verdict; all of them pass.
fn findings(stack: &Stack) -> BTreeMap<String, String> {
    let findings = stack.json(&["verify"]);
    let word = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let findings = findings.as_array().unwrap().iter();
    findings.map(|it| (format!("{} {}", word(it, "component"), word(it, "check")), word(it, "verdict"))).collect()
}

fn takes_an_order(stack: &Stack, key: &str) {
    let order = http::order(&stack.http(), key, "PROBE-0");
    assert_eq!(order.status, 201, "{}", order.body);
}

/// The containers of PostgreSQL, and when each was started.
fn databases(stack: &Stack) -> BTreeMap<String, String> {
    let containers = stack.containers().into_iter().filter(|(name, _)| name.contains("-postgres-"));
    containers.map(|(name, id)| (name, docker(&["inspect", "-f", "{{.State.StartedAt}}", &id]) + &id)).collect()
}

/// What PostgreSQL shows to a new client that reaches it from outside, as its fingerprint.
fn certificate(stack: &Stack) -> String {
    let published = docker(&["port", &format!("{}-postgres-1", stack.name), "5432/tcp"]);
    let address = published.lines().next().unwrap().trim();
    let script =
        format!("openssl s_client -starttls postgres -connect {address} | openssl x509 -noout -fingerprint -sha256");
    let shown = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap();
    let fingerprint = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(fingerprint.contains("Fingerprint="), "{address} shows no certificate");
    fingerprint
}
