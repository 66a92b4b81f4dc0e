//! Where images are made for an engine that makes none itself.

use async_trait::async_trait;

use crate::engine::{EngineError, ImageReferences, Output};
use crate::stack::Image;

#[async_trait]
pub trait Images: Send + Sync {
    /// Makes the image unless it is there already. The base of a recipe is looked up among `images`.
    async fn make(&self, image: &Image, images: &ImageReferences, output: &dyn Output) -> Result<(), EngineError>;

    /// Brings the image of this reference into a registry, as `target` without a tag of its own.
    async fn push(&self, reference: &str, target: &str, output: &dyn Output) -> Result<Pushed, EngineError>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// As the registry knows the image: `sha256:…`.
    pub digest: String,
    /// Layers that the registry did not have yet.
    pub layers: usize,
}
