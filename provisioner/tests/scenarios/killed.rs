//! `kill -9` at any moment of `up`: the next one converges, nothing is orphaned, no data is lost.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{Scenario, Stack, eventually};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("killed_at_any_moment_the_next_up_converges", killed_at_any_moment),
    ("killed_during_a_job_down_leaves_nothing", killed_during_a_job),
];

/// Lines of progress after which the run is killed, spread over a whole `up` from nothing.
const KILLED_AFTER: [usize; 5] = [3, 9, 16, 24, 33];

fn killed_at_any_moment() {
    let stack = Stack::of("sc-killed", |text| text);
    for lines in KILLED_AFTER {
        kill_after(&stack, lines);
    }
    stack.ok(&["up"]);
    let declared = stack.json(&["status"])["members"].as_array().unwrap().len();
    assert_eq!(stack.containers().len(), declared, "orphans: {:?}", stack.containers().keys());
    let jobs = stack.traces().into_iter().filter(|name| name.contains("-job-")).collect::<Vec<_>>();
    assert_eq!(jobs, Vec::<String>::new());
    let order = http::order(&stack.http(), "before-the-kills", "PROBE-0");
    let id = order.json()["id"].as_str().unwrap().to_owned();
    // Now with data, and something to do for the runs that are killed.
    let changed = stack.changed(|text| text.replace("maxmemory: 96mb", "maxmemory: 90mb"));
    for lines in [1, 3] {
        kill_after(&changed, lines);
    }
    changed.ok(&["up"]);
    assert_eq!(http::get(&format!("{}/api/v1/orders/{id}", stack.http())).json()["id"], id.as_str());
    stack.ok(&["down", "--volumes", "--yes"]);
    assert_eq!(stack.traces(), Vec::<String>::new());
}

fn killed_during_a_job() {
    let stack = Stack::of("sc-job", |text| text);
    let mut left = Some(());
    kill_once(&stack, |line| {
        left = left.filter(|()| !(line.contains("step_started") && line.contains("postgres.bootstrap")));
        left.is_none()
    });
    assert!(left.is_none(), "the run ended before it came to the job");
    stack.ok(&["down", "--volumes", "--yes"]);
    assert_eq!(stack.traces(), Vec::<String>::new());
}

/// Kills the run once it has printed so many lines of progress; one that ends before has less to do than that.
fn kill_after(stack: &Stack, lines: usize) {
    let mut seen = 0;
    kill_once(stack, |_| {
        seen += 1;
        seen >= lines
    });
}

fn kill_once(stack: &Stack, mut is_time: impl FnMut(&str) -> bool) {
    let mut command = stack.command(&["up", "--no-verify", "--progress", "json"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let progress = BufReader::new(child.stderr.take().unwrap());
    let _ = progress.lines().map_while(Result::ok).any(|line| is_time(&line));
    child.kill().unwrap();
    eventually("the killed run is gone", Duration::from_secs(5), || child.try_wait().unwrap());
}
