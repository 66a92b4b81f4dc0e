//! What really goes over the wire to the engine, seen by a proxy in between.

use crate::harness::{Scenario, Stack, docker};
use crate::proxy::Proxy;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("plan_sends_nothing_but_reads", plan_sends_nothing_but_reads),
    ("an_up_with_nothing_to_do_sends_few_requests_and_only_reads", an_idle_up_sends_few_requests),
];

/// The bound of the project's figures for an `up` with nothing to do.
const IDLE_REQUESTS: usize = 16;

fn plan_sends_nothing_but_reads() {
    let stack = Stack::dev();
    docker(&["rm", "-f", "sc-dev-backend-1"]);
    docker(&["stop", "-t", "30", "sc-dev-postgres-2"]);
    for arguments in [&["plan"][..], &["plan", "--deep"]] {
        let seen = requests_of(&stack, arguments);
        assert!(!seen.is_empty());
        assert!(seen.iter().all(|request| is_read(request)), "{seen:#?}");
    }
    stack.ok(&["up"]);
}

fn an_idle_up_sends_few_requests() {
    let stack = Stack::dev();
    stack.ok(&["up"]);
    let seen = requests_of(&stack, &["up", "--no-verify"]);
    assert!(seen.iter().all(|request| is_read(request)), "{seen:#?}");
    assert!(seen.len() <= IDLE_REQUESTS, "{} requests: {seen:#?}", seen.len());
}

fn is_read(request: &str) -> bool {
    request.starts_with("GET ") || request.starts_with("HEAD ")
}

/// The request lines that one run of the provisioner sends.
fn requests_of(stack: &Stack, arguments: &[&str]) -> Vec<String> {
    let proxy = Proxy::transparent();
    let output = stack.command(arguments).env("DOCKER_HOST", proxy.host()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    proxy.take_seen()
}
