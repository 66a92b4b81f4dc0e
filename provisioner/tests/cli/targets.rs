//! `up` of a part: what is touched, what is proven, and what it took.

use std::time::Duration;

use provisioner_core::engine::Engine;
use provisioner_core::observed::Observed;

use crate::world::{MANIFEST, World, snapshot};

impl World {
    async fn observed(&self) -> Observed {
        self.engine.observe().await.unwrap()
    }

    /// The developer has built the app anew.
    fn edit(&self) {
        std::fs::write(self.directory.path().join("app"), "another static binary").unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn up_app_after_an_edit_replaces_the_app_one_by_one_and_nothing_else() {
    let mut world = World::new();
    // It runs the app's image, as workers do.
    world.has_console = true;
    world.ok("up -e dev").await;
    world.engine.take_calls();
    let before = world.observed().await;
    world.edit();
    snapshot!("up_app", world.shown("up app -e dev").await);
    let calls = world.engine.take_calls();
    let after = world.observed().await;
    for (member, found) in &after.workloads {
        let is_apps = found.component == "app" || found.component == "console";
        assert_eq!(found.instance != before.workloads[member].instance, is_apps, "{member}");
    }
    let place = |call: &str| calls.iter().position(|made| made == call).unwrap_or_else(|| panic!("{call}: {calls:?}"));
    assert!(place("ensure workload backend-1") < place("ensure workload backend-2"));
    assert_eq!(calls.iter().filter(|call| call.starts_with("ensure workload")).count(), 3, "{calls:?}");
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
    snapshot!("up_app_again", world.shown("up app -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn a_member_stands_for_its_component() {
    let world = World::up().await;
    world.edit();
    let [by_member, by_component] = ["plan backend-2 -e dev -o json", "plan app -e dev -o json"];
    assert_eq!(world.ok(by_member).await.stdout, world.ok(by_component).await.stdout);
    world.ok("up backend-2 -e dev").await;
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn what_differs_elsewhere_is_left_for_another_run() {
    let world = World::up().await;
    world.edit();
    world.write(&format!("{MANIFEST}nginx:\n  rate_limit: 7\n"));
    let ran = world.ok("up app -e dev").await;
    assert!(!ran.stdout.contains("nginx-1"), "{}", ran.shown());
    assert_eq!(world.run("plan -e dev --detailed-exitcode").await.code, 2);
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_part_names_the_command_that_goes_on_with_it() {
    let world = World::up().await;
    world.edit();
    *world.script.broken.lock().unwrap() = Some("await backend-1");
    let ran = world.run("up app -e dev").await;
    assert_eq!(ran.code, 1, "{}", ran.shown());
    assert!(ran.stderr.contains("provisioner up app --env dev"), "{}", ran.stderr);
}

#[tokio::test(start_paused = true)]
async fn timings_show_what_decided_the_end() {
    let world = World::new();
    *world.script.slow.lock().unwrap() = vec![
        ("postgres.bootstrap", Duration::from_secs(3)),
        ("postgres.clone", Duration::from_millis(2500)),
        ("await redis-1", Duration::from_millis(5800)),
        ("await backend-1", Duration::from_millis(700)),
    ];
    snapshot!("up_timings", world.shown("up -e dev --timings").await);
    snapshot!("up_timings_of_nothing", world.shown("up -e dev --timings").await);
    let report = world.json("up -e dev --timings").await;
    assert_eq!(report["timings"]["parts"][0]["text"], "verification");
    assert!(world.json("up -e dev").await.get("timings").is_none());
}
