//! Any image is an app: a small Django, which knows nothing of this repository.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Scenario, Stack, docker, eventually, root};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_foreign_django_is_deployed_migrated_and_reached_through_nginx", foreign_django),
    ("a_solo_stack_without_a_replica_is_verified", solo),
    ("every_service_takes_an_image_of_ones_own", images_of_ones_own),
    ("the_apps_own_tests_pass_against_the_real_servers", the_apps_own_tests),
];

fn foreign_django() {
    // The base image is there once any stack has been up.
    Stack::dev();
    build_image();
    let stack = Stack::of("sc-django", |_| MANIFEST.to_owned());
    stack.ok(&["up"]);
    let base = stack.http();
    let answer = http::get(&format!("{base}/api/visits"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "1 visits"));
    assert_eq!(http::get(&format!("{base}/api/visits")).body, "2 visits");
    let inspected = docker(&["inspect", "sc-django-backend-1"]);
    let url = stack.json(&["env"])["DATABASE_URL"].as_str().unwrap().to_owned();
    let password = url.split(['@', ':']).nth(2).unwrap();
    assert!(!inspected.contains(password), "the container's description shows a password");
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0);
    stack.ok(&["down", "--volumes", "--yes"]);
}

/// The recipes' images under other names, as somebody's own would be named.
fn images_of_ones_own() {
    Stack::dev();
    let mut sections = String::new();
    for (section, member) in
        [("nginx", "nginx-1"), ("route", "route-1"), ("postgres", "postgres-1"), ("redis", "redis-1")]
    {
        let image = docker(&["inspect", "-f", "{{.Config.Image}}", &format!("sc-dev-{member}")]);
        docker(&["tag", image.trim(), &format!("sc-own/{section}:1")]);
        sections.push_str(&format!("{section}: {{image: 'sc-own/{section}:1'}}\n"));
    }
    let stack = Stack::of("sc-own", |_| format!("name: sc-own\n{sections}app: {{binary: ../{APP}}}\n"));
    stack.ok(&["up"]);
    let images = docker(&["ps", "--filter", "label=provisioner.stack=sc-own", "--format", "{{.Image}}"]);
    assert_eq!(images.lines().filter(|image| image.starts_with("sc-own/")).count(), 5, "{images}");
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0);
    stack.ok(&["down", "--volumes", "--yes"]);
}

/// What the preflight proposes where memory is short.
fn solo() {
    let manifest = "name: sc-solo\npostgres: {replicas: 0, synchronous: off}\napp: {replicas: 1, binary: ../";
    let stack = Stack::of("sc-solo", |_| format!("{manifest}{APP}}}\n"));
    stack.ok(&["up"]);
    stack.ok(&["down", "--volumes", "--yes"]);
}

const APP: &str = "target/x86_64-unknown-linux-musl/debug/app";

/// On the stack's PostgreSQL with a role of their own; on a Redis, a broker and a node of Elasticsearch of their own,
/// which they empty.
fn the_apps_own_tests() {
    let stack = Stack::dev();
    let role = "DROP ROLE IF EXISTS app_live; CREATE ROLE app_live LOGIN CREATEDB PASSWORD 'app_live'";
    for sql in role.split("; ").chain(["GRANT CONNECT ON DATABASE postgres TO app_live"]) {
        stack.ok(&["exec", "postgres-1", "--", "psql", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    }
    let url = stack.json(&["env"])["DATABASE_URL"].as_str().unwrap().to_owned();
    let address = url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
    let redis = Server::start("redis-1", 6379, &["redis-server", "--save", "", "--protected-mode", "no"]);
    let open_broker = "echo loopback_users = none > /etc/rabbitmq/rabbitmq.conf; exec rabbitmq-server";
    let broker = Server::start("rabbitmq-1", 5672, &["sh", "-c", open_broker]);
    let search = Server::start("elasticsearch-1", 9200, &["sh", "-c", OPEN_NODE]);
    let amqp = format!("amqp://guest:guest@{}/%2f", broker.address);
    let tested = Command::new("make")
        .args(["--no-print-directory", "app-live"])
        .env("APP_TEST_DATABASE_URL", format!("postgres://app_live:app_live@{address}/postgres"))
        .env("APP_TEST_REDIS_URL", format!("redis://{}/0", redis.address))
        .env("APP_TEST_AMQP_URL", &amqp)
        .env("APP_TEST_AMQP_ADMIN_URL", &amqp)
        .env("APP_TEST_ELASTICSEARCH_URL", format!("http://{}", search.address))
        .current_dir(root())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(tested.status.success(), "{}{}", text(&tested.stdout), text(&tested.stderr));
}

/// One node without a login.
const OPEN_NODE: &str = "exec bin/elasticsearch -Ediscovery.type=single-node -Expack.security.enabled=false \
    -Enetwork.host=0.0.0.0 -Ecluster.routing.allocation.disk.threshold_enabled=false";

/// A server for tests alone, of the image that a member of the dev stack has.
struct Server {
    container: String,
    address: String,
}

impl Server {
    fn start(member: &str, port: u16, command: &[&str]) -> Self {
        let image = docker(&["inspect", "-f", "{{.Config.Image}}", &format!("sc-dev-{member}")]);
        let published = format!("127.0.0.1::{port}");
        let java = ["-e", "ES_JAVA_OPTS=-Xms384m -Xmx384m -XX:TieredStopAtLevel=1"];
        let run = [&["run", "-d", "--rm", "-p", &published][..], &java, &[image.trim()], command].concat();
        let container = docker(&run).trim().to_owned();
        let address = docker(&["port", &container, &format!("{port}/tcp")]).lines().next().unwrap().to_owned();
        let server = Self { container, address };
        eventually(&format!("{member} for tests takes connections"), Duration::from_secs(120), || {
            let mut stream = TcpStream::connect(&server.address).ok()?;
            stream.set_read_timeout(Some(Duration::from_millis(500))).ok()?;
            // The engine itself takes connections before the server does, and closes them at once.
            match stream.read(&mut [0]) {
                Ok(0) => None,
                Ok(_) => Some(()),
                Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut).then_some(()),
            }
        });
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        docker(&["rm", "-f", &self.container]);
    }
}

/// The packages are fetched on this machine, whose trust in the index a container does not share.
fn build_image() {
    let folder = root().join("target/scenario-django");
    std::fs::create_dir_all(&folder).unwrap();
    for file in ["Dockerfile", "shop.py", "requirements.txt"] {
        std::fs::copy(root().join("provisioner/tests/scenarios/django").join(file), folder.join(file)).unwrap();
    }
    let fetch = "python3 -m pip download -q -d wheels -r requirements.txt --only-binary=:all: \
        --python-version 3.13 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --platform any";
    for step in [fetch, "docker build -q -t sc-django:1 ."] {
        let done = Command::new("sh").args(["-c", step]).current_dir(&folder).output().unwrap();
        assert!(done.status.success(), "{step}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

const MANIFEST: &str = "
name: sc-django
postgres: {replicas: 1}
app:
  image: sc-django:1
  replicas: 1
  port: 8000
  health: /healthz
  serve: [gunicorn, --bind, '0.0.0.0:8000', --workers, '1', shop]
  migrate: [python3, shop.py, migrate]
";
