//! What should exist: pure data, engine-neutral, derived from the manifest and from nothing else.
//!
//! A stack names members, never roles: who is primary and where a route points is run-time truth and lives in
//! [`crate::record`].

mod fingerprint;
mod probes;
mod resource;
mod text;
mod variables;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use fingerprint::Fingerprint;
pub use probes::{Probe, Probes, Started};
pub use resource::{
    Expose, File, Image, ImageId, ImageInput, Job, Limits, Mount, OnChange, Port, Recipe, Resource, ResourceId,
    Restart, SECRET_VARIABLES, Secret, SecretSource, SecretVersions, Stop, Volume, Workload,
};
pub use text::{MissingSecret, Text};
pub use variables::{SECRET_ENV_FILE, secret_env_text, secret_shell};

use crate::component::Dependency;
use crate::engine::ImageReferences;
use crate::name::{Member, StackName};

/// Everything that should exist under one name, in the order in which it was declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    pub name: StackName,
    resources: BTreeMap<ResourceId, Resource>,
}

impl Stack {
    /// Collects what the components declare. A resource that two components declare alike (a shared image) is kept
    /// once.
    pub fn new(name: StackName, declared: impl IntoIterator<Item = Resource>) -> Self {
        let mut resources = BTreeMap::new();
        for resource in declared {
            resources.insert(resource.id(), resource);
        }
        Self { name, resources }
    }

    /// Without what only a cluster acts on: elsewhere a change of it must replace nobody.
    #[must_use]
    pub fn without_cluster_parts(mut self) -> Self {
        for resource in self.resources.values_mut() {
            if let Resource::Workload(workload) = resource {
                let workload = Arc::make_mut(workload);
                workload.probes = None;
                workload.ports.iter_mut().for_each(|port| port.from.clear());
            }
        }
        self
    }

    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    pub fn resource(&self, id: &ResourceId) -> Option<&Resource> {
        self.resources.get(id)
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.resources.values().filter_map(|resource| match resource {
            Resource::Workload(workload) => Some(workload.as_ref()),
            _ => None,
        })
    }

    /// The members of one component, in order.
    pub fn members<'a>(&'a self, component: &'a str) -> impl Iterator<Item = &'a Workload> + 'a {
        self.workloads().filter(move |workload| workload.component == component)
    }

    pub fn workload(&self, member: &Member) -> Option<&Workload> {
        match self.resources.get(&ResourceId::Workload(member.clone())) {
            Some(Resource::Workload(workload)) => Some(workload),
            _ => None,
        }
    }

    pub fn image(&self, id: &ImageId) -> Option<&Image> {
        match self.resources.get(&ResourceId::Image(id.clone())) {
            Some(Resource::Image(image)) => Some(image),
            _ => None,
        }
    }

    /// The reference that the engine knows each image by.
    pub fn image_references(&self) -> ImageReferences {
        let images = self.resources.values().filter_map(|resource| match resource {
            Resource::Image(image) => Some((image.id().clone(), image.reference())),
            _ => None,
        });
        images.collect()
    }

    /// What must be done before `resource` may be touched, as far as its own shape tells; a workload adds its `after`.
    pub fn needs(resource: &Resource) -> Vec<Dependency> {
        resource.needs()
    }
}
