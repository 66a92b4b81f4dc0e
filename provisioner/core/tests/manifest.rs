//! Bad manifests: every problem at once, each with its path, what was found and what would be right.

use std::time::Duration;

use insta::assert_snapshot;
use proptest::prelude::*;
use provisioner_core::manifest::{
    Entrance, InvalidManifest, Kubernetes, MANIFEST_SIZE_MAX, Objectives, Synchronous, parse,
};

fn problems(text: impl AsRef<[u8]>) -> String {
    match parse(text.as_ref()) {
        Ok(manifest) => panic!("accepted: {manifest:?}"),
        Err(InvalidManifest(problems)) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    }
}

#[test]
fn the_smallest_manifest_is_completed_with_defaults() {
    let manifest = parse(b"name: dev\napp: {binary: app}\n").unwrap();
    assert_eq!(manifest.nginx.http_port, 8080);
    assert_eq!(manifest.postgres.replicas, 1);
    assert_eq!(manifest.postgres.synchronous, Synchronous::Preferred);
    assert_eq!(manifest.app.serve, ["/usr/local/bin/app", "serve"]);
}

#[test]
fn all_problems_are_reported_at_once() {
    assert_snapshot!(problems(
        "
name: Dev Stack
enviroment: dev
expose: localhost
nginx: {http_port: 99999, rate_limit: -5, gzip: true}
postgres: {primaries: 2, replicas: many, memory: -512MiB, settings: {shared_buffers: [1], \"a b\": 1}}
redis: [1, 2]
app: {image: shop, binary: app, replicas: 0, serve: gunicorn, env: {\"A-B\": x}}
"
    ));
}

#[test]
fn a_secret_variable_is_a_file_in_capitals_and_named_once() {
    assert_snapshot!(problems(
        "name: dev\napp: {binary: a, env: {KEY: x}, secret_env: {KEY: key, lower: key, NONE: \"\", LIST: [a]}}\n"
    ));
    let text = "name: dev\napp: {binary: a, secret_env: {KEY: secrets/key}}\n";
    let given = parse(text.as_bytes()).unwrap().app.secret_env;
    assert_eq!(given["KEY"].files, [std::path::PathBuf::from("secrets/key")]);
}

#[test]
fn monitoring_takes_thresholds_that_exist_and_make_sense_and_keys_as_files() {
    assert_snapshot!(problems(
        "
name: dev
app: {binary: a}
monitoring:
  retention: forever
  scrape_seconds: 0
  webhook: ftp://hooks.example
  thresholds: {backend_p59: 0.8, nobody_knows_this: 1, error_ratio: 5, queue_ready: -1, job_p95: 0, search_mean: soon}
  pagerduty: {url: 'https://events.example'}
  opsgenie: {key_file: 5, key: abc}
"
    ));
    assert_snapshot!(problems("name: dev\napp: {binary: a}\nmonitoring: {thresholds: [1]}\n"));
    let text = "name: dev\napp: {binary: a}\nmonitoring: {thresholds: {backend_p95: 0.8}, retention: 36h}\n";
    let monitoring = parse(text.as_bytes()).unwrap().monitoring.unwrap();
    assert_eq!((monitoring.thresholds["backend_p95"], monitoring.retention.as_str()), (0.8, "36h"));
}

#[test]
fn beside_an_external_service_nothing_else_is_said_and_all_of_it_is_told_at_once() {
    assert_snapshot!(problems(
        "
name: dev
app: {binary: a}
route: {replicas: 2}
postgres: {replicas: 2, memory: 1GiB, settings: {work_mem: 4MB}, external: {host: localhost, user: shop, tls: verify}}
redis: {tls: true, external: {host: 'cache.example.com:6379', user: shop, tls: off, ca_file: ca.pem}}
rabbitmq: {queues: {email: [email.#]}, memory: 1GiB, external: {host: mq.example.com, tls: maybe}}
elasticsearch: {nodes: 3, external: {host: search.example.com, tls: off, password_file: p}}
"
    ));
    let text = "
name: dev
app: {binary: a}
postgres: {external: {host: db.example.com, read_host: db-ro.example.com, user: shop, password_file: secrets/pg, database: shop, ca_file: ca.pem}}
rabbitmq: {external: {host: 10.0.0.5, user: shop, password_file: p, tls: off, management: {}}, queues: {email: [email.#]}}
";
    let manifest = parse(text.as_bytes()).unwrap();
    let external = manifest.postgres.external.unwrap();
    assert_eq!((external.server.port, external.read_host.as_deref()), (5432, Some("db-ro.example.com")));
    let rabbitmq = manifest.rabbitmq.unwrap();
    let external = rabbitmq.external.unwrap();
    assert_eq!((external.server.port, external.management), (5672, Some(("10.0.0.5".to_owned(), 15672))));
    assert_eq!((external.vhost.as_str(), rabbitmq.queues.len()), ("/", 1));
}

#[test]
fn a_required_standby_needs_a_replica() {
    assert_snapshot!(problems("name: dev\napp: {binary: a}\npostgres: {replicas: 0, synchronous: required}\n"));
}

#[test]
fn objectives_may_ask_for_more_than_the_architecture_and_never_for_less() {
    let of = |objectives: &str| format!("name: dev\napp: {{binary: a}}\npostgres: {{objectives: {objectives}}}\n");
    assert_eq!(parse(of("null").as_bytes()).unwrap().postgres.objectives, Objectives::ARCHITECTURE);
    let asked = parse(of("{rto: 1s 500ms, rpo: 0s}").as_bytes()).unwrap().postgres.objectives;
    assert_eq!(asked, Objectives { rto: Duration::from_millis(1500), rpo: Duration::ZERO });
    assert_snapshot!(problems(of("{rto: 1h, rpo: 90}")));
    assert_snapshot!(problems(
        "name: dev\napp: {binary: a}\npostgres: {synchronous: off, objectives: {rto: 0s, rpo: 0s}}\n"
    ));
}

#[test]
fn an_image_of_ones_own_needs_its_command() {
    assert_snapshot!(problems("name: dev\napp: {image: 'shop:1'}\n"));
}

#[test]
fn a_missing_app_is_named_once_as_such() {
    assert_snapshot!(problems("name: dev\n"));
}

#[test]
fn files_that_are_no_manifest_are_refused_with_one_clear_problem() {
    let deep = format!("name: {}", "[".repeat(100_000));
    let aliases = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    let mut all = String::new();
    let huge = vec![b'a'; MANIFEST_SIZE_MAX + 1];
    let cases: [(&str, &[u8]); 12] = [
        ("deep", deep.as_bytes()),
        ("infinite", b"name: dev\napp: {binary: a}\npostgres: {cpus: .nan, memory: .inf}\n"),
        ("empty", b""),
        ("blank", b"  \n\n"),
        ("comment", b"# nothing\n"),
        ("binary", b"\x7fELF\x02\x01\x01\x00\xff\xfe"),
        ("nul", b"name: a\0b"),
        ("list", b"- a\n- b\n"),
        ("scalar", b"dev"),
        ("huge", &huge),
        ("broken", b"name: [dev\n"),
        ("twice", b"name: dev\nname: prod\napp: {binary: a}\n"),
    ];
    for (name, bytes) in cases {
        all.push_str(&format!("{name}: {}", problems(bytes)));
    }
    assert_snapshot!(all);
    assert!(!problems(aliases).is_empty());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_values_make_it_panic(
        key in "(name|expose|environment|nginx|postgres|redis|route|app|[a-z]{1,8})",
        inner in "(image|memory|cpus|replicas|http_port|settings|env|serve|synchronous|[a-z]{1,6})",
        value in "(-?[0-9]{1,25}|[0-9.eE+-]{1,12}|\\[.{0,8}\\]|\\{[a-z]{0,3}: [0-9]{0,3}\\}|.{0,24})",
    ) {
        let _ = parse(format!("name: dev\napp: {{binary: a}}\n{key}: {value}\n").as_bytes());
        let _ = parse(format!("name: dev\n{key}:\n  {inner}: {value}\n").as_bytes());
    }
}

#[test]
fn a_cluster_is_named_in_words_that_it_takes() {
    assert_snapshot!(problems(
        "
name: prod
app: {binary: a}
kubernetes:
  context: ''
  namespace: Shop_Prod
  storage_class: [fast]
  service: nodeport
  registry: https://registry.example.com
  pull_secret: -a
  ingress: true
"
    ));
    let text =
        "name: prod\napp: {binary: a}\nkubernetes: {context: kind-prod, service: node_port, registry: r:5000/shop}\n";
    let kubernetes = parse(text.as_bytes()).unwrap().kubernetes.unwrap();
    assert_eq!(kubernetes.context.as_deref(), Some("kind-prod"));
    assert_eq!((kubernetes.service, kubernetes.registry.as_deref()), (Entrance::NodePort, Some("r:5000/shop")));
    assert_eq!(kubernetes.namespace, None);
    assert_eq!(parse(b"name: dev\napp: {binary: a}\nkubernetes:\n").unwrap().kubernetes, Some(Kubernetes::default()));
    assert_eq!(parse(b"name: dev\napp: {binary: a}\n").unwrap().kubernetes, None);
}
