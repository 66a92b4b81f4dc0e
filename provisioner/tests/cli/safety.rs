//! Locks, interrupts, time limits, questions: what keeps people from harm.

use std::sync::Arc;
use std::time::Duration;

use provisioner::interrupt::Interrupt;
use provisioner_core::engine::Engine;
use provisioner_core::lease::{Holder, Lease};
use provisioner_core::name::Member;
use provisioner_core::testing::memory::MemoryEngine;
use tokio::sync::Semaphore;

use crate::player::Hold;
use crate::world::{MANIFEST, World, snapshot};

async fn somebody_elses_lease(world: &World) -> Lease {
    let holder = Holder {
        id: "7f-1".to_owned(),
        user: "ada".to_owned(),
        host: "elsewhere".to_owned(),
        boot: "b".to_owned(),
        pid: 7,
        command: "provisioner up --env dev".to_owned(),
        since: 0,
    };
    let engine: Arc<dyn Engine> = Arc::<MemoryEngine>::clone(&world.engine);
    Lease::acquire(engine, &holder, Duration::ZERO, &|_| false, &|_| ()).await.unwrap()
}

fn hold(world: &World, what: &'static str) -> Arc<Hold> {
    let hold = Arc::new(Hold { reached: Semaphore::new(0), go: Semaphore::new(0) });
    *world.script.held.lock().unwrap() = Some((what, Arc::clone(&hold)));
    hold
}

#[tokio::test(start_paused = true)]
async fn a_living_holder_is_named_and_nothing_is_changed() {
    let world = World::new();
    let lease = somebody_elses_lease(&world).await;
    snapshot!("lock_held", world.shown("up -e dev --lock-timeout 2s").await);
    snapshot!("lock_status_held", world.shown("lock status -e dev").await);
    assert!(lease.is_held());
    let plain = world.engine.take_calls();
    assert!(plain.iter().all(|call| call == "record lock"), "{plain:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_released_by_its_id_only() {
    let world = World::new();
    let _lease = somebody_elses_lease(&world).await;
    snapshot!("lock_release_wrong", world.shown("lock release 1 -e dev").await);
    snapshot!("lock_release", world.shown("lock release 7f-1 -e dev").await);
    snapshot!("lock_release_again", world.shown("lock release 7f-1 -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn the_first_interrupt_ends_after_the_running_steps_and_frees_the_lock() {
    let mut world = World::new();
    let (asks, interrupt) = Interrupt::by_hand();
    world.interrupt = interrupt;
    let hold = hold(&world, "postgres.bootstrap");
    let interrupted = async {
        hold.reached.acquire().await.unwrap().forget();
        asks.send_replace(1);
        // The run notes the wish before the step that it waits for ends.
        tokio::task::yield_now().await;
        provisioner_core::wait::pause(Duration::from_millis(10)).await;
        hold.go.add_permits(1);
    };
    let (ran, ()) = tokio::join!(world.run("up -e dev"), interrupted);
    assert_eq!(ran.code, 130, "{}", ran.shown());
    assert!(ran.stderr.contains("interrupted, "), "{}", ran.stderr);
    assert!(ran.stderr.contains("steps left"), "{}", ran.stderr);
    world.interrupt = Interrupt::never();
    assert!(world.json("lock status -e dev").await["holder"].is_null());
    assert!(world.engine_has_record("postgres.cluster").await, "the running step was finished");
}

#[tokio::test(start_paused = true)]
async fn the_second_interrupt_stops_at_once_and_says_so() {
    let mut world = World::new();
    let (asks, interrupt) = Interrupt::by_hand();
    world.interrupt = interrupt;
    let hold = hold(&world, "postgres.bootstrap");
    let interrupted = async {
        hold.reached.acquire().await.unwrap().forget();
        asks.send_replace(2);
    };
    let (ran, ()) = tokio::join!(world.run("up -e dev"), interrupted);
    assert_eq!(ran.code, 130, "{}", ran.shown());
    assert!(ran.stderr.contains("may be half done"), "{}", ran.stderr);
    world.interrupt = Interrupt::never();
    *world.script.held.lock().unwrap() = None;
    world.ok("up -e dev").await;
}

#[tokio::test(start_paused = true)]
async fn a_step_without_an_end_is_left_when_the_time_is_over() {
    let world = World::new();
    let _never = hold(&world, "postgres.roles");
    let ran = world.run("up -e dev --timeout 60s").await;
    assert_eq!(ran.code, 70, "{}", ran.shown());
    assert!(ran.stderr.contains("no end within 60 s"), "{}", ran.stderr);
    assert!(world.json("lock status -e dev").await["holder"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_stolen_lock_stops_the_run() {
    let world = World::new();
    let hold = hold(&world, "postgres.bootstrap");
    let theft = async {
        hold.reached.acquire().await.unwrap().forget();
        let holder = world.json("lock status -e dev").await["holder"]["id"].as_str().unwrap().to_owned();
        world.ok(&format!("lock release {holder} -e dev")).await;
        let thief = somebody_elses_lease(&world).await;
        provisioner_core::wait::pause(Duration::from_secs(12)).await;
        hold.go.add_permits(1);
        thief
    };
    let (ran, thief) = tokio::join!(world.run("up -e dev"), theft);
    assert_eq!(ran.code, 69, "{}", ran.shown());
    assert!(thief.is_held());
}

#[tokio::test(start_paused = true)]
async fn production_is_asked_about() {
    let production = MANIFEST.replace("environment: dev", "environment: production");
    let mut world = World::of(&production);
    world.ok("up -e dev").await;
    snapshot!("down_production_unasked", world.shown("down -e dev").await);
    snapshot!("stop_production_unasked", world.shown("stop redis -e dev").await);
    world.write(&format!("{production}redis:\n  settings:\n    maxmemory: 80mb\n"));
    snapshot!("up_production_unasked", world.shown("up -e dev").await);
    world.terminals.stdin = true;
    world.terminals.stderr = true;
    world.stdin = "no\n";
    assert_eq!(world.run("down -e dev --progress plain").await.code, 71);
    world.stdin = "yes\n";
    assert_eq!(world.run("down -e dev --progress plain").await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_does_not_carry_the_stack_is_refused_before_anything_is_touched() {
    let world = World::of(&MANIFEST.replace("app:\n", "redis:\n  memory: 9GiB\n  cpus: 3\napp:\n"));
    snapshot!("preflight_refuses", world.shown("up -e dev").await);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer() {
    let mut world = World::new();
    world.engine_is_gone = true;
    snapshot!("engine_gone", world.shown("up -e dev").await);
    snapshot!("engine_gone_doctor", world.shown("doctor").await);
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_never_removed_to_make_progress() {
    let world = World::up().await;
    world.engine.tamper(|observed| {
        observed.workloads.remove(&Member::named("postgres-1"));
        observed.volumes.remove("postgres-1-data");
    });
    let ran = world.run("plan -e dev").await;
    assert!(ran.stdout.contains("withheld: initialise postgres-1"), "{}", ran.shown());
    assert!(!ran.stdout.contains("postgres.bootstrap"), "{}", ran.shown());
}
