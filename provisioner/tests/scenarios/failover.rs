//! PostgreSQL survives, or nothing is touched: a small stack of one primary and two replicas, one invariant a scenario.
//! What clients were promised is counted by the ledger, not by us.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Ran, Scenario, Stack, docker, eventually, refuses_to_start};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("failover_of_a_killed_primary_loses_no_acknowledged_row", killed),
    ("failover_of_a_hung_primary_leaves_no_second_one_that_acknowledges", hung),
    ("failover_of_a_primary_cut_off_from_the_network_loses_nothing", cut_off),
    ("failover_is_not_needed_where_a_killed_server_is_back_in_place", back_in_place),
    ("failover_by_plan_hands_over_every_acknowledged_row", handed_over),
    ("failover_without_everyone_who_may_have_acknowledged_is_refused_and_up_heals", incomplete),
    ("failover_elects_the_most_advanced_and_a_stopped_receiver_follows_later", stopped_receiver),
    ("failover_waits_for_replay_and_does_not_call_it_failed", paused_replay),
    ("failover_killed_at_any_step_converges_when_it_is_run_again", killed_at_any_step),
    ("failover_by_plan_killed_at_any_step_is_carried_on_by_the_same_command", hand_over_killed),
    ("failover_interrupted_once_another_is_primary_leaves_a_former_one_that_refuses_to_start", interrupted),
    ("failover_by_two_operators_at_once_changes_the_primary_once", two_operators),
    ("failover_of_an_unprotected_primary_is_refused_and_the_loss_is_measured_when_allowed", unprotected),
    ("failover_keeps_orders_and_backends_recover_without_a_restart", orders_under_failover),
    ("failover_happens_unattended_while_somebody_watches", watched),
    ("failover_refuses_what_cannot_be_with_a_code_for_each", refusals),
];

/// One primary, two replicas, commits wait for one of them; the app on it, nothing else.
pub(crate) fn stack() -> Stack {
    let stack = Stack::of("sc-ha", |text| {
        text.replace("  replicas: 1           # beside the one primary", "  replicas: 2")
            .replace("rate_limit: 50 ", "rate_limit: 1500 ")
            .replace("synchronous: preferred", "synchronous: required")
            .replace(
                "memory: 384MiB\n  cpus: 1\n  settings:             # lines for postgresql.conf",
                "memory: 256MiB\n  settings:",
            )
    });
    stack.ok(&["up", "--no-verify"]);
    stack
}

pub(crate) fn container(member: &str) -> String {
    format!("sc-ha-{member}")
}

/// Who is primary, and how often that has changed.
pub(crate) fn primary(stack: &Stack) -> String {
    role(stack, "primary").pop().unwrap()
}

pub(crate) fn replicas(stack: &Stack) -> Vec<String> {
    role(stack, "replica")
}

fn role(stack: &Stack, role: &str) -> Vec<String> {
    let status = stack.json(&["status", "--no-usage"]);
    let members = status["members"].as_array().unwrap().iter();
    members
        .filter(|member| member["role"] == role)
        .map(|member| member["member"].as_str().unwrap().to_owned())
        .collect()
}

pub(crate) fn sql(member: &str, statement: &str) -> String {
    docker(&["exec", &container(member), "psql", "-U", "postgres", "-Atqc", statement]).trim().to_owned()
}

pub(crate) fn drill(stack: &Stack, words: &[&str]) -> (Ran, Value) {
    let ran = stack.run(&[words, &["-o", "json"]].concat());
    assert!(ran.code == 0 || ran.code == 82, "{}\n{}", ran.stderr, ran.stdout);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout));
    (ran, report)
}

/// The promise, and that the stack is whole again.
pub(crate) fn nothing_lost(stack: &Stack, fault: &str) -> Value {
    nothing_lost_by(stack, &["failover", "--drill", "--fault", fault])
}

fn nothing_lost_by(stack: &Stack, words: &[&str]) -> Value {
    let before = primary(stack);
    let (ran, report) = drill(stack, words);
    assert_eq!(ran.code, 0, "{report:#}");
    assert_eq!(report["verdict"], "pass", "{report:#}");
    assert_eq!(report["rpo_rows"], 0, "{report:#}");
    assert_eq!(report["dual_primary_ms"], 0, "{report:#}");
    assert!(report["acked"].as_u64().unwrap() > 100, "{report:#}");
    eprintln!("{before} was primary; {report}");
    whole(stack);
    report
}

/// One primary, two replicas that follow, nothing left to do.
pub(crate) fn whole(stack: &Stack) {
    assert_eq!((role(stack, "primary").len(), replicas(stack).len()), (1, 2));
    assert!(stack.plan().contains("nothing to do"), "{}", stack.plan());
}

fn killed() {
    let stack = stack();
    let before = primary(&stack);
    nothing_lost(&stack, "kill");
    assert_ne!(primary(&stack), before);
    stack.verify();
    let newest = &stack.json(&["history"])["runs"][0];
    assert!(newest["command"].to_string().contains("--drill --fault kill"), "{newest}");
    assert_eq!((&newest["drill"]["passed"], &newest["drill"]["rpo_rows"]), (&Value::from(true), &Value::from(0)));
}

fn hung() {
    let stack = stack();
    let before = primary(&stack);
    nothing_lost(&stack, "pause");
    assert_ne!(primary(&stack), before);
}

fn cut_off() {
    let stack = stack();
    let before = primary(&stack);
    nothing_lost(&stack, "partition");
    assert_ne!(primary(&stack), before);
    stack.verify();
}

fn back_in_place() {
    let stack = stack();
    let before = primary(&stack);
    nothing_lost(&stack, "host-kill");
    assert_eq!(primary(&stack), before, "no other primary was needed");
    let newest = &stack.json(&["history"])["runs"][0];
    assert_eq!(newest["drill"]["fault"], "host-kill", "{newest}");
}

fn handed_over() {
    let stack = stack();
    let to = replicas(&stack).pop().unwrap();
    nothing_lost_by(&stack, &["drill", "switchover", "--to", &to]);
    assert_eq!(primary(&stack), to);
}

fn incomplete() {
    let stack = stack();
    let (old, others) = (primary(&stack), replicas(&stack));
    docker(&["kill", &container(&old), &container(&others[0])]);
    let refused = stack.run(&["failover"]);
    assert_eq!(refused.code, 77, "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!("{} (it is exited", others[0])), "{}", refused.stderr);
    // Nothing was changed, so the stack heals as from any loss.
    stack.ok(&["up", "--no-verify"]);
    assert_eq!(primary(&stack), old);
    whole(&stack);
}

fn stopped_receiver() {
    let stack = stack();
    let (old, others) = (primary(&stack), replicas(&stack));
    let stopped = &others[0];
    let receiver = sql(stopped, "SELECT pid FROM pg_stat_wal_receiver");
    docker(&["exec", &container(stopped), "kill", "-STOP", &receiver]);
    sql(&old, "CREATE TABLE IF NOT EXISTS advance (n int); INSERT INTO advance SELECT generate_series(1, 10000)");
    let committed = sql(&old, "SELECT pg_current_wal_flush_lsn()");
    docker(&["kill", &container(&old)]);
    let ran = stack.run(&["failover"]);
    assert_eq!(primary(&stack), others[1], "{}", ran.stderr);
    docker(&["exec", &container(stopped), "kill", "-CONT", &receiver]);
    eventually("the stopped one follows", Duration::from_secs(30), || {
        (sql(stopped, &format!("SELECT pg_last_wal_replay_lsn() >= '{committed}'")) == "t").then_some(())
    });
    if ran.code != 0 {
        // What could not be done while it was stopped.
        stack.run(&["failover"]);
    }
    whole(&stack);
    assert_eq!(sql(stopped, "SELECT count(*) FROM advance"), "10000");
    sql(&primary(&stack), "DROP TABLE advance");
}

fn paused_replay() {
    let stack = stack();
    let replicas = replicas(&stack);
    for replica in &replicas {
        sql(replica, "SELECT pg_wal_replay_pause()");
    }
    std::thread::scope(|scope| {
        // Whoever is not promoted stays paused until somebody resumes it.
        let resuming = scope.spawn(|| {
            let promoted = eventually("one is promoted", Duration::from_secs(60), || {
                replicas.iter().position(|replica| sql(replica, "SELECT pg_is_in_recovery()") == "f")
            });
            sql(&replicas[1 - promoted], "SELECT pg_wal_replay_resume()");
        });
        nothing_lost(&stack, "kill");
        resuming.join().unwrap();
    });
}

/// Lines of progress after which the run is killed: before the fence, around the election, the promotion, the route and
/// the rejoin.
const KILLED_AFTER: [usize; 6] = [1, 3, 7, 10, 14, 18];

fn killed_at_any_step() {
    let stack = stack();
    for lines in KILLED_AFTER {
        let before = timeline(&stack);
        docker(&["kill", &container(&primary(&stack))]);
        kill_after(&stack, &["failover"], lines);
        let again = stack.run(&["failover"]);
        assert!(again.code == 0 || again.code == 74, "after {lines} lines: {}", again.stderr);
        whole(&stack);
        assert_eq!(timeline(&stack), before + 1, "after {lines} lines");
    }
    stack.verify();
}

fn hand_over_killed() {
    let stack = stack();
    // Before it was begun, once it is prepared, during the shutdown, the promotion, the pointing, the rejoin.
    for lines in [1, 5, 6, 8, 13, 17] {
        let (before, to) = (timeline(&stack), replicas(&stack).pop().unwrap());
        kill_after(&stack, &["switchover", "--to", &to], lines);
        let again = stack.run(&["switchover", "--to", &to]);
        assert!(again.code == 0 || again.code == 80, "after {lines} lines: {}", again.stderr);
        whole(&stack);
        assert_eq!((primary(&stack), timeline(&stack)), (to, before + 1), "after {lines} lines");
    }
}

fn interrupted() {
    let stack = stack();
    let old = primary(&stack);
    docker(&["kill", &container(&old)]);
    let mut command = stack.command(&["failover", "--progress", "json"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(progress.any(|line| line.contains("postgres.promote")), "nobody is promoted");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let said: Vec<String> = progress.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said:#?}");
    assert_ne!(primary(&stack), old);
    refuses_to_start(&container(&old));
    stack.ok(&["failover"]);
    whole(&stack);
}

fn kill_after(stack: &Stack, words: &[&str], lines: usize) {
    let mut command = stack.command(&[words, &["--progress", "json"]].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let progress = BufReader::new(child.stderr.take().unwrap());
    let _ = progress.lines().map_while(Result::ok).take(lines).count();
    let _ = child.kill();
    child.wait().unwrap();
}

/// Every change of the primary begins another timeline.
pub(crate) fn timeline(stack: &Stack) -> u32 {
    let file = sql(&primary(stack), "SELECT pg_walfile_name(pg_current_wal_lsn())");
    u32::from_str_radix(&file[..8], 16).unwrap()
}

fn two_operators() {
    let stack = stack();
    let before = timeline(&stack);
    docker(&["kill", &container(&primary(&stack))]);
    let mut both = [stack.start(&["failover"]), stack.start(&["failover"])];
    let codes: Vec<Option<i32>> = both.iter_mut().map(|child| child.wait().unwrap().code()).collect();
    assert!(codes.contains(&Some(0)), "{codes:?}");
    assert!(codes.iter().all(|code| [Some(0), Some(69), Some(74)].contains(code)), "{codes:?}");
    assert_eq!(timeline(&stack), before + 1, "{codes:?}");
    whole(&stack);
}

fn unprotected() {
    let stack = stack();
    let wishes = stack.changed(|text| text.replace("synchronous: required", "synchronous: off"));
    wishes.ok(&["up", "--no-verify"]);
    let (old, others) = (primary(&stack), replicas(&stack));
    docker(&["kill", &container(&old)]);
    let refused = wishes.run(&["failover"]);
    assert_eq!(refused.code, 77, "{}", refused.stderr);
    wishes.ok(&["up", "--no-verify"]);
    // Rows that nobody else has: the replicas hear nothing any more, and the primary goes on acknowledging.
    for replica in &others {
        docker(&["network", "disconnect", "sc-ha", &container(replica)]);
    }
    sql(&old, "CREATE TABLE phantom (n int); INSERT INTO phantom VALUES (1)");
    docker(&["kill", &container(&old)]);
    for replica in &others {
        docker(&["network", "connect", "--alias", replica, "sc-ha", &container(replica)]);
    }
    let allowed = wishes.ok(&["failover", "--allow-data-loss"]);
    eprintln!("{allowed}");
    assert_ne!(primary(&stack), old);
    let phantom = sql(&old, "SELECT count(*) FROM pg_class WHERE relname = 'phantom'");
    assert_eq!(phantom, "0", "a row that the cluster has not is served by {old}");
    whole(&wishes);
    let kept = docker(&["exec", &container(&old), "ls", "/var/lib/postgresql"]);
    assert!(kept.contains("diverged-"), "{kept}");
    stack.ok(&["up", "--no-verify"]);
}

fn orders_under_failover() {
    let stack = stack();
    let base = stack.http();
    let backends = stack.containers().into_iter().filter(|(name, _)| name.contains("backend"));
    let backends: Vec<_> = backends.collect();
    let is_over = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|scope| {
        let ordering = scope.spawn(|| order_until(&is_over, &base));
        docker(&["kill", &container(&primary(&stack))]);
        let done = stack.run(&["failover"]);
        let begin = std::time::Instant::now();
        eventually("an order is taken", Duration::from_secs(2), || {
            (http::order(&base, &format!("after-{}", done.code), "PROBE-0").status < 300).then_some(())
        });
        eprintln!("orders are taken {:.1} s after the failover has ended", begin.elapsed().as_secs_f64());
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(done.code, 0, "{}", done.stderr);
        ordering.join().unwrap()
    });
    let count = format!("SELECT count(*) FROM orders WHERE email = '{BUYER}'");
    let primary = container(&primary(&stack));
    let stored = docker(&["exec", &primary, "psql", "-U", "postgres", "-d", "app", "-Atqc", &count]);
    assert_eq!(stored.trim(), acknowledged.len().to_string(), "acknowledged orders are stored, and none twice");
    for (key, id) in &acknowledged {
        // The same key is the same order: it was stored, and once.
        let again = http::order_of(&base, key, "PROBE-0", 1, BUYER);
        assert_eq!(again.json()["id"].as_str(), Some(id.as_str()), "{key}: {}", again.body);
    }
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    let after = stack.containers().into_iter().filter(|(name, _)| name.contains("backend"));
    assert_eq!(after.collect::<Vec<_>>(), backends);
}

const BUYER: &str = "under-failover@example.com";

/// Orders one after the other, each retried with its key until it is acknowledged.
fn order_until(is_over: &AtomicBool, base: &str) -> Vec<(String, String)> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let key = format!("under-failover-{number}");
        let answer = eventually("an order is acknowledged", Duration::from_secs(30), || {
            let answer = http::order_of(base, &key, "PROBE-0", 1, BUYER);
            (answer.status == 200 || answer.status == 201).then_some(answer)
        });
        acknowledged.push((key, answer.json()["id"].as_str().unwrap().to_owned()));
        if is_over.load(Ordering::SeqCst) {
            break;
        }
    }
    acknowledged
}

fn watched() {
    let stack = stack();
    let old = primary(&stack);
    let mut watching = stack.command(&["watch"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(watching.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("watching the primary")));
    docker(&["kill", &container(&old)]);
    eventually("another one is primary", Duration::from_secs(20), || (primary(&stack) != old).then_some(()));
    eventually("the old one follows", Duration::from_secs(60), || (replicas(&stack).len() == 2).then_some(()));
    eventually("nothing is left to do", Duration::from_secs(20), || {
        stack.plan().contains("nothing to do").then_some(())
    });
    watching.kill().unwrap();
    watching.wait().unwrap();
}

fn refusals() {
    let stack = stack();
    let (primary, replica) = (primary(&stack), replicas(&stack).pop().unwrap());
    let code = |arguments: &[&str]| stack.run(arguments).code;
    assert_eq!(code(&["failover"]), 74);
    assert_eq!(code(&["switchover", "--to", &primary]), 80);
    assert_eq!(code(&["switchover", "--to", "postgres-9"]), 80);
    sql(&replica, "SELECT pg_wal_replay_pause()");
    assert_eq!(code(&["switchover", "--to", &replica]), 81);
    sql(&replica, "SELECT pg_wal_replay_resume()");
    docker(&["stop", &container("route-1")]);
    assert_eq!(code(&["switchover", "--to", &replica]), 87);
    stack.ok(&["up", "--no-verify"]);
    // A second one that takes writes is somebody's mistake, and nobody may build on it.
    docker(&["stop", &container(&primary)]);
    sql(&replica, "SELECT pg_promote()");
    assert_eq!(code(&["failover"]), 78);
}
