//! Members that come back, and other numbers of them.

use provisioner_components::postgres::Cluster;
use provisioner_core::engine::Engine;
use provisioner_core::name::Member;
use provisioner_core::record::{self, Records};

use crate::world::{MANIFEST, World, snapshot};

/// As a failover from the first member to the second leaves the record.
async fn failed_over(world: &World) {
    let records: &dyn Records = world.engine.records();
    let changed = record::update(records, "postgres.cluster", |cluster: Option<Cluster>| {
        let cluster = cluster.unwrap();
        let replicas = [].into();
        Some(Cluster { primary: Member::named("postgres-2"), replicas, epoch: 2, timeline: 2, ..cluster })
    });
    changed.await.unwrap();
    world.engine.take_calls();
}

#[tokio::test(start_paused = true)]
async fn a_former_primary_is_made_a_replica() {
    let world = World::up().await;
    failed_over(&world).await;
    snapshot!("plan_before_rejoin", world.shown("plan -e dev").await);
    snapshot!("rejoin_dry_run", world.shown("rejoin postgres-1 --method clone --dry-run -e dev").await);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
    snapshot!("rejoin", world.shown("rejoin postgres-1 -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_rejoin_is_refused_and_nothing_is_changed() {
    let world = World::up().await;
    snapshot!("rejoin_primary", world.shown("rejoin postgres-1 -e dev").await);
    snapshot!("rejoin_nobody", world.shown("rejoin postgres-7 -e dev").await);
    snapshot!("rejoin_no_such_way", world.shown("rejoin postgres-2 --method copy -e dev").await);
    world.ok("stop postgres-1 -e dev").await;
    world.engine.take_calls();
    snapshot!("rejoin_without_primary", world.shown("rejoin postgres-2 -e dev").await);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn scaled_in_the_manifest_and_in_the_stack() {
    let world = World::up().await;
    let text = format!("{MANIFEST}postgres:  # the database\n  tls: false  # not yet\n");
    world.write(&text);
    snapshot!("scale_dry_run", world.shown("scale postgres --replicas 2 --dry-run -e dev").await);
    assert_eq!(std::fs::read_to_string(world.manifest()).unwrap(), text);
    world.ok("scale postgres --replicas 2 -e dev").await;
    let written = std::fs::read_to_string(world.manifest()).unwrap();
    assert_eq!(written, text.replace("  tls:", "  replicas: 2\n  tls:"));
    world.ok("scale postgres --replicas 1 -e dev").await;
    assert_eq!(std::fs::read_to_string(world.manifest()).unwrap(), written.replace("replicas: 2", "replicas: 1"));
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_number_that_cannot_be_is_refused_and_the_manifest_stays() {
    let world = World::up().await;
    snapshot!("scale_redis", world.shown("scale redis --replicas 2 -e dev").await);
    let text = format!("{MANIFEST}postgres:\n  replicas: 1\n  synchronous: required\n");
    world.write(&text);
    snapshot!("scale_to_nothing", world.shown("scale postgres --replicas 0 -e dev").await);
    assert_eq!(world.run("scale postgres --replicas 9 -e dev").await.code, 65);
    world.write(&text.replace("required", "preferred"));
    failed_over(&world).await;
    snapshot!("scale_away_primary", world.shown("scale postgres --replicas 0 -e dev").await);
    assert_eq!(std::fs::read_to_string(world.manifest()).unwrap(), text.replace("required", "preferred"));
    world.write(&format!("{MANIFEST}postgres: {{replicas: 1}}\n"));
    snapshot!("scale_on_one_line", world.shown("scale postgres --replicas 2 -e dev").await);
}
