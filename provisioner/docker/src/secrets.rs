//! Secrets: one file each in one labelled volume. Which file counts says the record `secrets`, written by
//! compare-and-swap after the file, so of two who generate the same secret one wins and a killed one leaves nothing
//! that anybody would read.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions};
use provisioner_core::engine::EngineError;
use provisioner_core::record::{self, RecordError, RecordSet, Records};
use provisioner_core::stack::Secret;
use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::archive::{self, Entry};
use crate::connect::DockerEngine;
use crate::containers::Container;
use crate::error::is_missing;
use crate::labels::Kind;
use crate::records::nonce;

const RECORD: &str = "secrets";
const MOUNT: &str = "/secrets";
/// An accessor lives for some tenths of a second; one that is older than a new one by this was left by a killed run.
const ACCESSOR_SECS: i64 = 10;

/// Values that were read or made by this process. A secret never changes, so they stay true.
pub(crate) type Cache = Mutex<BTreeMap<String, String>>;

/// Name of each secret to its file in the volume.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Index(BTreeMap<String, String>);

pub(crate) fn known(records: &RecordSet) -> BTreeSet<String> {
    let index = records.read::<Index>(RECORD).ok().flatten().unwrap_or_default();
    index.0.into_keys().collect()
}

impl DockerEngine {
    /// Generates the secret unless there is one.
    pub(crate) async fn ensure_secret(&self, secret: &Secret) -> Result<(), EngineError> {
        let mut cache = self.secrets.lock().await;
        if self.index().await?.0.contains_key(&secret.name) {
            return Ok(());
        }
        let volume = self.names.secrets_volume();
        self.create_volume(&volume, self.names.labels(Kind::Secrets)).await?;
        // The generator of `rand::rng` is a CSPRNG seeded by the operating system.
        let value = Alphanumeric.sample_string(&mut rand::rng(), secret.length);
        let file = format!("{}.{}", secret.name, nonce());
        let entry =
            Entry { path: format!("{MOUNT}/{file}"), mode: 0o400, owner: (0, 0), content: value.clone().into_bytes() };
        let accessor = self.open_accessor().await?;
        let written = self.put_archive(&accessor, &[entry]).await;
        self.close_accessor(&accessor).await?;
        written?;

        let mut is_ours = false;
        let indexed = record::update::<Index, _>(self, RECORD, |index| {
            let mut index = index.unwrap_or_default();
            is_ours = !index.0.contains_key(&secret.name);
            index.0.entry(secret.name.clone()).or_insert_with(|| file.clone());
            is_ours.then_some(index)
        });
        indexed.await.map_err(|error| failed(format!("note secret {}", secret.name), error))?;
        if is_ours {
            cache.insert(secret.name.clone(), value);
        }
        Ok(())
    }

    /// Values of those of the named secrets that exist.
    pub(crate) async fn secret_values(
        &self,
        names: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, String>, EngineError> {
        let mut cache = self.secrets.lock().await;
        if names.iter().any(|name| !cache.contains_key(name)) {
            let index = self.index().await?;
            if names.iter().any(|name| index.0.contains_key(name)) {
                *cache = self.read_values(&index).await?;
            }
        }
        let wanted = names.iter().filter_map(|name| Some((name.clone(), cache.get(name)?.clone())));
        Ok(wanted.collect())
    }

    async fn read_values(&self, index: &Index) -> Result<BTreeMap<String, String>, EngineError> {
        let accessor = self.open_accessor().await?;
        let read = self.get_archive(&accessor, MOUNT).await;
        self.close_accessor(&accessor).await?;
        let malformed = |error| EngineError::failed("read secrets", error);
        let files: BTreeMap<String, Vec<u8>> = archive::unpack(&read?)
            .map_err(malformed)?
            .into_iter()
            .filter_map(|entry| Some((entry.path.rsplit('/').next()?.to_owned(), entry.content)))
            .collect();
        let values = index.0.iter().filter_map(|(name, file)| {
            let value = String::from_utf8(files.get(file)?.clone()).ok()?;
            Some((name.clone(), value))
        });
        Ok(values.collect())
    }

    /// Forgets one secret; with the last one the volume goes.
    pub(crate) async fn remove_secret(&self, name: &str) -> Result<(), EngineError> {
        let mut cache = self.secrets.lock().await;
        cache.remove(name);
        loop {
            let found = self.get(RECORD).await?;
            let version = found.as_ref().map_or(0, |record| record.version);
            let mut index = match found {
                Some(record) => record.read::<Index>(RECORD).map_err(|error| failed("read secrets", error))?,
                None => Index::default(),
            };
            index.0.remove(name);
            let written = if index.0.is_empty() {
                self.remove_accessors().await?;
                self.delete_volume(&self.names.secrets_volume()).await?;
                self.remove_if(RECORD, version).await
            } else {
                let value =
                    serde_json::to_value(&index).map_err(|error| EngineError::failed("write secrets", error))?;
                self.put_if(RECORD, version, value).await.map(|_| ())
            };
            match written {
                Err(RecordError::Conflict { .. }) => {}
                other => return other.map_err(|error| failed(format!("remove secret {name}"), error)),
            }
        }
    }

    async fn index(&self) -> Result<Index, EngineError> {
        let found = self.get(RECORD).await?;
        let index = found.map(|record| record.read::<Index>(RECORD)).transpose();
        Ok(index.map_err(|error| failed("read secrets", error))?.unwrap_or_default())
    }

    /// A container that mounts the secrets and is never started.
    async fn open_accessor(&self) -> Result<String, EngineError> {
        let image = self.ensure_empty_image().await?;
        let mount = Mount {
            target: Some(MOUNT.to_owned()),
            source: Some(self.names.secrets_volume()),
            typ: Some(MountType::VOLUME),
            ..Mount::default()
        };
        let body = ContainerCreateBody {
            image: Some(image),
            // The engine insists on a command even where none is ever run.
            cmd: Some(vec!["none".to_owned()]),
            labels: Some(self.names.labels(Kind::Accessor)),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: Some(vec![mount]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let name = self.names.volume(&format!("accessor-{}", nonce()));
        let options = CreateContainerOptions { name: Some(name), ..CreateContainerOptions::default() };
        let made = self.docker.client.create_container(Some(options), body).await;
        let id = made.map_err(self.docker.failed("open secrets"))?.id;
        self.remove_abandoned_accessors(&id).await?;
        Ok(id)
    }

    async fn close_accessor(&self, id: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
        let removed = self.docker.client.remove_container(id, Some(options)).await;
        match removed.map_err(self.docker.failed("close secrets")) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Ages are compared by the engine's clock alone, which may differ from ours.
    async fn remove_abandoned_accessors(&self, own: &str) -> Result<(), EngineError> {
        let accessors = self.accessors().await?;
        let now = accessors.iter().find(|accessor| accessor.id == own).map_or(0, |accessor| accessor.created);
        for accessor in accessors.iter().filter(|accessor| accessor.created + ACCESSOR_SECS < now) {
            self.close_accessor(&accessor.id).await?;
        }
        Ok(())
    }

    pub(crate) async fn remove_accessors(&self) -> Result<(), EngineError> {
        for accessor in self.accessors().await? {
            self.close_accessor(&accessor.id).await?;
        }
        Ok(())
    }

    async fn accessors(&self) -> Result<Vec<Container>, EngineError> {
        let mut containers = self.containers().await?;
        containers.retain(|container| {
            self.names.own(&container.labels) && Kind::of(&container.labels) == Some(Kind::Accessor)
        });
        Ok(containers)
    }
}

fn failed(operation: impl Into<String>, error: RecordError) -> EngineError {
    match error {
        RecordError::Engine(error) => error,
        other => EngineError::failed(operation, other),
    }
}
