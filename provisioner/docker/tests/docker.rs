//! What Docker alone promises, on a real engine.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, RenameContainerOptions, StartContainerOptions,
};
use provisioner_core::engine::{Engine, ImageReferences, Power, Quiet};
use provisioner_core::estate::{Estate, Leftover};
use provisioner_core::fault::Fault;
use provisioner_core::name::Member;
use provisioner_core::observed::State;
use provisioner_core::stack::{Expose, Limits, Port, Resource, Restart, Text, Workload};
use provisioner_core::testing::contract::{
    Ground, ensured, file, id, images, observed, secret, volume, with_volume, workload,
};
use provisioner_core::wait::{self, Look};
use support::{OnDocker, base, on_docker, with_ground};

fn name(ground: &OnDocker, member: &str) -> String {
    format!("{}-{member}", ground.engine.stack())
}

async fn ensure(ground: &OnDocker, described: &Workload, images: &ImageReferences) -> Result<(), String> {
    let resource = Resource::Workload(Arc::new(described.clone()));
    ground.engine.ensure(&resource, images, &Quiet).await.map_err(|error| error.to_string())
}

async fn inspect(ground: &OnDocker, member: &str) -> bollard::models::ContainerInspectResponse {
    ground.raw.inspect_container(&name(ground, member), None::<InspectContainerOptions>).await.unwrap()
}

#[tokio::test]
async fn a_member_that_was_made_but_never_started_is_made_anew_with_its_files() {
    with_ground("created", async |ground| {
        let described = workload(ground, "probe-1");
        let first = ensured(ground, &described).await.unwrap();
        // The same labels on a container without files: what `kill -9` leaves between two requests.
        let labels = inspect(ground, "probe-1").await.config.unwrap().labels;
        ground.lose(&described.member).await;
        let body = ContainerCreateBody {
            image: Some(base().reference()),
            labels,
            cmd: Some(vec!["true".to_owned()]),
            ..Default::default()
        };
        let options = CreateContainerOptions { name: Some(name(ground, "probe-1")), ..Default::default() };
        ground.raw.create_container(Some(options), body).await.unwrap();
        let left = observed(&*ground.engine, &described.member).await.unwrap();
        assert_eq!((left.state, &left.spec), (State::Created, &first.spec));

        let healed = ensured(ground, &described).await.unwrap();
        assert_eq!(healed.state, State::Running);
        let cat = ["cat", "/etc/probe.conf"].map(str::to_owned);
        let seen = ground.engine.exec(&described.member, &cat, None).await.unwrap().finish().await.unwrap();
        assert_eq!(seen.stdout, "one\n");
    })
    .await;
}

#[tokio::test]
async fn nothing_of_another_stack_is_replaced() {
    with_ground("others", async |ground| {
        let images = images(ground).await.unwrap();
        let stack = ground.engine.stack().to_string();
        let labels = Some([("provisioner.stack".to_owned(), format!("{stack}-x"))].into());
        let body = ContainerCreateBody {
            image: Some(base().reference()),
            labels,
            cmd: Some(vec!["true".to_owned()]),
            ..Default::default()
        };
        let options = CreateContainerOptions { name: Some(name(ground, "probe-1")), ..Default::default() };
        ground.raw.create_container(Some(options), body).await.unwrap();
        ground.engine.ensure(&Resource::Network, &images, &Quiet).await.unwrap();
        let refused = ensure(ground, &workload(ground, "probe-1"), &images).await.unwrap_err();
        assert!(refused.contains(&format!("belongs to stack {stack}-x")), "{refused}");
        assert_eq!(ground.engine.observe().await.unwrap().workloads, BTreeMap::new());
    })
    .await;
}

#[tokio::test]
async fn a_foreign_container_is_never_removed_as_a_member() {
    with_ground("foreign", async |ground| {
        ground.intrude(&Member::named("tools")).await;
        let refused = ground.engine.remove(&id("tools")).await.unwrap_err().to_string();
        assert!(refused.contains("was not made by the provisioner"), "{refused}");
        inspect(ground, "tools").await;
    })
    .await;
}

#[tokio::test]
async fn a_foreign_volume_or_network_is_not_taken_over() {
    with_ground("taken", async |ground| {
        let images = images(ground).await.unwrap();
        let stack = ground.engine.stack().to_string();
        let volume_name = format!("{stack}-data");
        let request = VolumeCreateRequest { name: Some(volume_name.clone()), ..Default::default() };
        ground.raw.create_volume(request).await.unwrap();
        let refused = ground.engine.ensure(&volume("data"), &images, &Quiet).await.unwrap_err().to_string();
        assert!(refused.contains(&volume_name) && refused.contains("left untouched"), "{refused}");
        ground.raw.remove_volume(&volume_name, None::<bollard::query_parameters::RemoveVolumeOptions>).await.unwrap();

        let request = NetworkCreateRequest { name: stack.clone(), ..Default::default() };
        ground.raw.create_network(request).await.unwrap();
        let refused = ground.engine.ensure(&Resource::Network, &images, &Quiet).await;
        ground.raw.remove_network(&stack).await.unwrap();
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("was not made for stack"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn a_taken_port_is_reported_with_its_holder() {
    with_ground("ports", async |ground| {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        let described = |member: &str| {
            let expose = Expose::Address { ip: Ipv4Addr::LOCALHOST.into(), port };
            Workload { ports: vec![Port::new("http", 80, expose)], ..workload(ground, member) }
        };
        let images = images(ground).await.unwrap();
        ground.engine.ensure(&Resource::Network, &images, &Quiet).await.unwrap();
        let refused = ensure(ground, &described("probe-1"), &images).await.unwrap_err();
        assert!(refused.contains(&format!("127.0.0.1:{port} is taken by a program outside")), "{refused}");
        drop(free);
        ensure(ground, &described("probe-1"), &images).await.unwrap();
        let refused = ensure(ground, &described("probe-2"), &images).await.unwrap_err();
        let holder = format!("127.0.0.1:{port} is taken by container {}", name(ground, "probe-1"));
        assert!(refused.contains(&holder), "{refused}");
        assert_eq!(ground.engine.host().await.unwrap().ports[&port], name(ground, "probe-1"));
    })
    .await;
}

#[tokio::test]
async fn limits_logs_and_restart_are_as_described_and_secrets_are_not_shown() {
    with_ground("limits", async |ground| {
        let images = images(ground).await.unwrap();
        ground.engine.ensure(&secret("probe"), &images, &Quiet).await.unwrap();
        let mut described = workload(ground, "probe-1");
        described.limits = Limits { memory_bytes: Some(96 << 20), cpu_millis: Some(500), shm_bytes: Some(32 << 20) };
        described.files = vec![file(&format!("password {}\n", Text::secret("probe")))];
        described.secret_env.insert("PASSWORD".to_owned(), Text::new(Text::secret("probe")));
        ensured(ground, &described).await.unwrap();
        let found = inspect(ground, "probe-1").await;
        let shown = format!("{found:?}");
        let host = found.host_config.unwrap();
        assert_eq!((host.memory, host.memory_swap), (Some(96 << 20), Some(96 << 20)));
        assert_eq!((host.nano_cpus, host.shm_size), (Some(500_000_000), Some(32 << 20)));
        let logs = host.log_config.unwrap();
        assert_eq!(logs.typ.as_deref(), Some("json-file"));
        assert_eq!(logs.config.unwrap()["max-size"], "10m");
        assert_eq!(host.restart_policy.unwrap().name.unwrap().to_string(), "unless-stopped");
        let value = ground.engine.secrets(&["probe".to_owned()].into()).await.unwrap().remove("probe").unwrap();
        assert!(!shown.contains(&value), "the container's description shows a secret");
        let top =
            ground.raw.top_processes(&name(ground, "probe-1"), None::<bollard::query_parameters::TopOptions>).await;
        assert!(!format!("{:?}", top.unwrap()).contains(&value), "an argument list shows a secret");
    })
    .await;
}

#[tokio::test]
async fn an_accessor_removed_by_hand_makes_secrets_missing_until_they_are_made_sure_of() {
    with_ground("accessors", async |ground| {
        let images = images(ground).await.unwrap();
        let names = ["probe".to_owned()].into();
        ground.engine.ensure(&secret("probe"), &images, &Quiet).await.unwrap();
        let before = ground.engine.secrets(&names).await.unwrap();
        ground.raw.remove_container(&name(ground, "secrets-accessor"), None).await.unwrap();
        let other = support::connect().await.stack(ground.engine.stack());
        assert!(!other.observe().await.unwrap().secrets["probe"].is_readable);
        assert!(other.secrets(&names).await.is_err());
        other.ensure(&secret("probe"), &images, &Quiet).await.unwrap();
        assert_eq!(other.secrets(&names).await.unwrap(), before);
    })
    .await;
}

#[tokio::test]
async fn a_renamed_member_does_not_keep_its_volume_beside_the_new_one() {
    with_ground("renamed", async |ground| {
        let described = workload(ground, "probe-1");
        let old = ensured(ground, &described).await.unwrap();
        let options = RenameContainerOptions { name: name(ground, "probe-old") };
        ground.raw.rename_container(&name(ground, "probe-1"), options).await.unwrap();
        assert_eq!(observed(&*ground.engine, &described.member).await.unwrap().spec, None);
        ensured(ground, &described).await.unwrap();
        let gone = ground.raw.inspect_container(&old.instance, None::<InspectContainerOptions>).await;
        assert!(gone.is_err(), "the renamed container still stands");
    })
    .await;
}

#[tokio::test]
async fn a_stop_is_not_proven_while_somebody_uses_the_volume() {
    with_ground("proof", async |ground| {
        let images = images(ground).await.unwrap();
        ground.engine.ensure(&volume("data"), &images, &Quiet).await.unwrap();
        let described = with_volume(workload(ground, "probe-1"), "data");
        ensured(ground, &described).await.unwrap();
        let volume = format!("{}-data:/x", ground.engine.stack());
        let body = ContainerCreateBody {
            image: Some(base().reference()),
            cmd: Some(vec!["sleep".to_owned(), "60".to_owned()]),
            host_config: Some(HostConfig { binds: Some(vec![volume]), ..Default::default() }),
            ..Default::default()
        };
        let reader = name(ground, "reader");
        let options = CreateContainerOptions { name: Some(reader.clone()), ..Default::default() };
        ground.raw.create_container(Some(options), body).await.unwrap();
        ground.raw.start_container(&reader, None::<StartContainerOptions>).await.unwrap();

        ground.engine.set(&described.member, Power::Killed).await.unwrap();
        let refused = ground.engine.stopped(&described.member).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by running container {reader}")), "{refused}");

        ground.lose(&Member::named("reader")).await;
        let proof = ground.engine.stopped(&described.member).await.unwrap();
        assert!(proof.evidence.contains("exited (137)"), "{}", proof.evidence);
        let policy = async || inspect(ground, "probe-1").await.host_config.unwrap().restart_policy.unwrap().name;
        assert_eq!(policy().await.unwrap().to_string(), "no");
        ground.engine.set(&described.member, Power::Running).await.unwrap();
        assert_eq!(policy().await.unwrap().to_string(), "unless-stopped");
    })
    .await;
}

#[tokio::test]
async fn paused_and_crashing_members_are_told_apart_and_can_be_ended() {
    with_ground("states", async |ground| {
        let described = workload(ground, "probe-1");
        for power in [Power::Running, Power::Killed, Power::Stopped] {
            let running = ensured(ground, &described).await.unwrap();
            ground.raw.pause_container(&running.instance).await.unwrap();
            assert_eq!(observed(&*ground.engine, &described.member).await.unwrap().state, State::Paused);
            ground.engine.set(&described.member, power).await.unwrap();
            let after = observed(&*ground.engine, &described.member).await.unwrap();
            let expected = if power == Power::Running { State::Running } else { State::Exited };
            assert_eq!((after.state, after.instance), (expected, running.instance), "{power:?}");
        }
        let crashing = Workload { command: vec!["false".to_owned()], ..workload(ground, "probe-2") };
        ensured(ground, &crashing).await.unwrap();
        let seen = wait::until(Duration::from_secs(20), Duration::from_millis(50), async || {
            match observed(&*ground.engine, &crashing.member).await.unwrap().state {
                State::Restarting => Look::<(), ()>::Done(()),
                other => Look::Pending(other.word().to_owned()),
            }
        });
        seen.await.unwrap();
        assert!(ground.engine.stopped(&crashing.member).await.is_err());
        ground.engine.set(&crashing.member, Power::Killed).await.unwrap();
        ground.engine.stopped(&crashing.member).await.unwrap();

        let once =
            Workload { command: vec!["false".to_owned()], restart: Restart::Never, ..workload(ground, "probe-3") };
        ensured(ground, &once).await.unwrap();
        let seen = wait::until(Duration::from_secs(20), Duration::from_millis(50), async || {
            match observed(&*ground.engine, &once.member).await.unwrap().state {
                State::Exited => Look::<(), ()>::Done(()),
                other => Look::Pending(other.word().to_owned()),
            }
        });
        seen.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn the_host_is_described() {
    let ground = on_docker("host").await;
    let host = ground.engine.host().await.unwrap();
    assert!(host.engine.starts_with("Docker ") && host.is_supported.is_ok(), "{host:?}");
    assert!(host.cpus > 0 && host.memory_bytes > 0);
    assert_eq!(host.is_local, host.free_disk_bytes.is_some());
    ground.clean().await;
}

#[tokio::test]
async fn a_survey_finds_stacks_and_ended_jobs_and_a_running_job_is_not_discarded() {
    with_ground("survey", async |ground| {
        let (stack, docker) = (ground.engine.stack().clone(), support::connect().await);
        assert!(!docker.survey().await.unwrap().stacks.contains(&stack));
        let job = |word: &str| format!("{stack}-job-{word}");
        for (word, command) in [("ended", vec!["true"]), ("running", vec!["sleep", "60"])] {
            let labels = [("provisioner.stack", stack.as_str()), ("provisioner.kind", "job")];
            let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let cmd = Some(command.into_iter().map(str::to_owned).collect());
            let body = ContainerCreateBody {
                image: Some(base().reference()),
                labels: Some(labels),
                cmd,
                ..Default::default()
            };
            let options = CreateContainerOptions { name: Some(job(word)), ..Default::default() };
            ground.raw.create_container(Some(options), body).await.unwrap();
            ground.raw.start_container(&job(word), None::<StartContainerOptions>).await.unwrap();
        }
        let left = |word: &str| Leftover::Job { stack: stack.clone(), container: job(word) };
        let ended =
            wait::until(Duration::from_secs(10), Duration::from_millis(50), async || match docker.survey().await {
                Ok(survey) if survey.ended_jobs.contains(&left("ended")) => Look::Done(survey),
                Ok(_) => Look::Pending("the job has not ended".to_owned()),
                Err(error) => Look::Broken(error),
            });
        let survey = ended.await.unwrap();
        assert!(survey.stacks.contains(&stack) && !survey.ended_jobs.contains(&left("running")));
        let used = Leftover::Image { reference: base().reference() };
        assert!(!survey.unused_images.contains(&used));

        docker.discard(&left("ended")).await.unwrap();
        docker.discard(&left("ended")).await.unwrap();
        docker.discard(&left("running")).await.unwrap_err();
        assert_eq!(ground.containers().await, [format!("/{}", job("running"))]);
    })
    .await;
}

/// A disk of its own, as an operator makes one before the first `up`.
async fn small_disk(ground: &OnDocker, name: &str, mebibytes: u32) {
    let stack = ground.engine.stack().to_string();
    let labels = [("provisioner.stack", stack.as_str()), ("provisioner.kind", "volume"), ("provisioner.volume", name)];
    let options = [("type", "tmpfs"), ("device", "tmpfs"), ("o", &format!("size={mebibytes}m"))];
    let owned = |pairs: [(&str, &str); 3]| Some(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    let request = VolumeCreateRequest {
        name: Some(format!("{stack}-{name}")),
        labels: owned(labels),
        driver_opts: owned(options),
        ..Default::default()
    };
    ground.raw.create_volume(request).await.unwrap();
}

#[tokio::test]
async fn a_disk_of_its_own_is_filled_to_the_last_byte_and_emptied_again() {
    with_ground("full", async |ground| {
        let images = images(ground).await.unwrap();
        small_disk(ground, "data", 16).await;
        ground.engine.ensure(&volume("data"), &images, &Quiet).await.unwrap();
        let described = with_volume(workload(ground, "probe-1"), "data");
        ensured(ground, &described).await.unwrap();
        let faults = ground.engine.faults().unwrap();
        let write = ["/bin/sh", "-c", "echo one | tee /data/row"].map(str::to_owned);
        let written =
            async || ground.engine.exec(&described.member, &write, None).await.unwrap().finish().await.unwrap();

        assert_eq!(faults.cannot(&described.member, Fault::DiskFull).await.unwrap(), None);
        faults.inject(&described.member, Fault::DiskFull).await.unwrap();
        let refused = written().await;
        assert!(refused.exit_code != 0 && refused.stderr.contains("No space left"), "{refused:?}");
        for _ in 0..2 {
            faults.heal(&described, Fault::DiskFull).await.unwrap();
            assert_eq!(written().await.stdout, "one\n");
        }
    })
    .await;
}

#[tokio::test]
async fn a_disk_in_memory_that_its_member_could_not_hold_is_not_filled() {
    with_ground("memory", async |ground| {
        let images = images(ground).await.unwrap();
        small_disk(ground, "data", 128).await;
        ground.engine.ensure(&volume("data"), &images, &Quiet).await.unwrap();
        let described = with_volume(workload(ground, "probe-1"), "data");
        ensured(ground, &described).await.unwrap();
        let why = ground.engine.faults().unwrap().cannot(&described.member, Fault::DiskFull).await.unwrap();
        assert!(why.is_some_and(|why| why.contains("the memory that it may use")));
    })
    .await;
}
