//! What the engine can tell about a stack after a failure: how its containers stand, and what happened to them.

use std::collections::BTreeMap;

use bollard::models::{ContainerInspectResponse, EventMessage};
use bollard::query_parameters::EventsOptions;
use futures_util::TryStreamExt;
use provisioner_core::clock;
use provisioner_core::engine::EngineError;
use serde_json::{Value, json};

use crate::connect::DockerEngine;
use crate::error::is_missing;

impl DockerEngine {
    pub(crate) async fn tell(&self, since: u64) -> Result<BTreeMap<String, String>, EngineError> {
        let mut files = BTreeMap::from([("events.txt".to_owned(), self.events(since).await?)]);
        for container in self.containers().await?.iter().filter(|container| self.names.own(&container.labels)) {
            match self.inspect(&container.id).await {
                Ok(found) => {
                    let text = format!("{:#}\n", inspected(found));
                    files.insert(format!("inspect/{}.json", container.name), text);
                }
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(files)
    }

    /// One line an event, up to now.
    async fn events(&self, since: u64) -> Result<String, EngineError> {
        let options = EventsOptions {
            since: Some(since.to_string()),
            until: Some(clock::unix_seconds().to_string()),
            filters: Some(self.names.filter()),
        };
        let events: Vec<EventMessage> =
            self.docker.client.events(Some(options)).try_collect().await.map_err(self.docker.failed("read events"))?;
        Ok(events.iter().map(|event| line(event) + "\n").collect())
    }
}

/// The labels that come with an event are left out: they are the same as the container's, every time.
fn line(event: &EventMessage) -> String {
    let attribute = |key: &str| event.actor.as_ref()?.attributes.as_ref()?.get(key).cloned();
    let action = event.action.as_deref().unwrap_or_default();
    let name = attribute("name").unwrap_or_default();
    let mut line = format!("{} {action} {name}", event.time.unwrap_or_default());
    for key in ["exitCode", "signal"] {
        if let Some(value) = attribute(key) {
            line.push_str(&format!(" {key}={value}"));
        }
    }
    line
}

/// The parts that explain an end. The environment, the command line and the labels stay out, since a person may have put
/// secrets there.
fn inspected(found: ContainerInspectResponse) -> Value {
    let host = found.host_config.unwrap_or_default();
    let config = found.config.unwrap_or_default();
    let mounts = found.mounts.unwrap_or_default();
    let ports = found.network_settings.and_then(|settings| settings.ports);
    json!({
        "id": found.id,
        "name": found.name,
        "image": config.image,
        "created": found.created,
        "state": found.state,
        "restarts": found.restart_count,
        "limits": {"memory": host.memory, "nano_cpus": host.nano_cpus, "shm_size": host.shm_size},
        "restart_policy": host.restart_policy,
        "mounts": mounts.into_iter().map(|mount| json!({"volume": mount.name, "at": mount.destination})).collect::<Vec<_>>(),
        "ports": ports,
    })
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerConfig, EventActor};

    use super::*;

    #[test]
    fn an_event_is_one_line_with_what_explains_an_end() {
        let attributes = [("name", "ci-redis-1"), ("exitCode", "137"), ("provisioner.files", "{}")];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let actor = Some(EventActor { attributes: Some(attributes), ..EventActor::default() });
        let event = EventMessage { actor, action: Some("die".to_owned()), time: Some(7), ..EventMessage::default() };
        assert_eq!(line(&event), "7 die ci-redis-1 exitCode=137");
    }

    #[test]
    fn what_people_put_into_variables_labels_and_commands_is_not_shown() {
        let secret = || "s3cret".to_owned();
        let config = ContainerConfig {
            env: Some(vec![format!("TOKEN={}", secret())]),
            cmd: Some(vec![secret()]),
            entrypoint: Some(vec![secret()]),
            labels: Some([("note".to_owned(), secret())].into()),
            ..ContainerConfig::default()
        };
        let found = ContainerInspectResponse {
            config: Some(config),
            args: Some(vec![secret()]),
            ..ContainerInspectResponse::default()
        };
        assert!(!inspected(found).to_string().contains("s3cret"));
    }
}
