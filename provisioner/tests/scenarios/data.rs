//! Data outlives everything but an explicit wish, and two stacks do not know each other.

use std::time::Duration;

use crate::harness::{Scenario, Stack, docker, eventually};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("down_keeps_data_and_up_finds_it_again", down_keeps_data),
    ("a_lost_replica_volume_is_cloned_never_initialised", lost_replica_volume),
    ("two_stacks_stand_side_by_side_and_down_with_volumes_leaves_nothing", side_by_side),
];

fn down_keeps_data() {
    let stack = Stack::dev();
    let base = stack.http();
    let order = http::order(&base, "kept-over-down", "PROBE-0");
    assert_eq!(order.status, 201, "{}", order.body);
    stack.ok(&["down"]);
    assert!(stack.containers().is_empty());
    stack.ok(&["up"]);
    let base = stack.http();
    let id = order.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(http::get(&format!("{base}/api/v1/orders/{id}?mail=ada")).json()["id"], id.as_str());
    // Whoever knows it may cancel the order.
    let log = eventually("NGINX has logged the request", Duration::from_secs(10), || {
        let log = docker(&["logs", "sc-dev-nginx-1"]);
        log.contains(r#""uri":"/api/v1/orders/*""#).then_some(log)
    });
    assert!(!log.contains(&id) && !log.contains("mail=ada"), "{log}");
}

fn lost_replica_volume() {
    let stack = Stack::dev();
    docker(&["rm", "-f", "sc-dev-postgres-2"]);
    docker(&["volume", "rm", "sc-dev-postgres-2-data"]);
    let plan = stack.plan();
    assert!(plan.contains("run postgres.clone postgres-2"), "{plan}");
    assert!(!plan.contains("postgres.bootstrap"), "{plan}");
    stack.ok(&["up"]);
}

fn side_by_side() {
    let first = Stack::dev();
    let before = first.containers();
    let second = Stack::of("sc-second", |text| text);
    second.ok(&["up"]);
    assert_ne!(first.http(), second.http());
    let order = http::order(&second.http(), "only-here", "PROBE-0");
    let id = order.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(http::get(&format!("{}/api/v1/orders/{id}", first.http())).status, 404);
    second.ok(&["down", "--volumes", "--yes"]);
    assert_eq!(second.traces(), Vec::<String>::new());
    assert_eq!(first.containers(), before);
    first.verify();
}
