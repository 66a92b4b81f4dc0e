//! What was changed behind the provisioner's back is shown by `plan` and healed by `up`; a changed wish touches only
//! what it must.

use std::time::Duration;

use crate::harness::{Scenario, Stack, docker, eventually};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_container_removed_by_hand_is_drift_and_comes_back", removed_by_hand),
    ("a_database_stopped_by_hand_is_drift_and_comes_back", stopped_by_hand),
    ("a_container_replaced_by_hand_is_drift_and_is_put_right", replaced_by_hand),
    ("a_route_restarted_by_hand_leads_nowhere_until_up", route_restarted_by_hand),
    ("a_changed_rate_limit_reloads_nginx_and_keeps_every_container", changed_rate_limit),
    ("a_changed_redis_setting_replaces_only_redis_and_keeps_its_data", changed_redis_setting),
    ("every_change_by_hand_is_told_by_drift_and_repaired_by_up_deep", every_kind_by_hand),
];

fn heals(what: &str, expected: &str) -> Stack {
    let stack = Stack::dev();
    let plan = stack.plan();
    assert!(plan.contains(expected), "{what}: the plan does not say {expected:?}:\n{plan}");
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 2, "{what}");
    stack.ok(&["up"]);
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0, "{what}");
    stack
}

fn removed_by_hand() {
    Stack::dev();
    docker(&["rm", "-f", "sc-dev-backend-2"]);
    heals("removed", "create workload backend-2, because no such member is there");
}

fn stopped_by_hand() {
    Stack::dev();
    docker(&["stop", "-t", "60", "sc-dev-postgres-2"]);
    heals("stopped", "start workload postgres-2, because it is exited");
}

fn replaced_by_hand() {
    Stack::dev();
    let image = docker(&["inspect", "-f", "{{.Config.Image}}", "sc-dev-redis-1"]);
    docker(&["rm", "-f", "sc-dev-redis-1"]);
    docker(&["run", "-d", "--name", "sc-dev-redis-1", image.trim(), "sleep", "600"]);
    heals("replaced", "replace workload redis-1, because something else stands under its name");
}

fn route_restarted_by_hand() {
    let stack = Stack::dev();
    docker(&["restart", "-t", "5", "sc-dev-route-1"]);
    let script = r#"eval "$(cat)"; ! psql "$DATABASE_URL" -Atc 'select 1' 2>/dev/null"#;
    let mut shell =
        std::process::Command::new("bash").args(["-uc", script]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), stack.ok(&["env"]).as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success(), "a restarted route still leads somewhere");
    heals("restarted", "run route.point");
}

fn changed_rate_limit() {
    let stack = Stack::dev();
    let before = stack.containers();
    let changed =
        stack.changed(|text| text.replace("rate_limit:", "burst: 77\n  rate_limit:").replacen("burst: 100", "", 1));
    let plan = changed.plan();
    assert!(plan.contains("reload workload nginx-1"), "{plan}");
    assert_eq!(plan.lines().filter(|line| line.contains("because")).count(), 1, "{plan}");
    changed.ok(&["up", "--no-verify"]);
    assert_eq!(stack.containers(), before);
    let running = changed.ok(&["exec", "nginx-1", "--", "nginx", "-T"]);
    assert!(running.contains("burst=77"), "the file is not in place");
    stack.ok(&["up"]);
    assert_eq!(stack.containers(), before);
}

fn changed_redis_setting() {
    let stack = Stack::dev();
    let before = stack.containers();
    let changed = stack.changed(|text| text.replace("maxmemory: 96mb", "maxmemory: 80mb"));
    changed.ok(&["up"]);
    let after = stack.containers();
    let differing: Vec<&String> =
        after.iter().filter(|(name, id)| before.get(*name) != Some(id)).map(|(name, _)| name).collect();
    assert_eq!(differing, ["sc-dev-redis-1"]);
    stack.ok(&["up", "--no-verify"]);
}

/// The administrator's password of Redis is told to nobody outside, so it is read where Redis reads it.
const REDIS: &str = r#"redis-cli --no-auth-warning --user admin --pass "$(sed -n 's/^user admin .*>\([A-Za-z0-9]*\).*/\1/p' /etc/redis/users.acl)" CONFIG SET maxmemory 50mb"#;
const SEARCH: &str = r#"{"persistent":{"cluster.routing.allocation.node_concurrent_recoveries":3}}"#;

fn every_kind_by_hand() {
    let stack = Stack::dev();
    stack.ok(&["up", "--no-verify"]);
    assert_drift(&stack, 0, &[": in sync; "]);

    // What lies there is as it should be again, and what runs is not.
    let gzip = "/etc/nginx/site/gzip.conf";
    let by_root = |script: &str| docker(&["exec", "-u", "0", "sc-dev-nginx-1", "sh", "-c", script]);
    by_root(&format!("cp {gzip} /tmp/gzip; echo '# by hand' >> {gzip}"));
    docker(&["exec", "sc-dev-nginx-1", "sh", "-c", "sh /etc/nginx/site/nginx.sh check && kill -HUP 1"]);
    by_root(&format!("cat /tmp/gzip > {gzip}"));
    eventually("NGINX runs with it", Duration::from_secs(10), || {
        let ran = stack.run(&["drift"]);
        (ran.code == 72 && ran.stdout.contains("configuration\n      expected sha256 ")).then_some(())
    });
    stack.ok(&["up", "--deep", "--no-verify"]);
    eventually("NGINX runs with the declared one", Duration::from_secs(10), || {
        (stack.run(&["drift"]).code == 0).then_some(())
    });

    docker(&["update", "--memory", "100m", "--memory-swap", "100m", "sc-dev-backend-1"]);
    by_root("echo '# by hand' >> /etc/nginx/nginx.conf");
    docker(&["exec", "sc-dev-redis-1", "sh", "-c", REDIS]);
    let inside = |member: &str, words: &[&str]| stack.ok(&[&["exec", member, "--"], words].concat());
    inside("postgres-1", &["psql", "-U", "postgres", "-c", "ALTER SYSTEM SET work_mem = '3MB'"]);
    inside("rabbitmq-1", &["rabbitmqctl", "delete_queue", "--vhost", "app", "q.retry.1s"]);
    let policy = r#"{"max-length":5}"#;
    inside("rabbitmq-1", &["rabbitmqctl", "set_policy", "--vhost", "app", "by-hand", "^x$", policy]);
    set_search_by_hand(&stack);

    let named = [
        "memory\n      expected 128 MiB\n      found    100 MiB\n",
        "files./etc/nginx/nginx.conf\n",
        "setting.maxmemory\n      expected 96mb\n      found    52428800\n",
        "setting.work_mem\n      expected as postgresql.conf says\n      found    set by ALTER SYSTEM\n",
        "queue.q.retry.1s\n      expected there\n      found    missing\n",
        "policy.by-hand\n      expected not there\n      found    foreign\n",
        "setting.cluster.routing.allocation.node_concurrent_recoveries\n",
    ];
    assert_drift(&stack, 72, &named);
    // What is foreign is never removed without somebody who says so.
    inside("rabbitmq-1", &["rabbitmqctl", "clear_policy", "--vhost", "app", "by-hand"]);
    stack.ok(&["up", "--deep"]);
    assert_drift(&stack, 0, &[": in sync; "]);

    docker(&["stop", "-t", "30", "sc-dev-redis-1"]);
    assert_drift(&stack, 73, &["? redis-1 settings: ", "? redis-1 state: it is exited", ": could not tell; "]);
    stack.ok(&["up", "--no-verify"]);
}

fn assert_drift(stack: &Stack, code: i32, told: &[&str]) {
    let ran = stack.run(&["drift"]);
    assert_eq!(ran.code, code, "{}{}", ran.stdout, ran.stderr);
    for text in told {
        assert!(ran.stdout.contains(text), "{text:?} is not told:\n{}", ran.stdout);
    }
}

fn set_search_by_hand(stack: &Stack) {
    let opened = stack.json(&["open"]);
    let search = opened.as_array().unwrap().iter().find(|entry| entry["name"] == "elasticsearch").unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let (url, login) = (text(&search["url"]), &search["login"]);
    let login = format!("{}:{}", text(&login["user"]), text(&login["password"]));
    let url = format!("{url}_cluster/settings");
    let words = ["-sfk", "-X", "PUT", "-H", "content-type: application/json", "-d", SEARCH, "-u", &login, &url];
    let set = std::process::Command::new("curl").args(words).status().unwrap();
    assert!(set.success());
}
