//! Members as they really run and what stands inside them, by GET requests alone.
//!
//! One member costs an inspect of the container and of up to two images, and an archive a file: some milliseconds each,
//! bounded in size.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, EndpointSettings, HostConfig, ImageConfig, MountPoint, PortMap,
    RestartPolicyNameEnum,
};
use futures_util::future::{try_join, try_join_all};
use provisioner_core::drift::{Actual, FoundFile};
use provisioner_core::engine::EngineError;
use provisioner_core::name::Member;
use provisioner_core::stack::{Fingerprint, secret_shell};

use crate::archive::{self, Entry};
use crate::connect::DockerEngine;
use crate::error::is_missing;
use crate::labels::Names;

/// What an image says about itself.
struct Held {
    id: String,
    config: ImageConfig,
}

impl DockerEngine {
    pub(crate) async fn actual(&self, member: &Member, image: &str) -> Result<Actual, EngineError> {
        let container = self.inspect(&self.names.container(member)).await?;
        let running = container.image.clone().unwrap_or_default();
        let (running, expected) = try_join(self.held(&running), self.held(image)).await?;
        let missing = || EngineError::NotFound { what: format!("the image that {member} runs") };
        let running = running.ok_or_else(missing)?;
        let names = &self.names;
        Ok(Actual { expected_image: expected.map(|image| image.id), ..described(names, container, running) })
    }

    async fn held(&self, image: &str) -> Result<Option<Held>, EngineError> {
        let found = self.docker.client.inspect_image(image).await;
        match found.map_err(self.docker.failed(format!("inspect image {image}"))) {
            Ok(found) => Ok(Some(Held { id: found.id.unwrap_or_default(), config: found.config.unwrap_or_default() })),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn found_files(
        &self,
        member: &Member,
        paths: &[String],
    ) -> Result<BTreeMap<String, FoundFile>, EngineError> {
        // A path that is missing and a container that is missing are answered alike.
        let name = self.inspect(&self.names.container(member)).await?.id.unwrap_or_default();
        let found = paths.iter().map(|path| {
            let name = &name;
            async move { Ok::<_, EngineError>((path.clone(), self.found_file(name, path).await?)) }
        });
        Ok(try_join_all(found).await?.into_iter().collect())
    }

    pub(crate) async fn file_content(&self, member: &Member, path: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let name = self.inspect(&self.names.container(member)).await?.id.unwrap_or_default();
        match self.entries_at(&name, path).await?.as_deref_mut() {
            Some([entry]) => Ok(Some(std::mem::take(&mut entry.content))),
            _ => Ok(None),
        }
    }

    async fn found_file(&self, container: &str, path: &str) -> Result<FoundFile, EngineError> {
        match self.entries_at(container, path).await?.as_deref() {
            None => Ok(FoundFile::Absent),
            Some([entry]) => {
                let content = Fingerprint::of_bytes(&entry.content);
                Ok(FoundFile::File { content, mode: entry.mode, owner: entry.owner })
            }
            Some(_) => Ok(FoundFile::Other("no regular file".to_owned())),
        }
    }

    /// The regular files at and under a path; `None`: nothing stands there.
    async fn entries_at(&self, container: &str, path: &str) -> Result<Option<Vec<Entry>>, EngineError> {
        let archive = match self.get_archive(container, path).await {
            Ok(archive) => archive,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let operation = format!("read {path} of {container}");
        archive::unpack(&archive).map(Some).map_err(|error| EngineError::failed(operation, error))
    }
}

/// The container in the core's words.
fn described(names: &Names, container: ContainerInspectResponse, image: Held) -> Actual {
    let id = container.id.unwrap_or_default();
    let config = container.config.unwrap_or_default();
    let host = container.host_config.unwrap_or_default();
    let mut networks = container.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let own = networks.remove(&names.network());
    let mut other_networks: Vec<String> = networks.into_keys().collect();
    other_networks.sort();
    let (command, reads_secret_env) = command(&config);
    let mounts = container.mounts.unwrap_or_default();
    Actual {
        image: image.id,
        expected_image: None,
        command,
        reads_secret_env,
        env: variables(config.env),
        image_command: joined(image.config.entrypoint, image.config.cmd),
        image_env: variables(image.config.env),
        user: config.user.unwrap_or_default(),
        image_user: image.config.user.unwrap_or_default(),
        memory_bytes: positive(host.memory),
        cpu_millis: cpu_millis(&host),
        shm_bytes: positive(host.shm_size),
        restart: restart(&host),
        stop_signal: config.stop_signal.unwrap_or_default(),
        stop_grace_secs: config.stop_timeout.and_then(|secs| u32::try_from(secs).ok()),
        mounts: mounts.into_iter().map(|mount| mounted(names, mount)).collect(),
        names: own.map(|endpoint| aliases(endpoint, &id)),
        other_networks,
        ports: ports(host.port_bindings.unwrap_or_default()),
    }
}

fn joined(entrypoint: Option<Vec<String>>, command: Option<Vec<String>>) -> Vec<String> {
    entrypoint.into_iter().chain(command).flatten().collect()
}

fn command(config: &ContainerConfig) -> (Vec<String>, bool) {
    let whole = joined(config.entrypoint.clone(), config.cmd.clone());
    match whole.strip_prefix(&secret_shell()) {
        Some(inner) => (inner.to_vec(), true),
        None => (whole, false),
    }
}

fn variables(env: Option<Vec<String>>) -> BTreeMap<String, String> {
    let pairs = env.unwrap_or_default();
    pairs
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn positive(number: Option<i64>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0)
}

/// Given whole or as a share of a period; the engine keeps them apart.
fn cpu_millis(host: &HostConfig) -> Option<u32> {
    let of_nanos = positive(host.nano_cpus).map(|nanos| nanos / 1_000_000);
    let of_quota = || {
        let period = positive(host.cpu_period).unwrap_or(100_000);
        positive(host.cpu_quota).map(|quota| quota * 1000 / period)
    };
    of_nanos.or_else(of_quota).and_then(|millis| u32::try_from(millis).ok())
}

fn restart(host: &HostConfig) -> String {
    let name = host.restart_policy.as_ref().and_then(|policy| policy.name);
    match name {
        Some(RestartPolicyNameEnum::UNLESS_STOPPED) => "unless_stopped".to_owned(),
        None | Some(RestartPolicyNameEnum::NO | RestartPolicyNameEnum::EMPTY) => "never".to_owned(),
        Some(other) => other.to_string(),
    }
}

fn mounted(names: &Names, mount: MountPoint) -> (String, String) {
    let name = mount.name.unwrap_or_default();
    let what = match mount.typ.as_deref() {
        Some("volume") => match name.strip_prefix(&names.volume("")) {
            Some(own) => own.to_owned(),
            None => format!("foreign volume {name}"),
        },
        Some(kind) => format!("{kind} {}", mount.source.unwrap_or_default()),
        None => "something".to_owned(),
    };
    (mount.destination.unwrap_or_default(), what)
}

/// The engine adds the container's own short id.
fn aliases(endpoint: EndpointSettings, id: &str) -> Vec<String> {
    let mut aliases = endpoint.aliases.unwrap_or_default();
    aliases.retain(|alias| alias.is_empty() || !id.starts_with(alias.as_str()));
    aliases
}

fn ports(bindings: PortMap) -> BTreeMap<u16, Option<SocketAddr>> {
    let ports = bindings.into_iter().flat_map(|(key, bindings)| {
        let port = key.split('/').next().and_then(|port| port.parse::<u16>().ok());
        bindings.unwrap_or_default().into_iter().filter_map(move |binding| {
            let public = binding.host_port.unwrap_or_default();
            let ip = binding.host_ip.unwrap_or_default();
            let is_for_checks = ip == "127.0.0.1" && (public.is_empty() || public == "0");
            let any = || "0.0.0.0".to_owned();
            let address =
                format!("{}:{}", if ip.is_empty() { any() } else { ip }, if public.is_empty() { "0" } else { &public });
            Some((port?, if is_for_checks { None } else { address.parse().ok() }))
        })
    });
    ports.collect()
}
