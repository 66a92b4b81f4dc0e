//! Records as ConfigMaps, one each, written by compare-and-swap on `resourceVersion`.
//!
//! A version is never used twice: it is counted in the ConfigMap, and a removed record leaves its last version behind
//! without a value, for as long as the namespace lives. Every write carries another version, since a write that changes
//! nothing keeps its `resourceVersion`, and two writers would both believe to have won.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use provisioner_core::engine::EngineError;
use provisioner_core::record::{Record, RecordError, RecordSet, Records, Version};
use serde_json::Value;

use crate::connect::KubernetesEngine;
use crate::error::{code, is_terminating};
use crate::labels::{self, Kind, MANAGER, Names};

const VERSION: &str = "version";
const VALUE: &str = "value";

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    pub(crate) key: String,
    pub(crate) version: Version,
    /// `None`: the record was removed at this version.
    pub(crate) value: Option<Value>,
}

impl Slot {
    fn read(map: &ConfigMap) -> Option<Self> {
        let data = map.data.as_ref()?;
        Some(Self {
            key: labels::annotation(&map.metadata, labels::RECORD)?.to_owned(),
            version: data.get(VERSION)?.parse().ok()?,
            value: data.get(VALUE).map(|value| serde_json::from_str(value)).transpose().ok()?,
        })
    }

    fn write(&self, names: &Names, over: Option<&ConfigMap>) -> ConfigMap {
        let mut data = BTreeMap::from([(VERSION.to_owned(), self.version.to_string())]);
        if let Some(value) = &self.value {
            data.insert(VALUE.to_owned(), value.to_string());
        }
        let metadata = ObjectMeta {
            name: Some(Names::record(&self.key)),
            labels: Some(names.labels(Kind::Record)),
            annotations: Some(BTreeMap::from([(labels::RECORD.to_owned(), self.key.clone())])),
            resource_version: over.and_then(|map| map.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        };
        ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
    }

    fn present_version(&self) -> Version {
        if self.value.is_some() { self.version } else { 0 }
    }
}

/// A record that does not read is not an absent one: taken for absent, data would be bootstrapped anew beside it.
pub(crate) fn read_all(maps: &[ConfigMap]) -> Result<Vec<Slot>, EngineError> {
    maps.iter().map(readable).collect()
}

fn readable(map: &ConfigMap) -> Result<Slot, EngineError> {
    Slot::read(map).ok_or_else(|| {
        let name = map.metadata.name.as_deref().unwrap_or_default();
        let detail = "it is not a record of this version of the provisioner";
        EngineError::failed(format!("read configmap {name}"), detail)
    })
}

pub(crate) fn present(slots: Vec<Slot>) -> RecordSet {
    let present = slots.into_iter().filter_map(|slot| {
        let record = Record { version: slot.version, value: slot.value? };
        Some((slot.key, record))
    });
    RecordSet(present.collect())
}

impl KubernetesEngine {
    async fn slot(&self, key: &str) -> Result<Option<(ConfigMap, Slot)>, EngineError> {
        let name = Names::record(key);
        let Some(map) = self.find::<ConfigMap>(&name).await? else { return Ok(None) };
        if !self.names.is(&map.metadata, Kind::Record) {
            let stack = &self.names.stack;
            let detail = format!(
                "it was not made for stack {stack}; kubectl -n {} delete configmap {name} removes it",
                self.names.namespace
            );
            return Err(EngineError::failed(format!("read configmap {name}"), detail));
        }
        let slot = readable(&map)?;
        Ok(Some((map, slot)))
    }

    async fn write(&self, key: &str, expected: Version, value: Option<Value>) -> Result<Version, RecordError> {
        let found = self.slot(key).await?;
        let version = found.as_ref().map_or(0, |(_, slot)| slot.present_version());
        if version != expected {
            return Err(RecordError::Conflict { key: key.to_owned(), expected, found: version });
        }
        let next = found.as_ref().map_or(0, |(_, slot)| slot.version) + 1;
        let slot = Slot { key: key.to_owned(), version: next, value };
        let map = slot.write(&self.names, found.as_ref().map(|(map, _)| map));
        let is_new = found.is_none();
        if is_new {
            self.ensure_namespace().await?;
        }
        let mut written = self.store(&map, is_new).await;
        // The namespace was removed behind our back, or is about to be.
        if is_new && written.as_ref().is_err_and(|error| code(error) == Some(404) || is_terminating(error)) {
            self.forget_namespace().await;
            self.ensure_namespace().await?;
            written = self.store(&map, is_new).await;
        }
        match written {
            Ok(_) => Ok(next),
            // 404: it was there a moment ago, and its namespace went.
            Err(error) if matches!(code(&error), Some(404 | 409)) => {
                let found = self.slot(key).await?.map_or(0, |(_, slot)| slot.present_version());
                Err(RecordError::Conflict { key: key.to_owned(), expected, found })
            }
            Err(error) => Err(self.failed(format!("write record {key}"))(error).into()),
        }
    }

    async fn store(&self, map: &ConfigMap, is_new: bool) -> Result<ConfigMap, kube::Error> {
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let api = self.api::<ConfigMap>();
        match &map.metadata.name {
            Some(name) if !is_new => api.replace(name, &params, map).await,
            _ => api.create(&params, map).await,
        }
    }
}

#[async_trait]
impl Records for KubernetesEngine {
    async fn get(&self, key: &str) -> Result<Option<Record>, EngineError> {
        let found = self.slot(key).await?;
        Ok(found.and_then(|(_, slot)| Some(Record { version: slot.version, value: slot.value? })))
    }

    async fn put_if(&self, key: &str, expected: Version, value: Value) -> Result<Version, RecordError> {
        self.write(key, expected, Some(value)).await
    }

    async fn remove_if(&self, key: &str, expected: Version) -> Result<(), RecordError> {
        if expected == 0 {
            let found = self.get(key).await?.map_or(0, |record| record.version);
            let conflict = || Err(RecordError::Conflict { key: key.to_owned(), expected, found });
            return if found == 0 { Ok(()) } else { conflict() };
        }
        self.write(key, expected, None).await?;
        Ok(self.sweep().await?)
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::name::StackName;
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        Names { stack: StackName::new("dev").unwrap(), namespace: "dev".to_owned(), is_given: false }
    }

    #[test]
    fn a_slot_round_trips_and_keeps_the_servers_version() {
        for value in [Some(json!({"primary": "postgres-1", "epoch": 2})), Some(Value::Null), None] {
            let slot = Slot { key: "postgres.cluster".to_owned(), version: 7, value };
            let mut map = slot.write(&names(), None);
            assert_eq!(Slot::read(&map), Some(slot.clone()));
            map.metadata.resource_version = Some("12".to_owned());
            assert_eq!(slot.write(&names(), Some(&map)).metadata.resource_version.as_deref(), Some("12"));
        }
    }

    #[test]
    fn a_removed_record_is_absent_and_one_that_does_not_read_is_an_error() {
        let slot = |key: &str, value| Slot { key: key.to_owned(), version: 3, value };
        let records = present(vec![slot("a", Some(json!("new"))), slot("b", None)]);
        assert_eq!(records.0.keys().collect::<Vec<_>>(), ["a"]);
        let broken = ConfigMap { data: Some(BTreeMap::new()), ..slot("a", None).write(&names(), None) };
        let said = read_all(&[broken]).unwrap_err().to_string();
        assert!(said.starts_with("read configmap record-a: "), "{said}");
    }
}
