//! What a cluster does for members by itself, once it is told: whom it leads people to, what it starts again, who gets in, how
//! large a volume is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use provisioner_core::engine::{Engine, EngineError, ImageReferences, Quiet};
use provisioner_core::observed::{Network, State};
use provisioner_core::stack::{
    self, Expose, Fingerprint, Port, Probe, Probes, Resource, SecretSource, Volume, Workload,
};
use provisioner_core::testing::contract::{ensured, id, images, observed, volume, with_volume, workload};
use provisioner_core::wait::{self, Look};
use provisioner_kubernetes::{Access, Exposure, Kubernetes, KubernetesEngine, Options};
use serde_json::json;

use crate::support::{self, OnKubernetes, with_ground};

fn of<K>(ground: &OnKubernetes) -> Api<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(ground.client.clone(), ground.engine.namespace())
}

/// Whether the endpoint of a Service is led to, and whether its pod is ready.
async fn is_led_to(ground: &OnKubernetes, service: &str) -> Option<bool> {
    let slices = of::<EndpointSlice>(ground);
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
        let pods = of::<Pod>(ground);
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

#[tokio::test(flavor = "multi_thread")]
async fn another_setting_of_the_cluster_reaches_a_member_that_stands() {
    with_ground("otherwise", async |ground| {
        let mut described = workload(ground, "probe-1");
        let address = Expose::Address { ip: "0.0.0.0".parse().unwrap(), port: 8080 };
        described.ports = vec![Port::new("http", 8080, address)];
        described.names = vec!["probe-any".to_owned()];
        ensured(ground, &described).await.unwrap();
        let images = images(ground).await.unwrap();
        let found = async || observed(&*ground.engine, &described.member).await.unwrap();
        let services = of::<Service>(ground);
        let has_port = async || services.get_opt("probe-1-public").await.unwrap().is_some();
        let with = async |options: Options| {
            let access = Access { options, ..support::access() };
            let engine = Kubernetes::connect(&access).await.unwrap().stack(ground.engine.stack());
            let today = engine.making(&described, &images[&described.image]);
            let before = found().await;
            assert_ne!(before.making, today);
            ensured_by(&engine, ground, &described).await;
            let after = found().await;
            assert_eq!((after.making, after.state), (today, State::Running));
            before.instance == after.instance
        };
        let open = Options { expose: Exposure::NodePort, ..Options::default() };
        assert_eq!((has_port().await, with(open.clone()).await, has_port().await), (false, true, true));
        // A secret that is not there is no obstacle for what a node holds or may pull as anybody.
        let pull_secrets = vec!["registry".to_owned()];
        assert!(!with(Options { pull_secrets: pull_secrets.clone(), ..open }).await, "its pod has to be another one");
        assert_eq!((with(Options { pull_secrets, ..Options::default() }).await, has_port().await), (true, false));
        assert!(!with(Options::default()).await);
        // What somebody deleted is as good as never made, and so is all that was made with it.
        let marked = found().await.making;
        let healed = async |what: &str| {
            assert_eq!(found().await.making.around, None, "{what}");
            ensured(ground, &described).await.unwrap();
            assert_eq!(found().await.making, marked, "{what}");
        };
        for name in ["probe-1", "probe-any"] {
            services.delete(name, &DeleteParams::default()).await.unwrap();
            healed(name).await;
        }
        of::<ServiceAccount>(ground).delete("probe", &DeleteParams::default()).await.unwrap();
        healed("account").await;
        of::<PodDisruptionBudget>(ground).delete("probe", &DeleteParams::default()).await.unwrap();
        healed("budget").await;
        let policies = of::<NetworkPolicy>(ground);
        policies.delete("probe-1", &DeleteParams::default()).await.unwrap();
        healed("policy").await;
        // What somebody opened is told, and is not shut behind their back.
        let open = Patch::Merge(json!({"spec": {"ingress": [{}]}}));
        let by_hand = PatchParams { field_manager: Some("hand".to_owned()), ..PatchParams::default() };
        policies.patch("probe-1", &by_hand, &open).await.unwrap();
        assert_eq!(found().await.making.around, None);
        let refused = ensured(ground, &described).await.unwrap_err().to_string();
        assert!(refused.contains("spec.ingress was set by hand"), "{refused}");
        // Where nothing was rendered for it to be in conflict with, too.
        let network = async || ground.engine.observe().await.unwrap().network;
        assert_eq!(network().await, Network::Present);
        policies.patch("default-deny", &by_hand, &open).await.unwrap();
        assert_eq!(network().await, Network::Edited, "whoever is not let in gets in");
        let opened = ground.engine.ensure(&Resource::Network, &images, &Quiet).await.unwrap_err().to_string();
        assert!(opened.contains("somebody else set spec.ingress"), "{opened}");
        policies.delete("default-deny", &DeleteParams::default()).await.unwrap();
        assert_eq!(network().await, Network::Edited);
        ground.engine.ensure(&Resource::Network, &images, &Quiet).await.unwrap();
        assert_eq!(network().await, Network::Present);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_somebody_keeps_is_taken_over_as_it_was_looked_at() {
    with_ground("pair", async |ground| {
        images(ground).await.unwrap();
        let engine = &ground.engine;
        let secrets: Api<Secret> = Api::namespaced(ground.client.clone(), engine.namespace());
        let keep = async |certificate: &str| {
            // The last line of a file may have no end.
            let data = json!({"tls.key": "KEY", "tls.crt": certificate});
            let described = json!({"metadata": {"name": "shop-tls"}, "stringData": data});
            let described: Secret = serde_json::from_value(described).unwrap();
            let _ = secrets.delete("shop-tls", &DeleteParams::default()).await;
            secrets.create(&PostParams::default(), &described).await.unwrap();
        };
        let ensure = async |digest: Option<Fingerprint>| {
            let source = SecretSource::Kept { name: "shop-tls".to_owned(), digest };
            let resource = Resource::Secret(stack::Secret { name: "tls-probe".to_owned(), source });
            engine.ensure(&resource, &ImageReferences::new(), &Quiet).await.map_err(|error| error.to_string())
        };
        let value =
            async || engine.secrets(&BTreeSet::from(["tls-probe".to_owned()])).await.unwrap().remove("tls-probe");
        let looked_at = async || {
            let pair = engine.kept_pair("shop-tls").await.unwrap();
            pair.map(|pair| Fingerprint::of_bytes(pair.as_bytes()))
        };
        assert_eq!(looked_at().await, None);
        keep("FIRST").await;
        let first = looked_at().await;
        ensure(first.clone()).await.unwrap();
        assert_eq!(value().await.as_deref(), Some("KEY\nFIRST"));
        keep("SECOND").await;
        assert_eq!(ensure(first).await, Ok(()), "it is there as it was asked for");
        let second = looked_at().await;
        keep("THIRD").await;
        let said = ensure(second).await.unwrap_err();
        assert!(said.contains("what is in shop-tls is not what was looked at"), "{said}");
        ensure(looked_at().await).await.unwrap();
        assert_eq!(value().await.as_deref(), Some("KEY\nTHIRD"));
        secrets.delete("shop-tls", &DeleteParams::default()).await.unwrap();
        assert_eq!(ensure(None).await, Ok(()), "what was taken over stays");
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
        let policies = of::<NetworkPolicy>(ground);
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
