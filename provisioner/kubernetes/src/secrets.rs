//! Secrets: one Secret object each, with what is known of the value beside it.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as Object;
use kube::api::{ObjectMeta, PostParams};
use kube::core::PartialObjectMeta;
use provisioner_core::clock;
use provisioner_core::engine::EngineError;
use provisioner_core::observed::ObservedSecret;
use provisioner_core::secret::{self, Issuer, Made, Note};
use provisioner_core::stack::{Secret, SecretVersions};

use crate::connect::KubernetesEngine;
use crate::error::code;
use crate::labels::{self, Kind, MANAGER, Names, nonce};

const VALUE: &str = "value";
const NAME: &str = "provisioner.dev/secret";

/// Values and versions that belong together.
#[derive(Default)]
pub(crate) struct Current {
    pub(crate) values: BTreeMap<String, String>,
    pub(crate) versions: SecretVersions,
}

fn note(meta: &ObjectMeta) -> Option<Note> {
    labels::annotation(meta, labels::NOTE).and_then(|text| serde_json::from_str(text).ok())
}

/// What is known of each secret, from the annotations alone.
pub(crate) fn known(names: &Names, listed: &[PartialObjectMeta<Object>]) -> BTreeMap<String, ObservedSecret> {
    let ours = listed.iter().map(|secret| &secret.metadata).filter(|meta| names.is(meta, Kind::Secret));
    let known = ours.filter_map(|meta| {
        let name = labels::annotation(meta, NAME)?.to_owned();
        Some((name, ObservedSecret { is_readable: true, note: note(meta)? }))
    });
    known.collect()
}

fn value(object: &Object) -> Option<String> {
    String::from_utf8(object.data.as_ref()?.get(VALUE)?.0.clone()).ok()
}

impl KubernetesEngine {
    /// Makes the secret unless there is one that may stay.
    pub(crate) async fn ensure_secret(&self, secret: &Secret) -> Result<(), EngineError> {
        self.ensure_namespace().await?;
        let operation = || format!("ensure secret {}", secret.name);
        loop {
            let found = self.find::<Object>(&Names::secret(&secret.name)).await?;
            if let Some(found) = found.as_ref().filter(|found| !self.names.is(&found.metadata, Kind::Secret)) {
                let name = found.metadata.name.as_deref().unwrap_or_default();
                let detail = format!("a Secret {name} exists and was not made for stack {}", self.names.stack);
                return Err(EngineError::failed(operation(), detail));
            }
            let issuer = match secret.issuer() {
                Some(name) => self.find::<Object>(&Names::secret(name)).await?,
                None => None,
            };
            let issuer = issuer.and_then(|object| Some((note(&object.metadata)?, value(&object)?)));
            let now = clock::unix_seconds();
            let known = found.as_ref().filter(|found| value(found).is_some()).and_then(|found| note(&found.metadata));
            if known.is_some_and(|known| known.due(secret, issuer.as_ref().map(|(note, _)| note), now).is_none()) {
                return Ok(());
            }
            let signer = issuer.as_ref().map(|(note, value)| Issuer { value, version: &note.version });
            let version = format!("{}.{}", secret.name, nonce());
            let kept = match secret.kept() {
                Some(name) => self.pair(name).await?,
                None => None,
            };
            let made = secret::make(secret, signer, kept, version, now);
            let made = made.map_err(|error| EngineError::failed(operation(), error))?;
            match self.store_secret(&secret.name, made, found.as_ref()).await {
                Ok(()) => return Ok(()),
                // Somebody else made it meanwhile; theirs may do.
                Err(error) if matches!(code(&error), Some(404 | 409)) && found.is_some() => {}
                Err(error) if code(&error) == Some(409) => {}
                Err(error) => return Err(self.failed(operation())(error)),
            }
        }
    }

    /// Of a Secret that somebody else made: its key before its certificates.
    pub(crate) async fn pair(&self, name: &str) -> Result<Option<String>, EngineError> {
        let found = self.find::<Object>(name).await?;
        let data = found.and_then(|found| found.data).unwrap_or_default();
        let part = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
        // The first file may end without a line's end.
        Ok(part("tls.key")
            .zip(part("tls.crt"))
            .map(|(key, certificates)| format!("{}\n{certificates}", key.trim_end())))
    }

    async fn store_secret(&self, name: &str, made: Made, over: Option<&Object>) -> Result<(), kube::Error> {
        let Made { value, note } = made;
        let annotations = BTreeMap::from([
            (NAME.to_owned(), name.to_owned()),
            (labels::NOTE.to_owned(), serde_json::to_string(&note).unwrap_or_default()),
        ]);
        let metadata = ObjectMeta {
            name: Some(Names::secret(name)),
            labels: Some(self.names.labels(Kind::Secret)),
            annotations: Some(annotations),
            resource_version: over.and_then(|over| over.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        };
        let data = BTreeMap::from([(VALUE.to_owned(), ByteString(value.into_bytes()))]);
        let object = Object { metadata, data: Some(data), ..Object::default() };
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let api = self.api::<Object>();
        match over {
            Some(_) => api.replace(&Names::secret(name), &params, &object).await.map(|_| ()),
            None => api.create(&params, &object).await.map(|_| ()),
        }
    }

    /// Values of those of the named secrets that exist, as they are right now. One request, whatever is named.
    pub(crate) async fn current_secrets(&self, names: &BTreeSet<String>) -> Result<Current, EngineError> {
        let mut current = Current::default();
        if names.is_empty() {
            return Ok(current);
        }
        for object in self.list::<Object>(&self.names.selector(Kind::Secret)).await? {
            let name = labels::annotation(&object.metadata, NAME).filter(|name| names.contains(*name));
            if let (Some(name), Some(value), Some(note)) = (name, value(&object), note(&object.metadata)) {
                current.values.insert(name.to_owned(), value);
                current.versions.insert(name.to_owned(), note.version);
            }
        }
        Ok(current)
    }

    pub(crate) async fn remove_secret(&self, name: &str) -> Result<(), EngineError> {
        self.delete::<Object>(&Names::secret(name)).await?;
        self.sweep().await
    }
}
