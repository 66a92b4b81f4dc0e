//! Stacks on the engine of this machine, emptied before and after each test.

#![allow(dead_code, reason = "each test program uses its own part")]

pub(crate) mod proxy;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, ListContainersOptions, ListNetworksOptions, ListVolumesOptions, RemoveContainerOptions,
    RemoveVolumeOptions, StartContainerOptions,
};
use provisioner_core::engine::{Engine, Quiet};
use provisioner_core::name::{Member, StackName};
use provisioner_core::stack::{Fingerprint, Image, ImageId, Resource};
use provisioner_core::testing::contract::Ground;
use provisioner_docker::{Docker, DockerEngine, Endpoint, EndpointInputs};

pub(crate) struct OnDocker {
    pub(crate) engine: Arc<DockerEngine>,
    pub(crate) neighbour: Arc<DockerEngine>,
    pub(crate) raw: bollard::Docker,
}

#[allow(clippy::disallowed_methods, reason = "the tests' own place that reads the environment")]
pub(crate) fn endpoint() -> Endpoint {
    let inputs = EndpointInputs { host: std::env::var("DOCKER_HOST").ok(), ..EndpointInputs::default() };
    Endpoint::resolve(&inputs).unwrap_or_else(|error| panic!("these tests need a Docker engine: {error}"))
}

pub(crate) async fn connect() -> Docker {
    let endpoint = endpoint();
    let connected = Docker::connect(&endpoint).await;
    connected.unwrap_or_else(|error| panic!("these tests need a Docker engine: {error}"))
}

pub(crate) fn raw() -> bollard::Docker {
    let connected = match endpoint() {
        Endpoint::Unix(path) => bollard::Docker::connect_with_unix(&path.to_string_lossy(), 120, &API),
        Endpoint::Tcp { address, .. } => bollard::Docker::connect_with_http(&format!("tcp://{address}"), 120, &API),
    };
    connected.unwrap()
}

const API: bollard::ClientVersion = bollard::ClientVersion { major_version: 1, minor_version: 41 };

pub(crate) fn base() -> Image {
    Image::Base { id: ImageId("base".to_owned()), suite: "trixie".to_owned() }
}

/// Stacks of their own for the case: its name is too long for a stack, so a hash stands for it.
pub(crate) async fn on_docker(case: &str) -> OnDocker {
    let docker = connect().await;
    let hash = Fingerprint::of_bytes(case.as_bytes());
    let stack = |kind: &str| StackName::new(format!("contract-{kind}-{}", &hash.as_str()[..8])).unwrap();
    let ground = OnDocker {
        engine: Arc::new(docker.stack(&stack("a"))),
        neighbour: Arc::new(docker.stack(&stack("b"))),
        raw: raw(),
    };
    ground.clean().await;
    make_base(&ground).await;
    ground
}

/// Ends the stacks of a test also when it fails.
pub(crate) async fn with_ground(case: &str, body: impl AsyncFnOnce(&OnDocker)) {
    use futures_util::FutureExt;
    let ground = on_docker(case).await;
    let ended = std::panic::AssertUnwindSafe(body(&ground)).catch_unwind().await;
    ground.clean().await;
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

impl OnDocker {
    fn filters(&self) -> Option<HashMap<String, Vec<String>>> {
        Some(HashMap::from([("label".to_owned(), vec![format!("provisioner.stack={}", self.engine.stack())])]))
    }

    /// Names of the stack's containers, whatever they are for.
    pub(crate) async fn containers(&self) -> Vec<String> {
        let options = ListContainersOptions { all: true, filters: self.filters(), ..Default::default() };
        let listed = self.raw.list_containers(Some(options)).await.unwrap();
        listed.into_iter().flat_map(|container| container.names.unwrap_or_default()).collect()
    }

    /// Names of the stack's volumes, whatever they are for.
    pub(crate) async fn volumes(&self) -> Vec<String> {
        let options = ListVolumesOptions { filters: self.filters() };
        let listed = self.raw.list_volumes(Some(options)).await.unwrap().volumes.unwrap_or_default();
        listed.into_iter().map(|volume| volume.name).collect()
    }
}

/// Once for all tests of this program, which run side by side.
async fn make_base(ground: &OnDocker) {
    static MADE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one_at_a_time = MADE.lock().await;
    ground.engine.ensure(&Resource::Image(base()), &BTreeMap::new(), &Quiet).await.unwrap();
}

pub(crate) async fn remove_stack(raw: &bollard::Docker, stack: &StackName) {
    let filters = || Some(HashMap::from([("label".to_owned(), vec![format!("provisioner.stack={stack}")])]));
    let options = ListContainersOptions { all: true, filters: None, ..Default::default() };
    for container in raw.list_containers(Some(options)).await.unwrap() {
        let is_ours = container.names.unwrap_or_default().iter().any(|name| name.starts_with(&format!("/{stack}-")));
        if let (true, Some(id)) = (is_ours, container.id) {
            let options = RemoveContainerOptions { force: true, v: true, ..Default::default() };
            let _ = raw.remove_container(&id, Some(options)).await;
        }
    }
    let volumes = raw.list_volumes(Some(ListVolumesOptions { filters: filters() })).await.unwrap();
    for volume in volumes.volumes.unwrap_or_default() {
        raw.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await.unwrap();
    }
    for network in raw.list_networks(Some(ListNetworksOptions { filters: filters() })).await.unwrap() {
        raw.remove_network(&network.id.unwrap()).await.unwrap();
    }
}

#[async_trait]
impl Ground for OnDocker {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.engine) as Arc<dyn Engine>
    }

    fn neighbour(&self) -> Arc<dyn Engine> {
        Arc::clone(&self.neighbour) as Arc<dyn Engine>
    }

    fn image(&self) -> Image {
        base()
    }

    async fn intrude(&self, member: &Member) {
        let body = ContainerCreateBody {
            image: Some(base().reference()),
            cmd: Some(vec!["sleep".to_owned(), "60".to_owned()]),
            stop_timeout: Some(0),
            ..ContainerCreateBody::default()
        };
        let name = format!("{}-{member}", self.engine.stack());
        let options = CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
        self.raw.create_container(Some(options), body).await.unwrap();
        self.raw.start_container(&name, None::<StartContainerOptions>).await.unwrap();
    }

    async fn lose(&self, member: &Member) {
        let options = RemoveContainerOptions { force: true, ..Default::default() };
        let name = format!("{}-{member}", self.engine.stack());
        self.raw.remove_container(&name, Some(options)).await.unwrap();
    }

    async fn clean(&self) {
        remove_stack(&self.raw, self.engine.stack()).await;
        remove_stack(&self.raw, self.neighbour.stack()).await;
    }
}
