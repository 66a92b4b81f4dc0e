//! Smokes that do not go well: whatever ends one, its stack goes, and what tells why stays.

use std::process::{Child, Command};
use std::time::Duration;

use crate::harness::{Scenario, Stack, docker, eventually, root};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("smoke_that_fails_leaves_what_tells_why_and_no_stack", fails),
    ("smoke_that_is_terminated_removes_its_stack", terminated),
    ("smoke_that_is_killed_is_pruned_and_one_that_lives_is_not", killed),
];

/// Few systems, and a customer who asks for a page that is not there.
fn small(name: &str) -> Stack {
    Stack::of(name, |_| {
        "name: ci\nenvironment: ci\npostgres: {replicas: 0, synchronous: off}\n\
         app: {binary: ../target/x86_64-unknown-linux-musl/debug/app, checks: health, smoke: /nowhere}\n"
            .to_owned()
    })
}

fn fails() {
    let stack = small("sc-smoke-fails");
    let folder = root().join("artifacts/sc-smoke-fails");
    let junit = root().join("target/sc-smoke.xml");
    let ran = stack.run(&["smoke", "--junit", &junit.display().to_string()]);
    assert_eq!(ran.code, 67, "{}{}", ran.stderr, ran.stdout);
    assert!(ran.stdout.contains("fail  order"), "{}", ran.stdout);
    assert_eq!(stack.traces(), Vec::<String>::new());

    let junit = std::fs::read_to_string(junit).unwrap();
    assert!(junit.contains(r#"<failure message="smoke-path: GET /nowhere: 404"#), "{junit}");
    let kept =
        |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(kept("logs/backend-1.log").contains("listening"));
    assert!(kept("findings.json").contains("GET /nowhere: 404"));
    assert!(kept("run.log").contains("run postgres.bootstrap"));
    assert!(kept("engine/events.txt").contains("start sc-smoke-fails-backend-1"));
    assert!(kept("engine/inspect/sc-smoke-fails-backend-1.json").contains("\"running\""));
    std::fs::remove_dir_all(folder).unwrap();
}

/// A smoke that has begun to make its stack.
fn begun(stack: &Stack) -> Child {
    let child = stack.start(&["smoke"]);
    eventually("the smoke makes its stack", Duration::from_secs(30), || {
        stack.traces().iter().any(|name| name.ends_with("-redis-1")).then_some(())
    });
    child
}

fn ended(mut child: Child) -> Option<i32> {
    eventually("the smoke has ended", Duration::from_secs(60), || child.try_wait().unwrap()).code()
}

fn terminated() {
    let stack = small("sc-smoke-term");
    let child = begun(&stack);
    let signalled = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    assert_eq!(ended(child), Some(130));
    assert_eq!(stack.traces(), Vec::<String>::new());
    std::fs::remove_dir_all(root().join("artifacts/sc-smoke-term")).unwrap();
}

fn killed() {
    let stack = small("sc-smoke-killed");
    let mut child = begun(&stack);
    // It would end by itself while it is looked at, which takes up to a beat of its lock: nobody gets past a primary that
    // does not move.
    let primary = "sc-smoke-killed-postgres-1";
    eventually("the primary is held", Duration::from_secs(30), || {
        Command::new("docker").args(["pause", primary]).output().unwrap().status.success().then_some(())
    });
    let living = stack.ok(&["prune", "--yes"]);
    let stays = |line: &str| line.starts_with("stays") && line.contains(" stack ") && line.contains("works on it");
    assert!(living.lines().any(stays) && !living.contains("removed"), "{living}");
    assert!(child.try_wait().unwrap().is_none(), "{living}");

    docker(&["unpause", primary]);
    child.kill().unwrap();
    ended(child);
    assert_ne!(stack.traces(), Vec::<String>::new());
    let dead = stack.ok(&["prune", "--yes"]);
    assert!(dead.contains("removed  stack  sc-smoke-killed"), "{dead}");
    assert_eq!(stack.traces(), Vec::<String>::new());
}
