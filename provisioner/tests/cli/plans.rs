//! Golden plans: a manifest and what is there give exactly this text.

use provisioner_core::name::Member;
use provisioner_core::observed::State;
use serde_json::json;

use crate::world::{MANIFEST, World, snapshot};

/// What would be done to `world`, without the summary of what is on stderr.
async fn plan(world: &World) -> String {
    world.run("plan -e dev --detailed-exitcode").await.shown()
}

#[tokio::test(start_paused = true)]
async fn from_nothing() {
    snapshot!("plan_from_nothing", plan(&World::new()).await);
}

#[tokio::test(start_paused = true)]
async fn as_it_should_be() {
    snapshot!("plan_as_it_should_be", plan(&World::up().await).await);
}

#[tokio::test(start_paused = true)]
async fn after_a_failover_nothing_is_to_be_done() {
    let world = World::up().await;
    world.engine.tamper(|observed| {
        let record = observed.records.0.get_mut("postgres.cluster").unwrap();
        record.value["primary"] = json!("postgres-2");
        record.value["replicas"] = json!(["postgres-1"]);
        record.value["epoch"] = json!(2);
    });
    // The route and the new primary say so themselves.
    world.script.tell(&world, "route-1", &[("rw", "postgres-2"), ("ro", "postgres-1"), ("hidden", "")]).await;
    world.script.tell(&world, "postgres-2", &[("synchronous_standby_names", "ANY 1 (\"postgres-1\")")]).await;
    let ran = world.run("plan -e dev --detailed-exitcode").await;
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "stack dev is as the manifest says, nothing to do\n"));
}

#[tokio::test(start_paused = true)]
async fn members_removed_stopped_and_replaced_by_hand() {
    let world = World::up().await;
    world.engine.tamper(|observed| {
        observed.workloads.remove(&Member::named("backend-2"));
        observed.workloads.get_mut(&Member::named("postgres-2")).unwrap().state = State::Exited;
        observed.workloads.get_mut(&Member::named("redis-1")).unwrap().spec = None;
    });
    snapshot!("plan_heals_what_was_changed_by_hand", plan(&world).await);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_reloads_and_a_redis_setting_replaces() {
    let world = World::up().await;
    world.write(&format!("{MANIFEST}nginx:\n  rate_limit: 7\nredis:\n  settings:\n    maxmemory: 80mb\n"));
    snapshot!("plan_touches_only_what_it_must", plan(&world).await);
}

#[tokio::test(start_paused = true)]
async fn another_secret_of_the_app_rolls_it() {
    let world = World::of(&format!("{MANIFEST}  secret_env:\n    KEY: key\n"));
    let key = world.directory.path().join("manifests/key");
    std::fs::write(&key, "the first").unwrap();
    world.ok("up -e dev").await;
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
    std::fs::write(&key, "the second").unwrap();
    snapshot!("plan_rolls_the_app_for_another_secret", plan(&world).await);
    world.ok("up -e dev").await;
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn fewer_backends_and_no_replica_any_more() {
    let world = World::up().await;
    let fewer = MANIFEST.replace("app:\n", "app:\n  replicas: 1\n");
    world.write(&format!("{fewer}postgres:\n  replicas: 0\n"));
    snapshot!("plan_shrinks_and_keeps_data", plan(&world).await);
}

#[tokio::test(start_paused = true)]
async fn one_component_and_what_it_needs() {
    let world = World::new();
    snapshot!("plan_of_redis_alone", world.run("plan -e dev redis").await.shown());
}

#[tokio::test(start_paused = true)]
async fn for_programs() {
    let world = World::up().await;
    world.engine.tamper(|observed| {
        observed.workloads.remove(&Member::named("redis-1"));
    });
    snapshot!("plan_json", world.shown("plan -e dev -o json").await);
    snapshot!("plan_yaml", world.shown("plan -e dev -o yaml").await);
}
