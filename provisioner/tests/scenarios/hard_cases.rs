//! What rarely happens and then decides: an engine without power over the primary, replicas that heard nothing of the last
//! writes, data that has parted, data of somebody else.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::failover::{container, primary, replicas, sql, stack, timeline, whole};
use crate::harness::{Ran, Scenario, Stack, docker, eventually, root};
use crate::proxy::Proxy;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("failover_without_power_over_the_primary_rests_on_its_frozen_replicas", cannot_acknowledge),
    ("failover_without_power_over_an_unprotected_primary_promotes_nobody", may_acknowledge),
    ("failover_measures_the_rows_that_an_asynchronous_primary_alone_had", asynchronous_loss),
    ("failover_leaves_diverged_data_that_is_rewound_and_never_served", rewound),
    ("failover_leaves_diverged_data_that_is_copied_anew_where_the_rewind_fails", rewind_fails),
    ("failover_and_rejoin_touch_no_data_of_another_cluster", foreign_data),
    ("failover_in_order_is_refused_to_a_replica_that_is_far_behind", far_behind),
    ("failover_by_plan_that_comes_to_nothing_leaves_the_primary_serving", comes_to_nothing),
    ("failover_over_encrypted_connections_loses_nothing_and_stays_encrypted", encrypted),
    ("failover_three_times_over_after_growing_loses_nothing_and_spares_the_far_replica", three_in_a_row),
];

fn through(proxy: &Proxy, stack: &Stack, arguments: &[&str]) -> Ran {
    Ran::of(stack.command(arguments).env("DOCKER_HOST", proxy.host()))
}

/// A client inside the member, as no network stands in its way.
fn session(member: &str, statement: &str) -> Child {
    let arguments = ["exec", &container(member), "psql", "-U", "postgres", "-Atqc", statement];
    Command::new("docker").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn cut_off(member: &str) {
    docker(&["network", "disconnect", "sc-ha", &container(member)]);
}

fn waiting_commits(member: &str) -> String {
    sql(member, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
}

fn cannot_acknowledge() {
    let stack = stack();
    let old = primary(&stack);
    let proxy = Proxy::powerless_over(&container(&old));
    cut_off(&old);
    let mut before = session(&old, "CREATE TABLE phantom (n int)");
    let ran = through(&proxy, &stack, &["failover"]);
    assert_eq!(ran.code, 1, "the old primary could not be rejoined: {}", ran.stderr);
    assert!(ran.stderr.contains(&format!("{old} cannot acknowledge: ")), "{}", ran.stderr);
    let new = primary(&stack);
    assert_ne!(new, old);
    sql(&new, "CREATE TABLE kept (n int)");
    // It lives, takes writes for its own, and nobody is told that one of them is done.
    let mut after = session(&old, "CREATE TABLE phantom_too (n int)");
    eventually("both wait", Duration::from_secs(10), || (waiting_commits(&old) == "2").then_some(()));
    assert!(before.try_wait().unwrap().is_none() && after.try_wait().unwrap().is_none());
    drop(proxy);
    // Its network comes back before anybody has taken care of it.
    docker(&["network", "connect", "--alias", &old, "sc-ha", &container(&old)]);
    stack.ok(&["failover"]);
    assert!(!before.wait().unwrap().success() && !after.wait().unwrap().success(), "a commit was acknowledged");
    whole(&stack);
    assert_eq!(primary(&stack), new);
    assert_eq!(tables(&old), "kept");
    sql(&new, "DROP TABLE kept");
}

/// Of these scenarios.
fn tables(member: &str) -> String {
    sql(member, "SELECT string_agg(relname, ' ') FROM pg_class WHERE relname ~ '^(kept|phantom)'")
}

fn unprotected(stack: &Stack) -> Stack {
    let wishes = stack.changed(|text| text.replace("synchronous: required", "synchronous: off"));
    wishes.ok(&["up", "--no-verify"]);
    wishes
}

fn may_acknowledge() {
    let stack = unprotected(&stack());
    let (old, before) = (primary(&stack), timeline(&stack));
    let proxy = Proxy::powerless_over(&container(&old));
    cut_off(&old);
    let refused = through(&proxy, &stack, &["failover", "--allow-data-loss"]);
    drop(proxy);
    assert_eq!(refused.code, 79, "{}", refused.stderr);
    assert_eq!(sql(&old, "SELECT pg_is_in_recovery()"), "f", "it goes on");
    docker(&["network", "connect", "--alias", &old, "sc-ha", &container(&old)]);
    stack.ok(&["failover"]);
    assert_eq!((primary(&stack), timeline(&stack)), (old, before));
    whole(&stack);
}

/// What the primary sends falls silent without an end, as behind a cable that was pulled.
fn silence(primary: &str) {
    let senders = sql(primary, "SELECT pid FROM pg_stat_replication WHERE application_name ~ '^postgres-'");
    let senders: Vec<&str> = senders.lines().collect();
    let container = container(primary);
    docker(&[&["exec", &container, "kill", "-STOP"][..], &senders].concat());
}

fn asynchronous_loss() {
    let stack = unprotected(&stack());
    let old = primary(&stack);
    let file = root().join("target/drill-asynchronous.json");
    let told = file.to_str().unwrap();
    let words = ["failover", "--drill", "--fault", "kill", "--allow-data-loss", "--json-into", told];
    let drill = std::thread::scope(|scope| {
        let drill = scope.spawn(|| stack.run(&words));
        // The drill kills when the ledger has told of 800 rows. It tells once a second, of less the first time; about half
        // a second after that the replicas hear no more.
        eventually("the ledger writes", Duration::from_secs(20), || {
            let logs = Command::new("docker").args(["logs", &container("ledger-1")]).output().unwrap();
            (!logs.stdout.is_empty()).then_some(())
        });
        let rows = || sql(&old, "SELECT count(*) FROM ledger.entries").parse::<u64>().unwrap();
        let first = rows();
        eventually("half a second is over", Duration::from_secs(5), || (rows() > first + 250).then_some(()));
        silence(&old);
        drill.join().unwrap()
    });
    assert_eq!(drill.code, 0, "{}\n{}", drill.stderr, drill.stdout);
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let number = |key: &str| report[key].as_u64().unwrap();
    eprintln!("{}", drill.stdout);
    let (rows, ms) = (number("rpo_rows"), number("rpo_ms"));
    assert!(rows > 0 && (50..5000).contains(&ms), "{report:#}");
    assert_eq!(number("dual_primary_ms"), 0);
    assert!(drill.stdout.contains(&format!("{rows} rows, {ms} ms")), "{}", drill.stdout);
    // Nobody has what is lost, least of all the one that had it alone.
    let held = |member: &String| {
        sql(member, "SELECT count(*), md5(string_agg(e::text, ' ' ORDER BY e)) FROM ledger.entries e")
    };
    let held: BTreeSet<String> = ["postgres-1", "postgres-2", "postgres-3"].map(|name| held(&name.to_owned())).into();
    assert_eq!(held.len(), 1, "{held:?}");
    assert_ne!(primary(&stack), old);
    whole(&stack);
}

/// A former primary that stands outside the cluster, with a table that nobody else has. `prepare` happens before they part,
/// `part` after that.
fn diverged(stack: &Stack, prepare: &str, part: &str) -> String {
    let old = primary(stack);
    sql(&old, prepare);
    silence(&old);
    let parted = format!("SET synchronous_commit = local; CREATE TABLE phantom (n int); {part}");
    sql(&old, &parted);
    docker(&["kill", &container(&old)]);
    let proxy = Proxy::powerless_over(&container(&old));
    let ran = through(&proxy, stack, &["failover"]);
    assert_eq!(ran.code, 1, "it was rejoined: {}", ran.stderr);
    assert_ne!(primary(stack), old);
    old
}

/// What the rejoin said, while nobody was ever served what only this member had.
fn rejoin_by_rewind(stack: &Stack, member: &str) -> String {
    let is_over = AtomicBool::new(false);
    let said = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let look = ["exec", &container(member), "psql", "-U", "postgres", "-Atqc", "SELECT to_regclass('phantom')"];
            let mut served = String::new();
            while !is_over.load(Ordering::SeqCst) {
                // It fails while the member is down.
                served += &String::from_utf8_lossy(&Command::new("docker").args(look).output().unwrap().stdout);
            }
            served
        });
        let ran = stack.run(&["rejoin", member, "--method", "rewind", "--verbose"]);
        is_over.store(true, Ordering::SeqCst);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert_eq!(looking.join().unwrap().trim(), "", "a table that the cluster has not is served by {member}");
        ran.stderr
    });
    assert!(said.contains("; its own WAL from "), "{said}");
    assert!(!said.contains(" to its end"), "{said}");
    let kept = docker(&["exec", &container(member), "sh", "-c", "cat /var/lib/postgresql/diverged-*/range"]);
    assert!(kept.lines().any(|range| said.contains(&range.trim().replace(' ', " to "))), "{kept}: {said}");
    whole(stack);
    said
}

fn rewound() {
    let stack = stack();
    let old = diverged(&stack, "SELECT 1", "INSERT INTO phantom SELECT generate_series(1, 10000)");
    let said = rejoin_by_rewind(&stack, &old);
    assert!(said.contains(&format!("{old} was rewound")), "{said}");
}

fn rewind_fails() {
    let stack = stack();
    // The last checkpoint before they part lies in a file before the one where they do.
    let prepare = "CHECKPOINT; SELECT pg_switch_wal(); CREATE TABLE kept (n int); DROP TABLE kept";
    let old = diverged(&stack, prepare, "CHECKPOINT");
    // Its last checkpoint comes after that, and nobody needs what was before.
    let remove = "PATH=$PATH:/usr/lib/postgresql/17/bin; cd /var/lib/postgresql/17/main/pg_wal; \
                  redo=$(pg_controldata .. | sed -n 's/^.*REDO WAL file: *//p'); \
                  for file in ????????????????????????; do if [ $file \\< $redo ]; then rm $file; fi; done; [ -e $redo ]";
    inside(&old, &[], remove);
    let said = rejoin_by_rewind(&stack, &old);
    assert!(said.contains("the rewind failed: the data is copied anew"), "{said}");
    assert!(said.contains(&format!("{old} was copied anew")), "{said}");
}

/// A shell on the volume of a member that is down.
fn inside(member: &str, flags: &[&str], script: &str) -> String {
    let container = container(member);
    let image = docker(&["inspect", "--format", "{{.Config.Image}}", &container]);
    let run = ["run", "--rm", "--volumes-from", &container, "--user", "postgres", "--entrypoint", "sh"];
    docker(&[&run, flags, &[image.trim(), "-ec", script]].concat())
}

fn foreign_data() {
    let stack = stack();
    let (old, others) = (primary(&stack), replicas(&stack));
    let foreign = &others[0];
    let login = sql(&old, "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'");
    docker(&["stop", &container(foreign)]);
    let fresh = "PATH=$PATH:/usr/lib/postgresql/17/bin; cd /var/lib/postgresql/17; rm -rf main; initdb -kD main; \
                 echo \"ALTER ROLE postgres PASSWORD '$LOGIN'\" | postgres --single -D main postgres";
    inside(foreign, &["--env", &format!("LOGIN={login}")], fresh);
    docker(&["start", &container(foreign)]);
    let identifier = || sql(foreign, "SELECT system_identifier FROM pg_control_system()");
    let before = eventually("it is up", Duration::from_secs(10), || {
        Command::new("docker")
            .args(["exec", &container(foreign), "pg_isready", "-q"])
            .status()
            .unwrap()
            .success()
            .then(identifier)
    });
    let containers = stack.containers();
    let refused = stack.run(&["rejoin", foreign]);
    assert_eq!(refused.code, 85, "{}", refused.stderr);
    assert!(refused.stderr.contains(&before), "{}", refused.stderr);
    docker(&["kill", &container(&old)]);
    let refused = stack.run(&["failover", "--allow-data-loss"]);
    assert_eq!(refused.code, 78, "{}", refused.stderr);
    assert_eq!((identifier(), stack.containers()), (before, containers));
    assert_eq!(sql(&others[1], "SELECT pg_is_in_recovery()"), "t");
    // Somebody moves it away, and the stack heals as from any loss.
    docker(&["rm", "-f", &container(foreign)]);
    docker(&["volume", "rm", &format!("{}-data", container(foreign))]);
    stack.ok(&["up", "--no-verify"]);
    assert_eq!(primary(&stack), old);
    whole(&stack);
}

fn far_behind() {
    let stack = stack();
    let (old, others) = (primary(&stack), replicas(&stack));
    let behind = &others[0];
    let receiver = sql(behind, "SELECT pid FROM pg_stat_wal_receiver");
    docker(&["exec", &container(behind), "kill", "-STOP", &receiver]);
    sql(&old, "CREATE TABLE kept AS SELECT repeat('x', 1000) FROM generate_series(1, 20000); DROP TABLE kept");
    let refused = stack.run(&["switchover", "--to", behind]);
    docker(&["exec", &container(behind), "kill", "-CONT", &receiver]);
    assert_eq!(refused.code, 81, "{}", refused.stderr);
    assert!(refused.stderr.contains(" bytes behind, expected at most "), "{}", refused.stderr);
    assert_eq!(primary(&stack), old);
    eventually("it follows", Duration::from_secs(30), || stack.plan().contains("nothing to do").then_some(()));
}

fn comes_to_nothing() {
    let stack = stack();
    let (old, to, before) = (primary(&stack), replicas(&stack).pop().unwrap(), timeline(&stack));
    // It does not get the end of what the primary writes.
    let receiver = sql(&to, "SELECT pid FROM pg_stat_wal_receiver");
    docker(&["exec", &container(&to), "kill", "-STOP", &receiver]);
    let failed = stack.run(&["switchover", "--to", &to]);
    docker(&["exec", &container(&to), "kill", "-CONT", &receiver]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert!(failed.stderr.contains(&format!("{old} was started again and is still the primary")), "{}", failed.stderr);
    assert_eq!((primary(&stack), timeline(&stack)), (old, before));
    whole(&stack);
}

/// The database and its route alone, every connection encrypted.
fn fleet() -> Stack {
    let stack = Stack::of("sc-fleet", |text| {
        text.replace("synchronous: preferred", "synchronous: required")
            .replace("postgres:\n", "postgres:\n  tls: true\n")
    });
    stack.ok(&["up", "postgres", "route", "--http-port", "auto", "--no-verify"]);
    stack
}

fn drilled(stack: &Stack, runs: &str) -> Value {
    let ran =
        stack.run(&["failover", "--drill", "--fault", "kill", "--runs", runs, "-o", "json", "--http-port", "auto"]);
    assert_eq!(ran.code, 0, "{}\n{}", ran.stderr, ran.stdout);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Every check of what stands.
fn passes(stack: &Stack) {
    let findings: Value =
        serde_json::from_str(&stack.run(&["verify", "-o", "json", "--http-port", "auto"]).stdout).unwrap();
    let of_database = |finding: &&Value| finding["component"] == "postgres" || finding["component"] == "route";
    let findings: Vec<&Value> = findings.as_array().unwrap().iter().filter(of_database).collect();
    assert!(findings.len() > 10 && findings.iter().all(|finding| finding["verdict"] == "pass"), "{findings:#?}");
}

fn encrypted() {
    let stack = fleet();
    let report = drilled(&stack, "1");
    assert_eq!((&report["rpo_rows"], &report["dual_primary_ms"]), (&0.into(), &0.into()), "{report:#}");
    let replication = "SELECT application_name, ssl FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)";
    let seen = docker(&["exec", "sc-fleet-postgres-2", "psql", "-U", "postgres", "-Atqc", replication]);
    assert_eq!(seen.trim(), "postgres-1|t", "the old primary follows, encrypted");
    passes(&stack);
}

fn three_in_a_row() {
    let stack = fleet();
    stack.ok(&["scale", "postgres", "--replicas", "3", "--http-port", "auto"]);
    let far = "postgres-4";
    let stack = stack.changed(|text| {
        text.replace(
            "postgres:\n",
            "postgres:\n  members: {postgres-4: {region: eu-2, priority: 100, nofailover: true}}\n",
        )
    });
    let sql = |statement: &str| docker(&["exec", "sc-fleet-postgres-4", "psql", "-U", "postgres", "-Atqc", statement]);
    sql("ALTER SYSTEM SET recovery_min_apply_delay = '1500ms'");
    sql("SELECT pg_reload_conf()");
    let report = drilled(&stack, "3");
    let runs = report["runs"].as_array().unwrap();
    assert_eq!((report["passed"].as_bool(), runs.len()), (Some(true), 3), "{report:#}");
    for run in runs {
        assert_eq!((&run["rpo_rows"], &run["dual_primary_ms"]), (&0.into(), &0.into()), "{run:#}");
        assert_eq!(run["members_after"][far], "replica", "{run:#}");
        eprintln!("{run}");
    }
    sql("ALTER SYSTEM RESET recovery_min_apply_delay");
    sql("SELECT pg_reload_conf()");
    passes(&stack);
}
