//! The composition root: which engines and components there are.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use provisioner_core::component::Component;
use provisioner_core::engine::Engine;
use provisioner_core::estate::Estate;
use provisioner_core::images::Images;
use provisioner_core::manifest::Kubernetes;
use provisioner_core::name::StackName;
use provisioner_docker::{Docker, Downloads, Endpoint, EndpointInputs};

use crate::cli::settings::Environment;

mod kubernetes;

pub(crate) use kubernetes::options;

/// Where engines and components come from; tests bring their own.
#[async_trait]
pub trait Engines: Send + Sync {
    /// The engine bound to one stack: the cluster, or the Docker engine that the environment names.
    async fn open(
        &self,
        environment: &Environment,
        stack: &StackName,
        cluster: Option<&Kubernetes>,
    ) -> anyhow::Result<Arc<dyn Engine>>;

    /// The Docker engine that the environment names, with all the stacks that it holds.
    async fn estate(&self, environment: &Environment) -> anyhow::Result<Arc<dyn Estate>>;

    /// Where images are made for a cluster, which makes none: the Docker engine that the environment names.
    async fn images(&self, environment: &Environment, stack: &StackName) -> anyhow::Result<Arc<dyn Images>>;

    fn components(&self) -> Vec<Box<dyn Component>>;
}

pub struct RealEngines;

#[async_trait]
impl Engines for RealEngines {
    async fn open(
        &self,
        environment: &Environment,
        stack: &StackName,
        cluster: Option<&Kubernetes>,
    ) -> anyhow::Result<Arc<dyn Engine>> {
        Ok(match cluster {
            Some(cluster) => Arc::new(kubernetes::connect(environment, cluster).await?.stack(stack)),
            None => Arc::new(connect(environment).await?.stack(stack)),
        })
    }

    async fn estate(&self, environment: &Environment) -> anyhow::Result<Arc<dyn Estate>> {
        Ok(Arc::new(connect(environment).await?))
    }

    async fn images(&self, environment: &Environment, stack: &StackName) -> anyhow::Result<Arc<dyn Images>> {
        Ok(Arc::new(connect(environment).await?.images(stack, endpoint_inputs(environment).config_dir)))
    }

    fn components(&self) -> Vec<Box<dyn Component>> {
        provisioner_components::all()
    }
}

async fn connect(environment: &Environment) -> anyhow::Result<Docker> {
    let endpoint = Endpoint::resolve(&endpoint_inputs(environment))?;
    Ok(Docker::connect(&endpoint).await?.keeping(downloads(environment)))
}

/// In the user's own cache folder, as the XDG base directory specification says.
fn downloads(environment: &Environment) -> Downloads {
    let cache = environment.get("XDG_CACHE_HOME").filter(|path| path.starts_with('/')).map(PathBuf::from);
    let home = || environment.get("HOME").map(|home| Path::new(home).join(".cache"));
    let cache = cache.or_else(home).unwrap_or_else(|| PathBuf::from("/var/tmp"));
    Downloads { directory: cache.join("provisioner").join("downloads") }
}

/// What Docker's own command line looks at.
fn endpoint_inputs(environment: &Environment) -> EndpointInputs {
    let text = |name| environment.get(name).map(str::to_owned);
    let home = || environment.get("HOME").map(|home| Path::new(home).join(".docker"));
    EndpointInputs {
        host: text("DOCKER_HOST"),
        context: text("DOCKER_CONTEXT"),
        tls_verify: environment.get("DOCKER_TLS_VERIFY").is_some(),
        cert_path: environment.get("DOCKER_CERT_PATH").map(PathBuf::from),
        config_dir: environment.get("DOCKER_CONFIG").map(PathBuf::from).or_else(home),
    }
}
