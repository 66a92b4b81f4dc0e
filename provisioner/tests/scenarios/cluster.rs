//! The shape of `manifests/prod.yaml` on a real cluster, as its operator works with it. They need what
//! `scripts/cluster.sh` provides: a kubeconfig, and a registry that both this machine and the nodes reach.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::gate::Gate;
use crate::harness::{Ran, Scenario, Stack, eventually, root};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("kubernetes_production_stands_up_from_nothing_with_every_check_passed", from_nothing),
    ("kubernetes_a_second_up_has_nothing_to_do", nothing_to_do),
    ("kubernetes_what_is_rendered_is_what_runs", rendered),
    ("kubernetes_what_was_deleted_or_edited_by_hand_is_as_described_after_up_deep", by_hand),
    ("kubernetes_killed_pods_come_back_by_themselves_as_the_members_that_they_were", killed_pods),
    ("kubernetes_failover_drill_loses_no_acknowledged_row", drill),
    ("kubernetes_up_goes_on_after_the_api_server_was_away", api_away),
    ("kubernetes_down_with_volumes_leaves_no_namespace", taken_down),
];

const NAMESPACE: &str = "sc-prod";

#[allow(clippy::disallowed_methods, reason = "the tests' own place that reads the environment")]
fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run these with scripts/cluster.sh"))
}

/// The cluster's own command line, as a person uses it behind the provisioner's back.
fn kubectl(arguments: &[&str]) -> String {
    let mut command = Command::new("kubectl");
    let ran = Ran::of(command.args(["-n", NAMESPACE]).args(arguments));
    assert!(ran.code == 0, "kubectl {}: {}", arguments.join(" "), ran.stderr);
    ran.stdout
}

/// Production, but for what a laptop's cluster has not: limits that somebody raised, a mail server, a load balancer.
fn manifest() -> String {
    let production = std::fs::read_to_string(root().join("manifests/prod.yaml")).unwrap();
    let lines = production.lines().filter_map(|line| {
        let key = line.trim_start().split(':').next().unwrap_or_default();
        let own = match key {
            "environment" => "environment: ci".to_owned(),
            "# context" => format!("  context: {}", kubectl(&["config", "current-context"]).trim()),
            "namespace" => format!("  namespace: {NAMESPACE}"),
            "service" => "  service: node_port".to_owned(),
            "registry" => format!("  registry: {}", setting("PROVISIONER_TEST_REGISTRY_IN_CLUSTER")),
            "host" | "port" | "security" if line.starts_with("  ") && !line.starts_with("    port") => return None,
            _ => line.to_owned(),
        };
        Some(own + "\n")
    });
    lines.collect()
}

/// Stood up once for all scenarios.
fn stack() -> Stack {
    let (stack, is_first) = Stack::on_cluster(NAMESPACE, manifest());
    if is_first {
        stack.ok(&["images", "push", "--registry", &setting("PROVISIONER_TEST_REGISTRY")]);
        stack.ok(&["up", "--yes", "--no-verify"]);
    }
    stack
}

fn from_nothing() {
    let stack = stack();
    let findings = stack.json(&["verify"]);
    let findings = findings.as_array().unwrap();
    assert!(findings.len() > 120, "{} checks were made", findings.len());
    let components: std::collections::BTreeSet<&str> =
        findings.iter().map(|finding| finding["component"].as_str().unwrap()).collect();
    let all =
        ["app", "elasticsearch", "mail", "media", "monitoring", "nginx", "postgres", "rabbitmq", "redis", "route"];
    assert_eq!(components, all.into());
}

fn nothing_to_do() {
    let stack = stack();
    let pods = || kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let before = pods();
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0, "{}", stack.plan());
    let report = stack.json(&["up", "--yes", "--no-verify"]);
    assert_eq!(report["steps"].as_array().map(Vec::len), Some(0), "{report}");
    assert_eq!(pods(), before);
}

/// Whoever applies the rendered objects by other means has the same: the server would change nothing of them.
fn rendered() {
    let stack = stack();
    let file = root().join("target/rendered.yaml");
    std::fs::write(&file, stack.ok(&["render"])).unwrap();
    let kinds = "deployments,statefulsets,services,serviceaccounts,poddisruptionbudgets";
    let generations = || kubectl(&["get", kinds, "-o", "jsonpath={.items[*].metadata.resourceVersion}"]);
    let applied = [
        "apply",
        "--server-side",
        "--field-manager",
        "provisioner",
        "--validate=strict",
        "--dry-run=server",
        "-o",
        "json",
        "-f",
        file.to_str().unwrap(),
    ];
    let before = generations();
    let would_be: Value = serde_json::from_str(&kubectl(&applied)).unwrap();
    for object in would_be["items"].as_array().unwrap() {
        let (kind, name) = (object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap());
        if !["Deployment", "StatefulSet"].contains(&kind) {
            continue;
        }
        let running: Value = serde_json::from_str(&kubectl(&["get", kind, name, "-o", "json"])).unwrap();
        // A random word of the member that runs, which nobody can render.
        let template = |object: &Value| {
            let mut template = object["spec"]["template"].clone();
            template["metadata"]["annotations"] = Value::Null;
            template
        };
        assert_eq!(template(object), template(&running), "{kind} {name}");
    }
    assert_eq!(generations(), before);
}

fn by_hand() {
    let stack = stack();
    kubectl(&["delete", "deployment", "backend-2", "--wait"]);
    kubectl(&["scale", "deployment", "backend-3", "--replicas", "0"]);
    kubectl(&["set", "env", "deployment", "worker-custom-1", "BY_HAND=1"]);
    kubectl(&["rollout", "status", "deployment", "worker-custom-1", "--timeout", "60s"]);
    let drift = stack.run(&["drift"]);
    assert_eq!(drift.code, 72, "{}{}", drift.stdout, drift.stderr);
    for told in ["backend-2", "backend-3", "env.BY_HAND\n      expected not set\n      found    set\n"] {
        assert!(drift.stdout.contains(told), "{told:?} is not told:\n{}", drift.stdout);
    }
    stack.ok(&["up", "--deep", "--yes"]);
    assert_eq!(stack.run(&["drift"]).code, 0, "{}", stack.run(&["drift"]).stdout);
}

fn killed_pods() {
    let stack = stack();
    let members = ["backend-1", "worker-email-1", "elasticsearch-2"];
    let pods = members.map(|member| {
        let selector = format!("provisioner.dev/member={member}");
        kubectl(&["get", "pods", "-l", &selector, "-o", "jsonpath={.items[0].metadata.name}"])
    });
    for pod in &pods {
        kubectl(&["delete", "pod", pod, "--grace-period", "1", "--wait=false"]);
    }
    eventually("every check passes again", Duration::from_secs(150), || {
        (stack.run(&["verify"]).code == 0).then_some(())
    });
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0, "{}", stack.plan());
}

fn drill() {
    let stack = stack();
    let report = stack.json(&["failover", "--drill", "--fault", "kill"]);
    let run = &report["runs"][0];
    let run = if run.is_null() { &report } else { run };
    assert_eq!((&run["engine"], &run["verdict"]), (&"kubernetes".into(), &"pass".into()), "{report:#}");
    assert_eq!((run["rpo_rows"].as_u64(), run["dual_primary_ms"].as_u64()), (Some(0), Some(0)), "{report:#}");
    assert!(run["acked"].as_u64().unwrap() > 100, "{report:#}");
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0, "{}", stack.plan());
}

/// A kubeconfig whose way to the server leads through `gate`.
fn through(gate: &Gate, server: &str) -> PathBuf {
    let mut config: Value =
        serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"])).unwrap();
    let cluster = &mut config["clusters"][0]["cluster"];
    cluster["server"] = format!("https://{}", gate.address).into();
    cluster["tls-server-name"] = server.rsplit_once(':').unwrap().0.into();
    let file = std::env::temp_dir().join(format!("provisioner-gate-{}.json", std::process::id()));
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

fn api_away() {
    const AWAY: Duration = Duration::from_secs(30);
    let stack = stack();
    let server = kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let server = server.trim_start_matches("https://").to_owned();
    let gate = Gate::open(&server);
    let kubeconfig = through(&gate, &server);
    let changed = stack.changed(|text| text.replace("replicas: 3\n  memory: 192MiB", "replicas: 3\n  memory: 176MiB"));
    let mut up = changed.command(&["up", "--yes", "--no-verify"]);
    let mut run = up.env("KUBECONFIG", &kubeconfig).spawn().unwrap();
    let replaced = || {
        kubectl(&[
            "get",
            "deployments",
            "-o",
            "jsonpath={.items[*].spec.template.spec.containers[0].resources.limits.memory}",
        ])
    };
    eventually("the first backend is replaced", Duration::from_secs(60), || {
        replaced().contains(&(176u64 << 20).to_string()).then_some(())
    });
    gate.shut();
    let begin = Instant::now();
    eventually("the server was away for as long as it should", AWAY * 2, || (begin.elapsed() >= AWAY).then_some(()));
    gate.reopen();
    assert!(run.wait().unwrap().success(), "up did not go on");
    assert_eq!(changed.run(&["plan", "--detailed-exitcode"]).code, 0, "{}", changed.plan());
    stack.ok(&["up", "--yes"]);
}

fn taken_down() {
    let stack = stack();
    stack.ok(&["down", "--volumes", "--yes"]);
    assert_eq!(kubectl(&["get", "namespace", NAMESPACE, "--ignore-not-found"]), "");
}
