//! Starting, stopping, killing, and the proof that a member is down.

use std::net::{IpAddr, TcpListener};

use bollard::models::{ContainerStateStatusEnum, ContainerUpdateBody, RestartPolicy, RestartPolicyNameEnum};
use bollard::query_parameters::{KillContainerOptions, StartContainerOptions, StopContainerOptions};
use provisioner_core::engine::{EngineError, Power, StopProof};
use provisioner_core::name::Member;
use provisioner_core::observed::State;

use crate::connect::DockerEngine;
use crate::error::is_missing;
use crate::labels;

/// What engines of all ages and platforms say when a port cannot be published.
const PORT_TAKEN: [&str; 3] = ["port is already allocated", "address already in use", "ports are not available"];

impl DockerEngine {
    pub(crate) async fn set_power(&self, member: &Member, power: Power) -> Result<(), EngineError> {
        let name = self.names.container(member);
        let found = self.inspect(&name).await?;
        let state = found.state.as_ref().and_then(|state| state.status);
        let is_paused = state == Some(ContainerStateStatusEnum::PAUSED);
        match power {
            Power::Running => {
                self.join(&name, &found).await?;
                let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
                let policy = found.host_config.and_then(|host| host.restart_policy).and_then(|policy| policy.name);
                self.restore_restart(&name, labels.get(labels::RESTART).map(String::as_str), policy).await?;
                if is_paused {
                    return self.unpause(&name).await;
                }
                self.start(member, &name).await
            }
            Power::Stopped => {
                let state = if is_paused { State::Paused } else { State::Running };
                self.stop_container(&name, state).await
            }
            Power::Killed => {
                if !matches!(state, Some(ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::PAUSED)) {
                    // Also ends the engine's attempts at starting it again.
                    return self.stop_container(&name, State::Running).await;
                }
                let options = KillContainerOptions { signal: "SIGKILL".to_owned() };
                let killed = self.docker.client.kill_container(&name, Some(options)).await;
                killed.map_err(self.docker.failed(format!("kill {member}")))
            }
        }
    }

    pub(crate) async fn start(&self, member: &Member, name: &str) -> Result<(), EngineError> {
        let Err(error) = self.docker.client.start_container(name, None::<StartContainerOptions>).await else {
            return Ok(());
        };
        let message = error.to_string();
        let is_port = PORT_TAKEN.iter().any(|sentence| message.contains(sentence));
        let taken = if is_port { self.taken_ports(name).await? } else { Vec::new() };
        let operation = format!("start {member}");
        if taken.is_empty() {
            return Err(self.docker.failed(operation)(error));
        }
        Err(EngineError::failed(operation, taken.join(", ")))
    }

    /// Which of the container's fixed ports are taken, and by whom.
    async fn taken_ports(&self, name: &str) -> Result<Vec<String>, EngineError> {
        let bindings = self.inspect(name).await?.host_config.and_then(|host| host.port_bindings).unwrap_or_default();
        let containers = self.containers().await?;
        let mut taken = Vec::new();
        for binding in bindings.into_values().flatten().flatten() {
            let (ip, port) = (binding.host_ip.unwrap_or_default(), binding.host_port.unwrap_or_default());
            let (Ok(address), Ok(number)) = (ip.parse::<IpAddr>(), port.parse::<u16>()) else { continue };
            let holder = containers.iter().find(|container| {
                container.name != name && container.published.values().any(|published| published.port() == number)
            });
            let is_local = self.docker.endpoint.remote_host().is_none();
            if let Some(holder) = holder {
                taken.push(format!("port {ip}:{port} is taken by container {}", holder.name));
            } else if is_local && TcpListener::bind((address, number)).is_err() {
                taken.push(format!("port {ip}:{port} is taken by a program outside the engine"));
            }
        }
        Ok(taken)
    }

    /// By its own stop signal, within its own grace period.
    pub(crate) async fn stop_container(&self, id: &str, state: State) -> Result<(), EngineError> {
        if state == State::Paused {
            // A frozen process cannot answer a signal.
            self.unpause(id).await?;
        }
        if state == State::Created {
            return Ok(());
        }
        let stopped = self.docker.patient().stop_container(id, None::<StopContainerOptions>).await;
        match stopped.map_err(self.docker.failed(format!("stop container {id}"))) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    async fn unpause(&self, name: &str) -> Result<(), EngineError> {
        let unpaused = self.docker.client.unpause_container(name).await;
        unpaused.map_err(self.docker.failed(format!("unpause {name}")))
    }

    /// A member that was proven stopped lost its restart policy; started again it gets it back.
    async fn restore_restart(
        &self,
        name: &str,
        wanted: Option<&str>,
        found: Option<RestartPolicyNameEnum>,
    ) -> Result<(), EngineError> {
        let Some(wanted) = wanted.and_then(|name| name.parse::<RestartPolicyNameEnum>().ok()) else { return Ok(()) };
        if found == Some(wanted) { Ok(()) } else { self.set_restart(name, wanted).await }
    }

    async fn set_restart(&self, name: &str, policy: RestartPolicyNameEnum) -> Result<(), EngineError> {
        let restart_policy = Some(RestartPolicy { name: Some(policy), maximum_retry_count: None });
        let update = ContainerUpdateBody { restart_policy, ..ContainerUpdateBody::default() };
        let updated = self.docker.client.update_container(name, update).await;
        updated.map(|_| ()).map_err(self.docker.failed(format!("set the restart policy of {name}")))
    }

    /// Exited, not to be brought back by the engine, and its volumes in nobody's hands.
    pub(crate) async fn prove_stopped(&self, member: &Member) -> Result<StopProof, EngineError> {
        let operation = || format!("prove {member} stopped");
        let name = self.names.container(member);
        let (instance, seen) = match self.down(&name).await? {
            Down::Absent => ("none".to_owned(), format!("no container {name} exists")),
            Down::No { state } => return Err(EngineError::failed(operation(), format!("it is {state}"))),
            Down::Yes { instance, .. } => {
                self.set_restart(&name, RestartPolicyNameEnum::NO).await?;
                // Looked at again: until the policy was off the engine could have started it.
                match self.down(&name).await? {
                    Down::Yes { instance: same, exit_code, finished } if same == instance => {
                        let short: String = instance.chars().take(12).collect();
                        let seen = format!("container {short} exited ({exit_code}) at {finished}, restart policy no");
                        (instance, seen)
                    }
                    _ => return Err(EngineError::failed(operation(), "it was started again just now")),
                }
            }
        };
        let prefix = format!("{name}-");
        let mut containers = self.containers().await?;
        let own: Vec<String> =
            containers.iter().filter(|c| c.id == instance).flat_map(|c| c.volumes.iter().cloned()).collect();
        containers.retain(|container| container.id != instance && container.is_up());
        for container in containers {
            // Where the container is gone its volumes are known by name only: `postgres-1-data`.
            let shared = container.volumes.iter().find(|volume| own.contains(volume) || volume.starts_with(&prefix));
            if let Some(volume) = shared {
                let detail = format!("volume {volume} is in use by running container {}", container.name);
                return Err(EngineError::failed(operation(), detail));
            }
        }
        Ok(StopProof { instance, evidence: format!("{seen}, no running container uses its volumes") })
    }

    async fn down(&self, name: &str) -> Result<Down, EngineError> {
        let found = match self.inspect(name).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(Down::Absent),
            Err(error) => return Err(error),
        };
        let state = found.state.unwrap_or_default();
        let is_down = matches!(
            state.status,
            Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::CREATED | ContainerStateStatusEnum::DEAD)
        );
        if !is_down || state.running == Some(true) || state.pid.unwrap_or_default() != 0 {
            let state = state.status.map_or_else(|| "in an unknown state".to_owned(), |status| status.to_string());
            return Ok(Down::No { state });
        }
        Ok(Down::Yes {
            instance: found.id.unwrap_or_default(),
            exit_code: state.exit_code.unwrap_or_default(),
            finished: state.finished_at.unwrap_or_default(),
        })
    }
}

enum Down {
    Absent,
    Yes { instance: String, exit_code: i64, finished: String },
    No { state: String },
}
