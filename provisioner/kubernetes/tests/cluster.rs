//! What only Kubernetes promises. Needs a cluster: see `support`.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod duties;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Pod, ResourceQuota};
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use provisioner_core::engine::{Engine, EngineError, ImageReferences, Power, Quiet};
use provisioner_core::lease::{Holder, Lease, LeaseError};
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::State;
use provisioner_core::stack::{Expose, Image, ImageId, Port, Resource, ResourceId, Restart, Text, Workload};
use provisioner_core::testing::contract::{ensured, id, images, observed, secret, volume, with_volume, workload};
use provisioner_core::wait::{self, Look};
use provisioner_kubernetes::Access;
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
async fn the_lock_is_a_lease_that_names_who_holds_it() {
    with_ground("lock", async |ground| {
        let leases: Api<k8s_openapi::api::coordination::v1::Lease> =
            Api::namespaced(ground.client.clone(), ground.engine.namespace());
        let told = async || leases.get("record-lock").await.unwrap().spec.and_then(|spec| spec.holder_identity);
        let holder = |id: &str| Holder {
            id: id.to_owned(),
            user: "ada".to_owned(),
            host: "laptop".to_owned(),
            boot: String::new(),
            pid: 7,
            command: "up".to_owned(),
            since: 1_790_000_000,
        };
        let acquired = async |id: &str| {
            let engine: Arc<dyn Engine> = ground.engine.clone();
            Lease::acquire(engine, &holder(id), Duration::ZERO, &|_| false, &|_| {}).await
        };
        let lease = acquired("one").await.unwrap();
        assert_eq!(told().await.as_deref(), Some("ada@laptop (pid 7, `up`)"));
        assert!(matches!(acquired("two").await, Err(LeaseError::Held { holder, .. }) if holder.id == "one"));
        lease.release().await.unwrap();
        assert_eq!(told().await, None);
        acquired("two").await.unwrap().release().await.unwrap();
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
