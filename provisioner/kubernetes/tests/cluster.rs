//! What only Kubernetes promises. Needs a cluster: see `support`.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ResourceQuota};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use provisioner_core::engine::{Engine, EngineError, ImageReferences, Power, Quiet};
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::State;
use provisioner_core::stack::{
    Expose, Image, ImageId, Port, Probe, Probes, Resource, ResourceId, Restart, Text, Volume, Workload,
};
use provisioner_core::testing::contract::{ensured, id, images, observed, secret, volume, with_volume, workload};
use provisioner_core::wait::{self, Look};
use provisioner_kubernetes::{Access, Exposure, Kubernetes, KubernetesEngine, Options};
use serde_json::json;
use support::{OnKubernetes, foreign, with_ground};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Every promise of failing fast is kept within this time.
const FAST: Duration = Duration::from_secs(45);

async fn refused(ground: &OnKubernetes, described: &Workload) -> String {
    let images = images(ground).await.unwrap();
    refused_with(ground, described, &images).await
}

async fn refused_with(ground: &OnKubernetes, described: &Workload, images: &ImageReferences) -> String {
    let begin = Instant::now();
    ground.engine.ensure(&Resource::Network, images, &Quiet).await.unwrap();
    let ensured = ground.engine.ensure(&Resource::Workload(Arc::new(described.clone())), images, &Quiet).await;
    assert!(begin.elapsed() < FAST, "{:?}", begin.elapsed());
    ensured.unwrap_err().to_string()
}

fn script(mut described: Workload, script: &str) -> Workload {
    described.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
    described
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_pulled_is_told_within_seconds() {
    with_ground("image", async |ground| {
        let id = ImageId("gone".to_owned());
        let reference = "10.200.0.254:1/gone:1".to_owned();
        let image = Image::Reference { id: id.clone(), reference: reference.clone() };
        let images = BTreeMap::from([(id.clone(), reference)]);
        ground.engine.ensure(&Resource::Image(image), &images, &Quiet).await.unwrap();
        let described = Workload { image: id, ..workload(ground, "probe-1") };
        let said = refused_with(ground, &described, &images).await;
        assert!(said.starts_with("start probe-1: ") && said.contains("ImagePull") && said.contains("gone:1"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_keeps_ending_is_told_with_its_last_words() {
    with_ground("crash", async |ground| {
        let described = script(workload(ground, "probe-1"), "echo no such table; exit 3");
        let said = refused(ground, &described).await;
        assert!(said.contains("ended with 3") && said.contains("no such table"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_fits_no_node_is_told() {
    with_ground("fit", async |ground| {
        let mut described = workload(ground, "probe-1");
        described.limits.memory_bytes = Some(1 << 50);
        let said = refused(ground, &described).await;
        assert!(said.contains("Unschedulable: ") && said.contains("Insufficient memory"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_told_in_the_servers_words() {
    with_ground("quota", async |ground| {
        images(ground).await.unwrap();
        let quota: ResourceQuota =
            serde_json::from_value(json!({"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}})).unwrap();
        let quotas: Api<ResourceQuota> = Api::namespaced(ground.client.clone(), ground.engine.namespace());
        quotas.create(&PostParams::default(), &quota).await.unwrap();
        let known = wait::until(Duration::from_secs(20), Duration::from_millis(100), async || {
            match quotas.get("small").await {
                Ok(found) if found.status.as_ref().is_some_and(|status| status.hard.is_some()) => Look::Done(()),
                Ok(_) => Look::Pending("its controller has not seen it".to_owned()),
                Err(error) => Look::Broken(error),
            }
        });
        known.await.unwrap();
        let said = refused(ground, &workload(ground, "probe-1")).await;
        assert!(said.contains("FailedCreate: ") && said.contains("exceeded quota: small"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_by_hand_is_a_conflict_and_stays() {
    with_ground("edit", async |ground| {
        let mut described = workload(ground, "probe-1");
        ensured(ground, &described).await.unwrap();
        let deployments: Api<Deployment> = Api::namespaced(ground.client.clone(), ground.engine.namespace());
        let by_hand = PatchParams { field_manager: Some("kubectl-edit".to_owned()), ..PatchParams::default() };
        let edit = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 7}}}});
        deployments.patch("probe-1", &by_hand, &Patch::Merge(edit)).await.unwrap();
        described.stop.grace_secs = 9;
        let said = refused(ground, &described).await;
        assert!(said.contains("spec.template.spec.terminationGracePeriodSeconds was set by kubectl-edit"), "{said}");
        let found = deployments.get("probe-1").await.unwrap();
        let spec = found.spec.unwrap().template.spec.unwrap();
        assert_eq!(spec.termination_grace_period_seconds, Some(7));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_of_somebody_else_is_refused_and_one_that_is_given_and_empty_is_used() {
    with_ground("theirs", async |ground| {
        let name = ground.engine.namespace().to_owned();
        let namespaces: Api<Namespace> = Api::all(ground.client.clone());
        let theirs: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &theirs).await.unwrap();
        let said = ground.engine.observe().await.unwrap_err().to_string();
        assert!(said.contains("was not made for this stack") && said.contains("--namespace"), "{said}");
        let said = ground.engine.ensure(&volume("data"), &BTreeMap::new(), &Quiet).await.unwrap_err().to_string();
        assert!(said.contains("was not made for this stack"), "{said}");

        let access = Access { namespace: Some(name.clone()), ..support::access() };
        let given = provisioner_kubernetes::Kubernetes::connect(&access).await.unwrap();
        let given = given.stack(&StackName::new("given").unwrap());
        given.ensure(&volume("data"), &BTreeMap::new(), &Quiet).await.unwrap();
        let said = ground.engine.observe().await.unwrap_err().to_string();
        assert!(said.contains("it belongs to stack given"), "{said}");
        given.remove(&ResourceId::Volume("data".to_owned())).await.unwrap();
        given.remove(&ResourceId::Network).await.unwrap();
        let left = namespaces.get(&name).await.unwrap().metadata.labels.unwrap_or_default();
        assert!(!left.contains_key("provisioner.dev/stack"), "{left:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_in_which_somebodys_pods_run_is_not_taken() {
    with_ground("taken", async |ground| {
        let name = ground.engine.namespace().to_owned();
        let namespaces: Api<Namespace> = Api::all(ground.client.clone());
        let theirs: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &theirs).await.unwrap();
        let pods: Api<Pod> = Api::namespaced(ground.client.clone(), &name);
        let spec = serde_json::to_value(foreign("x").spec.unwrap().template.spec.unwrap()).unwrap();
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "theirs"}, "spec": spec})).unwrap();
        // The account of a new namespace comes a moment later.
        let made = wait::until(Duration::from_secs(20), Duration::from_millis(100), async || {
            match pods.create(&PostParams::default(), &pod).await {
                Ok(_) => Look::Done(()),
                Err(kube::Error::Api(status)) if status.code == 403 => Look::Pending(status.message.clone()),
                Err(error) => Look::Broken(error),
            }
        });
        made.await.unwrap();
        let access = Access { namespace: Some(name), ..support::access() };
        let given = provisioner_kubernetes::Kubernetes::connect(&access).await.unwrap();
        let given = given.stack(&StackName::new("given").unwrap());
        let said = given.ensure(&volume("data"), &BTreeMap::new(), &Quiet).await.unwrap_err().to_string();
        assert!(said.contains("pod theirs is in it"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_must_not_come_back_stays_down_until_it_is_started() {
    with_ground("once", async |ground| {
        let script_text = "trap 'exit 0' TERM; echo started; while [ ! -e /tmp/end ]; do sleep 0.1; done; exit 1";
        let mut described = script(workload(ground, "probe-1"), script_text);
        described.restart = Restart::Never;
        described.scratch = vec!["/tmp".to_owned()];
        let first = ensured(ground, &described).await.unwrap();
        let engine = &*ground.engine;
        let end = ["/bin/sh", "-c", "touch /tmp/end"].map(str::to_owned);
        engine.exec(&described.member, &end, None).await.unwrap().finish().await.unwrap();
        let ended = async |member: &Member| {
            wait::until(Duration::from_secs(30), Duration::from_millis(200), async || match engine.observe().await {
                Ok(seen) if seen.workloads[member].state == State::Exited => Look::Done(()),
                Ok(seen) => Look::Pending(format!("it is {}", seen.workloads[member].state.word())),
                Err(error) => Look::Broken(error),
            })
            .await
        };
        ended(&described.member).await.unwrap();
        // It was tried again by the node at least once by the time that it backs off.
        let pods: Api<Pod> = Api::namespaced(ground.client.clone(), engine.namespace());
        let tried = wait::until(Duration::from_secs(60), Duration::from_millis(500), async || {
            match pods.list(&ListParams::default()).await {
                Ok(found) => {
                    let statuses = found.items.iter().flat_map(|pod| pod.status.iter());
                    let restarts = statuses.flat_map(|status| status.container_statuses.iter().flatten());
                    let restarts = restarts.map(|status| status.restart_count).max();
                    if restarts >= Some(1) { Look::Done(()) } else { Look::Pending(format!("{restarts:?}")) }
                }
                Err(error) => Look::Broken(error),
            }
        });
        tried.await.unwrap();
        ended(&described.member).await.unwrap();
        engine.stopped(&described.member).await.unwrap();
        engine.set(&described.member, Power::Running).await.unwrap();
        let again = observed(engine, &described.member).await.unwrap();
        assert_eq!((again.state, again.instance), (State::Running, first.instance));
    })
    .await;
}

async fn answer(address: std::net::SocketAddr) -> String {
    let asked = wait::until(Duration::from_secs(20), Duration::from_millis(100), async || {
        let text = async {
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            stream.write_all(b"hello\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        };
        match text.await {
            Ok(text) if text.is_empty() => Look::Pending("closed without an answer".to_owned()),
            Ok(text) => Look::Done(text),
            Err(error) => Look::<_, EngineError>::Pending(error.to_string()),
        }
    });
    asked.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_leads_to_whichever_pod_the_member_has() {
    with_ground("address", async |ground| {
        let server = r#"use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 5, LocalPort => 8080, ReuseAddr => 1) or die;
            while (my $c = $s->accept) { my $l = <$c>; print $c "$ARGV[0] $l"; close $c }"#;
        let mut described = workload(ground, "probe-1");
        described.ports = vec![Port::new("http", 8080, Expose::Checks)];
        described.command = ["perl", "-e", server, "one"].map(str::to_owned).into();
        described.stop.grace_secs = 1;
        ensured(ground, &described).await.unwrap();
        let address = ground.engine.address(&described.member, 8080).await.unwrap();
        assert_eq!(answer(address).await, "one hello\n");
        described.command.pop();
        described.command.push("two".to_owned());
        ensured(ground, &described).await.unwrap();
        assert_eq!(ground.engine.address(&described.member, 8080).await.unwrap(), address);
        assert_eq!(answer(address).await, "two hello\n");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_no_description_of_a_pod() {
    with_ground("secret", async |ground| {
        let images = images(ground).await.unwrap();
        ground.engine.ensure(&secret("probe"), &images, &Quiet).await.unwrap();
        ground.engine.ensure(&volume("data"), &images, &Quiet).await.unwrap();
        let mut described = with_volume(workload(ground, "probe-1"), "data");
        described.secret_env.insert("PASSWORD".to_owned(), Text::new(Text::secret("probe")));
        ensured(ground, &described).await.unwrap();
        let value = ground.engine.secrets(&["probe".to_owned()].into()).await.unwrap()["probe"].clone();
        let namespace = ground.engine.namespace();
        let sets: Api<StatefulSet> = Api::namespaced(ground.client.clone(), namespace);
        let pods: Api<Pod> = Api::namespaced(ground.client.clone(), namespace);
        let sets = sets.list(&ListParams::default()).await.unwrap();
        let pods = pods.list(&ListParams::default()).await.unwrap();
        assert!((sets.items.len(), pods.items.len()) == (1, 1));
        let text = serde_json::to_string(&(sets.items, pods.items)).unwrap();
        assert!(!text.contains(&value));
        let told = ground.engine.evidence(0).await.unwrap();
        assert!(told.contains_key("events.txt") && told.values().all(|text| !text.contains(&value)), "{told:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_thing_takes_the_namespace_with_it() {
    with_ground("last", async |ground| {
        let engine = &*ground.engine;
        let images = images(ground).await.unwrap();
        let lock = engine.records().put_if("lock", 0, json!("held")).await.unwrap();
        engine.ensure(&volume("data"), &images, &Quiet).await.unwrap();
        ensured(ground, &with_volume(workload(ground, "probe-1"), "data")).await.unwrap();
        engine.remove(&id("probe-1")).await.unwrap();
        engine.remove(&ResourceId::Network).await.unwrap();
        let namespaces: Api<Namespace> = Api::all(ground.client.clone());
        assert!(namespaces.get_opt(engine.namespace()).await.unwrap().is_some(), "data stays");
        engine.remove(&ResourceId::Volume("data".to_owned())).await.unwrap();
        assert!(namespaces.get_opt(engine.namespace()).await.unwrap().is_some(), "somebody holds the lock");
        engine.records().remove_if("lock", lock).await.unwrap();
        assert!(namespaces.get_opt(engine.namespace()).await.unwrap().is_none());
        assert!(engine.observe().await.unwrap().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_describes_itself() {
    with_ground("host", async |ground| {
        let host = ground.engine.host().await.unwrap();
        assert!(host.engine.starts_with("Kubernetes v1.") && host.is_supported == Ok(()), "{host:?}");
        assert!(host.cpus > 0 && host.memory_bytes > 1 << 28, "{host:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_members_ports_come_and_go() {
    with_ground("ports", async |ground| {
        let without = workload(ground, "probe-1");
        let port = Port::new("http", 8080, Expose::Checks);
        let with = Workload { ports: vec![port], ..without.clone() };
        for described in [&without, &with, &without] {
            let found = ensured(ground, described).await.unwrap();
            assert_eq!(found.published.len(), described.ports.len());
        }
    })
    .await;
}

/// The same as `kill -9` of the provisioner at any time, for a member with a file, a secret and a volume.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cut_off_at_any_time_converges_when_it_is_run_again() {
    with_ground("cut", async |ground| {
        let images = images(ground).await.unwrap();
        let mut described = with_volume(workload(ground, "probe-1"), "data");
        described.secret_env.insert("PASSWORD".to_owned(), Text::new(Text::secret("probe")));
        let all = |described: &Workload| {
            let workload = Resource::Workload(Arc::new(described.clone()));
            [Resource::Network, secret("probe"), volume("data"), workload]
        };
        for cut in [1, 4, 8, 12, 16, 24, 32, 64, 500, 1500] {
            // Another description each time, so that there is something to do.
            described.env.insert("CUT".to_owned(), cut.to_string());
            // A new engine each time, as a new process has one.
            let engine = support::connect().await.stack(ground.engine.stack());
            let run = async {
                for resource in all(&described) {
                    engine.ensure(&resource, &images, &Quiet).await.unwrap();
                }
            };
            let _ = tokio::time::timeout(Duration::from_millis(cut), run).await;
            for resource in all(&described) {
                ground.engine.ensure(&resource, &images, &Quiet).await.unwrap();
            }
            let value = ground.engine.secrets(&["probe".to_owned()].into()).await.unwrap()["probe"].clone();
            let script = "echo $CUT; cat /etc/probe.conf; . /run/provisioner/env; echo $PASSWORD";
            let argv = ["/bin/sh", "-c", script].map(str::to_owned);
            let seen = ground.engine.exec(&described.member, &argv, None).await.unwrap().finish().await.unwrap();
            assert_eq!(seen.stdout, format!("{cut}\none\n{value}\n"), "cut after {cut} ms");
        }
    })
    .await;
}

/// Whether the endpoint of a Service is led to, and whether its pod is ready.
async fn is_led_to(ground: &OnKubernetes, service: &str) -> Option<bool> {
    let slices: Api<EndpointSlice> = Api::namespaced(ground.client.clone(), ground.engine.namespace());
    let of = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let found = slices.list(&of).await.unwrap();
    let mut endpoints = found.items.into_iter().flat_map(|slice| slice.endpoints);
    endpoints.next()?.conditions?.ready
}

async fn until_led_to(ground: &OnKubernetes, service: &str, expected: bool) {
    let waited = wait::until(Duration::from_secs(30), Duration::from_millis(200), async || {
        match is_led_to(ground, service).await {
            Some(found) if found == expected => Look::Done(()),
            found => Look::<_, EngineError>::Pending(format!("{service}: {found:?}, expected {expected}")),
        }
    });
    waited.await.unwrap();
}

/// Kept from being ready until somebody says so.
fn unready(mut described: Workload) -> Workload {
    let argv = ["test", "-e", "/tmp/ready"].map(str::to_owned).into();
    described.probes = Some(Probes::ready(Probe::Command { argv }));
    described.scratch.push("/tmp".to_owned());
    described
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_led_to_whom_is_ready_and_members_to_each_other_in_any_case() {
    with_ground("ready", async |ground| {
        let options = Options { expose: Exposure::NodePort, ..Options::default() };
        let access = Access { options, ..support::access() };
        let engine = Kubernetes::connect(&access).await.unwrap().stack(ground.engine.stack());
        let images = images(ground).await.unwrap();
        let mut described = unready(workload(ground, "probe-1"));
        let expose = Expose::Address { ip: [127, 0, 0, 1].into(), port: 80 };
        described.ports = vec![Port::new("http", 8080, expose)];
        // It comes back although it is not ready: nobody waits for that here.
        engine.ensure(&Resource::Network, &images, &Quiet).await.unwrap();
        engine.ensure(&Resource::Workload(Arc::new(described.clone())), &images, &Quiet).await.unwrap();
        until_led_to(ground, "probe-1", true).await;
        until_led_to(ground, "probe-1-public", false).await;
        let argv = ["touch", "/tmp/ready"].map(str::to_owned);
        engine.exec(&described.member, &argv, None).await.unwrap().finish().await.unwrap();
        until_led_to(ground, "probe-1-public", true).await;
    })
    .await;
}

/// A StatefulSet may wait for a pod that is not ready before it replaces it.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_never_becomes_ready_is_replaced_all_the_same() {
    with_ground("never-ready", async |ground| {
        let images = images(ground).await.unwrap();
        ground.engine.ensure(&volume("data"), &images, &Quiet).await.unwrap();
        let stateful = with_volume(unready(workload(ground, "probe-1")), "data");
        for mut described in [stateful, unready(workload(ground, "probe-2"))] {
            let first = ensured(ground, &described).await.unwrap();
            let again = ensured(ground, &described).await.unwrap();
            assert_eq!((again.state, &again.instance), (State::Running, &first.instance));
            described.probes = Some(Probes::ready(Probe::Command { argv: vec!["false".to_owned()] }));
            let other = ensured(ground, &described).await.unwrap();
            assert!(other.state == State::Running && other.instance != first.instance);
            assert_ne!(other.spec, first.spec);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_start_in_time_is_started_again_and_who_is_unready_is_not() {
    with_ground("start", async |ground| {
        let slow = |member: &str, started: bool| {
            let mut described = unready(workload(ground, member));
            let probes = described.probes.take().unwrap();
            let never = Probe::Command { argv: vec!["false".to_owned()] };
            described.probes = Some(if started { probes.started(never, 2) } else { probes });
            described.stop.grace_secs = 1;
            described
        };
        let (given, free) = (slow("probe-1", true), slow("probe-2", false));
        let images = images(ground).await.unwrap();
        ground.engine.ensure(&Resource::Network, &images, &Quiet).await.unwrap();
        for described in [&free, &given] {
            let resource = Resource::Workload(Arc::new(described.clone()));
            ground.engine.ensure(&resource, &images, &Quiet).await.unwrap();
        }
        let pods: Api<Pod> = Api::namespaced(ground.client.clone(), ground.engine.namespace());
        let restarts = async |member: &str| {
            let of = ListParams::default().labels(&format!("provisioner.dev/member={member}"));
            let found = pods.list(&of).await.unwrap();
            let statuses = found.items.iter().flat_map(|pod| pod.status.iter());
            statuses.flat_map(|it| it.container_statuses.iter().flatten()).map(|it| it.restart_count).max()
        };
        let waited = wait::until(Duration::from_secs(60), Duration::from_millis(500), async || {
            match restarts("probe-1").await {
                Some(count) if count > 0 => Look::Done(()),
                count => Look::<_, EngineError>::Pending(format!("{count:?} restarts")),
            }
        });
        waited.await.unwrap();
        assert_eq!(restarts("probe-2").await, Some(0));
    })
    .await;
}

fn sized(bytes: u64) -> Resource {
    let size_bytes = Some(bytes);
    Resource::Volume(Volume { name: "data".to_owned(), component: "probe".to_owned(), size_bytes })
}

async fn resized(engine: &KubernetesEngine, bytes: u64) -> Result<u64, String> {
    let ensured = engine.ensure(&sized(bytes), &ImageReferences::new(), &Quiet).await;
    ensured.map_err(|error| error.to_string())?;
    Ok(engine.observe().await.unwrap().volume_bytes["data"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_has_the_size_that_was_asked_for_and_its_class_decides_whether_it_grows() {
    with_ground("sizes", async |ground| {
        let (small, large) = (256 << 20, 512 << 20);
        assert_eq!(resized(&ground.engine, small).await, Ok(small));
        let said = resized(&ground.engine, small / 2).await.unwrap_err();
        assert!(
            said.contains("resize volume data: it has 268435456 bytes") && said.contains("never shrinks"),
            "{said}"
        );
        let classes: Api<StorageClass> = Api::all(ground.client.clone());
        let all = classes.list(&ListParams::default()).await.unwrap().items;
        let is_default = |class: &&StorageClass| {
            let noted = class.metadata.annotations.as_ref();
            noted
                .and_then(|noted| noted.get("storageclass.kubernetes.io/is-default-class"))
                .is_some_and(|is| is == "true")
        };
        let default = all.iter().find(is_default).unwrap();
        if default.allow_volume_expansion != Some(true) {
            // A claim that no pod has used yet is bound to nothing, and the server says that first.
            let described = with_volume(workload(ground, "probe-1"), "data");
            ensured(ground, &described).await.unwrap();
            let said = resized(&ground.engine, large).await.unwrap_err();
            assert!(said.contains("can be resized") && said.contains("set probe.disk to 256MiB as it was"), "{said}");
        }
    })
    .await;
}

/// By a class of the test's own, which lets volumes grow. Whether anybody gives the room is the driver's business.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_where_its_class_lets_it() {
    with_ground("grows", async |ground| {
        let classes: Api<StorageClass> = Api::all(ground.client.clone());
        let all = classes.list(&ListParams::default()).await.unwrap().items;
        let name = "contract-grows".to_owned();
        let class = StorageClass {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            allow_volume_expansion: Some(true),
            ..all[0].clone()
        };
        let _ = classes.delete(&name, &DeleteParams::default()).await;
        classes.create(&PostParams::default(), &class).await.unwrap();
        let options = Options { storage_class: Some(name.clone()), ..Options::default() };
        let access = Access { options, ..support::access() };
        let engine = Kubernetes::connect(&access).await.unwrap().stack(ground.engine.stack());
        let (small, large) = (256 << 20, 512 << 20);
        assert_eq!(resized(&engine, small).await, Ok(small));
        ensured_by(&engine, ground, &with_volume(workload(ground, "probe-1"), "data")).await;
        // The choice of another class and mode does not stand in the way of what is there.
        assert_eq!(resized(&ground.engine, large).await, Ok(large));
        classes.delete(&name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

async fn ensured_by(engine: &KubernetesEngine, ground: &OnKubernetes, described: &Workload) {
    let images = images(ground).await.unwrap();
    for resource in [Resource::Network, Resource::Workload(Arc::new(described.clone()))] {
        engine.ensure(&resource, &images, &Quiet).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_reach_a_member_is_told_to_the_cluster_and_goes_with_it() {
    with_ground("paths", async |ground| {
        let policies: Api<NetworkPolicy> = Api::namespaced(ground.client.clone(), ground.engine.namespace());
        let names = async || {
            let found = policies.list(&ListParams::default()).await.unwrap();
            found.items.into_iter().filter_map(|policy| policy.metadata.name).collect::<Vec<_>>()
        };
        let rules = async || policies.get("probe-1").await.unwrap().spec.unwrap().ingress.unwrap_or_default();
        let mut described = workload(ground, "probe-1");
        ensured(ground, &described).await.unwrap();
        assert_eq!((names().await, rules().await), (vec!["default-deny".to_owned(), "probe-1".to_owned()], Vec::new()));
        described.ports = vec![Port::new("http", 8080, Expose::Checks).reached_by(&["web", "drill"])];
        ensured(ground, &described).await.unwrap();
        let told = serde_json::to_value(rules().await).unwrap();
        assert_eq!(told[0]["from"][0]["podSelector"]["matchExpressions"][0]["values"], json!(["web", "drill"]));
        assert_eq!(told[0]["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
        // Whatever else runs in the namespace is somebody else's.
        let denied = policies.get("default-deny").await.unwrap().spec.unwrap();
        let selected = denied.pod_selector.unwrap().match_labels.unwrap();
        assert_eq!(selected.into_keys().collect::<Vec<_>>(), ["provisioner.dev/stack"]);
        ground.engine.remove(&id("probe-1")).await.unwrap();
        assert_eq!(names().await, ["default-deny"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_have_no_token_a_budget_and_a_node_each() {
    with_ground("manners", async |ground| {
        let members = ["probe-1", "probe-2"].map(|member| {
            let mut described = workload(ground, member);
            described.limits.memory_bytes = Some(48 << 20);
            described.limits.cpu_millis = Some(500);
            described
        });
        for described in &members {
            ensured(ground, described).await.unwrap();
        }
        let namespace = ground.engine.namespace();
        let pods: Api<Pod> = Api::namespaced(ground.client.clone(), namespace);
        let found = pods.list(&ListParams::default()).await.unwrap().items;
        let mut nodes = BTreeSet::new();
        for pod in &found {
            let spec = pod.spec.as_ref().unwrap();
            nodes.extend(spec.node_name.clone());
            assert_eq!((spec.service_account_name.as_deref(), spec.containers.len()), (Some("probe"), 1));
            let resources = serde_json::to_value(&spec.containers[0].resources).unwrap();
            let expected = json!({"limits": {"cpu": "500m", "memory": "50331648"},
                "requests": {"cpu": "50m", "memory": "50331648"}});
            assert_eq!(resources, expected);
        }
        let all: Api<Node> = Api::all(ground.client.clone());
        let is_ready = |node: &&Node| {
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|it| it.type_ == "Ready" && it.status == "True")
        };
        let count = all.list(&ListParams::default()).await.unwrap().items.iter().filter(is_ready).count();
        assert_eq!((found.len(), nodes.len()), (2, count.min(2)), "{nodes:?}");
        for described in &members {
            let argv = ["ls", "/var/run/secrets/kubernetes.io"].map(str::to_owned);
            let looked = ground.engine.exec(&described.member, &argv, None).await.unwrap().finish().await.unwrap();
            assert_ne!(looked.exit_code, 0, "{}", looked.stdout);
        }
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(ground.client.clone(), namespace);
        let counted = wait::until(Duration::from_secs(20), Duration::from_millis(200), async || {
            let status = budgets.get("probe").await.map(|budget| budget.status.unwrap_or_default());
            match status.map(|it| (it.expected_pods, it.disruptions_allowed)) {
                Ok((2, 1)) => Look::Done(()),
                Ok(other) => Look::Pending(format!("{other:?} of pods and disruptions, expected 2 and 1")),
                Err(error) => Look::Broken(error),
            }
        });
        counted.await.unwrap();
    })
    .await;
}
