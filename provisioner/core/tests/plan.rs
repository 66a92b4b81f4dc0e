//! Golden plans: what exists and what should, as text.

mod common;

use common::{Wishes, engine, plan_now, stack, up};
use insta::assert_snapshot;
use provisioner_core::component::{Component, Task};
use provisioner_core::drift::{Comparison, Repair};
use provisioner_core::engine::Engine;
use provisioner_core::name::Member;
use provisioner_core::observed::{Making, Network, Observed, ObservedWorkload, State};
use provisioner_core::plan::{Policy, plan};
use provisioner_core::record::Record;
use provisioner_core::stack::{Fingerprint, Stack};
use provisioner_core::testing::memory::MemoryEngine;

#[tokio::test]
async fn from_nothing_everything_is_made_in_order() {
    assert_snapshot!(plan_now(&engine(), &stack(&Wishes::default())).await);
}

#[tokio::test]
async fn a_second_up_is_an_empty_plan() {
    let engine = engine();
    let stack = stack(&Wishes::default());
    up(&engine, &stack).await;
    assert_eq!(plan_now(&engine, &stack).await.to_string(), "");
}

async fn after(change: impl FnOnce(&mut Wishes)) -> String {
    let engine = engine();
    up(&engine, &stack(&Wishes::default())).await;
    let mut wishes = Wishes::default();
    change(&mut wishes);
    plan_now(&engine, &stack(&wishes)).await.to_string()
}

#[tokio::test]
async fn a_changed_file_touches_only_what_it_must() {
    assert_snapshot!("reloadable", after(|wishes| wishes.front_conf = "rate 20").await);
    assert_snapshot!("needs_a_restart", after(|wishes| wishes.store_conf = "buffers = 2").await);
}

/// The engine's own size may be any; a smaller one would cost data, so nothing is done for it.
#[tokio::test]
async fn a_volume_grows_and_never_shrinks_where_the_engine_keeps_it_to_a_size() {
    let engine = engine();
    up(&engine, &stack(&Wishes::default())).await;
    let planned = async |bytes| {
        let stack = stack(&Wishes { store_bytes: bytes, ..Wishes::default() });
        plan_now(&engine, &stack).await
    };
    assert_eq!(planned(Some(20 << 30)).await.to_string(), "");
    engine.tamper(|observed| observed.volume_bytes = [("store-1-data".to_owned(), 8 << 30)].into());
    assert_eq!(planned(None).await.to_string(), "");
    assert_eq!(planned(Some(8 << 30)).await.to_string(), "");
    assert_snapshot!("a_larger_volume", planned(Some(20 << 30)).await);
    let smaller = planned(Some(500 << 20)).await;
    assert_eq!(smaller.blocked(), 1);
    assert_snapshot!("a_smaller_volume", smaller);
}

const DAY: u64 = 24 * 60 * 60;

/// A stack with a certificate of 90 days, made on a day in the year 2026.
async fn certified() -> (MemoryEngine, Stack) {
    let engine = engine();
    engine.tamper(|observed| observed.at = 1_790_000_000);
    let stack = stack(&Wishes { certificate_days: Some(90), ..Wishes::default() });
    up(&engine, &stack).await;
    (engine, stack)
}

#[tokio::test]
async fn a_certificate_is_renewed_in_time_and_taken_over_without_a_restart() {
    let (engine, stack) = certified().await;
    let shown = || engine.file(&Member::nth("front", 1), "/etc/front.crt").unwrap();
    let first = shown();
    engine.tamper(|observed| observed.at += 59 * DAY);
    assert_eq!(plan_now(&engine, &stack).await.to_string(), "");
    engine.tamper(|observed| observed.at += 2 * DAY);
    assert_snapshot!(plan_now(&engine, &stack).await);
    up(&engine, &stack).await;
    assert_ne!(shown(), first);
    assert_eq!(plan_now(&engine, &stack).await.to_string(), "");
}

#[tokio::test]
async fn another_authority_signs_everything_again() {
    let (engine, stack) = certified().await;
    engine.tamper(|observed| observed.at += 3600 * DAY);
    assert_snapshot!(plan_now(&engine, &stack).await);
    up(&engine, &stack).await;
    assert_eq!(plan_now(&engine, &stack).await.to_string(), "");
}

#[tokio::test]
async fn a_new_release_rolls_one_member_after_the_other_and_reloads_the_front() {
    assert_snapshot!(after(|wishes| wishes.web_release = "2").await);
}

#[tokio::test]
async fn members_that_are_down_are_replaced_without_waiting_for_each_other() {
    let engine = engine();
    up(&engine, &stack(&Wishes::default())).await;
    engine.tamper(|observed| {
        let members = observed.workloads.iter_mut().filter(|(member, _)| member.as_str().starts_with("web-"));
        members.for_each(|(_, found)| found.state = State::Restarting);
    });
    let wishes = Wishes { web_release: "2", ..Wishes::default() };
    assert_snapshot!(plan_now(&engine, &stack(&wishes)).await);
}

#[tokio::test]
async fn fewer_members_remove_the_surplus_and_more_add_to_it() {
    assert_snapshot!("fewer", after(|wishes| wishes.webs = 1).await);
    assert_snapshot!("more", after(|wishes| wishes.webs = 3).await);
}

async fn tampered(change: impl FnOnce(&mut Observed)) -> String {
    let engine = engine();
    let stack = stack(&Wishes::default());
    up(&engine, &stack).await;
    engine.tamper(change);
    plan_now(&engine, &stack).await.to_string()
}

#[tokio::test]
async fn what_was_changed_by_hand_is_drift() {
    let web = Member::nth("web", 2);
    let store = Member::nth("store", 1);
    let removed = tampered(|observed| drop(observed.workloads.remove(&web))).await;
    assert_snapshot!("removed_by_hand", removed);
    let stopped = tampered(|observed| observed.workloads.get_mut(&store).unwrap().state = State::Exited).await;
    assert_snapshot!("stopped_by_hand", stopped);
    let replaced = tampered(|observed| observed.workloads.get_mut(&web).unwrap().spec = None).await;
    assert_snapshot!("replaced_by_hand", replaced);
    let volume = tampered(|observed| observed.volumes.extend(["store-9-data".to_owned()])).await;
    assert_snapshot!("a_volume_nobody_names", volume);
    let opened = tampered(|observed| observed.network = Network::Edited).await;
    assert_snapshot!("a_network_that_lets_others_in", opened);
}

#[tokio::test]
async fn somebody_elses_container_under_the_stacks_prefix_is_left_alone() {
    let plan = tampered(|observed| {
        let foreign = ObservedWorkload { spec: None, ..observed.workloads[&Member::nth("web", 1)].clone() };
        observed.workloads.insert(Member::named("tools"), foreign);
    });
    assert_eq!(plan.await, "");
}

#[tokio::test]
async fn members_whose_records_and_secrets_were_pruned_are_left_as_they_are() {
    let plan = tampered(|observed| {
        observed.records.0.retain(|key, _| key == provisioner_core::lease::KEY);
        let lock = Record { version: 1, value: serde_json::json!({}) };
        observed.records.0.insert(provisioner_core::lease::KEY.to_owned(), lock);
        observed.secrets.clear();
    });
    assert_snapshot!(plan.await);
}

#[tokio::test]
async fn an_order_that_runs_through_satisfied_steps_is_kept() {
    // Store and front are down, the web tier between them is not: the front still waits for the store's users.
    let plan = tampered(|observed| {
        observed.workloads.get_mut(&Member::nth("store", 1)).unwrap().state = State::Exited;
        observed.workloads.get_mut(&Member::nth("front", 1)).unwrap().state = State::Exited;
    });
    assert_snapshot!(plan.await);
}

#[tokio::test]
async fn a_pruned_image_under_running_members_is_no_reason_to_act() {
    assert_eq!(tampered(|observed| observed.images.clear()).await, "");
}

#[tokio::test]
async fn a_target_brings_along_only_what_it_needs() {
    let stack = stack(&Wishes::default());
    let policy = Policy { targets: ["store".to_owned()].into(), ..Policy::default() };
    let observed = engine().observe().await.unwrap();
    assert_snapshot!(plan(&stack, &observed, &common::components(), &policy).unwrap());
}

#[tokio::test]
async fn what_deep_comparisons_found_is_a_reason_like_any_other() {
    let (store, front) = (Member::nth("store", 1), Member::nth("front", 1));
    let differs = |component: &str, member: &Member, what: &str, repair| {
        Comparison::texts(component, member, what, ("declared", "by hand"), repair)
    };
    let command = "remove-it".to_owned();
    let found = [
        differs("store", &store, "memory", Repair::Replace),
        differs("front", &front, "setting.rate", Repair::Run { task: Task::new("front", "reset").on(&front) }),
        differs("front", &front, "queue.mine", Repair::Command { command }),
        Comparison::unknown("front", &front, "files", "nobody answers"),
    ];
    assert_snapshot!(tampered(|observed| observed.deep.extend(found)).await);
}

/// A plan where the engine makes the web tier otherwise than it stands.
async fn made_otherwise(today: fn(Option<Fingerprint>) -> Making, change: impl FnOnce(&mut Observed)) -> String {
    tampered(|observed| {
        let older = || Some(Fingerprint::of_bytes(b"older"));
        for (member, found) in observed.workloads.iter_mut().filter(|(_, found)| found.component == "web") {
            found.making = Making { process: older(), around: older() };
            observed.makings.insert(member.clone(), today(older()));
        }
        change(observed);
    })
    .await
}

#[tokio::test]
async fn what_the_engine_makes_otherwise_by_now_is_made_so() {
    let around: fn(_) -> _ = |older| Making { process: older, around: Some(Fingerprint::of_bytes(b"newer")) };
    assert_snapshot!("around_it", made_otherwise(around, |_| ()).await);
    let process: fn(_) -> _ = |older| Making { process: Some(Fingerprint::of_bytes(b"newer")), around: older };
    assert_snapshot!("its_process", made_otherwise(process, |_| ()).await);
    // Who made it did not note how.
    let unmarked =
        |observed: &mut Observed| observed.workloads.values_mut().for_each(|found| found.making.process = None);
    assert_eq!(made_otherwise(process, unmarked).await, "");
    // One that is down is surrounded when it is started.
    let down = |observed: &mut Observed| {
        observed.workloads.get_mut(&Member::nth("web", 1)).unwrap().state = State::Exited;
    };
    let plan = made_otherwise(around, down).await;
    assert!(plan.contains("start workload web-1, because it is exited"), "{plan}");
}

#[tokio::test]
async fn a_changed_file_does_not_hide_what_was_changed_by_hand() {
    let engine = engine();
    up(&engine, &stack(&Wishes::default())).await;
    let front = Member::nth("front", 1);
    let memory = Comparison::texts("front", &front, "memory", ("64 MiB", "32 MiB"), Repair::Replace);
    engine.tamper(|observed| observed.deep.push(memory));
    let wishes = Wishes { front_conf: "rate 20", ..Wishes::default() };
    let plan = plan_now(&engine, &stack(&wishes)).await.to_string();
    let because = "because /etc/front.conf changed; memory is 32 MiB, expected 64 MiB";
    assert!(plan.contains("workload front-1") && plan.contains(because), "{plan}");
    assert!(!plan.contains("reload workload front-1"), "{plan}");
}

#[test]
fn a_component_is_usable_as_a_trait_object() {
    let components: Vec<Box<dyn Component>> = common::components();
    assert_eq!(components.len(), 3);
}
