//! Verbs that change something: what they do, what they say, and what they leave.

use provisioner_core::finding::Broken;
use provisioner_core::name::Member;
use provisioner_core::observed::State;

use crate::world::{MANIFEST, World, snapshot};

#[tokio::test(start_paused = true)]
async fn up_from_nothing() {
    let world = World::new();
    snapshot!("up_from_nothing", world.shown("up -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn a_second_up_changes_nothing_and_takes_no_lock() {
    let world = World::up().await;
    snapshot!("up_again", world.shown("up -e dev").await);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn up_for_programs() {
    let world = World::up().await;
    world.write(&format!("{MANIFEST}nginx:\n  rate_limit: 7\n"));
    let ran = world.shown("up -e dev -o json --progress json --json-into result.json").await;
    let written = std::fs::read_to_string(world.directory.path().join("result.json")).unwrap();
    assert!(ran.contains(&written), "the file holds what stdout shows");
    snapshot!("up_json", ran);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_stops_only_what_depends_on_it() {
    let world = World::new();
    *world.script.broken.lock().unwrap() = Some("postgres.clone");
    snapshot!("up_fails", world.shown("up -e dev").await);
    *world.script.broken.lock().unwrap() = None;
    world.ok("up -e dev").await;
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_dies_anywhere_is_simply_run_again() {
    for calls in 0..60 {
        let world = World::new();
        world.engine.fail_after(Some(calls));
        world.run("up -e dev --no-verify").await;
        world.engine.fail_after(None);
        world.ok("up -e dev").await;
        assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0, "after {calls} calls");
    }
}

#[tokio::test(start_paused = true)]
async fn up_ends_with_what_verify_found() {
    let world = World::new();
    world.script.verdicts.lock().unwrap().insert("route", Broken::fail("leads nowhere"));
    let ran = world.run("up -e dev").await;
    assert_eq!(ran.code, 67, "{}", ran.shown());
    assert_eq!(world.run("up -e dev --no-verify").await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn up_of_one_component_leaves_the_others() {
    let world = World::new();
    world.ok("up redis -e dev --no-verify").await;
    let status = world.json("status -e dev").await;
    let running = status["members"].as_array().unwrap().iter().filter(|member| member["state"] == "running");
    let running: Vec<_> = running.map(|member| &member["member"]).collect();
    assert_eq!(running, ["redis-1"]);
    assert_eq!(world.run("up nobody -e dev").await.code, 64);
}

#[tokio::test(start_paused = true)]
async fn down_keeps_data_and_down_with_volumes_keeps_nothing() {
    let world = World::up().await;
    snapshot!("down", world.shown("down -e dev").await);
    let volumes = world.engine_volumes().await;
    assert!(!volumes.is_empty());
    snapshot!("down_again", world.shown("down -e dev").await);
    world.ok("up -e dev").await;
    assert_eq!(world.engine_volumes().await, volumes, "data stays");
    snapshot!("down_volumes", world.shown("down -e dev --volumes").await);
    assert!(world.engine_is_empty().await);
}

#[tokio::test(start_paused = true)]
async fn stop_and_start() {
    let world = World::up().await;
    snapshot!("stop_redis", world.shown("stop redis -e dev").await);
    snapshot!("start_redis", world.shown("start redis-1 -e dev").await);
    world.ok("stop -e dev").await;
    let status = world.json("status -e dev").await;
    assert!(status["members"].as_array().unwrap().iter().all(|member| member["state"] == "exited"));
    snapshot!("start_all", world.shown("start -e dev").await);
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
    world.engine.tamper(|observed| {
        observed.workloads.remove(&Member::named("redis-1"));
    });
    snapshot!("start_refuses_more", world.shown("start -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn a_second_stack_has_a_port_of_its_own_and_keeps_it() {
    let world = World::new();
    world.ok("up -e dev --name second").await;
    let port = world.json("status -e dev --name second").await["entrypoints"][0]["url"].clone();
    assert_ne!(port, "http://127.0.0.1:8080/");
    assert_eq!(world.run("plan -e dev --name second --detailed-exitcode").await.code, 0);
    // The entrance is down, its port is still known.
    world.engine.tamper(|observed| {
        let nginx = observed.workloads.get_mut(&Member::named("nginx-1")).unwrap();
        nginx.state = State::Exited;
        nginx.published.clear();
    });
    world.ok("up -e dev --name second").await;
    assert_eq!(world.json("status -e dev --name second").await["entrypoints"][0]["url"], port);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_port_is_published_and_looked_for() {
    let world = World::new();
    world.ok("up -e dev --http-port 18080").await;
    let status = world.json("status -e dev").await;
    assert_eq!(status["entrypoints"][0]["url"], "http://127.0.0.1:18080/");
    // Without the flag the manifest's wish counts again.
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 2);
    assert_eq!(world.run("plan -e dev --http-port 18080 --detailed-exitcode").await.code, 0);
}
