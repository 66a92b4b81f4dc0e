//! Files of members: how they get in, how a change is checked and taken over, and how it is known what is inside.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bollard::query_parameters::{DownloadFromContainerOptions, KillContainerOptions, UploadToContainerOptions};
use bytes::Bytes;
use futures_util::TryStreamExt;
use provisioner_core::engine::{EngineError, Power};
use provisioner_core::name::Member;
use provisioner_core::observed::ObservedWorkload;
use provisioner_core::record::{self, RecordError, RecordSet};
use provisioner_core::stack::{File, Fingerprint, MissingSecret, OnChange, SecretVersions, Text};
use serde::{Deserialize, Serialize};

use crate::archive::{self, Entry};
use crate::connect::DockerEngine;
use crate::container;
use crate::error::is_missing;
use crate::secrets::Current;

/// A configuration file is small; a bigger archive would be something else.
const OLD_FILE_MAX: usize = 16 << 20;

/// Labels of a container cannot change, so files that were replaced in a running one are noted in a record.
#[derive(Serialize, Deserialize)]
struct Replaced {
    /// The container that they were put into; another one has its own files and labels.
    instance: String,
    files: BTreeMap<String, Fingerprint>,
}

pub(crate) fn record_key(member: &Member) -> String {
    format!("files.{member}")
}

/// Corrects what the labels say by what was put into this very container since.
pub(crate) fn merge(member: &Member, workload: &mut ObservedWorkload, records: &RecordSet) {
    if let Ok(Some(replaced)) = records.read::<Replaced>(&record_key(member))
        && replaced.instance == workload.instance
        && workload.spec.is_some()
    {
        workload.files.extend(replaced.files);
    }
}

/// The secrets that the texts name.
pub(crate) fn named<'a>(texts: impl Iterator<Item = &'a Text>) -> BTreeSet<String> {
    texts.flat_map(Text::secrets).map(str::to_owned).collect()
}

impl DockerEngine {
    /// Files and secret variables with the values of their secrets in place, and the versions of these.
    pub(crate) async fn resolve_files(
        &self,
        files: &[File],
        variables: &BTreeMap<String, Text>,
    ) -> Result<(Vec<Entry>, SecretVersions), EngineError> {
        let secrets = named(files.iter().map(|file| &file.content).chain(variables.values()));
        let Current { values, versions } = self.current_secrets(&secrets).await?;
        let variables = container::secret_env(variables, &values)?;
        let resolved = files.iter().map(|file| {
            Ok(Entry {
                path: file.path.clone(),
                mode: file.mode,
                owner: file.owner,
                content: file.content.resolve(&values)?.into_bytes(),
            })
        });
        Ok((resolved.chain(variables.map(Ok)).collect::<Result<_, MissingSecret>>()?, versions))
    }

    pub(crate) async fn put_archive(&self, container: &str, entries: &[Entry]) -> Result<(), EngineError> {
        if entries.is_empty() {
            return Ok(());
        }
        let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
        let operation = format!("put {} into {container}", paths.join(", "));
        let packed = archive::pack(entries).map_err(|error| EngineError::failed(operation.as_str(), error))?;
        self.put_packed(container, "/", packed, operation).await
    }

    async fn put_packed(
        &self,
        container: &str,
        folder: &str,
        packed: Bytes,
        operation: String,
    ) -> Result<(), EngineError> {
        let options = UploadToContainerOptions { path: folder.to_owned(), ..UploadToContainerOptions::default() };
        let body = bollard::body_full(packed);
        let put = self.docker.client.upload_to_container(container, Some(options), body).await;
        put.map_err(self.docker.failed(operation))
    }

    /// What stands at `path`, as an archive.
    pub(crate) async fn get_archive(&self, container: &str, path: &str) -> Result<Vec<u8>, EngineError> {
        let operation = format!("read {path} of {container}");
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let mut chunks = self.docker.client.download_from_container(container, Some(options));
        let mut archive = Vec::new();
        while let Some(chunk) = chunks.try_next().await.map_err(self.docker.failed(operation.as_str()))? {
            archive.extend_from_slice(&chunk);
            if archive.len() > OLD_FILE_MAX {
                return Err(EngineError::failed(operation, format!("found more than {OLD_FILE_MAX} bytes")));
            }
        }
        Ok(archive)
    }

    /// Puts files into a running member and has it take them over. A checker that refuses them gets the old ones back.
    pub(crate) async fn replace_files(
        &self,
        member: &Member,
        files: &[File],
        then: &OnChange,
    ) -> Result<(), EngineError> {
        let name = self.names.container(member);
        let found = self.inspect(&name).await?;
        let instance = found.id.unwrap_or_default();
        let volumes: Vec<String> = found.mounts.into_iter().flatten().filter_map(|mount| mount.destination).collect();
        let (entries, versions) = self.resolve_files(files, &BTreeMap::new()).await?;
        match then {
            OnChange::Nothing => self.put_archive(&name, &entries).await?,
            OnChange::Restart => {
                self.put_archive(&name, &entries).await?;
                self.set_power(member, Power::Stopped).await?;
                self.set_power(member, Power::Running).await?;
            }
            OnChange::Reload { check, signal } => {
                self.put_checked(member, &entries, check).await?;
                let options = KillContainerOptions { signal: signal.clone() };
                let sent = self.docker.client.kill_container(&name, Some(options)).await;
                sent.map_err(self.docker.failed(format!("send {signal} to {member}")))?;
            }
        }
        // What lies on a volume is data, which is nobody's configuration.
        let is_data = |file: &&File| volumes.iter().any(|volume| Path::new(&file.path).starts_with(volume));
        let configuration = files.iter().filter(|file| !is_data(file));
        let fingerprints: BTreeMap<_, _> =
            configuration.map(|file| (file.path.clone(), file.fingerprint(&versions))).collect();
        if fingerprints.is_empty() { Ok(()) } else { self.note_replaced(member, instance, fingerprints).await }
    }

    async fn put_checked(&self, member: &Member, entries: &[Entry], check: &[String]) -> Result<(), EngineError> {
        let name = self.names.container(member);
        if check.is_empty() {
            return self.put_archive(&name, entries).await;
        }
        let mut old = Vec::new();
        for entry in entries {
            old.push(match self.get_archive(&name, &entry.path).await {
                Ok(archive) => Some(archive),
                Err(error) if is_missing(&error) => None,
                Err(error) => return Err(error),
            });
        }
        self.put_archive(&name, entries).await?;
        let checked = match self.execute(member, check, None).await {
            Ok(execution) => execution.finish().await,
            Err(error) => Err(error),
        };
        let operation = format!("check the files of {member} with `{}`", check.join(" "));
        let refusal = match checked {
            Ok(done) if done.exit_code == 0 => return Ok(()),
            Ok(done) => {
                let said = format!("{}{}", done.stdout, done.stderr);
                EngineError::failed(operation, format!("exit code {}: {}", done.exit_code, said.trim()))
            }
            Err(error) => EngineError::failed(operation, error),
        };
        for (entry, old) in entries.iter().zip(old) {
            if let Err(error) = self.put_back(member, &entry.path, old).await {
                let detail = format!("{refusal}; and the old {} could not be put back: {error}", entry.path);
                return Err(EngineError::failed(format!("replace files of {member}"), detail));
            }
        }
        Err(refusal)
    }

    async fn put_back(&self, member: &Member, path: &str, old: Option<Vec<u8>>) -> Result<(), EngineError> {
        let operation = format!("put back {path} of {member}");
        if let Some(packed) = old {
            let folder = Path::new(path).parent().map_or("/".into(), Path::to_string_lossy);
            return self.put_packed(&self.names.container(member), &folder, packed.into(), operation).await;
        }
        let remove = ["rm", "-f", path].map(str::to_owned);
        let removed = self.execute(member, &remove, None).await?.finish().await?;
        if removed.exit_code == 0 { Ok(()) } else { Err(EngineError::failed(operation, removed.stderr.trim())) }
    }

    async fn note_replaced(
        &self,
        member: &Member,
        instance: String,
        files: BTreeMap<String, Fingerprint>,
    ) -> Result<(), EngineError> {
        let key = record_key(member);
        let noted = record::update::<Replaced, _>(self, &key, |known| {
            let known = known.filter(|known| known.instance == instance);
            let mut all = known.map(|known| known.files).unwrap_or_default();
            all.extend(files.clone());
            Some(Replaced { instance: instance.clone(), files: all })
        });
        noted.await.map_err(|error| match error {
            RecordError::Engine(error) => error,
            other => EngineError::failed(format!("note the files of {member}"), other),
        })
    }
}
