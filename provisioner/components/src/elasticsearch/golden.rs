//! Plans for Elasticsearch as text, from made-up snapshots.

use insta::assert_snapshot;
use provisioner_core::component::Component;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::observed::{Network, Observed};
use provisioner_core::plan::{Policy, plan};
use provisioner_core::record::Record;
use provisioner_core::stack::{Resource, Stack};
use serde_json::json;

use super::{Elasticsearch, NAME};
use crate::testing::{manifest, with_search};

fn plan_of(manifest: &Manifest, observed: &Observed) -> String {
    let components: Vec<Box<dyn Component>> = vec![Box::new(Elasticsearch)];
    let text = plan(&stack(manifest), observed, &components, &Policy::default()).unwrap().to_string();
    // The hash of the recipe, which is nobody's business here.
    let words = text.split(' ').map(|word| match word.strip_prefix("provisioner/elasticsearch:") {
        Some(_) => "provisioner/elasticsearch:HASH",
        None => word,
    });
    words.collect::<Vec<_>>().join(" ")
}

fn stack(manifest: &Manifest) -> Stack {
    let declared = Elasticsearch.declare(manifest);
    Stack::new(manifest.name.clone(), declared.into_iter().chain([Resource::Network]))
}

/// Everything is as it should be, and the record names all nodes.
fn settled(manifest: &Manifest) -> Observed {
    let stack = stack(manifest);
    let mut observed = crate::testing::settled(&stack);
    let nodes: Vec<String> = stack.members(NAME).map(|workload| workload.member.to_string()).collect();
    record(&mut observed, json!({"uuid": "u1", "nodes": nodes}));
    observed
}

fn record(observed: &mut Observed, value: serde_json::Value) {
    observed.records.0.insert("elasticsearch.cluster".to_owned(), Record { version: 1, value });
}

fn lose(observed: &mut Observed, ordinals: &[u32]) {
    for ordinal in ordinals {
        observed.workloads.remove(&Member::nth(NAME, *ordinal));
        observed.volumes.remove(&format!("elasticsearch-{ordinal}-data"));
    }
}

#[test]
fn a_fresh_stack() {
    assert_snapshot!(plan_of(&with_search(""), &Observed::default()));
}

#[test]
fn a_settled_stack_needs_nothing() {
    assert_eq!(plan_of(&with_search(""), &settled(&with_search(""))), "");
}

#[test]
fn a_stack_without_search_declares_nothing() {
    assert_eq!(Elasticsearch.declare(&manifest()), []);
    assert_eq!(plan_of(&manifest(), &Observed { network: Network::Present, ..Observed::default() }), "");
}

/// A run that was killed after the nodes had started and before their cluster was recorded.
#[test]
fn nodes_that_stand_without_a_record_are_told_and_recorded() {
    let mut observed = settled(&with_search(""));
    observed.records.0.clear();
    assert_snapshot!(plan_of(&with_search(""), &observed));
}

#[test]
fn a_node_without_its_volume_joins() {
    let mut observed = settled(&with_search(""));
    lose(&mut observed, &[2]);
    let plan = plan_of(&with_search(""), &observed);
    assert!(!plan.contains("found="), "{plan}");
    assert_snapshot!(plan);
}

/// The run that healed it was killed before the node was told.
#[test]
fn a_node_that_was_taken_out_of_the_record_joins() {
    let mut observed = settled(&with_search(""));
    record(&mut observed, json!({"uuid": "u1", "nodes": ["elasticsearch-1", "elasticsearch-3"]}));
    assert_snapshot!(plan_of(&with_search(""), &observed));
}

#[test]
fn more_nodes_join_the_cluster() {
    let observed = settled(&with_search(""));
    let mut manifest = with_search("");
    manifest.elasticsearch.as_mut().unwrap().nodes = 4;
    let plan = plan_of(&manifest, &observed);
    assert!(plan.contains("> run elasticsearch.tell elasticsearch-4 join=u1"), "{plan}");
    assert!(!plan.contains("found="), "{plan}");
}

#[test]
fn without_a_majority_nothing_is_made_anew() {
    for lost in [&[1, 2, 3][..], &[1, 3]] {
        let mut observed = settled(&with_search(""));
        lose(&mut observed, lost);
        let plan = plan_of(&with_search(""), &observed);
        assert!(plan.contains("! withheld: start Elasticsearch"), "{plan}");
        assert!(!plan.contains("elasticsearch-1,") && !plan.contains("> run"), "{plan}");
        assert!(!plan.contains("+ create volume") && !plan.contains("+ create workload"), "{plan}");
    }
    let mut observed = settled(&with_search(""));
    lose(&mut observed, &[1, 2, 3]);
    assert_snapshot!(plan_of(&with_search(""), &observed));
}

/// One is lost, healed halfway, and another one is lost: of the three recorded once only one holds data.
#[test]
fn a_healed_volume_counts_only_once_its_node_has_joined() {
    let mut observed = settled(&with_search(""));
    record(&mut observed, json!({"uuid": "u1", "nodes": ["elasticsearch-1", "elasticsearch-3"]}));
    lose(&mut observed, &[3]);
    assert!(plan_of(&with_search(""), &observed).contains("! withheld: start Elasticsearch"));
}

#[test]
fn a_cluster_that_is_given_up_twice_over_is_forgotten() {
    let mut observed = settled(&with_search(""));
    lose(&mut observed, &[1, 2]);
    assert!(!plan_of(&manifest(), &observed).contains("dismiss"), "a volume is left");
    lose(&mut observed, &[3]);
    let plan = plan_of(&manifest(), &observed);
    assert!(plan.contains("> run elasticsearch.dismiss"), "{plan}");
}

#[test]
fn a_smaller_cluster_is_withheld() {
    let mut manifest = with_search("");
    let observed = settled(&manifest);
    manifest.elasticsearch.as_mut().unwrap().nodes = 1;
    let plan = plan_of(&manifest, &observed);
    assert!(plan.contains("! withheld: remove elasticsearch-2, elasticsearch-3"), "{plan}");
    assert!(!plan.contains("- remove workload") && !plan.contains("~ replace"), "{plan}");
}

#[test]
fn a_changed_heap_replaces_one_node_after_the_other() {
    let observed = settled(&with_search(""));
    assert_snapshot!(plan_of(&with_search("  heap: 400m\n"), &observed));
}

#[test]
fn an_unreadable_record_is_not_taken_for_an_absent_one() {
    let mut observed = settled(&with_search(""));
    record(&mut observed, json!({"uuid": 7}));
    lose(&mut observed, &[2]);
    let plan = plan_of(&with_search(""), &observed);
    assert!(plan.contains("! withheld: touch the Elasticsearch cluster"), "{plan}");
    assert!(!plan.contains("> run") && !plan.contains("+ create workload"), "{plan}");
}
