//! Secrets: one file each in one labelled volume. Which file counts says the record `secrets`, written by
//! compare-and-swap after the file, so of two who generate the same secret one wins and a killed one leaves nothing
//! that anybody would read.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptions};
use provisioner_core::clock;
use provisioner_core::engine::EngineError;
use provisioner_core::observed::ObservedSecret;
use provisioner_core::record::{self, RecordError, RecordSet, Records};
use provisioner_core::secret::{self, Made, Note};
use provisioner_core::stack::{Secret, SecretVersions};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::archive::{self, Entry};
use crate::connect::DockerEngine;
use crate::error::{is_missing, status};
use crate::labels::Kind;
use crate::records::nonce;

const RECORD: &str = "secrets";
const MOUNT: &str = "/secrets";

/// Values that were read or made by this process, each with its version.
pub(crate) type Cache = Mutex<BTreeMap<String, Value>>;

pub(crate) struct Value {
    version: String,
    text: String,
}

/// What is known of each secret. The version of a value is the name of its file in the volume.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Index(BTreeMap<String, Note>);

/// Values and versions that belong together.
pub(crate) struct Current {
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) versions: SecretVersions,
}

/// Without the accessor no value can be read, and making sure of a secret brings it back.
pub(crate) fn known(records: &RecordSet, has_accessor: bool) -> BTreeMap<String, ObservedSecret> {
    let index = records.read::<Index>(RECORD).ok().flatten().unwrap_or_default();
    index.0.into_iter().map(|(name, note)| (name, ObservedSecret { is_readable: has_accessor, note })).collect()
}

impl DockerEngine {
    /// Makes the secret unless there is one that may stay.
    pub(crate) async fn ensure_secret(&self, secret: &Secret) -> Result<(), EngineError> {
        let mut cache = self.secrets.lock().await;
        let volume = self.names.secrets_volume();
        self.create_volume(&volume, self.names.labels(Kind::Secrets)).await?;
        self.ensure_accessor().await?;
        let now = clock::unix_seconds();
        let index = self.index().await?;
        let replaced = index.0.get(&secret.name);
        let issuer = secret.issuer().and_then(|name| index.0.get_key_value(name));
        if replaced.is_some_and(|note| note.due(secret, issuer.map(|(_, note)| note), now).is_none()) {
            return Ok(());
        }
        if issuer.is_some_and(|(name, note)| cache.get(name).is_none_or(|value| value.version != note.version)) {
            *cache = self.read_values(&index).await?;
        }
        let signer = issuer.and_then(|(name, note)| {
            let value = cache.get(name).filter(|value| value.version == note.version)?;
            Some(secret::Issuer { value: &value.text, version: &note.version })
        });
        let version = format!("{}.{}", secret.name, nonce());
        let made = secret::make(secret, signer, None, version, now);
        let Made { value, note } =
            made.map_err(|error| EngineError::failed(format!("ensure secret {}", secret.name), error))?;
        let path = format!("{MOUNT}/{}", note.version);
        let entry = Entry { path, mode: 0o400, owner: (0, 0), content: value.clone().into_bytes() };
        self.put_archive(&self.names.accessor(), &[entry]).await?;

        let mut is_ours = false;
        let indexed = record::update::<Index, _>(self, RECORD, |current| {
            let mut current = current.unwrap_or_default();
            // Of two who make the same secret the second one finds another note than it looked at.
            is_ours = current.0.get(&secret.name) == replaced;
            current.0.insert(secret.name.clone(), note.clone());
            is_ours.then_some(current)
        });
        indexed.await.map_err(|error| failed(format!("note secret {}", secret.name), error))?;
        if is_ours {
            cache.insert(secret.name.clone(), Value { version: note.version, text: value });
        }
        Ok(())
    }

    /// Values of those of the named secrets that exist, as they are right now.
    pub(crate) async fn current_secrets(&self, names: &BTreeSet<String>) -> Result<Current, EngineError> {
        if names.is_empty() {
            return Ok(Current { values: BTreeMap::new(), versions: SecretVersions::new() });
        }
        let mut cache = self.secrets.lock().await;
        let index = self.index().await?;
        let is_cached = |name: &String| {
            let noted = index.0.get(name).map(|note| &note.version);
            noted == cache.get(name).map(|value| &value.version)
        };
        if !names.iter().all(is_cached) {
            *cache = self.read_values(&index).await?;
        }
        let found = names.iter().filter_map(|name| Some((name.clone(), cache.get(name)?)));
        let (values, versions) =
            found.map(|(name, value)| ((name.clone(), value.text.clone()), (name, value.version.clone()))).unzip();
        Ok(Current { values, versions })
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
        let wanted = names.iter().filter_map(|name| Some((name.clone(), cache.get(name)?.text.clone())));
        Ok(wanted.collect())
    }

    async fn read_values(&self, index: &Index) -> Result<BTreeMap<String, Value>, EngineError> {
        let read = self.get_archive(&self.names.accessor(), MOUNT).await;
        let malformed = |error| EngineError::failed("read secrets", error);
        let files: BTreeMap<String, Vec<u8>> = archive::unpack(&read?)
            .map_err(malformed)?
            .into_iter()
            .filter_map(|entry| Some((entry.path.rsplit('/').next()?.to_owned(), entry.content)))
            .collect();
        let values = index.0.iter().filter_map(|(name, note)| {
            let text = String::from_utf8(files.get(&note.version)?.clone()).ok()?;
            Some((name.clone(), Value { version: note.version.clone(), text }))
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
