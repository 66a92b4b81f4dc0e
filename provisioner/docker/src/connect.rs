//! The connection, and what every request shares.

use std::path::PathBuf;
use std::time::Duration;

use bollard::API_DEFAULT_VERSION;
use bollard::errors::Error;
use provisioner_core::engine::EngineError;
use provisioner_core::name::StackName;

use crate::download::Downloads;
use crate::endpoint::{Endpoint, TlsFiles};
use crate::error::translate;
use crate::labels::Names;
use crate::push::DockerImages;
use crate::secrets::Cache;

/// An engine that does not say who it is for this long is taken for unreachable.
const HELLO_LIMIT: Duration = Duration::from_secs(10);
/// Until the first byte of an answer; streams may go on for as long as they like.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// For requests that are only answered once the work is done: an import, a stop with a long grace period.
const WORK_LIMIT: Duration = Duration::from_secs(3600);

/// A Docker engine that answered.
#[derive(Clone)]
pub struct Docker {
    pub(crate) client: bollard::Docker,
    pub(crate) endpoint: Endpoint,
    pub(crate) downloads: Option<Downloads>,
}

/// A Docker engine, bound to one stack.
pub struct DockerEngine {
    pub(crate) docker: Docker,
    pub(crate) names: Names,
    pub(crate) secrets: Cache,
}

impl Docker {
    /// Reaches the engine and agrees on a version of the API.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, EngineError> {
        let fail = |error| translate(error, "reach Docker".to_owned(), &endpoint.to_string(), HELLO_LIMIT);
        let client = client(endpoint).map_err(fail)?.with_timeout(HELLO_LIMIT);
        let client = client.negotiate_version().await.map_err(fail)?.with_timeout(ANSWER_LIMIT);
        Ok(Self { client, endpoint: endpoint.clone(), downloads: None })
    }

    /// Says where files of the network are kept that image recipes need; without it such a recipe is an error.
    pub fn keeping(self, downloads: Downloads) -> Self {
        Self { downloads: Some(downloads), ..self }
    }

    pub fn stack(&self, name: &StackName) -> DockerEngine {
        DockerEngine { docker: self.clone(), names: Names { stack: name.clone() }, secrets: Cache::default() }
    }

    /// Makes images and pushes them; the logins of registries are looked for in Docker's own folder.
    pub fn images(&self, name: &StackName, config_dir: Option<PathBuf>) -> DockerImages {
        DockerImages { engine: self.stack(name), config_dir }
    }

    /// For requests that take as long as their work.
    pub(crate) fn patient(&self) -> bollard::Docker {
        self.client.clone().with_timeout(WORK_LIMIT)
    }

    /// To be put into `map_err`: says what was being done.
    pub(crate) fn failed(&self, operation: impl Into<String>) -> impl FnOnce(Error) -> EngineError {
        let (operation, address) = (operation.into(), self.endpoint.to_string());
        move |error| translate(error, operation, &address, ANSWER_LIMIT)
    }
}

fn client(endpoint: &Endpoint) -> Result<bollard::Docker, Error> {
    let seconds = HELLO_LIMIT.as_secs();
    match endpoint {
        Endpoint::Unix(path) => {
            bollard::Docker::connect_with_unix(&path.to_string_lossy(), seconds, API_DEFAULT_VERSION)
        }
        Endpoint::Tcp { address, tls: None } => {
            bollard::Docker::connect_with_http(&format!("tcp://{address}"), seconds, API_DEFAULT_VERSION)
        }
        Endpoint::Tcp { address, tls: Some(TlsFiles(folder)) } => {
            // Another crate of the program may have chosen a provider already; any one will do.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let file = |name| folder.join(name);
            bollard::Docker::connect_with_ssl(
                &format!("tcp://{address}"),
                &file("key.pem"),
                &file("cert.pem"),
                &file("ca.pem"),
                seconds,
                API_DEFAULT_VERSION,
            )
        }
    }
}
