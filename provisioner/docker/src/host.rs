//! What the preflight wants to know of the machine under the engine.

use std::collections::BTreeMap;
use std::path::Path;

use bollard::models::{SystemInfo, SystemVersion};
use provisioner_core::engine::{EngineError, Host};
use tokio::process::Command;

use crate::connect::DockerEngine;
use crate::endpoint::Endpoint;
use crate::error::ENGINE;

/// The oldest API that has everything used here: Docker 20.10.
const API_MIN: (u32, u32) = (1, 41);

impl DockerEngine {
    pub(crate) async fn describe_host(&self) -> Result<Host, EngineError> {
        let client = &self.docker.client;
        let (info, version, containers) = tokio::join!(client.info(), client.version(), self.containers());
        let info = info.map_err(self.docker.failed("read the engine's description"))?;
        let version = version.map_err(self.docker.failed("read the engine's version"))?;
        let mut ports = BTreeMap::new();
        for container in containers? {
            ports.extend(container.published.values().map(|address| (address.port(), container.name.clone())));
        }
        let root = info.docker_root_dir.as_deref().unwrap_or_default();
        let is_local = is_local(&self.docker.endpoint, &info);
        Ok(Host {
            engine: format!("{} {}", product(&version), version.version.as_deref().unwrap_or("of unknown version")),
            is_supported: supported(&version).and_then(|()| reachable(&self.docker.endpoint)),
            cpus: info.ncpu.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1),
            memory_bytes: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
            free_disk_bytes: if is_local { free_bytes(root).await } else { None },
            ports,
            is_local,
        })
    }
}

fn product(version: &SystemVersion) -> &str {
    let components = version.components.iter().flatten();
    let is_podman = components.into_iter().any(|component| component.name.contains("Podman"));
    if is_podman { "Podman" } else { ENGINE }
}

fn supported(version: &SystemVersion) -> Result<(), String> {
    let found = version.version.as_deref().unwrap_or("of unknown version");
    if product(version) != ENGINE {
        return Err(format!(
            "{} {found} answers; it has not passed the engine contract, expected Docker 20.10 or newer",
            product(version)
        ));
    }
    if let Some(system) = version.os.as_deref().filter(|system| *system != "linux") {
        return Err(format!("it runs {system} containers, expected linux"));
    }
    let api = version.api_version.as_deref().and_then(|api| {
        let (major, minor) = api.split_once('.')?;
        Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    });
    if api.is_none_or(|api| api < API_MIN) {
        let api = version.api_version.as_deref().unwrap_or("none");
        return Err(format!("Docker {found} speaks API {api}, expected 1.41 (Docker 20.10) or newer"));
    }
    Ok(())
}

/// Checks go to ports on the engine's own loopback, where they are nobody else's business.
fn reachable(endpoint: &Endpoint) -> Result<(), String> {
    match endpoint.remote_host() {
        None => Ok(()),
        Some(host) => {
            Err(format!("it runs on {host}, and the ports for checks are on that machine's loopback; run there"))
        }
    }
}

/// A socket of this machine may lead into a virtual machine; then the engine's folder is not here.
fn is_local(endpoint: &Endpoint, info: &SystemInfo) -> bool {
    let is_desktop = info.operating_system.as_deref() == Some("Docker Desktop");
    let root = info.docker_root_dir.as_deref().unwrap_or_default();
    endpoint.remote_host().is_none() && !is_desktop && !root.is_empty() && Path::new(root).exists()
}

async fn free_bytes(folder: &str) -> Option<u64> {
    let output = Command::new("df").args(["-P", "-k", folder]).output().await.ok()?;
    parse_df(&String::from_utf8_lossy(&output.stdout))
}

/// The fourth column of the last line, in KiB (POSIX `df -P -k`).
fn parse_df(output: &str) -> Option<u64> {
    let available = output.lines().nth(1)?.split_whitespace().nth(3)?;
    available.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use bollard::models::SystemVersionComponents;

    use super::*;

    fn version(api: &str, component: &str) -> SystemVersion {
        let component = SystemVersionComponents { name: component.to_owned(), ..Default::default() };
        SystemVersion {
            version: Some("4.3.1".to_owned()),
            api_version: Some(api.to_owned()),
            os: Some("linux".to_owned()),
            components: Some(vec![component]),
            ..SystemVersion::default()
        }
    }

    #[test]
    fn podman_is_refused_by_name() {
        let refused = supported(&version("1.41", "Podman Engine")).unwrap_err();
        assert!(refused.starts_with("Podman 4.3.1 answers"), "{refused}");
    }

    #[test]
    fn engines_before_20_10_are_refused_and_later_ones_are_not() {
        assert!(supported(&version("1.40", "Engine")).unwrap_err().contains("API 1.40"));
        assert_eq!(supported(&version("1.41", "Engine")), Ok(()));
        assert_eq!(supported(&version("1.53", "Engine")), Ok(()));
        assert!(supported(&SystemVersion { os: Some("windows".to_owned()), ..version("1.41", "Engine") }).is_err());
    }

    #[test]
    fn free_space_is_read_from_df() {
        let output = "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda1 1000 400 600 40% /var\n";
        assert_eq!(parse_df(output), Some(600 * 1024));
        assert_eq!(parse_df("df: no such file\n"), None);
    }
}
