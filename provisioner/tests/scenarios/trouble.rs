//! An archive that hangs and a disk that is full, before and during a change of the primary: a database of one primary and
//! two replicas that archives its WAL, with a small disk of its own for postgres-1.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failover::{drill, primary, replicas};
use crate::harness::{Ran, Scenario, Stack, docker, eventually, refuses_to_start};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("failover_by_plan_stops_nothing_where_archiving_hangs", archive_hangs),
    ("failover_by_plan_does_not_wait_for_a_shutdown_that_hangs_in_archiving", shutdown_hangs),
    ("failover_by_plan_is_refused_on_a_full_disk_and_the_primary_goes_on_once_there_is_room", full_before_switchover),
    ("failover_from_a_full_disk_serves_at_once_and_the_member_is_back_once_there_is_room", full_for_good),
    ("failover_of_a_primary_whose_disk_is_full_loses_no_acknowledged_row", full),
];

const NAME: &str = "sc-trouble";
const FIRST: &str = "postgres-1";
const DISK_MIB: u64 = 400;
/// Archiving is what becomes of these inside a member: the first lets it hang while it is there, the second from the
/// second file on.
const HANG: &str = "/tmp/archive-hangs";
const HANG_LATER: &str = "/tmp/archive-hangs-later";
const ARCHIVE: &str = "while test -e /tmp/archive-hangs; do sleep 0.1; done; \
                       if test -d /tmp/archive-hangs-later && ! mkdir /tmp/archive-hangs-later/1; then sleep 300; fi";

fn stack() -> Stack {
    let stack = Stack::of(NAME, |text| {
        text.replace("  replicas: 1           # beside the one primary", "  replicas: 2")
            .replace("synchronous: preferred", "synchronous: required")
            .replace("memory: 384MiB\n  cpus: 1\n  settings:", "memory: 256MiB\n  settings:")
            .replace(
                "    log_min_duration_statement: 500ms",
                &format!("    archive_mode: \"on\"\n    archive_command: \"{ARCHIVE}\""),
            )
    });
    if !docker(&["volume", "ls", "--quiet"]).lines().any(|name| name == format!("{NAME}-postgres-1-data")) {
        small_disk();
    }
    stack.ok(&["up", "postgres", "route", "--http-port", "auto", "--no-verify"]);
    if primary(&stack) != FIRST {
        stack.ok(&["switchover", "--to", FIRST]);
    }
    stack
}

fn container(member: &str) -> String {
    format!("{NAME}-{member}")
}

/// What the volume of the first member lies on: no engine limits its local volumes, and a volume in memory would be lost
/// with its last user.
fn small_disk() {
    detach();
    let image = image();
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(DISK_MIB << 20).unwrap();
    as_root(&["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", &image]);
    // The engine gives a volume the owner that the image wants for it while nothing is in there.
    as_root(&["debugfs", "-w", "-R", "rmdir lost+found", &image]);
    let device = as_root(&["losetup", "--find", "--show", &image]);
    let labels = ["component=postgres", "kind=volume", "stack=sc-trouble", "volume=postgres-1-data"];
    let labels: Vec<String> = labels.iter().map(|label| format!("--label=provisioner.{label}")).collect();
    let device = format!("device={}", device.trim());
    let mut arguments = vec!["volume", "create", "--opt", "type=ext4", "--opt", &device];
    arguments.extend(labels.iter().map(String::as_str));
    let volume = format!("{NAME}-postgres-1-data");
    arguments.push(&volume);
    docker(&arguments);
}

fn image() -> String {
    std::env::temp_dir().join(format!("{NAME}.ext4")).to_string_lossy().into_owned()
}

/// Takes the disk away, whoever has left it.
pub(crate) fn detach() {
    let image = image();
    if std::fs::exists(&image).unwrap() {
        for line in as_root(&["losetup", "--noheadings", "--output", "NAME", "--associated", &image]).lines() {
            as_root(&["losetup", "--detach", line.trim()]);
        }
        std::fs::remove_file(&image).unwrap();
    }
}

/// Loop devices belong to root; a runner of CI has `sudo` without a password.
fn as_root(argv: &[&str]) -> String {
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    let is_root = String::from_utf8_lossy(&id).trim() == "0";
    let argv: Vec<&str> = if is_root { argv.to_vec() } else { ["sudo", "-n"].iter().chain(argv).copied().collect() };
    let output = Command::new(argv[0]).args(&argv[1..]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}; this scenario needs root and loop devices", argv.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn inside(member: &str, command: &str) -> String {
    docker(&["exec", &container(member), "sh", "-c", command])
}

fn sql(member: &str, statement: &str) -> String {
    docker(&["exec", &container(member), "psql", "-U", "postgres", "-Atqc", statement]).trim().to_owned()
}

const STARTED: &str = "SELECT pg_postmaster_start_time()";

/// Refused with 81, and the primary is the same process as before, which takes writes; nothing is under way.
fn refused(stack: &Stack, started: &str) -> Ran {
    let ran = stack.run(&["switchover", "--to", "postgres-2"]);
    assert_eq!(ran.code, 81, "{}", ran.stderr);
    assert_eq!(primary(stack), FIRST);
    assert_eq!(sql(FIRST, STARTED), started, "{}", ran.stderr);
    assert_eq!(stack.run(&["failover"]).code, 74, "no change is under way, and the primary is healthy");
    ran
}

fn archive_hangs() {
    let stack = stack();
    let started = sql(FIRST, STARTED);
    inside(FIRST, &format!("touch {HANG}"));
    let begin = Instant::now();
    let proven = refused(&stack, &started);
    eprintln!("refused after {:.1} s: {}", begin.elapsed().as_secs_f64(), proven.stderr);
    assert!(proven.stderr.contains("prove that archiving works on postgres-1"), "{}", proven.stderr);
    // From then on it is seen before anything is begun.
    let seen = refused(&stack, &started);
    assert!(seen.stderr.contains("1 WAL files of postgres-1 wait to be archived, the oldest for"), "{}", seen.stderr);
    let dry = stack.run(&["switchover", "--to", "postgres-2", "--dry-run"]);
    assert_eq!(dry.code, 81, "{}", dry.stderr);
    sql(FIRST, "CREATE TABLE IF NOT EXISTS trouble (n int); INSERT INTO trouble VALUES (1)");
    inside(FIRST, &format!("rm {HANG}"));
    let ready = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
    eventually("it archives again", Duration::from_secs(10), || (sql(FIRST, ready) == "0").then_some(()));
    sql(FIRST, "DROP TABLE trouble");
}

fn shutdown_hangs() {
    let stack = stack();
    inside(FIRST, &format!("mkdir -m 777 {HANG_LATER}"));
    // Something for its last file, which is archived at its end.
    sql(FIRST, "CREATE TABLE written (n int)");
    let mut writer = writer();
    let begin = Instant::now();
    let ran = stack.run(&["switchover", "--to", "postgres-2", "-o", "json"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    eprintln!("switched over in {:.1} s: {}\n{}", begin.elapsed().as_secs_f64(), ran.stdout, ran.stderr);
    let (_, files) = ran.stderr.split_once("does not end: its process is killed; not archived: ").unwrap();
    let file = files.lines().next().unwrap();
    assert!(inside(FIRST, "ls /var/lib/postgresql/unarchived-*").contains(file), "{}", ran.stderr);
    let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let phase = told["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == "hand over").unwrap();
    assert!(phase["took_ms"].as_u64().unwrap() < 5000, "{told}");
    assert_eq!((primary(&stack).as_str(), replicas(&stack).len()), ("postgres-2", 2));
    writer.wait().unwrap();
    inside(FIRST, &format!("rm -r {HANG_LATER} /var/lib/postgresql/unarchived-*"));
}

/// Writes until the server ends.
fn writer() -> Child {
    let mut command = Command::new("docker");
    command.args(["exec", "-i", &container(FIRST), "psql", "-U", "postgres", "-q", "-v", "ON_ERROR_STOP=1"]);
    let mut writer = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    writer.stdin.take().unwrap().write_all(b"INSERT INTO written VALUES (1) \\watch 0.02\n").unwrap();
    writer
}

const FILLER: &str = "/var/lib/postgresql/by-a-test";

/// To the last block, which leaves room for the names of files.
fn fill() {
    // What a file system keeps back for itself is there again once the file is on disk.
    let large = format!("for i in 1 2 3 4 5; do cat /dev/zero >> {FILLER}/large || sync {FILLER}/large; done");
    let small = format!("i=0; while echo > {FILLER}/$i; do i=$((i + 1)); done; sync");
    inside(FIRST, &format!("mkdir {FILLER}; ({large}; {small}) 2> /dev/null"));
}

fn full_before_switchover() {
    let stack = stack();
    sql(FIRST, "CREATE TABLE trouble AS SELECT generate_series(1, 1000) AS n");
    let started = sql(FIRST, STARTED);
    fill();
    let seen = stack.run(&["switchover", "--to", "postgres-2"]);
    assert_eq!(seen.code, 81, "{}", seen.stderr);
    assert!(seen.stderr.contains("the disk of postgres-1 is full"), "{}", seen.stderr);
    // Some room is not enough for a shutdown.
    inside(FIRST, &format!("truncate -s -20M {FILLER}/large"));
    let almost = refused(&stack, &started);
    assert!(almost.stderr.contains("MiB are left, expected 64 MiB"), "{}", almost.stderr);
    inside(FIRST, &format!("rm -r {FILLER}"));
    sql(FIRST, "INSERT INTO trouble SELECT generate_series(1001, 2000)");
    stack.ok(&["switchover", "--to", "postgres-2"]);
    assert_eq!(sql("postgres-2", "SELECT count(*) FROM trouble"), "2000");
    sql("postgres-2", "DROP TABLE trouble");
}

fn full_for_good() {
    let stack = stack();
    sql(FIRST, "CREATE TABLE trouble AS SELECT generate_series(1, 1000) AS n");
    fill();
    let ran = stack.run(&["failover"]);
    eprintln!("{}", ran.stderr);
    // Writes are back; the member is not, and says why.
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(ran.stderr.contains("its disk is full"), "{}", ran.stderr);
    assert!(ran.stderr.contains("/var/lib/postgresql has 0 MiB left, expected 64"), "{}", ran.stderr);
    let promoted = primary(&stack);
    assert_ne!(promoted, FIRST);
    sql(&promoted, "INSERT INTO trouble SELECT generate_series(1001, 2000)");
    let mine = container(FIRST);
    refuses_to_start(&mine);
    let image = docker(&["inspect", "--format", "{{.Config.Image}}", &mine]);
    let remove = |file| {
        docker(&["run", "--rm", "--volumes-from", &mine, "--entrypoint", "rm", image.trim(), "-r", file]);
    };
    // The rejoin's job itself sees to that, also where it can do nothing else.
    remove("/var/lib/postgresql/fenced");
    assert!(stack.run(&["rejoin", FIRST]).stderr.contains("has 0 MiB left, expected 64"));
    refuses_to_start(&mine);
    remove(FILLER);
    stack.ok(&["failover"]);
    assert_eq!((primary(&stack).as_str(), replicas(&stack).len()), (promoted.as_str(), 2));
    assert_eq!(sql(FIRST, "SELECT count(*) FROM trouble"), "2000");
    sql(&promoted, "DROP TABLE trouble");
}

fn full() {
    let stack = stack();
    let (ran, report) = drill(&stack, &["failover", "--drill", "--fault", "disk-full"]);
    eprintln!("{report:#}\n{}", ran.stderr);
    assert_eq!(report["rpo_rows"], 0, "{report:#}");
    assert_eq!(report["dual_primary_ms"], 0, "{report:#}");
    assert!(report["acked"].as_u64().unwrap() > 100, "{report:#}");
    assert_eq!(ran.code, 0, "{report:#}");
    assert_ne!(primary(&stack), FIRST);
    assert_eq!(replicas(&stack).len(), 2);
    let left = inside(FIRST, "ls -A /var/lib/postgresql");
    assert!(!left.contains("filler") && !left.contains("fenced"), "{left}");
}
