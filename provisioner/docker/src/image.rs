//! Images: found, pulled or made.

use std::time::Duration;

use bollard::models::CreateImageInfo;
use bollard::query_parameters::{CreateImageOptions, ListImagesOptions, RemoveImageOptions};
use futures_util::{Stream, StreamExt};
use provisioner_core::engine::{EngineError, ImageReferences, Output};
use provisioner_core::stack::{Image, ImageId};

use crate::connect::DockerEngine;
use crate::error::is_missing;

/// A registry that says nothing for this long is not there.
pub(crate) const REGISTRY_LIMIT: Duration = Duration::from_secs(5);
/// An image without anything inside, for containers that are never started.
const EMPTY: (&str, &str) = ("provisioner/empty", "1");
/// Two blocks of zeros: the end of a tar archive that holds nothing.
const EMPTY_ARCHIVE: [u8; 1024] = [0; 1024];

impl DockerEngine {
    pub(crate) async fn ensure_image(
        &self,
        image: &Image,
        images: &ImageReferences,
        output: &dyn Output,
    ) -> Result<(), EngineError> {
        let reference = image.reference();
        if self.has_image(&reference).await? {
            return Ok(());
        }
        match image {
            Image::Base { suite, .. } => self.make_base(&reference, suite, output).await,
            Image::Recipe(recipe) => {
                let base = images.get(&recipe.base).ok_or_else(|| {
                    let detail = format!("its base {} has no reference", recipe.base.0);
                    EngineError::failed(format!("build image {reference}"), detail)
                })?;
                self.build(recipe, &reference, base, output).await
            }
            Image::Reference { .. } => self.pull(&reference, output).await,
        }
    }

    pub(crate) async fn has_image(&self, reference: &str) -> Result<bool, EngineError> {
        let found = self.docker.client.inspect_image(reference).await;
        match found.map_err(self.docker.failed(format!("inspect image {reference}"))) {
            Ok(_) => Ok(true),
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Pulls from the registry that the reference names. It must answer within [`REGISTRY_LIMIT`]; the download itself
    /// may take as long as it takes.
    pub(crate) async fn pull(&self, reference: &str, output: &dyn Output) -> Result<(), EngineError> {
        let operation = format!("pull image {reference}");
        let (name, tag) = split_tag(reference);
        let options = CreateImageOptions {
            from_image: Some(name.to_owned()),
            tag: Some(tag.to_owned()),
            ..CreateImageOptions::default()
        };
        let mut answers = self.docker.patient().create_image(Some(options), None, None);
        let first = tokio::time::timeout(REGISTRY_LIMIT, answers.next()).await;
        let first = first.map_err(|_| EngineError::TimedOut { operation: operation.clone(), after: REGISTRY_LIMIT })?;
        self.follow(futures_util::stream::iter(first).chain(answers), &operation, output).await
    }

    /// Tells an image's progress line by line until it is there.
    pub(crate) async fn follow(
        &self,
        mut answers: impl Stream<Item = Result<CreateImageInfo, bollard::errors::Error>> + Unpin,
        operation: &str,
        output: &dyn Output,
    ) -> Result<(), EngineError> {
        while let Some(answer) = answers.next().await {
            let CreateImageInfo { id, status, progress_detail, .. } = answer.map_err(self.docker.failed(operation))?;
            // A layer's progress comes ten times a second; its beginning and its end are enough.
            let is_progress = progress_detail.is_some_and(|detail| detail.current.is_some());
            if let Some(status) = status.filter(|_| !is_progress) {
                output.line(&id.map_or_else(|| status.clone(), |id| format!("{id}: {status}")));
            }
        }
        Ok(())
    }

    pub(crate) async fn ensure_empty_image(&self) -> Result<String, EngineError> {
        let (repo, tag) = EMPTY;
        let reference = format!("{repo}:{tag}");
        if self.has_image(&reference).await? {
            return Ok(reference);
        }
        let archive = bollard::body_full(bytes::Bytes::from_static(&EMPTY_ARCHIVE));
        let answers = self.docker.client.create_image(Some(import_options(repo, tag)), Some(archive), None);
        let operation = format!("import image {reference}");
        self.follow(answers, &operation, &provisioner_core::engine::Quiet).await?;
        Ok(reference)
    }

    /// Removes what was made here under this id; an image that something still uses stays.
    pub(crate) async fn remove_image(&self, id: &ImageId) -> Result<(), EngineError> {
        let listed = self.docker.client.list_images(None::<ListImagesOptions>).await;
        let listed = listed.map_err(self.docker.failed("list images"))?;
        let prefix = format!("provisioner/{}:", id.0);
        for reference in listed.iter().flat_map(|image| &image.repo_tags).filter(|tag| tag.starts_with(&prefix)) {
            let removed = self.docker.client.remove_image(reference, None::<RemoveImageOptions>, None).await;
            match removed.map_err(self.docker.failed(format!("remove image {reference}"))) {
                Err(error) if !is_missing(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

pub(crate) fn import_options(repo: &str, tag: &str) -> CreateImageOptions {
    CreateImageOptions {
        from_src: Some("-".to_owned()),
        repo: Some(repo.to_owned()),
        tag: Some(tag.to_owned()),
        ..CreateImageOptions::default()
    }
}

/// Name and tag (or digest) of a reference. Without a tag the engine would pull every tag there is.
pub(crate) fn split_tag(reference: &str) -> (&str, &str) {
    if let Some((name, digest)) = reference.split_once('@') {
        return (name, digest);
    }
    match reference.rsplit_once(':') {
        // A colon before the last slash belongs to the registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_registrys_port() {
        assert_eq!(split_tag("nginx"), ("nginx", "latest"));
        assert_eq!(split_tag("nginx:1.27"), ("nginx", "1.27"));
        assert_eq!(split_tag("127.0.0.1:5000/shop"), ("127.0.0.1:5000/shop", "latest"));
        assert_eq!(split_tag("127.0.0.1:5000/shop:2"), ("127.0.0.1:5000/shop", "2"));
        assert_eq!(split_tag("shop@sha256:ab"), ("shop", "sha256:ab"));
    }

    #[test]
    fn the_empty_archive_is_one() {
        assert_eq!(tar::Archive::new(EMPTY_ARCHIVE.as_slice()).entries().unwrap().count(), 0);
    }
}
