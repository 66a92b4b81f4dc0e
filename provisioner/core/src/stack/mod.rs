//! What should exist: pure data, engine-neutral, derived from the manifest and from nothing else.
//!
//! A stack names members, never roles: who is primary and where a route points is run-time truth and lives in
//! [`crate::record`].

mod external;
mod fingerprint;
mod probes;
mod resource;
mod text;
mod variables;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use external::{External, url_host};
pub use fingerprint::Fingerprint;
pub use probes::{Probe, Probes, Started};
pub use resource::{
    Expose, File, Image, ImageId, ImageInput, Job, Limits, Mount, OnChange, Port, Recipe, Resource, ResourceId,
    Restart, SECRET_VARIABLES, Secret, SecretSource, SecretVersions, Stop, Volume, Workload,
};
pub use text::{MissingSecret, Text};
pub use variables::{SECRET_ENV_FILE, secret_env_text, secret_shell};

use crate::component::{Component, Dependency};
use crate::engine::ImageReferences;
use crate::manifest::Manifest;
use crate::name::{Member, StackName};

/// Everything that should exist under one name, in the order in which it was declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack {
    pub name: StackName,
    resources: BTreeMap<ResourceId, Resource>,
    /// What is only used, by its component.
    externals: BTreeMap<String, External>,
}

impl Stack {
    /// Collects what the components declare. A resource that two components declare alike (a shared image) is kept
    /// once.
    pub fn new(name: StackName, declared: impl IntoIterator<Item = Resource>) -> Self {
        let mut resources = BTreeMap::new();
        for resource in declared {
            resources.insert(resource.id(), resource);
        }
        Self { name, resources, externals: BTreeMap::new() }
    }

    /// What these components declare of a manifest.
    pub fn of<'a>(manifest: &Manifest, components: impl IntoIterator<Item = &'a dyn Component>) -> Self {
        let (mut declared, mut externals) = (Vec::new(), Vec::new());
        for component in components {
            declared.extend(component.declare(manifest));
            externals.extend(component.external(manifest));
        }
        Self::new(manifest.name.clone(), declared).using(externals)
    }

    /// The same with services that exist already.
    pub fn using(mut self, externals: impl IntoIterator<Item = External>) -> Self {
        self.externals.extend(externals.into_iter().map(|external| (external.component.clone(), external)));
        self
    }

    /// The same with more resources.
    pub fn and(mut self, declared: impl IntoIterator<Item = Resource>) -> Self {
        self.resources.extend(declared.into_iter().map(|resource| (resource.id(), resource)));
        self
    }

    pub fn externals(&self) -> impl Iterator<Item = &External> {
        self.externals.values()
    }

    /// The service that stands for this component's members.
    pub fn external(&self, component: &str) -> Option<&External> {
        self.externals.get(component)
    }

    /// Whether its programs can use the system, whoever runs it.
    pub fn has(&self, component: &str) -> bool {
        self.external(component).is_some() || self.members(component).next().is_some()
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
