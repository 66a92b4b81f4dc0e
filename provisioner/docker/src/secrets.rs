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
use crate::error::{is_missing, status};
use crate::labels::Kind;
use crate::records::nonce;

const RECORD: &str = "secrets";
const MOUNT: &str = "/secrets";

/// Values that were read or made by this process. A secret never changes, so they stay true.
pub(crate) type Cache = Mutex<BTreeMap<String, String>>;

/// Name of each secret to its file in the volume.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Index(BTreeMap<String, String>);

/// Secrets whose values can be read: without the accessor they count as missing, and making sure of them brings it back.
pub(crate) fn known(records: &RecordSet, has_accessor: bool) -> BTreeSet<String> {
    if !has_accessor {
        return BTreeSet::new();
    }
    let index = records.read::<Index>(RECORD).ok().flatten().unwrap_or_default();
    index.0.into_keys().collect()
}

impl DockerEngine {
    /// Generates the secret unless there is one.
    pub(crate) async fn ensure_secret(&self, secret: &Secret) -> Result<(), EngineError> {
        let mut cache = self.secrets.lock().await;
        let volume = self.names.secrets_volume();
        self.create_volume(&volume, self.names.labels(Kind::Secrets)).await?;
        self.ensure_accessor().await?;
        if self.index().await?.0.contains_key(&secret.name) {
            return Ok(());
        }
        // The generator of `rand::rng` is a CSPRNG seeded by the operating system.
        let value = Alphanumeric.sample_string(&mut rand::rng(), secret.length);
        let file = format!("{}.{}", secret.name, nonce());
        let entry =
            Entry { path: format!("{MOUNT}/{file}"), mode: 0o400, owner: (0, 0), content: value.clone().into_bytes() };
        self.put_archive(&self.names.accessor(), &[entry]).await?;

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

    /// Values of those of the named secrets that exist. One GET; a plan needs it and may send nothing else.
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
        let read = self.get_archive(&self.names.accessor(), MOUNT).await;
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
            // The record goes before the values: a record of values that are gone would be believed.
            let is_last = index.0.is_empty();
            let written = if is_last {
                self.remove_if(RECORD, version).await
            } else {
                let value =
                    serde_json::to_value(&index).map_err(|error| EngineError::failed("write secrets", error))?;
                self.put_if(RECORD, version, value).await.map(|_| ())
            };
            match written {
                Err(RecordError::Conflict { .. }) => {}
                Ok(()) if is_last => {
                    self.remove_accessor().await?;
                    return self.delete_volume(&self.names.secrets_volume()).await;
                }
                other => return other.map_err(|error| failed(format!("remove secret {name}"), error)),
            }
        }
    }

    async fn index(&self) -> Result<Index, EngineError> {
        let found = self.get(RECORD).await?;
        let index = found.map(|record| record.read::<Index>(RECORD)).transpose();
        Ok(index.map_err(|error| failed("read secrets", error))?.unwrap_or_default())
    }

    /// A container that mounts the secrets and is never started. It stays, so that reading them changes nothing.
    async fn ensure_accessor(&self) -> Result<(), EngineError> {
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
        let options = CreateContainerOptions { name: Some(self.names.accessor()), ..CreateContainerOptions::default() };
        match self.docker.client.create_container(Some(options), body).await {
            Err(error) if status(&error) == Some(409) => Ok(()),
            other => other.map(|_| ()).map_err(self.docker.failed("make the accessor of the secrets")),
        }
    }

    pub(crate) async fn remove_accessor(&self) -> Result<(), EngineError> {
        let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
        let removed = self.docker.client.remove_container(&self.names.accessor(), Some(options)).await;
        match removed.map_err(self.docker.failed("remove the accessor of the secrets")) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn failed(operation: impl Into<String>, error: RecordError) -> EngineError {
    match error {
        RecordError::Engine(error) => error,
        other => EngineError::failed(operation, other),
    }
}
