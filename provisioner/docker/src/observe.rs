//! One snapshot by four reads side by side, however large the stack is.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::{ImageSummary, Volume as Listed};
use bollard::query_parameters::{ListImagesOptions, ListNetworksOptions, ListVolumesOptions};
use futures_util::future;
use provisioner_core::clock;
use provisioner_core::engine::EngineError;
use provisioner_core::observed::{Network, Observed};

use crate::connect::DockerEngine;
use crate::containers;
use crate::files;
use crate::labels::{self, Filters, Kind};
use crate::records;
use crate::secrets;

impl DockerEngine {
    pub(crate) async fn snapshot(&self) -> Result<Observed, EngineError> {
        let requests = (self.containers(), self.volumes(self.names.filter()), self.network(), self.images());
        let (containers, volumes, network, images) =
            future::try_join4(requests.0, requests.1, requests.2, requests.3).await?;
        records::refuse_unreadable(&volumes)?;
        let records = records::current(&volumes);
        let accessor = self.names.accessor();
        let has_accessor = containers.iter().any(|container| container.name == accessor);
        let mut workloads = containers::workloads(&self.names, &containers);
        for (member, workload) in &mut workloads {
            files::merge(member, workload, &records);
        }
        Ok(Observed {
            images,
            network,
            secrets: secrets::known(&records, has_accessor),
            volumes: data_volumes(&volumes),
            workloads,
            records,
            at: clock::unix_seconds(),
            volume_bytes: BTreeMap::new(),
            makings: BTreeMap::new(),
            facts: BTreeMap::new(),
            deep: Vec::new(),
        })
    }

    pub(crate) async fn volumes(&self, filters: Filters) -> Result<Vec<Listed>, EngineError> {
        let options = ListVolumesOptions { filters: Some(filters) };
        let listed = self.docker.client.list_volumes(Some(options)).await;
        Ok(listed.map_err(self.docker.failed("list volumes"))?.volumes.unwrap_or_default())
    }

    async fn network(&self) -> Result<Network, EngineError> {
        let options = ListNetworksOptions { filters: Some(self.names.filter()) };
        let listed = self.docker.client.list_networks(Some(options)).await;
        let listed = listed.map_err(self.docker.failed("list networks"))?;
        let name = self.names.network();
        let is_there = listed.iter().any(|network| network.name.as_deref() == Some(&name));
        Ok(if is_there { Network::Present } else { Network::Absent })
    }

    async fn images(&self) -> Result<BTreeSet<String>, EngineError> {
        let listed = self.docker.client.list_images(None::<ListImagesOptions>).await;
        let listed = listed.map_err(self.docker.failed("list images"))?;
        Ok(listed.iter().flat_map(references).collect())
    }
}

fn data_volumes(volumes: &[Listed]) -> BTreeSet<String> {
    let data = volumes.iter().filter(|volume| Kind::of(&volume.labels) == Some(Kind::Volume));
    data.filter_map(|volume| volume.labels.get(labels::VOLUME).cloned()).collect()
}

/// Every way in which people write the references of one image: `nginx` is `docker.io/library/nginx:latest`.
fn references(image: &ImageSummary) -> BTreeSet<String> {
    let mut references = BTreeSet::new();
    for reference in image.repo_tags.iter().chain(&image.repo_digests) {
        if reference.contains("<none>") {
            continue;
        }
        let spellings = [Some(reference.as_str()), reference.strip_suffix(":latest")];
        for spelling in spellings.into_iter().flatten() {
            references.insert(spelling.to_owned());
            match spelling.split_once('/') {
                None => {
                    references.insert(format!("library/{spelling}"));
                    references.insert(format!("docker.io/library/{spelling}"));
                }
                // The first part of a name is a registry if it looks like a host.
                Some((first, _)) if !first.contains(['.', ':']) && first != "localhost" => {
                    references.insert(format!("docker.io/{spelling}"));
                }
                Some(_) => {}
            }
        }
    }
    references
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(tag: &str) -> BTreeSet<String> {
        references(&ImageSummary { repo_tags: vec![tag.to_owned()], ..ImageSummary::default() })
    }

    #[test]
    fn an_image_is_known_by_every_spelling_of_its_reference() {
        let nginx = spelled("nginx:latest");
        for spelling in ["nginx", "nginx:latest", "docker.io/library/nginx", "library/nginx:latest"] {
            assert!(nginx.contains(spelling), "{spelling}");
        }
        assert!(spelled("grafana/grafana:11").contains("docker.io/grafana/grafana:11"));
        let own = BTreeSet::from(["127.0.0.1:5000/a/b:1".to_owned()]);
        assert_eq!(spelled("127.0.0.1:5000/a/b:1"), own);
        assert!(spelled("<none>:<none>").is_empty());
    }
}
