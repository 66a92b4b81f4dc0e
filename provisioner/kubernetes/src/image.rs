//! Images: Kubernetes builds none. A record says under which reference the cluster pulls each of them.

use std::collections::BTreeMap;

use provisioner_core::engine::EngineError;
use provisioner_core::record::{self, RecordError, Records};
use provisioner_core::stack::{Image, ImageId};
use serde::{Deserialize, Serialize};

use crate::connect::KubernetesEngine;

pub(crate) const RECORD: &str = "images";

/// The record `images`: the reference that the stack's description gives to the one that the cluster pulls, by digest
/// where `provisioner images push` wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PushedImages(pub BTreeMap<String, String>);

impl PushedImages {
    /// The key of the record.
    pub const RECORD: &'static str = RECORD;
}

pub(crate) fn read(error: RecordError) -> EngineError {
    match error {
        RecordError::Engine(error) => error,
        other => EngineError::failed("read the record of images", other),
    }
}

impl KubernetesEngine {
    pub(crate) async fn pushed(&self) -> Result<PushedImages, EngineError> {
        let found = self.get(RECORD).await?;
        Ok(found.map(|record| record.read(RECORD)).transpose().map_err(read)?.unwrap_or_default())
    }

    pub(crate) async fn ensure_image(&self, image: &Image) -> Result<(), EngineError> {
        let reference = image.reference();
        if self.pushed().await?.0.contains_key(&reference) {
            return Ok(());
        }
        match image {
            // Whether it can be pulled is seen when the first pod does.
            Image::Reference { .. } => {
                let noted = record::update::<PushedImages, _>(self, RECORD, |pushed| {
                    let mut pushed = pushed.unwrap_or_default();
                    pushed.0.entry(reference.clone()).or_insert_with(|| reference.clone());
                    Some(pushed)
                });
                noted.await.map_err(read)
            }
            Image::Base { .. } | Image::Recipe(_) => Err(not_pushed(&reference)),
        }
    }

    /// Forgets what was pushed under this id; the registry keeps it.
    pub(crate) async fn remove_image(&self, id: &ImageId) -> Result<(), EngineError> {
        let prefix = format!("provisioner/{}:", id.0);
        let forgotten = record::update::<PushedImages, _>(self, RECORD, |pushed| {
            let mut pushed = pushed?;
            let before = pushed.0.len();
            pushed.0.retain(|reference, _| !reference.starts_with(&prefix));
            (pushed.0.len() != before).then_some(pushed)
        });
        forgotten.await.map_err(read)
    }

    pub(crate) async fn in_cluster(&self, reference: &str) -> Result<String, EngineError> {
        self.pushed().await?.0.remove(reference).ok_or_else(|| not_pushed(reference))
    }
}

pub(crate) fn not_pushed(reference: &str) -> EngineError {
    let detail = "the cluster's registry does not have it, and Kubernetes builds none; \
         provisioner images push --registry HOST/PATH builds it on the Docker engine and pushes it";
    EngineError::failed(format!("ensure image {reference}"), detail)
}
