//! The connection, and what every request shares.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use provisioner_core::engine::EngineError;
use provisioner_core::name::StackName;
use tokio::sync::Mutex;

use crate::access::{self, Access, AccessError, Cluster, Options};
use crate::error::translate;
use crate::forward::Forwards;
use crate::labels::Names;
use crate::silence::Silence;

/// A server that does not say who it is for this long is taken for unreachable.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// The oldest release that has everything used here: field validation, ReadWriteOncePod, an end of input for exec.
const RELEASE_MIN: (u32, u32) = (1, 30);

/// A cluster that answered.
#[derive(Clone)]
pub struct Kubernetes {
    pub(crate) client: Client,
    pub(crate) cluster: Cluster,
    pub(crate) namespace: Option<String>,
    pub(crate) options: Options,
    pub(crate) release: String,
    pub(crate) forwards: Forwards,
    pub(crate) silence: Arc<Silence>,
}

/// A cluster, bound to one stack.
pub struct KubernetesEngine {
    pub(crate) kubernetes: Kubernetes,
    pub(crate) names: Names,
    /// The namespace was there when it was last looked for.
    pub(crate) has_namespace: Mutex<bool>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("{cluster} runs Kubernetes {found}, expected {}.{} or newer", RELEASE_MIN.0, RELEASE_MIN.1)]
    TooOld { cluster: Cluster, found: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl Kubernetes {
    /// Reaches the API server that the kubeconfig names.
    pub async fn connect(access: &Access) -> Result<Self, ConnectError> {
        let (config, cluster) = access.config().await?;
        let client = access::client(config, &cluster)?;
        let asked = tokio::time::timeout(HELLO_LIMIT, client.apiserver_version()).await;
        let asked = asked.map_err(|_| EngineError::Unreachable {
            engine: crate::error::ENGINE,
            address: cluster.to_string(),
            detail: format!("no answer within {} s", HELLO_LIMIT.as_secs()),
        })?;
        let version = asked.map_err(|error| translate(error, "reach Kubernetes".to_owned(), &cluster.to_string()))?;
        if release(&version.major, &version.minor).is_none_or(|found| found < RELEASE_MIN) {
            return Err(ConnectError::TooOld { cluster, found: version.git_version });
        }
        let silence = Arc::default();
        let forwards = Forwards::new(client.clone(), Arc::clone(&silence));
        Ok(Self {
            client,
            cluster,
            namespace: access.namespace.clone(),
            options: access.options.clone(),
            release: version.git_version,
            forwards,
            silence,
        })
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub fn stack(&self, name: &StackName) -> KubernetesEngine {
        let namespace = self.namespace.clone();
        let names = Names {
            stack: name.clone(),
            is_given: namespace.is_some(),
            namespace: namespace.unwrap_or_else(|| name.to_string()),
        };
        KubernetesEngine { kubernetes: self.clone(), names, has_namespace: Mutex::new(false) }
    }
}

impl KubernetesEngine {
    pub fn namespace(&self) -> &str {
        &self.names.namespace
    }
}

/// Vendors write minor versions such as `28+`.
fn release(major: &str, minor: &str) -> Option<(u32, u32)> {
    let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
    Some((number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendors_release_is_read_and_a_strange_one_is_none() {
        assert_eq!(release("1", "34"), Some((1, 34)));
        assert_eq!(release("1", "29+"), Some((1, 29)));
        assert_eq!(release("1", ""), None);
    }

    #[test]
    fn a_server_that_is_too_old_is_told_with_what_is_needed() {
        let cluster = Cluster { context: "old".to_owned(), server: "https://k".to_owned() };
        let error = ConnectError::TooOld { cluster, found: "v1.21.3".to_owned() };
        let expected = "https://k (context old) runs Kubernetes v1.21.3, expected 1.30 or newer";
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_unreachable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "{{apiVersion: v1, kind: Config, current-context: c, users: [], \
             clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}], \
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]}}"
        );
        std::fs::write(&path, text).unwrap();
        let access = Access { kubeconfig: vec![path], ..Access::default() };
        let said = Kubernetes::connect(&access).await.err().unwrap().to_string();
        assert!(said.starts_with(&format!("reach Kubernetes at http://127.0.0.1:{port} (context c): ")), "{said}");
    }
}
