//! Stacks on the cluster that `PROVISIONER_TEST_KUBECONFIG` or `KUBECONFIG` names, emptied before and after each test.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use provisioner_core::engine::Engine;
use provisioner_core::fault::Fault;
use provisioner_core::name::{Member, StackName};
use provisioner_core::stack::{Fingerprint, Image, ImageId};
use provisioner_core::testing::contract::{Abilities, Ground};
use provisioner_kubernetes::{Access, Kubernetes, KubernetesEngine};
use serde_json::json;

/// Every node has it, or can pull it.
const IMAGE: &str = "provisioner/base:trixie";
const USER: (u32, u32) = (1000, 2000);

pub(crate) struct OnKubernetes {
    pub(crate) engine: Arc<KubernetesEngine>,
    pub(crate) neighbour: Arc<KubernetesEngine>,
    pub(crate) client: Client,
}

#[allow(clippy::disallowed_methods, reason = "the tests' own place that reads the environment")]
pub(crate) fn access() -> Access {
    let named = std::env::var_os("PROVISIONER_TEST_KUBECONFIG").or_else(|| std::env::var_os("KUBECONFIG"));
    let named: PathBuf = named.unwrap_or_else(|| panic!("these tests need a cluster: name one with KUBECONFIG")).into();
    Access { kubeconfig: vec![named], ..Access::default() }
}

#[allow(clippy::disallowed_methods, reason = "the tests' own place that reads the environment")]
pub(crate) fn image() -> Image {
    let reference = std::env::var("PROVISIONER_TEST_IMAGE").unwrap_or_else(|_| IMAGE.to_owned());
    Image::Reference { id: ImageId("base".to_owned()), reference }
}

pub(crate) async fn connect() -> Kubernetes {
    let connected = Kubernetes::connect(&access()).await;
    connected.unwrap_or_else(|error| panic!("these tests need a cluster: {error}"))
}

async fn client() -> Client {
    let access = access();
    let kubeconfig = kube::config::Kubeconfig::read_from(&access.kubeconfig[0]).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// Stacks of their own for the case: its name is too long for a stack, so a hash stands for it.
pub(crate) async fn on_kubernetes(case: &str) -> OnKubernetes {
    let kubernetes = connect().await;
    let hash = Fingerprint::of_bytes(case.as_bytes());
    let stack = |kind: &str| StackName::new(format!("contract-{kind}-{}", &hash.as_str()[..8])).unwrap();
    let ground = OnKubernetes {
        engine: Arc::new(kubernetes.stack(&stack("a"))),
        neighbour: Arc::new(kubernetes.stack(&stack("b"))),
        client: client().await,
    };
    ground.clean().await;
    ground
}

/// Ends the stacks of a test also when it fails.
pub(crate) async fn with_ground(case: &str, body: impl AsyncFnOnce(&OnKubernetes)) {
    use futures_util::FutureExt;
    let ground = on_kubernetes(case).await;
    let ended = std::panic::AssertUnwindSafe(body(&ground)).catch_unwind().await;
    ground.clean().await;
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) async fn remove_namespace(client: &Client, name: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.delete(name, &DeleteParams::background()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return,
        other => drop(other.unwrap()),
    }
    let gone = await_condition(namespaces, name, |found: Option<&Namespace>| found.is_none());
    tokio::time::timeout(Duration::from_secs(120), gone).await.unwrap().unwrap();
}

/// A workload that a restricted namespace takes, made by nobody that the provisioner knows.
pub(crate) fn foreign(name: &str) -> Deployment {
    let Image::Reference { reference, .. } = image() else { panic!("a reference") };
    let labels = json!({"app": "foreign"});
    let container = json!({
        "name": "sleep",
        "image": reference,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "60"],
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    let security = json!({"runAsNonRoot": true, "runAsUser": USER.0, "seccompProfile": {"type": "RuntimeDefault"}});
    let spec = json!({"securityContext": security, "terminationGracePeriodSeconds": 1, "containers": [container]});
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}},
    }))
    .unwrap()
}

#[async_trait]
impl Ground for OnKubernetes {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    fn neighbour(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.neighbour) as Arc<dyn Engine>
    }

    fn abilities(&self) -> Abilities {
        let faults: Vec<Fault> = Vec::new();
        Abilities { faults, tells_streams_apart: false, user: Some(USER) }
    }

    fn image(&self) -> Image {
        image()
    }

    async fn intrude(&self, member: &Member) {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), self.engine.namespace());
        deployments.create(&PostParams::default(), &foreign(member.as_str())).await.unwrap();
    }

    async fn lose(&self, member: &Member) {
        let (name, namespace) = (member.as_str(), self.engine.namespace());
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        let sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), namespace);
        let _ = deployments.delete(name, &DeleteParams::background()).await;
        let _ = sets.delete(name, &DeleteParams::background()).await;
    }

    async fn clean(&self) {
        remove_namespace(&self.client, self.engine.namespace()).await;
        remove_namespace(&self.client, self.neighbour.namespace()).await;
    }
}
