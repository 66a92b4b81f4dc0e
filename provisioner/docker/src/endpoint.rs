//! Where the engine is, found as Docker's own command line finds it. Everything is taken from what the caller passes,
//! nothing from the process's environment.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// What decides where the engine is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointInputs {
    /// `DOCKER_HOST`
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`
    pub context: Option<String>,
    /// `DOCKER_TLS_VERIFY` is set.
    pub tls_verify: bool,
    /// `DOCKER_CERT_PATH`
    pub cert_path: Option<PathBuf>,
    /// `DOCKER_CONFIG` or `~/.docker`
    pub config_dir: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp { address: String, tls: Option<TlsFiles> },
}

/// A folder with `ca.pem`, `cert.pem` and `key.pem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles(pub PathBuf);

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error(
        "use engine {found}: expected unix:// or tcp://; for an engine behind ssh forward its socket (ssh -NL /tmp/docker.sock:/var/run/docker.sock HOST) and set DOCKER_HOST=unix:///tmp/docker.sock"
    )]
    Scheme { found: String },
    #[error("use Docker context {name:?}: {detail}; docker context ls shows the known ones")]
    Context { name: String, detail: String },
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read {path}: expected JSON")]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl Endpoint {
    /// `DOCKER_HOST`, else the context that `DOCKER_CONTEXT` or the configuration names, else the default socket.
    pub fn resolve(inputs: &EndpointInputs) -> Result<Self, EndpointError> {
        if let Some(host) = inputs.host.as_deref().filter(|host| !host.is_empty()) {
            let tls = inputs.tls_verify.then(|| inputs.cert_path.clone().or(inputs.config_dir.clone())).flatten();
            return Self::parse(host, tls.map(TlsFiles));
        }
        let Some(config_dir) = &inputs.config_dir else { return Ok(Self::default()) };
        let context = match inputs.context.clone().filter(|name| !name.is_empty()) {
            Some(name) => Some(name),
            None => current_context(config_dir)?,
        };
        match context {
            Some(name) if name != "default" => from_context(config_dir, &name),
            _ => Ok(Self::default()),
        }
    }

    fn parse(host: &str, tls: Option<TlsFiles>) -> Result<Self, EndpointError> {
        match host.split_once("://") {
            Some(("unix", path)) => Ok(Self::Unix(PathBuf::from(path))),
            Some(("tcp" | "http" | "https", address)) => {
                Ok(Self::Tcp { address: address.trim_end_matches('/').to_owned(), tls })
            }
            _ => Err(EndpointError::Scheme { found: host.to_owned() }),
        }
    }

    /// The host that published ports are reached at; `None`: this machine.
    pub(crate) fn remote_host(&self) -> Option<&str> {
        let Self::Tcp { address, .. } = self else { return None };
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        (!matches!(host, "localhost" | "127.0.0.1" | "[::1]")).then_some(host)
    }
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::Unix(PathBuf::from(DEFAULT_SOCKET))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { address, .. } => write!(f, "tcp://{address}"),
        }
    }
}

fn current_context(config_dir: &Path) -> Result<Option<String>, EndpointError> {
    let config = read_json(&config_dir.join("config.json"))?;
    let name = config.as_ref().and_then(|config| config["currentContext"].as_str());
    Ok(name.filter(|name| !name.is_empty()).map(str::to_owned))
}

/// Contexts are kept under the SHA-256 of their names.
fn from_context(config_dir: &Path, name: &str) -> Result<Endpoint, EndpointError> {
    let digest: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
    let contexts = config_dir.join("contexts");
    let failed = |detail: &str| EndpointError::Context { name: name.to_owned(), detail: detail.to_owned() };
    let meta = read_json(&contexts.join("meta").join(&digest).join("meta.json"))?;
    let meta = meta.ok_or_else(|| failed("there is no such context"))?;
    let host = meta["Endpoints"]["docker"]["Host"].as_str().ok_or_else(|| failed("it names no Docker host"))?;
    let tls = contexts.join("tls").join(&digest).join("docker");
    Endpoint::parse(host, tls.is_dir().then_some(TlsFiles(tls)))
}

fn read_json(path: &Path) -> Result<Option<Value>, EndpointError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| EndpointError::Json { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(EndpointError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SHA-256 of `desktop`, as Docker names the folder.
    const DESKTOP: &str = "68693d02ab4fbb2331b8cc39915322e48e61f06d4d1b31e7d19913202857bc8a";

    fn unix(path: &str) -> Endpoint {
        Endpoint::Unix(PathBuf::from(path))
    }

    fn configured(current: &str, host: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), format!(r#"{{"currentContext":"{current}"}}"#)).unwrap();
        let meta = dir.path().join("contexts/meta").join(DESKTOP);
        fs::create_dir_all(&meta).unwrap();
        let json = format!(r#"{{"Name":"desktop","Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
        fs::write(meta.join("meta.json"), json).unwrap();
        dir
    }

    fn inputs(dir: &tempfile::TempDir) -> EndpointInputs {
        EndpointInputs { config_dir: Some(dir.path().to_owned()), ..EndpointInputs::default() }
    }

    #[test]
    fn without_anything_it_is_the_default_socket() {
        assert_eq!(Endpoint::resolve(&EndpointInputs::default()).unwrap(), unix(DEFAULT_SOCKET));
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(Endpoint::resolve(&inputs(&empty)).unwrap(), unix(DEFAULT_SOCKET));
    }

    #[test]
    fn a_host_outweighs_every_context() {
        let dir = configured("desktop", "unix:///desktop.sock");
        let host = Some("tcp://10.0.0.5:2375".to_owned());
        let found = Endpoint::resolve(&EndpointInputs { host, ..inputs(&dir) }).unwrap();
        assert_eq!(found, Endpoint::Tcp { address: "10.0.0.5:2375".to_owned(), tls: None });
        assert_eq!(found.remote_host(), Some("10.0.0.5"));
    }

    #[test]
    fn the_current_context_is_followed() {
        let dir = configured("desktop", "unix:///desktop.sock");
        assert_eq!(Endpoint::resolve(&inputs(&dir)).unwrap(), unix("/desktop.sock"));
    }

    #[test]
    fn a_named_context_outweighs_the_current_one() {
        let dir = configured("", "unix:///desktop.sock");
        let named = |name: &str| EndpointInputs { context: Some(name.to_owned()), ..inputs(&dir) };
        assert_eq!(Endpoint::resolve(&named("desktop")).unwrap(), unix("/desktop.sock"));
        assert_eq!(Endpoint::resolve(&named("default")).unwrap(), unix(DEFAULT_SOCKET));
        let missing = Endpoint::resolve(&named("nowhere")).unwrap_err().to_string();
        assert!(missing.contains("\"nowhere\": there is no such context"), "{missing}");
    }

    #[test]
    fn tls_needs_the_flag_and_a_folder() {
        let host = EndpointInputs {
            host: Some("tcp://h:2376".to_owned()),
            cert_path: Some(PathBuf::from("/certs")),
            ..EndpointInputs::default()
        };
        let verified = EndpointInputs { tls_verify: true, ..host.clone() };
        let tls = Some(TlsFiles(PathBuf::from("/certs")));
        let tcp = |tls| Endpoint::Tcp { address: "h:2376".to_owned(), tls };
        assert_eq!(Endpoint::resolve(&verified).unwrap(), tcp(tls));
        assert_eq!(Endpoint::resolve(&host).unwrap(), tcp(None));
    }

    #[test]
    fn ssh_is_refused_with_a_way_out() {
        let host = Some("ssh://me@host".to_owned());
        let refused = Endpoint::resolve(&EndpointInputs { host, ..EndpointInputs::default() }).unwrap_err().to_string();
        assert!(refused.contains("ssh://me@host") && refused.contains("ssh -NL"), "{refused}");
    }
}
