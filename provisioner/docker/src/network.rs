//! The stack's network, and how members come back to it.

use bollard::models::{ContainerInspectResponse, EndpointSettings, NetworkConnectRequest, NetworkDisconnectRequest};
use provisioner_core::engine::EngineError;

use crate::connect::DockerEngine;
use crate::labels;

impl DockerEngine {
    pub(crate) async fn cut_off(&self, name: &str) -> Result<(), EngineError> {
        let network = self.names.network();
        let request = NetworkDisconnectRequest { container: name.to_owned(), force: Some(true) };
        let cut = self.docker.client.disconnect_network(&network, request).await;
        cut.map_err(self.docker.failed(format!("cut {name} off network {network}")))
    }

    /// Puts a member on the stack's network under all its names, unless it is there. The engine forgets the network of
    /// one that was cut off, also for its next start; what somebody connects by hand has none of the names.
    pub(crate) async fn join(&self, name: &str, found: &ContainerInspectResponse) -> Result<(), EngineError> {
        let network = self.names.network();
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        let Some(names) = labels.and_then(|labels| labels.get(labels::NAMES)) else { return Ok(()) };
        let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
        let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        if let Some(endpoint) = networks.and_then(|networks| networks.get(&network)) {
            let known = endpoint.aliases.as_deref().unwrap_or_default();
            if names.iter().all(|name| known.contains(name)) {
                return Ok(());
            }
            self.cut_off(name).await?;
        }
        let endpoint = EndpointSettings { aliases: Some(names), ..EndpointSettings::default() };
        let request = NetworkConnectRequest { container: name.to_owned(), endpoint_config: Some(endpoint) };
        let joined = self.docker.client.connect_network(&network, request).await;
        joined.map_err(self.docker.failed(format!("join {name} to network {network}")))
    }
}
