//! What the unit tests of the components share.

use std::collections::BTreeMap;

use provisioner_core::manifest::{Manifest, parse};
use provisioner_core::observed::{Making, Network, Observed, ObservedSecret, ObservedWorkload, State};
use provisioner_core::secret::Note;
use provisioner_core::stack::{Fingerprint, Resource, Secret, Stack};

/// The smallest manifest with the shop: everything else is a default.
pub(crate) fn manifest() -> Manifest {
    parse(b"name: dev\napp:\n  binary: target/app\n").expect("the smallest manifest is right")
}

/// One with every system.
pub(crate) fn whole_manifest() -> Manifest {
    let text = "name: dev\nnginx: { tls: {} }\npostgres: { tls: true }\nredis: { tls: true }\nrabbitmq: { tls: true }\n\
                elasticsearch: {}\nmail: {}\nmonitoring: {}\napp: { binary: target/app }\nworkers: { relay: {}, email: {}, search: {} }\n";
    parse(text.as_bytes()).expect("a manifest with every system is right")
}

/// The same with every service that may exist already.
pub(crate) fn external_manifest() -> Manifest {
    let login = "user: shop, password_file: password";
    let text = format!(
        "name: dev\n\
         postgres: {{ external: {{ host: db.example.com, read_host: db-ro.example.com, {login}, database: shop, ca_file: ca.pem }} }}\n\
         redis: {{ external: {{ host: cache.example.com, {login}, database: 2, ca_file: ca.pem }} }}\n\
         rabbitmq: {{ external: {{ host: mq.example.com, {login}, vhost: shop, ca_file: ca.pem, management: {{}} }} }}\n\
         elasticsearch: {{ external: {{ host: search.example.com, {login}, ca_file: ca.pem }} }}\n\
         nginx: {{ tls: {{}} }}\nmail: {{}}\nmonitoring: {{}}\napp: {{ binary: target/app }}\n\
         workers: {{ relay: {{}}, email: {{}}, search: {{}} }}\n"
    );
    parse(text.as_bytes()).expect("a manifest of external services is right")
}

/// A secret whose value may stay.
pub(crate) fn made(secret: &Secret) -> ObservedSecret {
    let version = "1".to_owned();
    let issuer = secret.issuer().map(|_| version.clone());
    let note = Note { version, source: Fingerprint::of(&secret.source), issuer, validity: None };
    ObservedSecret { is_readable: true, note }
}

/// The same with Elasticsearch, and these further lines in its section.
pub(crate) fn with_search(lines: &str) -> Manifest {
    let text = format!("name: dev\napp:\n  binary: target/app\nelasticsearch:\n  nodes: 3\n{lines}");
    parse(text.as_bytes()).expect("a small manifest with Elasticsearch is right")
}

/// Everything that the stack declares is there and as described; no record, no fact.
pub(crate) fn settled(stack: &Stack) -> Observed {
    let references = stack.image_references();
    let mut observed = Observed { network: Network::Present, ..Observed::default() };
    observed.images = references.values().cloned().collect();
    for resource in stack.resources() {
        match resource {
            Resource::Secret(secret) => {
                observed.secrets.insert(secret.name.clone(), made(secret));
            }
            Resource::Volume(volume) => {
                observed.volumes.insert(volume.name.clone());
            }
            _ => {}
        }
    }
    for workload in stack.workloads() {
        let image = references[&workload.image].clone();
        let found = ObservedWorkload {
            instance: format!("{}-instance", workload.member),
            component: workload.component.clone(),
            state: State::Running,
            spec: Some(workload.spec_fingerprint(&image)),
            image,
            files: workload.file_fingerprints(&observed.secret_versions()),
            internal_ip: None,
            published: BTreeMap::new(),
            public: None,
            making: Making::default(),
        };
        observed.workloads.insert(workload.member.clone(), found);
    }
    observed
}
