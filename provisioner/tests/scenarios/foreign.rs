//! Any image is an app: a small Django, which knows nothing of this repository.

use std::process::Command;

use crate::harness::{Scenario, Stack, docker, root};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("a_foreign_django_is_deployed_migrated_and_reached_through_nginx", foreign_django),
    ("a_solo_stack_without_a_replica_is_verified", solo),
    ("every_service_takes_an_image_of_ones_own", images_of_ones_own),
];

fn foreign_django() {
    // The base image is there once any stack has been up.
    Stack::dev();
    build_image();
    let stack = Stack::of("sc-django", |_| MANIFEST.to_owned());
    let key = root().join("manifests/.sc-django.key");
    std::fs::write(&key, "the first key\n").unwrap();
    stack.ok(&["up"]);
    let base = stack.http();
    let answer = http::get(&format!("{base}/api/visits"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "1 visits"));
    assert_eq!(http::get(&format!("{base}/api/visits")).body, "2 visits");
    let inspected = docker(&["inspect", "sc-django-backend-1"]);
    let url = stack.json(&["env"])["DATABASE_URL"].as_str().unwrap().to_owned();
    let password = url.split(['@', ':']).nth(2).unwrap();
    for secret in [password, "the first key"] {
        assert!(!inspected.contains(secret), "the container's description shows a secret");
    }
    assert_eq!(stack.run(&["plan", "--detailed-exitcode"]).code, 0);
    let key_in_use = || http::get(&format!("{base}/api/key")).body;
    assert_eq!(key_in_use(), "13 characters");
    std::fs::write(&key, "the second key\n").unwrap();
    stack.ok(&["up"]);
    assert_eq!(key_in_use(), "14 characters");
    stack.ok(&["down", "--volumes", "--yes"]);
}

/// The recipes' images under other names, as somebody's own would be named.
fn images_of_ones_own() {
    Stack::dev();
    let mut sections = String::new();
    for section in ["nginx", "media", "route", "postgres", "redis"] {
        let image = docker(&["inspect", "-f", "{{.Config.Image}}", &format!("sc-dev-{section}-1")]);
        docker(&["tag", image.trim(), &format!("sc-own/{section}:1")]);
        sections.push_str(&format!("{section}: {{image: 'sc-own/{section}:1'}}\n"));
    }
    let stack = Stack::of("sc-own", |_| format!("name: sc-own\n{sections}app: {{binary: ../{APP}}}\n"));
    stack.ok(&["up"]);
    let images = docker(&["ps", "--filter", "label=provisioner.stack=sc-own", "--format", "{{.Image}}"]);
    assert_eq!(images.lines().filter(|image| image.starts_with("sc-own/")).count(), 6, "{images}");
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
  secret_env: {DJANGO_SECRET_KEY: .sc-django.key}
";
