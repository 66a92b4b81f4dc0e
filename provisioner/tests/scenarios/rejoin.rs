//! A member that was fenced comes back as a replica or not at all; replicas come and go on a live cluster.

use crate::harness::{Scenario, Stack, docker, refuses_to_start};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("failover_fences_so_that_a_member_serves_nothing_whoever_starts_it", fenced_member),
    ("failover_set_grows_and_shrinks_with_the_replicas_that_are_scaled", scaled),
];

const NAME: &str = "sc-rejoin";
const PRIMARY: &str = "sc-rejoin-postgres-1";
const REPLICA: &str = "sc-rejoin-postgres-2";

/// The database and its route alone.
fn database() -> Stack {
    let stack = Stack::of(NAME, |text| text.replace("synchronous: preferred", "synchronous: required"));
    stack.ok(&["up", "postgres", "route", "--http-port", "auto"]);
    stack
}

fn sql(container: &str, statement: &str) -> String {
    docker(&["exec", container, "psql", "-XAtqc", statement]).trim().to_owned()
}

fn fenced_member() {
    let stack = database();
    stack.ok(&["stop", "postgres-2"]);
    docker(&[
        "run",
        "--rm",
        "--volumes-from",
        REPLICA,
        "--entrypoint",
        "sh",
        &image(),
        "-c",
        "echo 'by a test' > /var/lib/postgresql/fenced",
    ]);
    refuses_to_start(REPLICA);
    let ran = stack.run(&["rejoin", "postgres-1"]);
    assert_eq!(ran.code, 80, "{}", ran.stderr);
    stack.ok(&["rejoin", "postgres-2"]);
    assert!(stack.ok(&["rejoin", "postgres-2"]).starts_with("nothing to do"), "it follows already");
    assert_eq!(sql(REPLICA, "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"), "1");
}

fn image() -> String {
    docker(&["inspect", "--format", "{{.Config.Image}}", REPLICA]).trim().to_owned()
}

fn scaled() {
    let stack = database();
    let up = stack.ok(&["scale", "postgres", "--replicas", "2", "--http-port", "auto"]);
    assert!(up.contains("postgres-3"), "{up}");
    let names = sql(PRIMARY, "SHOW synchronous_standby_names");
    assert_eq!(names, r#"ANY 1 ("postgres-2", "postgres-3")"#);
    stack.ok(&["scale", "postgres", "--replicas", "1", "--http-port", "auto"]);
    assert_eq!(sql(PRIMARY, "SHOW synchronous_standby_names"), r#"ANY 1 ("postgres-2")"#);
    assert_eq!(sql(PRIMARY, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'postgres_3'"), "0");
}
