//! What goes over the wire, and what happens when it breaks off.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::sync::Arc;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptions;
use provisioner_core::engine::{Engine, Quiet};
use provisioner_core::record::{RecordError, Records};
use provisioner_core::stack::{OnChange, Resource, ResourceId, Text, Workload};
use provisioner_core::testing::contract::{Ground, file, id, images, observed, secret, volume, with_volume, workload};
use serde_json::json;
use support::proxy::Proxy;
use support::{OnDocker, base, on_docker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn observing_only_reads_and_costs_the_same_for_twenty_members_as_for_two_hundred() {
    let ground = on_docker("requests").await;
    let folder = tempfile::tempdir().unwrap();
    let (proxy, docker) = Proxy::start(folder.path()).await;
    let engine = docker.stack(ground.engine.stack());
    let mut counts = Vec::new();
    let mut made = 0;
    for members in [20, 200] {
        while made < members {
            made += 1;
            make_member(&ground, made).await;
        }
        proxy.take_requests();
        assert_eq!(engine.observe().await.unwrap().workloads.len(), members);
        let seen = proxy.take_requests();
        assert!(seen.iter().all(|request| request.starts_with("GET ")), "{seen:?}");
        counts.push(seen.len());
    }
    ground.clean().await;
    assert_eq!(counts, [4, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_secrets_only_reads() {
    let ground = on_docker("secret-reads").await;
    let folder = tempfile::tempdir().unwrap();
    let (proxy, docker) = Proxy::start(folder.path()).await;
    let images = images(&ground).await.unwrap();
    ground.engine.ensure(&secret("probe"), &images, &Quiet).await.unwrap();
    proxy.take_requests();
    let values = docker.stack(ground.engine.stack()).secrets(&["probe".to_owned()].into()).await.unwrap();
    let seen = proxy.take_requests();
    ground.clean().await;
    assert_eq!(values.len(), 1);
    assert!(seen.iter().all(|request| request.starts_with("GET ")), "{seen:?}");
}

/// Never started: what is counted are requests, not processes.
async fn make_member(ground: &OnDocker, nth: usize) {
    let stack = ground.engine.stack().to_string();
    let labels = [
        ("provisioner.stack", stack.clone()),
        ("provisioner.kind", "workload".to_owned()),
        ("provisioner.member", format!("probe-{nth}")),
        ("provisioner.spec", "0".to_owned()),
    ];
    let body = ContainerCreateBody {
        image: Some(base().reference()),
        cmd: Some(vec!["true".to_owned()]),
        labels: Some(labels.map(|(key, value)| (key.to_owned(), value)).into()),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptions { name: Some(format!("{stack}-probe-{nth}")), ..Default::default() };
    ground.raw.create_container(Some(options), body).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_was_slow_between_its_look_and_its_write_loses() {
    let ground = on_docker("slow").await;
    let folder = tempfile::tempdir().unwrap();
    let (proxy, docker) = Proxy::start(folder.path()).await;
    let slow = Arc::new(docker.stack(ground.engine.stack()));
    let first = ground.engine.put_if("probe", 0, json!("first")).await.unwrap();

    *proxy.held.lock().unwrap() = Some("/volumes/create");
    let writer = Arc::clone(&slow);
    let late = tokio::spawn(async move { writer.put_if("probe", first, json!("late")).await });
    proxy.arrived.notified().await;
    let second = ground.engine.put_if("probe", first, json!("second")).await.unwrap();
    let third = ground.engine.put_if("probe", second, json!("third")).await.unwrap();
    proxy.released.notify_one();

    let late = late.await.unwrap();
    assert!(matches!(late, Err(RecordError::Conflict { found, .. }) if found == third), "{late:?}");
    let found = ground.engine.get("probe").await.unwrap().unwrap();
    let volumes = ground.volumes().await;
    ground.clean().await;
    assert_eq!((found.version, found.value), (third, json!("third")));
    assert_eq!(volumes.len(), 1, "{volumes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_whose_record_was_built_upon_before_it_looked_again_has_won() {
    let ground = on_docker("built").await;
    let folder = tempfile::tempdir().unwrap();
    let (proxy, docker) = Proxy::start(folder.path()).await;
    let writer = docker.stack(ground.engine.stack());
    *proxy.held.lock().unwrap() = Some("/volumes/create");
    let first = tokio::spawn(async move { writer.put_if("probe", 0, json!("first")).await });
    proxy.arrived.notified().await;
    *proxy.held.lock().unwrap() = Some("/volumes?");
    proxy.released.notify_one();
    proxy.arrived.notified().await;

    let written = ground.engine.get("probe").await.unwrap().unwrap();
    ground.engine.put_if("probe", written.version, json!("second")).await.unwrap();
    proxy.released.notify_one();
    let first = first.await.unwrap();
    let found = ground.engine.get("probe").await.unwrap().unwrap();
    ground.clean().await;
    assert_eq!(first.unwrap(), written.version);
    assert_eq!(found.value, json!("second"));
}

/// The same as `kill -9` of the provisioner between any two requests, for one with files, a secret and a volume.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_cut_off_after_any_request_converges_when_it_is_run_again() {
    let ground = on_docker("cut").await;
    let folder = tempfile::tempdir().unwrap();
    let (proxy, docker) = Proxy::start(folder.path()).await;
    let images = images(&ground).await.unwrap();
    let mut described = with_volume(workload(&ground, "probe-1"), "data");
    described.files = vec![file(&format!("password {}\n", Text::secret("probe")))];
    described.secret_env.insert("PASSWORD".to_owned(), Text::new(Text::secret("probe")));
    described.stop.grace_secs = 1;
    let all = |described: &Workload| {
        let workload = Resource::Workload(Arc::new(described.clone()));
        [Resource::Network, secret("probe"), volume("data"), workload]
    };
    let mut cuts = 0;
    loop {
        proxy.cut_after(Some(cuts));
        // A new engine each time, as a new process has one.
        let engine = docker.stack(ground.engine.stack());
        let mut is_whole = true;
        for resource in all(&described) {
            is_whole &= engine.ensure(&resource, &images, &Quiet).await.is_ok();
        }
        let again = support::connect().await.stack(ground.engine.stack());
        for resource in all(&described) {
            again.ensure(&resource, &images, &Quiet).await.unwrap();
        }
        let value = again.secrets(&["probe".to_owned()].into()).await.unwrap()["probe"].clone();
        let script = "cat /etc/probe.conf; . /run/provisioner/env; echo $PASSWORD";
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        let seen = again.exec(&described.member, &argv, None).await.unwrap().finish().await.unwrap();
        assert_eq!(seen.stdout, format!("password {value}\n{value}\n"), "cut after {cuts} requests");
        if is_whole {
            break;
        }
        cuts += 1;
        // Another description each time, so that there is something to do.
        described.env.insert("CUT".to_owned(), cuts.to_string());
    }

    // A reload that is cut off is seen as not done.
    for cuts in 0..3 {
        described.files = vec![file(&format!("after {cuts}\n"))];
        proxy.cut_after(Some(cuts));
        let engine = docker.stack(ground.engine.stack());
        let reload = OnChange::Reload { check: Vec::new(), signal: "SIGHUP".to_owned() };
        engine.put_files(&described.member, &described.files, &reload).await.unwrap_err();
        let found = observed(&*ground.engine, &described.member).await.unwrap();
        assert_ne!(
            found.files,
            described.file_fingerprints(&std::collections::BTreeMap::new()),
            "cut after {cuts} requests"
        );
    }
    ground.engine.remove(&id("probe-1")).await.unwrap();
    ground.engine.remove(&ResourceId::Network).await.unwrap();
    let left = ground.containers().await;
    ground.clean().await;
    assert!(cuts > 8, "only {cuts} requests were cut");
    assert!(left.is_empty(), "{left:?}");
}
