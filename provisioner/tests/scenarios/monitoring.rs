//! Monitoring looks at the stack and is no part of what serves.

use std::fs;

use serde_json::Value;

use crate::harness::{Scenario, Stack, docker, root};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("the_shop_serves_while_all_of_monitoring_is_killed", killed),
    ("routes_of_alerts_that_their_checker_refuses_leave_the_running_ones", refused),
];

fn killed() {
    let stack = Stack::dev();
    let members: Vec<String> = monitoring(&stack).into_iter().map(|member| format!("sc-dev-{member}")).collect();
    assert_eq!(members.len(), 9, "{members:?}");
    let kill: Vec<&str> = std::iter::once("kill").chain(members.iter().map(String::as_str)).collect();
    docker(&kill);
    assert_eq!(http::get(&format!("{}/api/v1/products?limit=1", stack.http())).status, 200);
    let ran = stack.run(&["verify", "-o", "json"]);
    assert_eq!(ran.code, 67, "{}", ran.stderr);
    let findings: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    for finding in &findings {
        let is_about_monitoring = finding["component"] == "monitoring";
        assert_eq!(finding["verdict"] != "pass", is_about_monitoring, "{finding}");
    }
    stack.ok(&["up"]);
}

fn monitoring(stack: &Stack) -> Vec<String> {
    let containers = stack.containers().into_keys();
    let kinds = ["prometheus-1", "alertmanager-1", "pages-1", "-exporter-1"];
    let names = containers.filter_map(|name| name.strip_prefix("sc-dev-").map(str::to_owned));
    names.filter(|name| kinds.iter().any(|kind| name.ends_with(kind))).collect()
}

fn refused() {
    let stack = Stack::dev();
    let before = stack.containers();
    let key = root().join("manifests/.sc-dev-pager.key");
    fs::write(&key, "a key\n").unwrap();
    let pager = "pagerduty: {key_file: .sc-dev-pager.key, url: 'http://%zz/'}\n  retention: 15d";
    let changed = stack.changed(|text| text.replace("retention: 15d", pager));
    let ran = changed.run(&["up"]);
    fs::remove_file(&key).unwrap();
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("invalid URL escape"), "amtool's own words are missing:\n{}", ran.stderr);
    assert_eq!(stack.containers(), before);
    // The old file is in place, and it is what runs.
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0);
    let findings = stack.json(&["verify"]);
    let loaded = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "synthetic-alert").unwrap();
    assert_eq!(loaded["verdict"], "pass", "{loaded}");
}
