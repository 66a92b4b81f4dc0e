//! The app's own tests and its document, against real servers.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Scenario, Stack, docker, eventually, root};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("app_passes_its_own_tests_against_real_servers", own_tests),
    ("app_answers_as_its_document_says_whatever_is_sent", document),
];

fn own_tests() {
    against_servers(&["app-live"]);
}

/// Few requests an operation; `make test-api` sends six times as many.
fn document() {
    against_servers(&["test-api", "EXAMPLES=5"]);
}

/// Runs a target of the Makefile on servers of its own, which are made of the images of a small stack.
fn against_servers(make: &[&str]) {
    let manifest = "name: sc-app\npostgres: {replicas: 0, synchronous: off}\nrabbitmq: {}\nelasticsearch: {nodes: 1}\n";
    let app = "app: {replicas: 1, binary: ../target/x86_64-unknown-linux-musl/debug/app}\n";
    let stack = Stack::of("sc-app", |_| format!("{manifest}{app}"));
    stack.ok(&["up", "--no-verify"]);
    let database = Server::start("postgres-1", 5432, &["sh", "-c", OPEN_DATABASE]);
    let role = "CREATE ROLE app_live LOGIN CREATEDB";
    docker(&["exec", &database.container, "psql", "-h", "/tmp", "-d", "postgres", "-c", role]);
    let redis = Server::start("redis-1", 6379, &["redis-server", "--save", "", "--protected-mode", "no"]);
    let open_broker = "echo loopback_users = none > /etc/rabbitmq/rabbitmq.conf; exec rabbitmq-server";
    let broker = Server::start("rabbitmq-1", 5672, &["sh", "-c", open_broker]);
    let search = Server::start("elasticsearch-1", 9200, &["sh", "-c", OPEN_NODE]);
    let amqp = format!("amqp://guest:guest@{}/%2f", broker.address);
    let tested = Command::new("make")
        .arg("--no-print-directory")
        .args(make)
        .env("APP_TEST_DATABASE_URL", format!("postgres://app_live@{}/postgres", database.address))
        .env("APP_TEST_REDIS_URL", format!("redis://{}/0", redis.address))
        .env("APP_TEST_AMQP_URL", &amqp)
        .env("APP_TEST_AMQP_ADMIN_URL", &amqp)
        .env("APP_TEST_MEDIA_URL", stack.json(&["env"])["APP_MEDIA_URL"].as_str().unwrap())
        .env("APP_TEST_ELASTICSEARCH_URL", format!("http://{}", search.address))
        .current_dir(root())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(tested.status.success(), "{}{}", text(&tested.stdout), text(&tested.stderr));
}

/// A server without a login that forgets with its container, so nothing need reach the disk. No autovacuum: a role that is
/// no superuser cannot end its worker, and so cannot drop a database in which one is at work.
const OPEN_DATABASE: &str = "initdb -A trust -D /tmp/data > /dev/null && echo 'host all all all trust' >> /tmp/data/pg_hba.conf \
    && exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp -c fsync=off -c autovacuum=off \
    -c max_connections=300";

/// One node without a login.
const OPEN_NODE: &str = "exec bin/elasticsearch -Ediscovery.type=single-node -Expack.security.enabled=false \
    -Enetwork.host=0.0.0.0 -Ecluster.routing.allocation.disk.threshold_enabled=false";

/// A server for tests alone, of the image that a member of the stack has.
struct Server {
    container: String,
    address: String,
}

impl Server {
    fn start(member: &str, port: u16, command: &[&str]) -> Self {
        let image = docker(&["inspect", "-f", "{{.Config.Image}}", &format!("sc-app-{member}")]);
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
