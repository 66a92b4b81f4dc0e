//! One operator at a time.

use std::time::{Duration, Instant};

use crate::harness::{Scenario, Stack, docker, eventually};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_live_holder_keeps_the_lock_and_is_named", live_holder),
    ("a_killed_holders_lock_frees_itself", killed_holder),
    ("help_never_locks_and_needs_no_engine", help_never_locks),
];

/// An `up` that waits for a health path which never answers, and holds the lock meanwhile.
fn busy(stack: &Stack) -> std::process::Child {
    docker(&["rm", "-f", "sc-dev-backend-2"]);
    let child =
        stack.changed(|text| text.replace("binary:", "health: /never\n  binary:")).start(&["up", "--no-verify"]);
    eventually("the lock is held", Duration::from_secs(20), || {
        stack.json(&["lock", "status"])["holder"].is_object().then_some(())
    });
    child
}

fn live_holder() {
    let stack = Stack::dev();
    let mut child = busy(&stack);
    let refused = stack.run(&["up", "--no-verify", "--lock-timeout", "2s"]);
    assert_eq!(refused.code, 69, "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("pid {}", child.id())), "{}", refused.stderr);
    child.kill().unwrap();
    child.wait().unwrap();
    stack.ok(&["up"]);
}

fn killed_holder() {
    let stack = Stack::dev();
    let mut child = busy(&stack);
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = Instant::now();
    stack.ok(&["up"]);
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert!(stack.json(&["lock", "status"])["holder"].is_null());
}

fn help_never_locks() {
    let stack = Stack::dev();
    let output = stack.command(&["up", "--help"]).env("DOCKER_HOST", "tcp://127.0.0.1:1").output().unwrap();
    assert!(output.status.success());
}
