//! Images for a registry: tagged, pushed, and told by the digest that the registry gave them.

use std::path::PathBuf;

use async_trait::async_trait;
use bollard::models::PushImageInfo;
use bollard::query_parameters::{PushImageOptions, RemoveImageOptions, TagImageOptions};
use futures_util::TryStreamExt;
use provisioner_core::engine::{EngineError, ImageReferences, Output};
use provisioner_core::images::{Images, Pushed};
use provisioner_core::stack::Image;

use crate::connect::DockerEngine;
use crate::credentials;
use crate::error::is_missing;
use crate::image::split_tag;

/// An engine that makes images and pushes them, with the logins of Docker's own configuration.
pub struct DockerImages {
    pub(crate) engine: DockerEngine,
    /// Docker's own folder; without it nobody is logged in.
    pub(crate) config_dir: Option<PathBuf>,
}

#[async_trait]
impl Images for DockerImages {
    async fn make(&self, image: &Image, images: &ImageReferences, output: &dyn Output) -> Result<(), EngineError> {
        self.engine.ensure_image(image, images, output).await
    }

    async fn push(&self, reference: &str, target: &str, output: &dyn Output) -> Result<Pushed, EngineError> {
        let (_, tag) = split_tag(reference);
        let options = TagImageOptions { repo: Some(target.to_owned()), tag: Some(tag.to_owned()) };
        let docker = &self.engine.docker;
        let tagged = docker.client.tag_image(reference, Some(options)).await;
        tagged.map_err(docker.failed(format!("tag image {reference} as {target}:{tag}")))?;
        let pushed = self.push_tagged(target, tag, output).await;
        // A name for the registry's sake: `prune` would take the image for somebody else's.
        let removed = docker.client.remove_image(&format!("{target}:{tag}"), None::<RemoveImageOptions>, None).await;
        match removed.map_err(docker.failed(format!("remove tag {target}:{tag}"))) {
            Err(error) if pushed.is_ok() && !is_missing(&error) => Err(error),
            _ => pushed,
        }
    }
}

impl DockerImages {
    async fn push_tagged(&self, target: &str, tag: &str, output: &dyn Output) -> Result<Pushed, EngineError> {
        let operation = format!("push image {target}:{tag}");
        let login = match &self.config_dir {
            Some(folder) => credentials::find(folder, credentials::registry(target)).await,
            None => Ok(None),
        };
        let login = login.map_err(|detail| EngineError::failed(operation.as_str(), detail))?;
        let options = PushImageOptions { tag: Some(tag.to_owned()), platform: None };
        let docker = &self.engine.docker;
        let patient = docker.patient();
        let mut answers = Box::pin(patient.push_image(target, Some(options), login));
        let (mut digest, mut layers) = (None, 0);
        while let Some(answer) =
            answers.try_next().await.map_err(|error| refused(docker.failed(operation.as_str())(error)))?
        {
            let PushImageInfo { status, progress_detail, .. } = answer;
            // A layer's progress comes ten times a second; its beginning and its end are enough.
            let is_progress = progress_detail.is_some_and(|detail| detail.current.is_some());
            let Some(status) = status.filter(|_| !is_progress) else { continue };
            layers += usize::from(status == "Pushed");
            digest = digest_of(&status).map(str::to_owned).or(digest);
            output.line(&status);
        }
        let missing = || EngineError::failed(operation.as_str(), "the engine told no digest, expected one at the end");
        Ok(Pushed { digest: digest.ok_or_else(missing)?, layers })
    }
}

/// `trixie: digest: sha256:… size: 529`
fn digest_of(status: &str) -> Option<&str> {
    let (_, rest) = status.split_once(": digest: ")?;
    let digest = rest.split_whitespace().next()?;
    digest.starts_with("sha256:").then_some(digest)
}

/// What the engine says about a registry, with what helps.
fn refused(error: EngineError) -> EngineError {
    let EngineError::Failed { operation, detail } = error else { return error };
    let lower = detail.to_ascii_lowercase();
    let help = if lower.contains("server gave http response to https client") {
        "; the engine takes a registry without TLS on loopback alone (or by insecure-registries of its daemon.json): \
         push by 127.0.0.1 and say with --registry-in-cluster how the nodes reach it"
    } else if ["denied", "unauthorized", "authentication required", "no basic auth"]
        .iter()
        .any(|word| lower.contains(word))
    {
        "; log in with `docker login` for that registry"
    } else {
        ""
    };
    EngineError::Failed { operation, detail: format!("{detail}{help}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_one_that_the_registry_gave() {
        assert_eq!(digest_of("trixie: digest: sha256:0a1b size: 529"), Some("sha256:0a1b"));
        assert_eq!(digest_of("Layer already exists"), None);
        assert_eq!(digest_of("1: digest: md5:0a size: 1"), None);
    }

    #[test]
    fn what_a_registry_refuses_is_told_with_what_helps() {
        let said = |detail: &str| refused(EngineError::failed("push image a:1", detail)).to_string();
        let plain = "Get \"https://10.0.0.1:5000/v2/\": http: server gave HTTP response to HTTPS client";
        assert!(said(plain).contains("--registry-in-cluster"), "{}", said(plain));
        assert!(said("unauthorized: authentication required").ends_with("`docker login` for that registry"));
        assert_eq!(said("no space left"), "push image a:1: no space left");
    }
}
