//! `smoke` from its first line to its report: what passes, what fails, and that nothing is left either way.

use std::sync::Arc;

use provisioner::interrupt::Interrupt;
use provisioner_core::finding::Broken;
use tokio::sync::Semaphore;

use crate::player::Hold;
use crate::world::{MANIFEST, World, snapshot};

const SMOKE: &str = "smoke -e dev --name ci-1 --junit junit.xml";

fn ci() -> World {
    World::of(&MANIFEST.replace("environment: dev", "environment: ci"))
}

impl World {
    fn read(&self, file: &str) -> String {
        let directory = self.directory.path();
        let text = std::fs::read_to_string(directory.join(file)).unwrap();
        text.replace(&directory.display().to_string(), "[dir]")
    }

    /// Names of the files below `artifacts/ci-1`, in order.
    fn artifacts(&self) -> Vec<String> {
        let root = self.directory.path().join("artifacts/ci-1");
        let mut folders = vec![root.clone()];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path.strip_prefix(&root).unwrap().display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

#[tokio::test(start_paused = true)]
async fn a_smoke_stands_up_tries_and_removes() {
    let world = ci();
    snapshot!("smoke", world.shown(SMOKE).await);
    snapshot!("smoke_junit", world.read("junit.xml"));
    assert!(world.engine_is_empty().await);
    assert_eq!(world.artifacts(), Vec::<String>::new());
    let calls = world.engine.take_calls();
    let killed = calls.iter().position(|call| call == "set backend-1 Killed").unwrap();
    assert!(calls[killed..].iter().any(|call| call == "set backend-1 Running"), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_smoke_tells_programs_its_cases() {
    let value = ci().json(SMOKE).await;
    let cases: Vec<_> =
        value["cases"].as_array().unwrap().iter().map(|case| (&case["name"], &case["result"])).collect();
    assert_eq!(
        serde_json::json!(cases).to_string(),
        r#"[["up","passed"],["verify","passed"],["order","passed"],["recover","passed"],["down","passed"]]"#
    );
    assert_eq!(value["stack"], "ci-1");
}

#[tokio::test(start_paused = true)]
async fn without_a_name_every_run_has_its_own() {
    let world = ci();
    let names = [world.json("smoke -e dev").await["stack"].clone(), world.json("smoke -e dev").await["stack"].clone()];
    assert_ne!(names[0], names[1]);
    assert!(names[0].as_str().unwrap().starts_with("dev-"), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_check_ends_the_run_and_is_kept_with_logs_and_plan() {
    let world = ci();
    world.script.verdicts.lock().unwrap().insert("postgres", Broken::fail("no row arrived"));
    snapshot!("smoke_verify_fails", world.shown(SMOKE).await);
    snapshot!("smoke_verify_fails_junit", world.read("junit.xml"));
    snapshot!("smoke_artifacts", world.artifacts().join("\n"));
    assert!(world.read("artifacts/ci-1/run.log").contains("run postgres.bootstrap"));
    assert!(world.read("artifacts/ci-1/findings.json").contains("no row arrived"));
    assert!(world.engine_is_empty().await);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_is_told_and_what_was_made_is_removed() {
    let world = ci();
    *world.script.broken.lock().unwrap() = Some("postgres.bootstrap");
    snapshot!("smoke_up_fails", world.shown(SMOKE).await);
    assert!(world.engine_is_empty().await);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_cannot_be_judged_is_no_pass() {
    let world = ci();
    world.script.verdicts.lock().unwrap().insert("order", Broken::unknown("the mailbox does not answer"));
    snapshot!("smoke_order_unknown", world.shown(SMOKE).await);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_meets_the_kill_fails_where_others_do_the_work() {
    let world = ci();
    world.script.verdicts.lock().unwrap().insert("ask", Broken::fail("GET /: 502"));
    let ran = world.run(SMOKE).await;
    assert_eq!(ran.code, 67);
    assert!(ran.stdout.contains("nobody is served 20 s after it was brought back: GET /: 502"), "{}", ran.stdout);
}

#[tokio::test(start_paused = true)]
async fn an_app_of_ones_own_is_said_not_to_be_tried() {
    let world = World::of("name: dev\nenvironment: ci\napp: {image: shop:1, serve: [serve]}\n");
    let ran = world.ok(SMOKE).await;
    assert!(ran.stdout.contains("skip  order"), "{}", ran.stdout);
    let reason = "app.smoke names no path of it to ask";
    assert!(ran.stdout.contains(reason) && world.read("junit.xml").contains(reason), "{}", ran.stdout);
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_removes_the_stack() {
    let mut world = ci();
    let (asks, interrupt) = Interrupt::by_hand();
    world.interrupt = interrupt;
    let hold = Arc::new(Hold { reached: Semaphore::new(0), go: Semaphore::new(0) });
    *world.script.held.lock().unwrap() = Some(("postgres.bootstrap", Arc::clone(&hold)));
    let interrupted = async {
        hold.reached.acquire().await.unwrap().forget();
        asks.send_modify(|times| *times += 1);
    };
    let (shown, ()) = tokio::join!(world.shown(SMOKE), interrupted);
    snapshot!("smoke_interrupted", shown);
    assert!(world.engine_is_empty().await);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_its_time_leaves_time_to_remove_the_stack() {
    let world = ci();
    world.script.slow.lock().unwrap().push(("postgres.bootstrap", std::time::Duration::from_secs(3600)));
    let ran = world.run(&format!("{SMOKE} --timeout 60s")).await;
    assert_eq!(ran.code, 70, "{}", ran.shown());
    assert!(ran.stdout.contains("pass  down"), "{}", ran.stdout);
    assert!(world.engine_is_empty().await);
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_fails_is_a_failure_of_its_own() {
    let world = ci();
    let hold = Arc::new(Hold { reached: Semaphore::new(0), go: Semaphore::new(0) });
    *world.script.held.lock().unwrap() = Some(("order", Arc::clone(&hold)));
    let lost = async {
        hold.reached.acquire().await.unwrap().forget();
        world.script.verdicts.lock().unwrap().insert("order", Broken::fail("no mail came"));
        world.engine.fail_after(Some(0));
        hold.go.add_permits(1);
    };
    let (ran, ()) = tokio::join!(world.run(SMOKE), lost);
    assert_eq!(ran.code, 67, "{}", ran.shown());
    assert!(ran.stderr.contains("failed: order, down"), "{}", ran.stderr);
    assert!(ran.stderr.contains("`provisioner prune` removes what is left"), "{}", ran.stderr);
}

#[tokio::test(start_paused = true)]
async fn a_kept_stack_is_left_and_named() {
    let world = ci();
    snapshot!("smoke_kept", world.shown(&format!("{SMOKE} --keep")).await);
    assert!(!world.engine_is_empty().await);
    assert!(!world.engine_has_record("lock").await);
    world.ok("down -e dev --name ci-1 --volumes").await;
    assert!(world.engine_is_empty().await);
}

#[tokio::test(start_paused = true)]
async fn only_a_stack_of_its_own_and_of_ci_is_smoked() {
    snapshot!("smoke_of_dev", World::new().shown("smoke -e dev").await);
    let world = ci();
    world.ok("up -e dev --name ci-1").await;
    world.engine.take_calls();
    snapshot!("smoke_of_a_taken_name", world.shown(SMOKE).await);
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_report_that_cannot_be_written_is_found_out_before_anything_is_made() {
    let world = ci();
    let ran = world.run("smoke -e dev --junit nowhere/junit.xml").await;
    assert_eq!(ran.code, 64, "{}", ran.shown());
    assert_eq!(world.engine.take_calls(), Vec::<String>::new());
}
