//! Any image is an app: a small Django, which knows nothing of this repository.

use std::process::Command;

use crate::harness::{Scenario, Stack, docker, root};
use crate::http;

pub(crate) const SCENARIOS: &[Scenario] =
    &[("a_foreign_django_is_deployed_migrated_and_reached_through_nginx", foreign_django)];

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
