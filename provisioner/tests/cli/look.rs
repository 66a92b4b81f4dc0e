//! Verbs that only look: not one call that changes anything, and exactly this text.

use provisioner_core::engine::Engine;
use provisioner_core::finding::Broken;
use provisioner_core::history::{self, Drill, Ended, Run};
use provisioner_core::name::Member;

use crate::world::{MANIFEST, World, snapshot};

const LOOKING: [&str; 21] = [
    "doctor -e dev",
    "plan -e dev",
    "up -e dev --dry-run",
    "down -e dev --dry-run --volumes",
    "verify -e dev",
    "status -e dev",
    "status -e dev --no-usage",
    "logs -e dev",
    "logs -e dev --since 5m --tail 3",
    "open -e dev",
    "open http -e dev --print",
    "env -e dev",
    "config -e dev",
    "config files redis-1 -e dev",
    "images -e dev",
    "history -e dev",
    "lock status -e dev",
    "completion bash",
    "up --help",
    "lock release --help",
    "plan -e dev --http-port auto",
];

#[tokio::test(start_paused = true)]
async fn looking_changes_nothing() {
    for world in [World::new(), World::up().await] {
        for command in LOOKING {
            world.run(command).await;
            assert_eq!(world.engine.take_calls(), Vec::<String>::new(), "{command}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn help_needs_neither_engine_nor_manifest() {
    let mut world = World::new();
    world.engine_is_gone = true;
    std::fs::remove_file(world.manifest()).unwrap();
    for command in ["--help", "up --help", "lock release --help", "completion zsh", "man", "man up", "--version"] {
        world.ok(command).await;
    }
    snapshot!("help", world.shown("--help").await);
    snapshot!("help_of_up", world.shown("up -h").await);
    snapshot!("help_of_logs", world.shown("logs -h").await);
}

#[tokio::test(start_paused = true)]
async fn the_reference_of_the_manifest_is_that_of_the_schema() {
    let world = World::new();
    std::fs::remove_file(world.manifest()).unwrap();
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/manifest.md");
    let page = world.ok("config reference").await.stdout;
    assert!(
        page == std::fs::read_to_string(kept).unwrap_or_default(),
        "provisioner config reference > docs/manifest.md"
    );
    let schema: serde_json::Value = serde_json::from_str(&world.ok("config schema").await.stdout).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["name", "app"]));
}

#[tokio::test(start_paused = true)]
async fn every_command_has_a_manual_page_with_the_global_options() {
    let world = World::new();
    let directory = world.directory.path().join("man1");
    snapshot!("man", world.shown(&format!("man --into {}", directory.display())).await);
    let names: std::collections::BTreeSet<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.contains("provisioner.1") && names.contains("provisioner-up.1"), "{names:?}");
    for name in names {
        let page = std::fs::read_to_string(directory.join(&name)).unwrap();
        assert!(page.contains("json\\-into"), "{name}: {page}");
    }
    snapshot!("man_of_nothing", world.shown("man nothing").await);
}

#[tokio::test(start_paused = true)]
async fn every_looking_verb_on_a_stack_that_is_up() {
    let world = World::up().await;
    for (name, command) in [
        ("status", "status -e dev"),
        ("status_json", "status -e dev -o json"),
        ("status_without_usage", "status -e dev --no-usage"),
        ("status_yaml", "status -e dev -o yaml"),
        ("verify", "verify -e dev"),
        ("verify_json", "verify -e dev -o json"),
        ("logs", "logs -e dev redis nginx-1"),
        ("logs_json", "logs -e dev redis-1 -o json"),
        ("env", "env -e dev"),
        ("env_json", "env -e dev -o json"),
        ("config", "config -e dev"),
        ("config_files", "config files redis-1 /etc/redis/redis.conf -e dev"),
        ("images", "images -e dev"),
        ("images_json", "images -e dev -o json"),
        ("lock_status", "lock status -e dev"),
        ("lock_status_json", "lock status -e dev -o json"),
        ("doctor", "doctor -e dev"),
        ("doctor_json", "doctor -o json"),
        ("exec", "exec redis-1 -e dev -- echo hello"),
    ] {
        let text = world.shown(command).await;
        snapshot!(name, text);
    }
}

#[tokio::test(start_paused = true)]
async fn history_tells_who_did_what_and_how_it_ended() {
    let world = World::new();
    snapshot!("history_of_nothing", world.shown("history -e dev").await);
    *world.script.broken.lock().unwrap() = Some("postgres.roles");
    world.run("up -e dev").await;
    *world.script.broken.lock().unwrap() = None;
    world.ok("up -e dev").await;
    // Nothing to do is nothing to tell.
    world.ok("up -e dev").await;
    let told = world.json("history -e dev").await;
    let runs: Vec<_> = told["runs"].as_array().unwrap().iter().map(|run| (&run["ended"], &run["command"])).collect();
    assert_eq!(
        format!("{runs:?}"),
        r#"[(String("done"), String("provisioner up -e dev")), (String("failed"), String("provisioner up -e dev"))]"#
    );
    assert!(told["runs"][1]["left"].as_u64().unwrap() > 0 && told["runs"][0]["left"] == 0);
    snapshot!("history", world.shown("history -e dev -n 1").await);
    let drill = |passed, rto_ms| {
        let drill = Drill { fault: "kill".to_owned(), passed, rto_ms, rpo_rows: if passed { 0 } else { 3 } };
        let command = "provisioner failover --drill -e dev".to_owned();
        let (user, host) = ("ann".to_owned(), "here".to_owned());
        let drill = Some(drill);
        Run { at: 0, user, host, command, took_ms: 9000, steps: 7, left: 0, ended: Ended::Done, drill }
    };
    for run in [drill(true, Some(807)), drill(false, None)] {
        history::note(world.engine.records(), &run).await.unwrap();
    }
    snapshot!("history_of_drills", world.shown("history -e dev -n 2").await);
    world.ok("down -e dev --volumes").await;
    assert_eq!(world.json("history -e dev").await["runs"], serde_json::json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_stack_that_is_not_there() {
    let world = World::new();
    snapshot!("status_of_nothing", world.shown("status -e dev").await);
    snapshot!("env_of_nothing", world.shown("env -e dev").await);
    snapshot!("exec_of_nothing", world.shown("exec redis-1 -e dev -- true").await);
    snapshot!("top_without_terminal", world.shown("top -e dev").await);
    snapshot!("logs_of_nobody", world.shown("logs nobody -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_and_one_that_cannot_be_made() {
    let world = World::up().await;
    world.script.verdicts.lock().unwrap().insert("redis", Broken::unknown("no answer within 20 s"));
    snapshot!("verify_unknown", world.shown("verify -e dev").await);
    world.script.verdicts.lock().unwrap().insert("nginx", Broken::fail("/: 502, expected 200"));
    snapshot!("verify_fails", world.shown("verify -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn drift_shows_in_status() {
    let world = World::up().await;
    world.engine.tamper(|observed| {
        observed.workloads.remove(&Member::named("backend-2"));
    });
    world.write(&MANIFEST.replace("app:\n", "redis:\n  settings:\n    maxmemory: 80mb\napp:\n"));
    snapshot!("status_with_drift", world.shown("status -e dev").await);
}

#[tokio::test(start_paused = true)]
async fn a_written_out_manifest_is_a_manifest() {
    let world = World::of(&format!(
        "{MANIFEST}  env:\n    KEY: \"on\"\n  memory: 96MiB\nexpose: 0.0.0.0\nnginx:\n  cpus: 0.25\n  image: nginx:1.29\n\
         postgres:\n  synchronous: off\n  settings:\n    work_mem: 8MB\n"
    ));
    let written = world.ok("config -e dev").await.stdout;
    world.write(&written);
    assert_eq!(world.ok("config -e dev").await.stdout, written);
}

#[tokio::test(start_paused = true)]
async fn a_written_out_manifest_keeps_what_was_said_of_alerts_secrets_and_members_of_postgresql() {
    let said = format!(
        "{MANIFEST}  secret_env:\n    WEBHOOKS: webhooks\nmonitoring:\n  retention: 3d\n  scrape_seconds: 5\n  thresholds:\n    backend_p95: 0.8\n  \
         webhook: https://alerts.example.com/stack\n  pagerduty:\n    key_file: pagerduty.key\n  opsgenie:\n    \
         key_file: ../opsgenie.key\n    url: https://opsgenie.example.com/\npostgres:\n  replicas: 2\n  members:\n    \
         postgres-1:\n      region: east\n      priority: 7\n    postgres-3:\n      nofailover: true\n"
    );
    let world = World::of(&said);
    std::fs::write(world.directory.path().join("manifests/pagerduty.key"), "0123456789abcdef0123456789abcdef").unwrap();
    std::fs::write(world.directory.path().join("opsgenie.key"), "01234567-89ab-cdef-0123-456789abcdef").unwrap();
    std::fs::write(world.directory.path().join("manifests/webhooks"), "carrier=0123456789abcdef\n").unwrap();
    world.ok("up -e dev").await;
    let written = world.ok("config -e dev").await.stdout;
    world.write(&written);
    assert_eq!(world.ok("config -e dev").await.stdout, written);
    // What `config` left out would be gone from its second output too, so the stack and what was said judge it.
    let plan = world.run("plan -e dev --detailed-exitcode").await;
    assert_eq!(plan.code, 0, "{}", plan.shown());
    // A path that counts from the manifest is written out whole.
    let directory = world.directory.path().display().to_string();
    let said = said
        .replace(" webhooks", &format!(" {directory}/manifests/webhooks"))
        .replace(" pagerduty.key", &format!(" {directory}/manifests/pagerduty.key"))
        .replace(" ../opsgenie.key", &format!(" {directory}/opsgenie.key"));
    let [said, written]: [serde_json::Value; 2] = [&said, &written].map(|text| serde_yaml::from_str(text).unwrap());
    for section in ["/app/secret_env", "/monitoring", "/postgres/members/postgres-1", "/postgres/members/postgres-3"] {
        for (key, value) in said.pointer(section).unwrap().as_object().unwrap() {
            let found = written.pointer(section).and_then(|found| found.get(key));
            assert_eq!(found, Some(value), "{section}/{key}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn watching_goes_on_until_nobody_reads() {
    let mut world = World::up().await;
    world.stdout_takes = Some(3);
    let ran = world.run("status -e dev --watch=1h --no-usage -o json").await;
    assert_eq!(ran.code, 0, "{}", ran.shown());
    assert_eq!(ran.stdout.matches("\"stack\": \"dev\"").count(), 3);
    let ran = world.run("status -e dev --watch --no-usage").await;
    assert_eq!(ran.stdout.lines().filter(|line| line.starts_with("stack dev at ")).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn only_env_shows_a_secret() {
    let world = World::up().await;
    // The value that the memory engine gives to every secret.
    let value = "x".repeat(24);
    assert!(world.ok("env -e dev").await.stdout.contains(&value));
    for command in LOOKING.into_iter().filter(|command| !command.starts_with("env")) {
        let ran = world.run(command).await;
        assert!(!ran.stdout.contains(&value) && !ran.stderr.contains(&value), "{command}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_status_asks_what_members_use() {
    let world = World::up().await;
    for command in LOOKING.iter().filter(|command| **command != "status -e dev") {
        world.run(command).await;
    }
    world.ok("up -e dev").await;
    assert_eq!(world.engine.usages(), 0);
    world.ok("status -e dev").await;
    assert_eq!(world.engine.usages(), 1);
}
