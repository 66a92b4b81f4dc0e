//! What was changed by hand: told, planned, put right.

use provisioner_core::name::Member;
use provisioner_core::observed::State;
use provisioner_core::testing::memory::Inside;

use crate::world::{World, snapshot};

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
