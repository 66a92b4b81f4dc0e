//! What was changed by hand: told, planned, put right.

use provisioner_core::engine::Engine;
use provisioner_core::name::Member;
use provisioner_core::observed::{Making, State};
use provisioner_core::stack::Fingerprint;
use provisioner_core::testing::memory::Inside;

use crate::world::{MANIFEST, World, snapshot};

fn redis() -> Member {
    Member::named("redis-1")
}

fn changed_by_hand(world: &World) {
    world.engine.alter(&redis(), |actual| {
        actual.memory_bytes = Some(64 << 20);
        actual.env.insert("TOKEN".to_owned(), "s3cret".to_owned());
    });
    let edited = Inside { content: "user default on nopass\n".to_owned(), mode: 0o644, owner: (0, 0) };
    world.engine.edit(&redis(), "/etc/redis/users.acl", Some(edited));
    world.engine.edit(&Member::named("nginx-1"), "/etc/nginx/nginx.conf", None);
}

#[tokio::test]
async fn a_stack_as_it_should_be_is_in_sync() {
    let world = World::up().await;
    snapshot!("drift_in_sync", world.shown("drift -e dev").await);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
}

#[tokio::test]
async fn what_was_changed_by_hand_is_told_and_repaired_and_an_ordinary_plan_does_not_see_it() {
    let world = World::up().await;
    changed_by_hand(&world);
    let told = world.shown("drift -e dev").await;
    assert!(!told.contains("s3cret") && !told.contains("nopass"), "{told}");
    snapshot!("drift_drifted", told);
    snapshot!("plan_deep", world.shown("plan -e dev --deep --detailed-exitcode").await);
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new(), "looking changes nothing");
    world.ok("up -e dev --deep").await;
    assert_eq!(world.run("drift -e dev").await.code, 0);
    let again = world.run("plan -e dev --deep --detailed-exitcode").await;
    assert_eq!(again.code, 0, "{}", again.shown());
}

#[tokio::test]
async fn what_a_newer_engine_makes_otherwise_is_taken_over_once() {
    let world = World::new();
    let mark = |text: &str| Some(Fingerprint::of_bytes(text.as_bytes()));
    world.engine.make_otherwise(Making { process: mark("runs here"), around: mark("leads here") });
    world.ok("up -e dev").await;
    let instance = async || world.engine.observe().await.unwrap().workloads[&redis()].instance.clone();
    let first = instance().await;
    world.engine.make_otherwise(Making { process: mark("runs here"), around: mark("leads elsewhere") });
    let told = world.shown("up -e dev").await;
    assert!(told.contains("~ update workload redis-1"), "{told}");
    assert_eq!((instance().await, world.run("plan -e dev --detailed-exitcode").await.code), (first.clone(), 0));
    // With a file that is taken over by a reload.
    world.engine.make_otherwise(Making { process: mark("runs here"), around: mark("leads back") });
    world.write(&format!("{MANIFEST}nginx:\n  rate_limit: 7\n"));
    let told = world.shown("up -e dev").await;
    assert!(told.contains("~ reload workload nginx-1"), "{told}");
    assert_eq!((instance().await, world.run("plan -e dev --detailed-exitcode").await.code), (first.clone(), 0));
    world.engine.make_otherwise(Making { process: mark("runs elsewhere"), around: mark("leads elsewhere") });
    let told = world.shown("up -e dev").await;
    assert!(told.contains("~ replace workload redis-1"), "{told}");
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
    assert_ne!(instance().await, first);
}

/// Whoever brings a service back does that alone, whatever a newer engine would make otherwise.
#[tokio::test]
async fn what_a_newer_engine_makes_otherwise_does_not_keep_a_member_from_its_start() {
    let world = World::up().await;
    let mark = || Some(Fingerprint::of_bytes(b"newer"));
    world.engine.make_otherwise(Making { process: mark(), around: mark() });
    world.engine.tamper(|observed| observed.workloads.get_mut(&redis()).unwrap().state = State::Exited);
    world.ok("start -e dev").await;
    assert!(world.engine.observe().await.unwrap().is_running(&redis()));
    let plan = world.ok("plan -e dev").await.stdout;
    assert!(plan.contains("update workload redis-1"), "{plan}");
}

#[tokio::test]
async fn an_engine_that_withholds_is_no_answer() {
    let world = World::up().await;
    world.engine.withhold(true);
    let report = world.json("drift -e dev").await;
    assert_eq!((report["verdict"].as_str(), report["same"].as_u64()), (Some("unknown"), Some(0)));
    assert_eq!(world.run("drift -e dev").await.code, 73);
}

#[tokio::test]
async fn a_member_that_is_down_is_no_answer_and_one_that_is_gone_is_drift() {
    let world = World::up().await;
    world.engine.tamper(|observed| observed.workloads.get_mut(&redis()).unwrap().state = State::Exited);
    snapshot!("drift_could_not_tell", world.shown("drift -e dev").await);
    world.engine.tamper(|observed| drop(observed.workloads.remove(&redis())));
    assert_eq!(world.run("drift -e dev").await.code, 72);
}
