//! Services that exist already: plain containers that this program knows nothing of, on the engine's own network, and a stack
//! that only uses them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cluster;
use crate::harness::{Ran, Scenario, Stack, docker, eventually, root};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] =
    &[("an_external_database_cache_broker_and_search_are_used_and_left_alone", external_services)];

const APP: &str = "../target/x86_64-unknown-linux-musl/debug/app";
const PASSWORD: &str = "p@ss/w&9+0-shop";
const START_LIMIT: Duration = Duration::from_secs(120);

struct Service {
    name: &'static str,
    user: &'static str,
    script: &'static str,
    ports: &'static [u16],
    /// What it logs once it serves.
    serves: &'static str,
}

const SERVICES: [Service; 4] = [
    Service {
        name: "postgres",
        user: "999:999",
        script: include_str!("external/postgres.sh"),
        ports: &[5432],
        serves: "database system is ready to accept connections",
    },
    Service {
        name: "redis",
        user: "999:999",
        script: include_str!("external/redis.sh"),
        ports: &[6379],
        serves: "Ready to accept connections",
    },
    Service {
        name: "rabbitmq",
        user: "999:999",
        script: include_str!("external/rabbitmq.sh"),
        ports: &[5671, 15671],
        serves: "Server startup complete",
    },
    Service {
        name: "elasticsearch",
        user: "1000:0",
        script: include_str!("external/elasticsearch.sh"),
        ports: &[9200],
        serves: "] started",
    },
];

impl Service {
    fn container(&self) -> String {
        format!("sc-extern-{}", self.name)
    }

    /// Of the recipe, as a stack would have built it.
    fn start(&self, image: &str, gateway: &str, pair: &Pair) {
        let ports = self.ports.iter().flat_map(|port| ["-p".to_owned(), format!("{gateway}::{port}")]);
        let node = include_str!("../../components/recipes/elasticsearch/node");
        let mut command = Command::new("docker");
        command.args(["run", "-d", "--name", &self.container(), "--user", self.user]).args(ports);
        // By name alone: the values are in this command's own environment.
        for (name, value) in
            [("CRT", pair.certificate.as_str()), ("KEY", &pair.key), ("PASSWORD", PASSWORD), ("NODE", node)]
        {
            command.args(["-e", name]).env(name, value);
        }
        command.args(["--entrypoint", "/bin/sh", image, "-ec", self.script]);
        let ran = Ran::of(&mut command);
        assert_eq!(ran.code, 0, "{}", ran.stderr);
    }

    fn await_serving(&self) {
        eventually(&format!("{} serves", self.container()), START_LIMIT, || {
            let ran = Ran::of(Command::new("docker").args(["logs", &self.container()]));
            (ran.stdout + &ran.stderr).contains(self.serves).then_some(())
        });
    }

    /// Where the engine published it.
    fn port(&self, inside: u16) -> String {
        let told = docker(&["port", &self.container(), &inside.to_string()]);
        told.trim().rsplit(':').next().unwrap().to_owned()
    }
}

/// Removed whatever becomes of the scenario.
struct Running;

impl Running {
    fn start(images: &[String], gateway: &str, pair: &Pair) -> Self {
        let running = Self;
        running.remove();
        for (service, image) in SERVICES.iter().zip(images) {
            service.start(image, gateway, pair);
        }
        SERVICES.iter().for_each(Service::await_serving);
        running
    }

    fn remove(&self) {
        for service in &SERVICES {
            Ran::of(Command::new("docker").args(["rm", "-f", "-v", &service.container()]));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.remove();
    }
}

fn folder() -> PathBuf {
    root().join("target/scenario-external")
}

/// Certificate and key.
const PAIR: [&str; 2] = ["server.crt", "server.key"];

/// Of an authority that nobody knows but the manifest.
struct Pair {
    authority: String,
    certificate: String,
    key: String,
}

impl Pair {
    fn of(address: &str) -> Self {
        let folder = folder();
        std::fs::create_dir_all(&folder).unwrap();
        let openssl = |words: &str| {
            let ran = Ran::of(Command::new("openssl").args(words.split(' ')).current_dir(&folder));
            assert_eq!(ran.code, 0, "openssl {words}: {}", ran.stderr);
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&format!("req -x509 {key} -days 30 -subj /CN=somebody -keyout ca.key -out ca.crt"));
        openssl(&format!("req {key} -subj /CN=server -keyout server.key -out server.csr"));
        std::fs::write(folder.join("server.ext"), format!("subjectAltName=IP:{address}\n")).unwrap();
        openssl(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile server.ext -out server.crt",
        );
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        Self { authority: read("ca.crt"), certificate: read(PAIR[0]), key: read(PAIR[1]) }
    }
}

/// References of the recipes' images; they are built by standing up the dev stack, where they are not there.
fn images() -> Vec<String> {
    let dev = std::fs::read_to_string(root().join("manifests/dev.yaml")).unwrap();
    let stack = Stack::of("sc-ext-images", |_| dev);
    let listed = stack.json(&["images"]);
    let listed = listed.as_array().unwrap();
    let wanted = SERVICES.iter().map(|service| listed.iter().find(|image| image["id"] == service.name).unwrap());
    let wanted: Vec<&Value> = wanted.collect();
    if wanted.iter().any(|image| image["present"] != true) {
        Stack::dev();
    }
    wanted.iter().map(|image| image["reference"].as_str().unwrap().to_owned()).collect()
}

fn manifest(gateway: &str) -> String {
    let [postgres, redis, rabbitmq, elasticsearch] = &SERVICES;
    let server = |service: &Service, nth: usize| {
        let login = "user: shop, password_file: .sc-ext.password, ca_file: .sc-ext.pem";
        format!("host: {gateway}, port: {}, {login}", service.port(service.ports[nth]))
    };
    format!(
        "name: sc-ext
nginx: {{tls: {{}}}}
postgres: {{external: {{{}, read_host: {gateway}, database: shop}}}}
redis: {{external: {{{}}}}}
rabbitmq: {{external: {{{}, vhost: shop, management: {{port: {}}}}}}}
elasticsearch: {{external: {{{}}}}}
mail: {{}}
monitoring: {{scrape_seconds: 5}}
app: {{binary: {APP}, replicas: 1}}
workers: {{relay: {{}}, search: {{}}, email: {{}}, custom: {{}}}}
",
        server(postgres, 0),
        server(redis, 0),
        server(rabbitmq, 0),
        rabbitmq.port(15671),
        server(elasticsearch, 0)
    )
}

fn rows() -> i64 {
    let query = "SELECT count(*) FROM orders";
    let psql = ["exec", "sc-extern-postgres", "psql", "-h", "/tmp", "-U", "postgres", "-d", "shop", "-Atc", query];
    docker(&psql).trim().parse().unwrap()
}

/// The services on an address that the stacks of both engines reach, and the files of a manifest that uses them.
struct Elsewhere {
    gateway: String,
    _running: Running,
}

const FILES: [&str; 2] = ["manifests/.sc-ext.password", "manifests/.sc-ext.pem"];

impl Elsewhere {
    fn start() -> Self {
        let images = images();
        let gateway = docker(&["network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}"]);
        let gateway = gateway.trim().to_owned();
        let pair = Pair::of(&gateway);
        let running = Running::start(&images, &gateway, &pair);
        for (file, text) in FILES.iter().zip([format!("{PASSWORD}\n"), pair.authority]) {
            std::fs::write(root().join(file), text).unwrap();
        }
        Self { gateway, _running: running }
    }

    fn is_used_by(&self, stack: &Stack) {
        let plan = stack.plan();
        assert!(plan.contains(&format!("external: postgres {}:", self.gateway)), "{plan}");
        for absent in ["postgres-1", "redis-1", "rabbitmq-1", "elasticsearch-1", "route-1", "postgres-exporter-1"] {
            assert!(!plan.contains(absent), "{absent} in {plan}");
        }
        stack.ok(&["up", "--yes"]);
        assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0, "{}", stack.plan());
        let before = rows();
        let ordered = http::order(&stack.http(), &format!("external-{}", stack.name), "PROBE-0");
        assert_eq!(ordered.status, 201, "{}", ordered.body);
        assert_eq!(rows(), before + 1);
    }

    fn is_left_alone_by(&self, stack: &Stack) {
        let ordered = rows();
        stack.ok(&["down", "--volumes", "--yes"]);
        assert_eq!(rows(), ordered, "the external data was touched");
    }

    fn end(self) {
        for file in FILES {
            std::fs::remove_file(root().join(file)).unwrap();
        }
    }
}

fn external_services() {
    let elsewhere = Elsewhere::start();
    let stack = Stack::of("sc-ext", |_| manifest(&elsewhere.gateway));
    elsewhere.is_used_by(&stack);
    told_plainly(&stack, &elsewhere.gateway);
    let inspected = docker(&["inspect", "sc-ext-backend-1", "sc-ext-worker-relay-1"]);
    nobody_shows_the_password(&stack, &inspected);
    a_lost_queue_is_made_again(&stack);

    elsewhere.is_left_alone_by(&stack);
    assert!(stack.traces().iter().all(|name| name.starts_with("sc-extern-")), "{:?}", stack.traces());
    elsewhere.end();
}

pub(crate) fn from_a_cluster() {
    let elsewhere = Elsewhere::start();
    let stack =
        cluster::beside("sc-ext-prod", &manifest(&elsewhere.gateway).replace("tls: {}", "tls: {secret: shop-tls}"));
    let refused = stack.run(&["doctor"]);
    assert!(refused.stdout.contains("there is no such Secret"), "{}", refused.stdout);
    cluster::keep_pair(&stack, "shop-tls", &PAIR.map(|file| folder().join(file)));
    elsewhere.is_used_by(&stack);
    let described = cluster::described(&stack);
    nobody_shows_the_password(&stack, &described);
    let key = std::fs::read_to_string(folder().join(PAIR[1])).unwrap();
    let line = key.lines().nth(1).unwrap();
    for text in [described, stack.ok(&["plan", "-o", "json"]), stack.ok(&["logs", "--tail", "200"])] {
        assert!(!text.contains(line), "the key of somebody's certificate is shown");
    }
    let on_cluster = checks(&stack);
    elsewhere.is_left_alone_by(&stack);
    cluster::no_longer_beside(&stack);
    // Afterwards, since both would take their messages from the same queues.
    let twin = Stack::of("sc-ext", |_| manifest(&elsewhere.gateway));
    elsewhere.is_used_by(&twin);
    assert_eq!(on_cluster, checks(&twin), "what was checked on either engine");
    elsewhere.is_left_alone_by(&twin);
    elsewhere.end();
}

/// What `verify` looked at, line by line.
fn checks(stack: &Stack) -> Vec<String> {
    let findings = stack.json(&["verify"]);
    let line = |finding: &Value| format!("{} {} {}", finding["level"], finding["component"], finding["check"]);
    findings.as_array().unwrap().iter().map(line).collect()
}

fn told_plainly(stack: &Stack, gateway: &str) {
    let status = stack.ok(&["status", "--no-usage"]);
    assert!(status.contains(&format!("external: redis {gateway}:")), "{status}");
    let opened = stack.json(&["open", "rabbitmq", "--print"]);
    assert_eq!((opened["state"].as_str(), opened["login"]["password"].as_str()), (Some("external"), Some(PASSWORD)));
    let url = stack.json(&["env"])["DATABASE_URL"].as_str().unwrap().to_owned();
    assert!(url.contains(&format!("@{gateway}:")), "env leads elsewhere");
    let doctor = stack.ok(&["doctor"]);
    assert_eq!(doctor.lines().filter(|line| line.contains("takes connections")).count(), 4, "{doctor}");
    for verb in [&["failover"][..], &["switchover", "--to", "postgres-2"], &["rejoin", "postgres-1"]] {
        let ran = stack.run(verb);
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains("postgres is external"), "{}", ran.stderr);
    }
    let scaled = stack.run(&["scale", "postgres", "--replicas", "2"]);
    assert!(scaled.code != 0 && scaled.stderr.contains("postgres is external"), "{}", scaled.stderr);
}

/// `inspected`: what the engine tells about members.
fn nobody_shows_the_password(stack: &Stack, inspected: &str) {
    let plan = stack.ok(&["plan", "-o", "json"]);
    let logs = stack.ok(&["logs", "--tail", "200"]);
    // As it is, and as a URL has it.
    for shown in [PASSWORD, "p%40ss"] {
        for (where_, text) in [("plan", &*plan), ("inspect", inspected), ("logs", &*logs)] {
            assert!(!text.contains(shown), "{where_} shows the password");
        }
    }
}

fn a_lost_queue_is_made_again(stack: &Stack) {
    let lose = ["rabbitmqctl", "-n", "rabbit@localhost", "delete_queue", "--vhost", "shop", "q.custom"];
    docker(&[&["exec", "-e", "HOME=/var/lib/rabbitmq", "sc-extern-rabbitmq"][..], &lose].concat());
    let plan = stack.plan();
    assert!(plan.contains("the external broker has no queue q.custom"), "{plan}");
    stack.ok(&["up", "--no-verify"]);
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0);
}
