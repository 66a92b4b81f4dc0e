//! `prune`: what is dead goes, what lives, what is kept and what no smoke made stays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use provisioner_core::engine::Engine;
use provisioner_core::estate::Leftover;
use provisioner_core::lease::{Holder, Lease};
use provisioner_core::name::StackName;
use provisioner_core::observed::{Network, Observed};
use provisioner_core::record::Record;
use provisioner_core::testing::memory::MemoryEngine;
use provisioner_core::wait;
use serde_json::json;

use crate::world::{World, snapshot};

fn holder() -> Holder {
    Holder {
        id: "7f-1".to_owned(),
        user: "ada".to_owned(),
        host: "elsewhere".to_owned(),
        boot: "b".to_owned(),
        pid: 7,
        command: "provisioner smoke -e ci".to_owned(),
        since: 0,
    }
}

fn name(name: &str) -> StackName {
    StackName::new(name).unwrap()
}

/// A stack with a volume, and the record of a smoke if there is one.
fn stack(called: &str, mark: Option<bool>) -> Arc<MemoryEngine> {
    let mut observed =
        Observed { network: Network::Present, volumes: ["postgres-1-data".to_owned()].into(), ..Observed::default() };
    if let Some(kept) = mark {
        let value = json!({"run": holder(), "kept": kept});
        observed.records.0.insert("smoke".to_owned(), Record { version: 1, value });
    }
    Arc::new(MemoryEngine::with(name(called), observed))
}

async fn lease(engine: &Arc<MemoryEngine>) -> Lease {
    let engine: Arc<dyn Engine> = Arc::<MemoryEngine>::clone(engine);
    Lease::acquire(engine, &holder(), Duration::ZERO, &|_| false, &|_| ()).await.unwrap()
}

fn job(stack: &str) -> Leftover {
    Leftover::Job { stack: name(stack), container: format!("{stack}-job-seed") }
}

/// One stack of every kind. The one that lives does so as long as the lease is held.
async fn world() -> (World, Lease) {
    let mut world = World::new();
    let kinds = [
        ("ci-alive", Some(false)),
        ("ci-dead", Some(false)),
        ("ci-freed", Some(false)),
        ("ci-kept", Some(true)),
        ("shop", None),
    ];
    world.stacks = kinds.map(|(called, mark)| (name(called), stack(called, mark))).into();
    let alive = lease(&world.stacks[&name("ci-alive")]).await;
    drop(lease(&world.stacks[&name("ci-dead")]).await);
    world.survey.ended_jobs = BTreeSet::from([job("ci-alive"), job("ci-dead"), job("shop")]);
    world.survey.unused_images = BTreeSet::from([Leftover::Image { reference: "provisioner/redis:1".to_owned() }]);
    for engine in world.stacks.values() {
        engine.take_calls();
    }
    (world, alive)
}

async fn volumes(world: &World, stack: &str) -> usize {
    world.stacks[&name(stack)].observe().await.unwrap().volumes.len()
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_tells_what_is_dead_and_changes_nothing() {
    let (world, _alive) = world().await;
    snapshot!("prune_dry_run", world.shown("prune --dry-run --images").await);
    for (stack, engine) in &world.stacks {
        let calls = engine.take_calls();
        assert!(calls.iter().all(|call| call == "record lock" && stack.as_str() == "ci-alive"), "{stack}: {calls:?}");
    }
    assert_eq!(*world.discarded.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn the_dead_goes_and_the_rest_stays() {
    let (world, alive) = world().await;
    snapshot!("prune_yes", world.shown("prune --yes").await);
    for (stack, left) in [("ci-alive", 1), ("ci-dead", 0), ("ci-freed", 0), ("ci-kept", 1), ("shop", 1)] {
        assert_eq!(volumes(&world, stack).await, left, "{stack}");
    }
    assert!(world.stacks[&name("ci-dead")].observe().await.unwrap().is_empty());
    assert_eq!(*world.discarded.lock().unwrap(), [job("shop")]);
    assert!(alive.is_held());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_robbed_without_having_been_asked() {
    let (mut world, _alive) = world().await;
    snapshot!("prune_refused", world.shown("prune").await);
    world.terminals.stdin = true;
    world.terminals.stderr = true;
    world.stdin = "no\n";
    assert_eq!(world.run("prune --progress plain").await.code, 71);
    assert_eq!(volumes(&world, "ci-dead").await, 1);
    world.stdin = "yes\n";
    assert_eq!(world.run("prune --progress plain").await.code, 0);
    assert_eq!(volumes(&world, "ci-dead").await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_while_it_is_looked_at_is_taken_as_it_was_found() {
    let (world, alive) = world().await;
    // Seen to live when it writes its lock after 4 s, and given up before a second look would have seen that again.
    let ends = tokio::spawn(async {
        wait::pause(Duration::from_secs(5)).await;
        alive.release().await.unwrap();
    });
    let ran = world.ok("prune --yes --name ci-alive").await;
    assert!(ran.stdout.ends_with("nothing that a dead run left\n"), "{}", ran.stdout);
    assert_eq!(*world.discarded.lock().unwrap(), []);
    ends.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_name_limits_it_to_one_stack() {
    let (world, _alive) = world().await;
    world.ok("prune --yes --name ci-freed").await;
    assert_eq!((volumes(&world, "ci-freed").await, volumes(&world, "ci-dead").await), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_a_dead_run_left_alone_goes_too() {
    let mut world = World::new();
    let engine = Arc::new(MemoryEngine::new(name("ci-early")));
    drop(lease(&engine).await);
    world.stacks.insert(name("ci-early"), Arc::clone(&engine));
    let ran = world.ok("prune --yes").await;
    assert!(ran.stdout.contains("nothing is there but the lock"), "{}", ran.stdout);
    assert!(engine.observe().await.unwrap().is_empty());
    assert_eq!(world.ok("prune").await.stdout, "nothing that a dead run left\n");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_is_told_and_the_rest_still_goes() {
    let (world, _alive) = world().await;
    world.stacks[&name("ci-dead")].fail_after(Some(0));
    let ran = world.run("prune --yes").await;
    assert_eq!(ran.code, 1, "{}", ran.shown());
    assert!(ran.stderr.contains("could not be removed: ci-dead"), "{}", ran.stderr);
    assert_eq!(volumes(&world, "ci-freed").await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_cannot_be_read_stays_and_hides_no_other() {
    let (world, _alive) = world().await;
    world.stacks[&name("ci-kept")].tamper(|observed| {
        observed.records.0.insert("smoke".to_owned(), Record { version: 2, value: json!("of another version") });
    });
    let ran = world.ok("prune --yes").await;
    assert!(ran.stdout.contains("stays    stack  ci-kept            could not tell"), "{}", ran.stdout);
    assert_eq!((volumes(&world, "ci-kept").await, volumes(&world, "ci-dead").await), (1, 0));
}
