//! The search cluster outlives its nodes, one at a time and all at once, and is never founded twice.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Scenario, Stack, docker, eventually};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_search_node_that_was_killed_comes_back_into_its_cluster", killed_node),
    ("a_search_node_without_its_volume_joins_the_cluster_that_is_recorded", lost_volume),
    ("all_search_nodes_restarted_are_the_same_cluster", all_restarted),
    ("a_renewed_certificate_is_shown_by_nodes_that_keep_running", renewed_certificate),
];

fn stack() -> Stack {
    Stack::dev()
}

/// The id of the cluster that all nodes say they are in.
fn one_cluster(stack: &Stack) -> String {
    let findings = stack.json(&["verify"]);
    let all = findings.as_array().cloned().or_else(|| findings["findings"].as_array().cloned()).unwrap_or_default();
    let search: Vec<&Value> = all.iter().filter(|finding| finding["component"] == "elasticsearch").collect();
    assert!(!search.is_empty(), "no findings of elasticsearch in {findings}");
    for finding in &search {
        assert_eq!(finding["verdict"], "pass", "{finding}");
    }
    let evidence = search.iter().find(|finding| finding["check"] == "one-cluster").unwrap();
    let evidence = evidence["evidence"].as_str().unwrap();
    evidence.split_whitespace().nth(1).unwrap().to_owned()
}

fn is_settled(stack: &Stack) {
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0, "{}", stack.plan());
}

fn killed_node() {
    let stack = stack();
    let before = one_cluster(&stack);
    docker(&["kill", "sc-dev-elasticsearch-2"]);
    stack.ok(&["up"]);
    assert_eq!(one_cluster(&stack), before);
    is_settled(&stack);
}

fn lost_volume() {
    let stack = stack();
    let before = one_cluster(&stack);
    docker(&["rm", "-f", "sc-dev-elasticsearch-3"]);
    docker(&["volume", "rm", "sc-dev-elasticsearch-3-data"]);
    let plan = stack.plan();
    assert!(plan.contains("run elasticsearch.tell elasticsearch-3 join="), "{plan}");
    assert!(!plan.contains("found="), "{plan}");
    stack.ok(&["up"]);
    assert_eq!(one_cluster(&stack), before);
    is_settled(&stack);
}

fn all_restarted() {
    let stack = stack();
    let before = one_cluster(&stack);
    docker(&["restart", "-t", "60", "sc-dev-elasticsearch-1", "sc-dev-elasticsearch-2", "sc-dev-elasticsearch-3"]);
    eventually("the cluster is whole", Duration::from_secs(240), || {
        stack
            .run(&["verify"])
            .stdout
            .lines()
            .all(|line| !line.contains("elasticsearch") || line.starts_with("pass"))
            .then_some(())
    });
    assert_eq!(one_cluster(&stack), before);
    is_settled(&stack);
}

fn renewed_certificate() {
    let stack = stack();
    let before = stack.containers();
    let days = |stack: &Stack| {
        let verified = stack.run(&["verify"]).stdout;
        let line = verified.lines().find(|line| line.contains("tls-elasticsearch-1")).unwrap_or_default().to_owned();
        line.split(" days left").next().and_then(|text| text.rsplit(' ').next()).unwrap_or_default().to_owned()
    };
    let shorter = stack.changed(|text| format!("certificate_days: 100\n{text}"));
    shorter.ok(&["up", "--no-verify"]);
    eventually("the nodes show it", Duration::from_secs(30), || (days(&shorter) == "99").then_some(()));
    stack.ok(&["up", "--no-verify"]);
    eventually("the nodes show the next one", Duration::from_secs(30), || (days(&stack) == "364").then_some(()));
    let search = |containers: &std::collections::BTreeMap<String, String>| -> Vec<(String, String)> {
        let nodes = containers.iter().filter(|(name, _)| name.contains("elasticsearch"));
        nodes.map(|(name, id)| (name.clone(), id.clone())).collect()
    };
    assert_eq!(search(&stack.containers()), search(&before));
}
