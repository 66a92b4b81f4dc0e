//! Which cluster, as whom, and where in it. Everything is taken from what the caller passes, nothing from the process's
//! environment.

use std::fmt;
use std::path::PathBuf;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;

use crate::error::ENGINE;
use crate::patience::Patience;

/// What decides which cluster is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// The files of `KUBECONFIG`, or `~/.kube/config`; of several the first one that says something counts.
    pub kubeconfig: Vec<PathBuf>,
    /// `None`: the current context of the kubeconfig.
    pub context: Option<String>,
    /// `None`: the stack's own name.
    pub namespace: Option<String>,
    pub options: Options,
}

/// How things of a stack are made in this cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `None`: the cluster's default one.
    pub storage_class: Option<String>,
    pub volume_bytes: u64,
    /// A volume is one pod's alone, unless the storage class cannot promise that.
    pub access_mode: AccessMode,
    pub expose: Exposure,
    /// Names of Secrets in the namespace with which images are pulled.
    pub pull_secrets: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    #[default]
    ReadWriteOncePod,
    ReadWriteOnce,
}

/// What stands before a port that people and programs reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposure {
    /// A cluster-internal address; from outside it is reached through the API.
    #[default]
    Cluster,
    NodePort,
    LoadBalancer,
}

#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(
        "no kubeconfig: looked for {}; name one with KUBECONFIG, or have your cluster's tool write one (kind export kubeconfig, k3d kubeconfig merge)",
        listed(looked)
    )]
    NoKubeconfig { looked: Vec<PathBuf> },
    #[error("read kubeconfig {path}: {detail}")]
    Read { path: PathBuf, detail: String },
    #[error("use context {found:?}: the kubeconfig has {}; name one with --context", known_contexts(known))]
    NoContext { found: String, known: Vec<String> },
    #[error("no context is chosen: the kubeconfig has {}; name one with --context", known_contexts(known))]
    NoCurrentContext { known: Vec<String> },
    #[error("use context {context:?}: {detail}")]
    Context { context: String, detail: String },
}

fn listed(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "nothing, since no file was named".to_owned();
    }
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn known_contexts(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            storage_class: None,
            volume_bytes: 8 << 30,
            access_mode: AccessMode::default(),
            expose: Exposure::default(),
            pull_secrets: Vec::new(),
        }
    }
}

impl AccessMode {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ReadWriteOncePod => "ReadWriteOncePod",
            Self::ReadWriteOnce => "ReadWriteOnce",
        }
    }
}

/// A cluster by the names that people know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub context: String,
    pub server: String,
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (context {})", self.server, self.context)
    }
}

impl Access {
    /// The context that would be used, without asking the cluster.
    pub fn context(&self) -> Result<String, AccessError> {
        Ok(choose(&self.read()?, self.context.as_deref())?.0)
    }

    /// The contexts that there are, without asking any cluster.
    pub fn contexts(&self) -> Result<Vec<String>, AccessError> {
        Ok(self.read()?.contexts.into_iter().map(|named| named.name).collect())
    }

    fn read(&self) -> Result<Kubeconfig, AccessError> {
        let mut merged: Option<Kubeconfig> = None;
        for path in self.kubeconfig.iter().filter(|path| path.exists()) {
            let failed = |detail: String| AccessError::Read { path: path.clone(), detail };
            let read = Kubeconfig::read_from(path).map_err(|error| failed(error.to_string()))?;
            merged = Some(match merged {
                None => read,
                Some(before) => before.merge(read).map_err(|error| failed(error.to_string()))?,
            });
        }
        merged.ok_or_else(|| AccessError::NoKubeconfig { looked: self.kubeconfig.clone() })
    }

    pub(crate) async fn config(&self) -> Result<(Config, Cluster), AccessError> {
        let kubeconfig = self.read()?;
        let (context, server) = choose(&kubeconfig, self.context.as_deref())?;
        let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let failed = |error: kube::config::KubeconfigError| AccessError::Context {
            context: context.clone(),
            detail: error.to_string(),
        };
        let config = config.map_err(failed)?;
        Ok((config, Cluster { context, server }))
    }
}

/// As many as the client of the crate holds itself.
const REQUESTS_MAX: usize = 1024;

pub(crate) fn client(config: Config, cluster: &Cluster) -> Result<Client, AccessError> {
    // Another crate of the program may have chosen a provider already; any one will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = ClientBuilder::try_from(config).map_err(|error| AccessError::Context {
        context: cluster.context.clone(),
        detail: format!("make a client of {ENGINE}: {error}"),
    })?;
    // A second try needs a service that can be shared.
    let shared = builder.with_layer(&BufferLayer::new(REQUESTS_MAX));
    Ok(shared.with_layer(&RetryLayer::new(Patience::default())).build())
}

/// The context and its server.
fn choose(kubeconfig: &Kubeconfig, wanted: Option<&str>) -> Result<(String, String), AccessError> {
    let known = || kubeconfig.contexts.iter().map(|named| named.name.clone()).collect();
    let current = kubeconfig.current_context.as_deref().filter(|name| !name.is_empty());
    let Some(name) = wanted.filter(|name| !name.is_empty()).or(current) else {
        return Err(AccessError::NoCurrentContext { known: known() });
    };
    let found = kubeconfig.contexts.iter().find(|named| named.name == name);
    let Some(context) = found.and_then(|named| named.context.as_ref()) else {
        return Err(AccessError::NoContext { found: name.to_owned(), known: known() });
    };
    let cluster = kubeconfig.clusters.iter().find(|named| named.name == context.cluster);
    let server = cluster.and_then(|named| named.cluster.as_ref()?.server.clone());
    let server = server.ok_or_else(|| AccessError::Context {
        context: name.to_owned(),
        detail: format!("the kubeconfig has no server for its cluster {:?}", context.cluster),
    })?;
    Ok((name.to_owned(), server))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, Access) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, text).unwrap();
        (dir, Access { kubeconfig: vec![path], ..Access::default() })
    }

    const TWO: &str = "
apiVersion: v1
kind: Config
current-context: dev
clusters:
- {name: c, cluster: {server: 'https://10.0.0.1:6443'}}
contexts:
- {name: dev, context: {cluster: c, user: u}}
- {name: prod, context: {cluster: gone, user: u}}
users: []
";

    #[test]
    fn without_a_file_it_is_said_where_one_was_looked_for() {
        let access = Access { kubeconfig: vec!["/nowhere/config".into()], ..Access::default() };
        let said = access.context().unwrap_err().to_string();
        assert!(said.starts_with("no kubeconfig: looked for /nowhere/config; name one with KUBECONFIG"), "{said}");
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let (_dir, mut access) = written(TWO);
        assert_eq!(access.context().unwrap(), "dev");
        access.context = Some("staging".to_owned());
        let said = access.context().unwrap_err().to_string();
        assert_eq!(said, "use context \"staging\": the kubeconfig has dev, prod; name one with --context");
    }

    #[test]
    fn a_context_whose_cluster_is_not_described_is_told() {
        let (_dir, mut access) = written(TWO);
        access.context = Some("prod".to_owned());
        let said = access.context().unwrap_err().to_string();
        assert_eq!(said, "use context \"prod\": the kubeconfig has no server for its cluster \"gone\"");
    }

    #[test]
    fn no_current_context_is_no_guess() {
        let (_dir, access) = written(&TWO.replace("current-context: dev", "current-context: ''"));
        let said = access.context().unwrap_err().to_string();
        assert_eq!(said, "no context is chosen: the kubeconfig has dev, prod; name one with --context");
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_named() {
        let (dir, access) = written("contexts: [");
        let said = access.context().unwrap_err().to_string();
        assert!(said.starts_with(&format!("read kubeconfig {}", dir.path().join("config").display())), "{said}");
    }
}
