//! Plans for PostgreSQL and its route as text, from made-up snapshots.

use std::collections::{BTreeMap, BTreeSet};

use insta::assert_snapshot;
use provisioner_core::component::Component;
use provisioner_core::manifest::{Manifest, Synchronous};
use provisioner_core::name::Member;
use provisioner_core::observed::{Observed, State};
use provisioner_core::plan::{Policy, plan};
use provisioner_core::record::Record;
use provisioner_core::stack::{Resource, Stack};
use serde_json::{Value, json};

use super::Postgres;
use crate::route::Route;
use crate::testing::manifest;

fn components() -> Vec<Box<dyn Component>> {
    vec![Box::<Route>::default(), Box::new(Postgres)]
}

fn stack(manifest: &Manifest) -> Stack {
    let components = components();
    let declared = components.iter().flat_map(|component| component.declare(manifest));
    Stack::new(manifest.name.clone(), declared.chain([Resource::Network]))
}

fn plan_of(manifest: &Manifest, observed: &Observed) -> String {
    let text = plan(&stack(manifest), observed, &components(), &Policy::default()).unwrap().to_string();
    // Hashes of recipes, which are nobody's business here.
    let words = text.split(' ').map(|word| {
        let is_hash = |text: &str| text.len() == 16 && text.chars().all(|c| c.is_ascii_hexdigit());
        match word.rsplit_once([':', '=']) {
            Some((name, hash)) if is_hash(hash) => format!("{name}:HASH"),
            _ => word.to_owned(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn record(observed: &mut Observed, key: &str, value: Value) {
    observed.records.0.insert(key.to_owned(), Record { version: 1, value });
}

fn facts(observed: &mut Observed, component: &str, facts: &[(&str, &str)]) {
    let facts: BTreeMap<String, String> =
        facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    observed.facts.entry(component.to_owned()).or_default().extend(facts);
}

/// Everything is as it should be, with this primary and these replicas.
fn settled(manifest: &Manifest, primary: &str, replicas: &[&str]) -> Observed {
    let stack = stack(manifest);
    let mut observed = crate::testing::settled(&stack);
    let cluster = json!({"system_id": "7", "primary": primary, "replicas": replicas, "epoch": 1, "timeline": 1});
    record(&mut observed, "postgres.cluster", cluster);
    record(&mut observed, "postgres.roles", json!({"fingerprint": super::roles::fingerprint()}));
    let readers = if replicas.is_empty() { primary.to_owned() } else { replicas.join(" ") };
    facts(&mut observed, "route", &[("route-1.rw", primary), ("route-1.ro", &readers), ("route-1.hidden", "")]);
    let names = super::synchronous::names(&replicas.iter().map(|name| Member::named(*name)).collect::<BTreeSet<_>>());
    point_commits(&mut observed, primary, &names, &replicas.join(" "));
    observed
}

fn point_commits(observed: &mut Observed, primary: &str, names: &str, streaming: &str) {
    let key = |what: &str| format!("{primary}.{what}");
    let (names_key, streaming_key) = (key("synchronous_standby_names"), key("streaming"));
    facts(observed, "postgres", &[(&names_key, names), (&streaming_key, streaming)]);
}

fn vanish(observed: &mut Observed, member: &str, with_volume: bool) {
    observed.workloads.remove(&Member::named(member));
    if with_volume {
        observed.volumes.remove(&format!("{member}-data"));
    }
}

#[test]
fn a_fresh_stack() {
    assert_snapshot!(plan_of(&manifest(), &Observed::default()));
}

#[test]
fn a_settled_stack_needs_nothing() {
    assert_eq!(plan_of(&manifest(), &settled(&manifest(), "postgres-1", &["postgres-2"])), "");
}

#[test]
fn after_a_failover_nothing_is_needed() {
    assert_eq!(plan_of(&manifest(), &settled(&manifest(), "postgres-2", &["postgres-1"])), "");
}

#[test]
fn a_configuration_change_after_a_failover_makes_no_circle() {
    let mut manifest = manifest();
    let observed = settled(&manifest, "postgres-2", &["postgres-1"]);
    manifest.postgres.settings.insert("max_locks_per_transaction".to_owned(), "128".to_owned());
    assert_snapshot!(plan_of(&manifest, &observed));
}

#[test]
fn encryption_may_come_and_go_on_a_standing_cluster() {
    let (plain, mut encrypted) = (manifest(), manifest());
    encrypted.postgres.tls = true;
    let on = plan_of(&encrypted, &settled(&plain, "postgres-1", &["postgres-2"]));
    let off = plan_of(&plain, &settled(&encrypted, "postgres-1", &["postgres-2"]));
    assert_snapshot!(format!("on:\n{on}\noff:\n{off}"));
}

#[test]
fn a_certificate_for_other_names_is_taken_over_without_a_restart() {
    let mut manifest = manifest();
    manifest.postgres.tls = true;
    let observed = settled(&manifest, "postgres-1", &["postgres-2"]);
    manifest.certificate_days = 90;
    assert_snapshot!(plan_of(&manifest, &observed));
}

#[test]
fn a_replica_without_its_volume_is_cloned() {
    let mut observed = settled(&manifest(), "postgres-1", &["postgres-2"]);
    vanish(&mut observed, "postgres-2", true);
    point_commits(&mut observed, "postgres-1", "ANY 1 (\"postgres-2\")", "");
    assert_snapshot!(plan_of(&manifest(), &observed));
}

/// A run that was killed after it had made the volume and before it had copied anything.
#[test]
fn a_replica_whose_container_is_gone_is_looked_at_before_it_is_made() {
    let mut observed = settled(&manifest(), "postgres-1", &["postgres-2"]);
    vanish(&mut observed, "postgres-2", false);
    let plan = plan_of(&manifest(), &observed);
    assert!(plan.contains("> run postgres.clone postgres-2 from=postgres-1"), "{plan}");
    assert!(!plan.contains("bootstrap"), "{plan}");
}

#[test]
fn a_primary_without_its_volume_is_never_initialised() {
    let mut observed = settled(&manifest(), "postgres-1", &["postgres-2"]);
    vanish(&mut observed, "postgres-1", true);
    let plan = plan_of(&manifest(), &observed);
    assert!(plan.contains("! withheld: initialise postgres-1"), "{plan}");
    assert!(!plan.contains("bootstrap"), "{plan}");
    assert_snapshot!(plan);
}

#[test]
fn a_former_primary_is_not_overwritten() {
    let mut observed = settled(&manifest(), "postgres-2", &[]);
    point_commits(&mut observed, "postgres-2", "", "");
    let plan = plan_of(&manifest(), &observed);
    assert!(!plan.contains("clone"), "{plan}");
    assert_snapshot!(plan);
}

#[test]
fn an_unreadable_record_is_not_taken_for_an_absent_one() {
    let mut observed = settled(&manifest(), "postgres-1", &["postgres-2"]);
    record(&mut observed, "postgres.cluster", json!({"system_id": 7}));
    let plan = plan_of(&manifest(), &observed);
    assert!(plan.contains("! withheld: touch the PostgreSQL cluster"), "{plan}");
    assert!(!plan.contains("> run"), "{plan}");
}

#[test]
fn a_primary_that_the_manifest_no_longer_names_is_said() {
    let observed = settled(&manifest(), "postgres-2", &["postgres-1"]);
    let mut manifest = manifest();
    manifest.postgres.replicas = 0;
    assert!(plan_of(&manifest, &observed).contains("the record names postgres-2 as primary"));
}

#[test]
fn preferred_goes_on_without_its_replica() {
    let mut observed = settled(&manifest(), "postgres-1", &["postgres-2"]);
    observed.workloads.get_mut(&Member::named("postgres-2")).unwrap().state = State::Exited;
    point_commits(&mut observed, "postgres-1", "ANY 1 (\"postgres-2\")", "");
    assert_snapshot!(plan_of(&manifest(), &observed));
}

#[test]
fn required_waits_for_its_replica() {
    let mut manifest = manifest();
    manifest.postgres.synchronous = Synchronous::Required;
    let mut observed = settled(&manifest, "postgres-1", &["postgres-2"]);
    point_commits(&mut observed, "postgres-1", "ANY 1 (\"postgres-2\")", "");
    assert_eq!(plan_of(&manifest, &observed), "");
}

#[test]
fn required_is_set_before_the_route_opens() {
    let mut manifest = manifest();
    manifest.postgres.synchronous = Synchronous::Required;
    let plan = plan_of(&manifest, &Observed::default());
    let place = |what: &str| plan.find(what).unwrap_or_else(|| panic!("{what} in {plan}"));
    assert!(place("> run postgres.synchronous") < place("> run route.point"), "{plan}");
}

#[test]
fn a_policy_that_was_changed_is_carried_out() {
    let mut manifest = manifest();
    let observed = settled(&manifest, "postgres-1", &["postgres-2"]);
    manifest.postgres.synchronous = Synchronous::Off;
    assert_snapshot!(plan_of(&manifest, &observed));
}

#[test]
fn a_route_that_leads_elsewhere_is_pointed() {
    let mut observed = settled(&manifest(), "postgres-2", &["postgres-1"]);
    facts(&mut observed, "route", &[("route-1.rw", "postgres-1")]);
    assert_snapshot!(plan_of(&manifest(), &observed));
}

#[test]
fn a_route_that_starts_is_pointed() {
    let mut observed = settled(&manifest(), "postgres-1", &["postgres-2"]);
    vanish(&mut observed, "route-1", false);
    assert_snapshot!(plan_of(&manifest(), &observed));
}

/// Its name is unknown to the route while it is down, so whether the route leads to it cannot be seen.
#[test]
fn a_member_that_comes_back_is_pointed_at_again() {
    let mut observed = settled(&manifest(), "postgres-1", &["postgres-2"]);
    observed.workloads.get_mut(&Member::named("postgres-2")).unwrap().state = State::Exited;
    facts(&mut observed, "route", &[("route-1.ro", ""), ("route-1.hidden", "postgres-2")]);
    let plan = plan_of(&manifest(), &observed);
    assert!(plan.contains("> run route.point ro=postgres-2 rw=postgres-1"), "{plan}");
}

#[test]
fn roles_are_made_again_when_they_are_to_be_others() {
    let mut observed = settled(&manifest(), "postgres-1", &["postgres-2"]);
    record(&mut observed, "postgres.roles", json!({"fingerprint": "0123456789abcdef"}));
    let plan = plan_of(&manifest(), &observed);
    assert_eq!(plan.lines().count(), 1, "{plan}");
    assert!(plan.contains("> run postgres.roles postgres-1"), "{plan}");
}

#[test]
fn a_replica_that_the_manifest_no_longer_names_leaves_its_slot() {
    let mut manifest = manifest();
    manifest.postgres.replicas = 2;
    let observed = settled(&manifest, "postgres-1", &["postgres-2", "postgres-3"]);
    manifest.postgres.replicas = 1;
    assert_snapshot!(plan_of(&manifest, &observed));
}

/// It was stopped by a fence; started as it is it would take writes.
#[test]
fn a_fenced_former_primary_is_not_started() {
    let mut observed = settled(&manifest(), "postgres-2", &[]);
    observed.workloads.get_mut(&Member::named("postgres-1")).unwrap().state = State::Exited;
    point_commits(&mut observed, "postgres-2", "", "");
    let plan = plan_of(&manifest(), &observed);
    assert!(plan.starts_with("  ! withheld: make postgres-1 a replica"), "{plan}");
}

#[test]
fn replicas_go_on_while_the_primary_is_lost() {
    let mut observed = settled(&manifest(), "postgres-1", &["postgres-2"]);
    vanish(&mut observed, "postgres-1", true);
    observed.workloads.get_mut(&Member::named("postgres-2")).unwrap().state = State::Exited;
    let plan = plan_of(&manifest(), &observed);
    assert!(plan.contains("~ start workload postgres-2"), "{plan}");
    assert!(!plan.contains("postgres-1-data, because no such volume"), "{plan}");
}
