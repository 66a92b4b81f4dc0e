//! Members, their network and volumes: made, replaced, removed.

use std::time::Duration;

use bollard::models::{ContainerCreateBody, ContainerInspectResponse, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, ListNetworksOptions, RemoveContainerOptions,
};
use provisioner_core::engine::{EngineError, ImageReferences, Power};
use provisioner_core::name::Member;
use provisioner_core::observed::State;
use provisioner_core::record::{RecordError, Records};
use provisioner_core::stack::{Volume, Workload};
use provisioner_core::wait::{self, Look};

use crate::connect::DockerEngine;
use crate::container;
use crate::containers::{self, Container};
use crate::error::{is_missing, status};
use crate::files;
use crate::labels::{self, Kind, Labels};

const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

impl DockerEngine {
    pub(crate) async fn ensure_network(&self) -> Result<(), EngineError> {
        let name = self.names.network();
        let filters = [("name".to_owned(), vec![name.clone()])].into();
        let listed = self.docker.client.list_networks(Some(ListNetworksOptions { filters: Some(filters) })).await;
        let listed = listed.map_err(self.docker.failed("list networks"))?;
        // The engine's filter also finds names that only contain this one.
        if let Some(found) = listed.into_iter().find(|network| network.name.as_deref() == Some(&name)) {
            if self.names.own(&found.labels.unwrap_or_default()) {
                return Ok(());
            }
            let detail = format!(
                "a network of this name exists and was not made for stack {name}; docker network rm {name} removes it, or name the stack otherwise"
            );
            return Err(EngineError::failed(format!("create network {name}"), detail));
        }
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            labels: Some(self.names.labels(Kind::Network)),
            ..NetworkCreateRequest::default()
        };
        let made = self.docker.client.create_network(request).await;
        made.map(|_| ()).map_err(self.docker.failed(format!("create network {name}")))
    }

    pub(crate) async fn remove_network(&self) -> Result<(), EngineError> {
        // Whoever takes the network down uses no secrets any more, and a job that a killed run left would hold on to it.
        self.remove_accessor().await?;
        self.remove_jobs().await?;
        let name = self.names.network();
        let removed = self.docker.client.remove_network(&name).await;
        match removed.map_err(self.docker.failed(format!("remove network {name}"))) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    async fn remove_jobs(&self) -> Result<(), EngineError> {
        let is_job =
            |container: &Container| self.names.own(&container.labels) && Kind::of(&container.labels) == Some(Kind::Job);
        for job in self.containers().await?.iter().filter(|container| is_job(container)) {
            self.remove_container(&job.id).await?;
        }
        Ok(())
    }

    pub(crate) async fn ensure_volume(&self, volume: &Volume) -> Result<(), EngineError> {
        let mut labels = self.names.labels(Kind::Volume);
        labels.insert(labels::VOLUME.to_owned(), volume.name.clone());
        labels.insert(labels::COMPONENT.to_owned(), volume.component.clone());
        self.create_volume(&self.names.volume(&volume.name), labels).await
    }

    /// Makes a volume unless it exists; one that belongs to somebody else is not taken over.
    pub(crate) async fn create_volume(&self, name: &str, labels: Labels) -> Result<(), EngineError> {
        let operation = format!("create volume {name}");
        let kind = Kind::of(&labels);
        let request =
            VolumeCreateRequest { name: Some(name.to_owned()), labels: Some(labels), ..VolumeCreateRequest::default() };
        let made = self.docker.client.create_volume(request).await.map_err(self.docker.failed(operation.as_str()))?;
        if self.names.own(&made.labels) && Kind::of(&made.labels) == kind {
            return Ok(());
        }
        let stack = &self.names.stack;
        let detail = format!("a volume of this name exists and was not made for stack {stack}; it is left untouched");
        Err(EngineError::failed(operation, detail))
    }

    pub(crate) async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        self.delete_volume(&self.names.volume(name)).await?;
        self.sweep_markers().await
    }

    /// Makes the member anew unless it stands there as described.
    pub(crate) async fn ensure_workload(
        &self,
        workload: &Workload,
        images: &ImageReferences,
    ) -> Result<(), EngineError> {
        let member = &workload.member;
        let operation = format!("create {member}");
        let image = images.get(&workload.image).ok_or_else(|| {
            EngineError::failed(operation.as_str(), format!("image {} has no reference", workload.image.0))
        })?;
        if !workload.secret_env.is_empty() && workload.command.is_empty() {
            return Err(EngineError::failed(operation, "secret variables need a command, found none"));
        }
        let standing = self.standing(member).await?;
        if let [container] = &*standing
            && self.is_as_described(workload, image, container).await?
        {
            match container.state {
                State::Running | State::Restarting => return Ok(()),
                State::Paused | State::Exited => return self.set_power(member, Power::Running).await,
                // Never started: a run was killed, and its files may be missing.
                State::Created => {}
            }
        }
        // Resolved before anything is stopped, so that a missing secret costs no downtime.
        let (entries, versions) = self.resolve_files(&workload.files, &workload.secret_env).await?;

        for container in standing {
            self.remove_standing(member, &container).await?;
        }
        let name = self.names.container(member);
        self.create_container(&name, container::workload(&self.names, workload, image, &versions)).await?;
        self.put_archive(&name, &entries).await?;
        self.start(member, &name).await
    }

    async fn standing(&self, member: &Member) -> Result<Vec<Container>, EngineError> {
        let mut containers = self.containers().await?;
        containers.retain(|container| container.is_in_place_of(&self.names, member));
        Ok(containers)
    }

    async fn is_as_described(
        &self,
        workload: &Workload,
        image: &str,
        container: &Container,
    ) -> Result<bool, EngineError> {
        let member = &workload.member;
        let mut observed = containers::workloads(&self.names, std::slice::from_ref(container));
        let Some(found) = observed.get_mut(member).filter(|found| found.spec.is_some()) else { return Ok(false) };
        let key = files::record_key(member);
        let record = self.get(&key).await?.map(|record| (key, record));
        files::merge(member, found, &provisioner_core::record::RecordSet(record.into_iter().collect()));
        let secrets = workload.secrets().map(str::to_owned).collect();
        let versions = self.current_secrets(&secrets).await?.versions;
        let files = workload.file_fingerprints(&versions);
        Ok(found.spec == Some(workload.spec_fingerprint(image))
            && found.making.has_process_of(&container::making(&self.names, workload, image))
            && found.files == files)
    }

    /// Removes what stands in a member's place: by its own stop signal and grace period, and without its volumes.
    async fn remove_standing(&self, member: &Member, container: &Container) -> Result<(), EngineError> {
        if let Some(stack) = self.names.other_stack(&container.labels) {
            let detail = format!("container {} belongs to stack {stack}", container.name);
            return Err(EngineError::failed(format!("replace {member}"), detail));
        }
        self.stop_container(&container.id, container.state).await?;
        self.remove_container(&container.id).await
    }

    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), EngineError> {
        // `v` stays off: an image of somebody's own may keep data in a volume that has no name.
        let options = RemoveContainerOptions { force: true, v: false, ..RemoveContainerOptions::default() };
        let operation = format!("remove container {id}");
        match self.docker.client.remove_container(id, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if status(&error) == Some(404) => Ok(()),
            // Somebody else's removal is under way.
            Err(error) if status(&error) == Some(409) => {
                let gone = wait::until(REMOVAL_LIMIT, Duration::from_millis(100), || async {
                    match self.inspect(id).await {
                        Ok(_) => Look::Pending(error.to_string()),
                        Err(error) if is_missing(&error) => Look::Done(()),
                        Err(error) => Look::Broken(error),
                    }
                });
                gone.await.map_err(|error| EngineError::failed(operation, error))
            }
            Err(error) => Err(self.docker.failed(operation)(error)),
        }
    }

    pub(crate) async fn remove_workload(&self, member: &Member) -> Result<(), EngineError> {
        for container in self.standing(member).await? {
            if Kind::of(&container.labels) != Some(Kind::Workload) {
                let detail = format!("container {} was not made by the provisioner", container.name);
                return Err(EngineError::failed(format!("remove {member}"), detail));
            }
            self.remove_standing(member, &container).await?;
        }
        let key = files::record_key(member);
        let version = self.get(&key).await?.map_or(0, |record| record.version);
        match self.remove_if(&key, version).await {
            Ok(()) | Err(RecordError::Conflict { .. }) => Ok(()),
            Err(RecordError::Engine(error)) => Err(error),
            Err(error) => Err(EngineError::failed(format!("remove {member}"), error)),
        }
    }

    pub(crate) async fn create_container(&self, name: &str, body: ContainerCreateBody) -> Result<(), EngineError> {
        let options = CreateContainerOptions { name: Some(name.to_owned()), ..CreateContainerOptions::default() };
        let made = self.docker.client.create_container(Some(options), body).await;
        made.map(|_| ()).map_err(self.docker.failed(format!("create container {name}")))
    }

    pub(crate) async fn inspect(&self, name: &str) -> Result<ContainerInspectResponse, EngineError> {
        let found = self.docker.client.inspect_container(name, None::<InspectContainerOptions>).await;
        found.map_err(self.docker.failed(format!("inspect container {name}")))
    }
}
