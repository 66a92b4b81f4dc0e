//! The engine with every stack that it holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use async_trait::async_trait;
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as Listed, ImageSummary};
use bollard::query_parameters::{
    ListContainersOptions, ListImagesOptions, ListNetworksOptions, ListVolumesOptions, RemoveContainerOptions,
    RemoveImageOptions,
};
use futures_util::future;
use provisioner_core::engine::EngineError;
use provisioner_core::estate::{Estate, Leftover, Survey};
use provisioner_core::name::StackName;

use crate::connect::Docker;
use crate::error::is_missing;
use crate::labels::{self, Filters, Kind, Labels};

/// Every image that is made here is named so.
const OWN: &str = "provisioner/";

#[async_trait]
impl Estate for Docker {
    async fn survey(&self) -> Result<Survey, EngineError> {
        let labelled = || Some(HashMap::from([("label".to_owned(), vec![labels::STACK.to_owned()])]));
        let (containers, images, volumes, networks) = future::try_join4(
            self.all_containers(),
            self.all_images(),
            self.labels_of_volumes(labelled()),
            self.labels_of_networks(labelled()),
        )
        .await?;
        let of_containers = containers.iter().filter_map(|container| container.labels.as_ref());
        Ok(Survey {
            stacks: of_containers.chain(&volumes).chain(&networks).filter_map(stack_of).collect(),
            ended_jobs: containers.iter().filter_map(ended_job).collect(),
            unused_images: unused(&images, &containers),
        })
    }

    async fn discard(&self, leftover: &Leftover) -> Result<(), EngineError> {
        let (discarded, operation) = match leftover {
            // Without force: one that was started since by a run that lives is refused.
            Leftover::Job { container, .. } => {
                let options = RemoveContainerOptions { force: false, v: false, ..RemoveContainerOptions::default() };
                (self.client.remove_container(container, Some(options)).await, format!("remove container {container}"))
            }
            Leftover::Image { reference } => {
                let removed = self.client.remove_image(reference, None::<RemoveImageOptions>, None).await;
                (removed.map(|_| ()), format!("remove image {reference}"))
            }
        };
        match discarded.map_err(self.failed(operation)) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Docker {
    async fn all_containers(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
        self.client.list_containers(Some(options)).await.map_err(self.failed("list containers"))
    }

    /// With the nameless ones, through which an image is known to be built on another.
    async fn all_images(&self) -> Result<Vec<ImageSummary>, EngineError> {
        let options = ListImagesOptions { all: true, ..ListImagesOptions::default() };
        self.client.list_images(Some(options)).await.map_err(self.failed("list images"))
    }

    async fn labels_of_volumes(&self, filters: Option<Filters>) -> Result<Vec<Labels>, EngineError> {
        let listed = self.client.list_volumes(Some(ListVolumesOptions { filters })).await;
        let listed = listed.map_err(self.failed("list volumes"))?.volumes.unwrap_or_default();
        Ok(listed.into_iter().map(|volume| volume.labels).collect())
    }

    async fn labels_of_networks(&self, filters: Option<Filters>) -> Result<Vec<Labels>, EngineError> {
        let listed = self.client.list_networks(Some(ListNetworksOptions { filters })).await;
        let listed = listed.map_err(self.failed("list networks"))?;
        Ok(listed.into_iter().filter_map(|network| network.labels).collect())
    }
}

/// A container that somebody ran from an image built here has its empty label, which names no stack.
fn stack_of(labels: &Labels) -> Option<StackName> {
    StackName::new(labels.get(labels::STACK)?.as_str()).ok()
}

fn ended_job(container: &ContainerSummary) -> Option<Leftover> {
    let labels = container.labels.as_ref()?;
    let has_ended = matches!(container.state, Some(Listed::EXITED | Listed::DEAD | Listed::CREATED));
    let name = container.names.as_ref()?.first()?.trim_start_matches('/').to_owned();
    (Kind::of(labels) == Some(Kind::Job) && has_ended)
        .then_some(())
        .and_then(|()| Some(Leftover::Job { stack: stack_of(labels)?, container: name }))
}

/// Images of our own that neither a container nor an image that stays is made from.
fn unused(images: &[ImageSummary], containers: &[ContainerSummary]) -> BTreeSet<Leftover> {
    let is_own = |tag: &String| tag.starts_with(OWN);
    let parents: BTreeMap<&str, &str> =
        images.iter().map(|image| (image.id.as_str(), image.parent_id.as_str())).collect();
    let run = containers.iter().filter_map(|container| container.image_id.as_deref());
    // Somebody else's image that is built on one of ours is no business of ours.
    let foreign =
        images.iter().filter(|image| image.repo_tags.iter().any(|tag| !is_own(tag) && !tag.contains("<none>")));
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for start in run.chain(foreign.map(|image| image.id.as_str())) {
        let mut next = Some(start).filter(|id| !id.is_empty());
        while let Some(id) = next.filter(|id| used.insert(id)) {
            next = parents.get(id).copied().filter(|parent| !parent.is_empty());
        }
    }
    let unused = images.iter().filter(|image| !used.contains(image.id.as_str()));
    let tags = unused.flat_map(|image| &image.repo_tags).filter(|tag| is_own(tag));
    tags.map(|tag| Leftover::Image { reference: tag.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, parent: &str, tags: &[&str]) -> ImageSummary {
        ImageSummary {
            id: id.to_owned(),
            parent_id: parent.to_owned(),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..ImageSummary::default()
        }
    }

    fn container(name: &str, image: &str, state: Listed, labels: &[(&str, &str)]) -> ContainerSummary {
        ContainerSummary {
            names: Some(vec![format!("/{name}")]),
            image_id: Some(image.to_owned()),
            state: Some(state),
            labels: Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
            ..ContainerSummary::default()
        }
    }

    #[test]
    fn an_image_is_used_by_containers_and_by_what_is_built_on_it() {
        let images = [
            image("base", "", &["provisioner/base:trixie"]),
            image("step", "base", &["<none>:<none>"]),
            image("redis", "step", &["provisioner/redis:1"]),
            image("old", "step", &["provisioner/redis:0"]),
            image("own", "old2", &["shop:1", "provisioner/shop:1"]),
            image("old2", "base", &["provisioner/app:0"]),
            image("nginx", "", &["nginx:latest"]),
        ];
        let running = [container("dev-redis-1", "redis", Listed::EXITED, &[])];
        let reference = |text: &str| Leftover::Image { reference: text.to_owned() };
        assert_eq!(unused(&images, &running), BTreeSet::from([reference("provisioner/redis:0")]));
        let nobody = unused(&images[..4], &[]);
        let all = ["provisioner/base:trixie", "provisioner/redis:0", "provisioner/redis:1"].map(reference);
        assert_eq!(nobody, BTreeSet::from(all));
    }

    #[test]
    fn only_a_job_that_does_not_run_is_left_over() {
        let job = |state| container("ci-job-seed", "i", state, &[(labels::STACK, "ci"), (labels::KIND, "job")]);
        let left = Leftover::Job { stack: StackName::new("ci").unwrap(), container: "ci-job-seed".to_owned() };
        for state in [Listed::EXITED, Listed::CREATED, Listed::DEAD] {
            assert_eq!(ended_job(&job(state)), Some(left.clone()));
        }
        assert_eq!(ended_job(&job(Listed::RUNNING)), None);
        let member = container("ci-redis-1", "i", Listed::EXITED, &[(labels::STACK, "ci"), (labels::KIND, "workload")]);
        assert_eq!(ended_job(&member), None);
    }

    #[test]
    fn an_image_of_ours_that_somebody_runs_makes_no_stack() {
        assert_eq!(stack_of(&Labels::from([(labels::STACK.to_owned(), String::new())])), None);
    }
}
