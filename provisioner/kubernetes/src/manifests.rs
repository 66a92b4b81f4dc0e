//! The objects of a resource for those who apply them by other means: what `ensure` applies.

use provisioner_core::engine::{EngineError, ImageReferences};
use provisioner_core::stack::{Resource, SecretVersions, Workload};
use serde_json::Value;

use crate::connect::KubernetesEngine;
use crate::image::PushedImages;
use crate::labels::{self, Labels, Names};
use crate::namespace::{self, Standing};
use crate::render::{self, Described, Entry};

/// Stands for the instance, which a cluster gives to a member when it is made.
const INSTANCE: &str = "rendered";

impl KubernetesEngine {
    /// In an order in which they can be applied. Secrets are made by the cluster's provisioner: their names stand in the
    /// files instead of their values, and they are no objects of a description.
    pub fn render(
        &self,
        resource: &Resource,
        images: &ImageReferences,
        pushed: &PushedImages,
    ) -> Result<Vec<Value>, EngineError> {
        match resource {
            Resource::Image(_) | Resource::Secret(_) => Ok(Vec::new()),
            Resource::Network => {
                let standing = Standing { is_made: true, is_network: true, is_leaving: false };
                let namespace = namespace::object(&self.names, standing);
                Ok(std::iter::once(namespace).chain(namespace::policies(&self.names)).collect())
            }
            Resource::Volume(volume) => Ok(vec![render::volume(&self.names, &self.kubernetes.options, volume)]),
            Resource::Workload(workload) => self.render_workload(workload, images, pushed),
        }
    }

    fn render_workload(
        &self,
        workload: &Workload,
        images: &ImageReferences,
        pushed: &PushedImages,
    ) -> Result<Vec<Value>, EngineError> {
        let operation = || format!("render {}", workload.member);
        let missing = || EngineError::failed(operation(), format!("image {} has no reference", workload.image.0));
        let image = images.get(&workload.image).ok_or_else(missing)?;
        let in_cluster = pushed.0.get(image).unwrap_or(image);
        let mut entries: Vec<Entry> = workload.files.iter().map(masked).collect();
        entries.extend(render::secret_env_masked(&workload.secret_env));
        let of = Labels::from([(labels::COMPONENT.to_owned(), workload.component.clone())]);
        let fingerprints = workload.file_fingerprints(&SecretVersions::new());
        let name = Names::files(&workload.member);
        let files = render::files_secret(&self.names, &name, of, &entries, (INSTANCE, &fingerprints));
        let described = Described {
            names: &self.names,
            options: &self.kubernetes.options,
            workload,
            image,
            in_cluster,
            instance: INSTANCE,
        };
        Ok(std::iter::once(files).chain(render::workload(&described)).collect())
    }
}

fn masked(file: &provisioner_core::stack::File) -> Entry {
    let content = file.content.masked().as_bytes().to_vec();
    Entry { path: file.path.clone(), mode: file.mode, owner: file.owner, content }
}
