//! The shape of `manifests/prod.yaml` on a real cluster, as its operator works with it. They need what
//! `scripts/cluster.sh` provides: a kubeconfig, and a registry that both this machine and the nodes reach.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::external;
use crate::gate::Gate;
use crate::harness::{Ran, Scenario, Stack, eventually, root};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("kubernetes_production_stands_up_from_nothing_with_every_check_passed", from_nothing),
    ("kubernetes_a_second_up_has_nothing_to_do", nothing_to_do),
    ("kubernetes_what_is_rendered_is_what_runs", rendered),
    ("kubernetes_members_of_one_kind_are_spread_over_the_nodes", spread),
    ("kubernetes_what_was_deleted_or_edited_by_hand_is_as_described_after_up_deep", by_hand),
    ("kubernetes_killed_pods_come_back_by_themselves_as_the_members_that_they_were", killed_pods),
    ("kubernetes_failover_drill_loses_no_acknowledged_row", drill),
    (
        "kubernetes_writes_are_back_in_10_s_when_the_primarys_node_loses_its_power_and_it_rejoins_later",
        node_without_power,
    ),
    (
        "kubernetes_writes_are_back_in_10_s_when_the_primarys_node_loses_its_network_and_it_rejoins_later",
        node_without_network,
    ),
    ("kubernetes_up_goes_on_after_the_api_server_was_away", api_away),
    ("kubernetes_external_services_are_used_and_left_alone", external::from_a_cluster),
    ("kubernetes_down_with_volumes_leaves_no_namespace", taken_down),
];

const NAMESPACE: &str = "sc-prod";
/// Whom `config rbac` gives its Role to.
const OPERATOR: &str = "OPERATOR";

#[allow(clippy::disallowed_methods, reason = "the tests' own place that reads the environment")]
fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run these with scripts/cluster.sh"))
}

/// The cluster's own command line, as a person uses it behind the provisioner's back.
fn kubectl(arguments: &[&str]) -> String {
    kubectl_in(NAMESPACE, arguments)
}

fn kubectl_in(namespace: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("kubectl");
    let ran = Ran::of(command.args(["-n", namespace]).args(arguments));
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

/// Stood up once for all scenarios, by somebody who has the least Role that suffices and nothing else.
fn stack() -> Stack {
    let (stack, is_first) = Stack::on_cluster(NAMESPACE, manifest(), &kubeconfig(None));
    if is_first {
        give_place(&stack);
        stack.ok(&["up", "--yes", "--no-verify"]);
    }
    stack
}

/// An empty namespace of the stack's name with its Role, and its images where the nodes find them.
fn give_place(stack: &Stack) {
    let namespace = stack.name.as_str();
    kubectl(&["delete", "namespace", namespace, "--ignore-not-found"]);
    kubectl(&["create", "namespace", namespace]);
    kubectl(&["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
    let role = root().join("target/objects.yaml");
    std::fs::write(&role, stack.ok(&["config", "rbac"])).unwrap();
    kubectl_in(namespace, &["apply", "-f", role.to_str().unwrap()]);
    stack.ok(&["images", "push", "--registry", &setting("PROVISIONER_TEST_REGISTRY")]);
}

/// Another stack on the same cluster, of a manifest without that section; not stood up yet.
pub(crate) fn beside(name: &str, manifest: &str) -> Stack {
    let context = kubectl(&["config", "current-context"]);
    let registry = setting("PROVISIONER_TEST_REGISTRY_IN_CLUSTER");
    let section = format!(
        "kubernetes: {{context: {}, namespace: {name}, service: node_port, registry: {registry:?}}}\n",
        context.trim()
    );
    let (stack, _) = Stack::on_cluster(name, manifest.to_owned() + &section, &kubeconfig(None));
    give_place(&stack);
    stack
}

/// A certificate and its key as a Secret of the namespace that the provisioner did not make.
pub(crate) fn keep_pair(stack: &Stack, name: &str, [certificate, key]: &[PathBuf; 2]) {
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    kubectl_in(&stack.name, &["create", "secret", "tls", name, "--cert", certificate, "--key", key]);
}

pub(crate) fn no_longer_beside(stack: &Stack) {
    kubectl(&["delete", "namespace", &stack.name]);
}

/// All that the cluster tells those who may not read Secrets.
pub(crate) fn described(stack: &Stack) -> String {
    kubectl_in(&stack.name, &["get", "pods,deployments,statefulsets,configmaps,services,events", "-o", "yaml"])
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

/// The API server over plain HTTP for whoever is on this machine, as the operator.
struct Proxy(Child, String);

impl Proxy {
    fn start() -> Self {
        let mut command = Command::new("kubectl");
        command.args(["proxy", "--port", "0", "--as", OPERATOR, "--reject-paths", "^$"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut told = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut told).unwrap();
        let address = told.trim().rsplit(' ').next().unwrap().to_owned();
        Self(child, address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).unwrap();
    }
}

fn nothing_to_do() {
    let stack = stack();
    let pods = || kubectl(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let before = pods();
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0, "{}", stack.plan());
    let report = stack.json(&["up", "--yes", "--no-verify"]);
    assert_eq!(report["steps"].as_array().map(Vec::len), Some(0), "{report}");
    let proxy = Proxy::start();
    let gate = Gate::open(&proxy.1);
    let through = root().join("target/proxy.kubeconfig");
    let config = serde_json::json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": "plain", "cluster": {"server": format!("http://{}", gate.address)}}],
        "contexts": [{"name": kubectl(&["config", "current-context"]).trim(), "context": {"cluster": "plain", "user": "none"}}],
        "users": [{"name": "none", "user": {}}],
    });
    std::fs::write(&through, config.to_string()).unwrap();
    let begin = Instant::now();
    let mut up = stack.command(&["up", "--yes", "--no-verify"]);
    let ran = Ran::of(up.env("KUBECONFIG", &through));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let requests = gate.requests();
    eprintln!("{} requests in {} ms", requests.len(), begin.elapsed().as_millis());
    let is_read = |request: &String| request.starts_with("GET ") && !request.contains("/exec?");
    assert!(requests.len() > 5 && requests.iter().all(is_read), "{requests:#?}");
    assert_eq!(pods(), before);
}

/// Whoever applies the rendered objects by other means has the same: the server would change nothing of them.
fn rendered() {
    let stack = stack();
    let rendered = stack.ok(&["render"]);
    let file = root().join("target/rendered.yaml");
    std::fs::write(&file, &rendered).unwrap();
    let file = file.to_str().unwrap();
    kubectl(&[
        "apply",
        "--server-side",
        "--field-manager",
        "provisioner",
        "--validate=strict",
        "--dry-run=server",
        "-f",
        file,
    ]);
    // As the manager who has what runs, so that a field which is not rendered would be seen to go.
    let mut diff = Command::new("kubectl");
    let diff =
        Ran::of(diff.args(["-n", NAMESPACE, "diff", "--server-side", "--field-manager", "provisioner", "-f", file]));
    assert!(diff.code <= 1, "{}", diff.stderr);
    let told = |line: &&str| line.starts_with(['+', '-']) && !line.starts_with("+++") && !line.starts_with("---");
    // A random word of the member that runs and what was noted of the server's counts, which nobody can render; the heading
    // goes with what was noted where that is the only annotation.
    let known = |line: &str| {
        ["provisioner.dev/instance:", "provisioner.dev/guards:", "generation:"].iter().any(|known| line.contains(known))
            || line == "-  annotations:"
    };
    let unknown: Vec<&str> = diff.stdout.lines().filter(told).filter(|line| !known(line)).collect();
    assert!(unknown.is_empty(), "{unknown:#?}");
}

fn spread() {
    stack();
    // A control plane may take none.
    let taints = kubectl(&["get", "nodes", "--no-headers", "-o", "custom-columns=:.spec.taints[*].effect"]);
    let nodes = taints.lines().filter(|effects| effects.trim() == "<none>").count();
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let columns = "custom-columns=:.metadata.labels.provisioner\\.dev/workload,:.spec.nodeName";
    for line in kubectl(&["get", "pods", "--no-headers", "-o", columns]).lines() {
        let (workload, node) = line.trim().split_once(' ').unwrap();
        places.entry(workload.to_owned()).or_default().insert(node.trim().to_owned());
    }
    for (workload, members) in
        [("postgres", 3), ("elasticsearch", 3), ("backend", 3), ("route", 2), ("worker-custom", 2)]
    {
        assert_eq!(places[workload].len(), nodes.min(members), "{workload} is on {:?}", places[workload]);
    }
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
    kubectl(&["delete", "networkpolicy", "postgres-1"]);
    stack.ok(&["up", "--deep", "--yes"]);
    kubectl(&["get", "networkpolicy", "postgres-1"]);
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

fn node_of(member: &str) -> String {
    let selector = format!("provisioner.dev/member={member}");
    kubectl(&["get", "pods", "-l", &selector, "-o", "jsonpath={.items[0].spec.nodeName}"])
}

fn role(stack: &Stack, member: &str) -> String {
    let status = stack.json(&["status"]);
    let members = status["members"].as_array().unwrap();
    let found = members.iter().find(|found| found["member"] == member).unwrap();
    found["role"].as_str().unwrap_or_default().to_owned()
}

/// A write that some replica must have, on the way that the shop takes, from a member that stays.
fn can_write(from: &str, password: &str) -> bool {
    let sql = "SELECT pg_logical_emit_message(true, 'scenario', '')";
    let place = "host=postgres-rw dbname=app user=app connect_timeout=2 sslmode=require";
    let pod = format!("{from}-0");
    let mut command = Command::new("kubectl");
    command.args(["-n", NAMESPACE, "exec", &pod, "-c", "main", "--", "env"]);
    command.args([&format!("PGPASSWORD={password}"), "PGOPTIONS=-c statement_timeout=2s", "psql", "-qAtc", sql, place]);
    Ran::of(&mut command).code == 0
}

/// When the first write got through. One is begun twice a second: each that meets a member that is gone hangs for two.
fn first_write(from: &str, password: &str) -> Option<Instant> {
    let (sender, written) = mpsc::channel();
    std::thread::scope(|scope| {
        (0..120).find_map(|_| {
            let sender = sender.clone();
            scope.spawn(move || can_write(from, password).then(|| sender.send(Instant::now())));
            written.recv_timeout(Duration::from_millis(500)).ok()
        })
    })
}

fn node_without_power() {
    lost_node("PROVISIONER_TEST_NODE_POWER");
}

fn node_without_network() {
    lost_node("PROVISIONER_TEST_NODE_NETWORK");
}

/// Whoever runs the cluster alone can cut a node off: the variable names a command, `kill NODE` and `start NODE`. The name
/// service must be elsewhere, and so must the other members of the database.
fn lost_node(variable: &str) {
    const MEMBERS: [&str; 3] = ["postgres-1", "postgres-2", "postgres-3"];
    #[allow(clippy::disallowed_methods, reason = "the tests' own place that reads the environment")]
    let Ok(command) = std::env::var(variable) else {
        eprintln!("not run: nobody can cut a node off here, {variable} is not set");
        return;
    };
    let injector = |verb: &str, node: &str| {
        let ran = Ran::of(Command::new(&command).args([verb, node]));
        assert!(ran.code == 0, "{verb} {node}: {}", ran.stderr);
    };
    let stack = stack();
    let names = ["get", "pods", "-A", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[*].spec.nodeName}"];
    let names = kubectl(&names);
    let routes = ["route-1", "route-2"].map(node_of);
    let alone = MEMBERS.iter().filter(|member| {
        let node = node_of(member);
        !names.contains(&node) && MEMBERS.iter().all(|other| other == *member || node_of(other) != node)
    });
    // At best with a member of the route, which is lost with it.
    let alone = alone.max_by_key(|member| routes.contains(&node_of(member)));
    let primary =
        *alone.expect("a node with one member of the database alone and no name service: it takes three nodes");
    let other = MEMBERS.iter().find(|member| **member != primary).unwrap();
    if role(&stack, primary) != "primary" {
        stack.ok(&["switchover", "--to", primary, "--yes"]);
    }
    let value = "go-template={{.data.value | base64decode}}";
    let password = &kubectl(&["get", "secret", "secret-postgres-app", "-o", value]);
    assert!(can_write(other, password), "before anything is done");
    let node = node_of(primary);
    injector("kill", &node);
    let begin = Instant::now();
    let said = root().join("target/node-cut-off.txt");
    let file = std::fs::File::create(&said).unwrap();
    let mut failover = stack.command(&["failover"]);
    let mut failover = failover.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
    let Some(written) = first_write(other, password) else {
        panic!("no write gets through:\n{}", std::fs::read_to_string(&said).unwrap());
    };
    let took = written.duration_since(begin);
    eprintln!("writes are back {:.1} s after the node of {primary} was cut off", took.as_secs_f64());
    // The former primary cannot be reached to be rejoined, which ends the run with an error.
    failover.wait().unwrap();
    let said = std::fs::read_to_string(said).unwrap();
    eprintln!("members of the route are on {routes:?}, {primary} was on {node}");
    assert_eq!(said.contains("leads to what is fenced"), routes.contains(&node), "{said}");
    // Nor to be marked, which is told without another wait for the node.
    let unmarked = said.lines().find(|line| line.contains(&format!("{primary} has no mark"))).expect(&said);
    assert!(unmarked.contains(&format!("node {node} left a command unanswered")), "{unmarked}");
    assert_eq!(kubectl(&["get", "pods", "-l", "provisioner.dev/kind=helper", "-o", "name"]), "");
    eventually("the node is back", Duration::from_secs(120), || {
        injector("start", &node);
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let is_ready = || (kubectl(&["get", "node", &node, "-o", ready]) == "True").then_some(());
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(20) {
            if is_ready().is_some() {
                return Some(());
            }
            std::thread::park_timeout(Duration::from_millis(500));
        }
        injector("kill", &node);
        None
    });
    eventually("it is a replica again", Duration::from_secs(120), || {
        (stack.run(&["rejoin", primary]).code == 0).then_some(())
    });
    stack.ok(&["up", "--yes"]);
    assert!(took < Duration::from_secs(10), "writes were back after {:.1} s", took.as_secs_f64());
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

/// The cluster's, for the user whom `config rbac` names; the way to the server may lead through a gate.
fn kubeconfig(gate: Option<(&Gate, &str)>) -> String {
    let mut config: Value =
        serde_json::from_str(&kubectl(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"])).unwrap();
    config["users"][0]["user"]["as"] = OPERATOR.into();
    if let Some((gate, server)) = gate {
        let cluster = &mut config["clusters"][0]["cluster"];
        cluster["server"] = format!("https://{}", gate.address).into();
        cluster["tls-server-name"] = server.rsplit_once(':').unwrap().0.into();
    }
    config.to_string()
}

fn api_away() {
    const AWAY: Duration = Duration::from_secs(30);
    let stack = stack();
    let server = kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let server = server.trim_start_matches("https://").to_owned();
    let gate = Gate::open(&server);
    let through = root().join("target/gate.kubeconfig");
    std::fs::write(&through, kubeconfig(Some((&gate, &server)))).unwrap();
    let changed = stack.changed(|text| text.replace("replicas: 3\n  memory: 192MiB", "replicas: 3\n  memory: 176MiB"));
    let mut up = changed.command(&["up", "--yes", "--no-verify"]);
    let mut run = up.env("KUBECONFIG", &through).spawn().unwrap();
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
    let kinds = "pods,services,deployments,statefulsets,jobs,secrets,configmaps,persistentvolumeclaims,serviceaccounts,\
                 networkpolicies,poddisruptionbudgets,leases";
    let left = kubectl(&["get", kinds, "-o", "name"]);
    // What every namespace has.
    assert_eq!(left, "configmap/kube-root-ca.crt\nserviceaccount/default\n");
}
