//! Records as ConfigMaps, one each, and the lock as a Lease, written by compare-and-swap on `resourceVersion`.
//!
//! A version is never used twice: it is counted in the object, and a removed record leaves its last version behind
//! without a value, for as long as the namespace lives. Every write carries another version, since a write that changes
//! nothing keeps its `resourceVersion`, and two writers would both believe to have won.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures_util::future::try_join;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use provisioner_core::engine::EngineError;
use provisioner_core::lease;
use provisioner_core::record::{Record, RecordError, RecordSet, Records, Version};
use serde::Serialize;
use serde_json::Value;

use crate::api::{Kept, kind};
use crate::connect::KubernetesEngine;
use crate::error::{code, is_terminating};
use crate::held;
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

/// A kind that records are kept as.
trait Home: Kept + Serialize {
    fn of(metadata: ObjectMeta, slot: &Slot) -> Self;

    fn word(&self, key: &str) -> Option<&String>;
}

impl Home for ConfigMap {
    fn of(metadata: ObjectMeta, slot: &Slot) -> Self {
        Self { metadata, data: Some(slot.words().collect()), ..Self::default() }
    }

    fn word(&self, key: &str) -> Option<&String> {
        self.data.as_ref()?.get(key)
    }
}

/// Its own fields are for people and their tools; what counts is in annotations.
impl Home for Lease {
    fn of(mut metadata: ObjectMeta, slot: &Slot) -> Self {
        let words = slot.words().map(|(key, word)| (labels::lease_word(&key), word));
        metadata.annotations.get_or_insert_default().extend(words);
        Self { metadata, spec: slot.value.as_ref().and_then(held::spec) }
    }

    fn word(&self, key: &str) -> Option<&String> {
        self.metadata.annotations.as_ref()?.get(&labels::lease_word(key))
    }
}

impl Slot {
    fn words(&self) -> impl Iterator<Item = (String, String)> {
        let value = self.value.as_ref().map(|value| (VALUE.to_owned(), value.to_string()));
        [(VERSION.to_owned(), self.version.to_string())].into_iter().chain(value)
    }

    fn read<H: Home>(home: &H) -> Option<Self> {
        Some(Self {
            key: labels::annotation(home.meta(), labels::RECORD)?.to_owned(),
            version: home.word(VERSION)?.parse().ok()?,
            value: home.word(VALUE).map(|value| serde_json::from_str(value)).transpose().ok()?,
        })
    }

    fn write<H: Home>(&self, names: &Names, over: Option<&H>) -> H {
        let metadata = ObjectMeta {
            name: Some(Names::record(&self.key)),
            labels: Some(names.labels(Kind::Record)),
            annotations: Some(BTreeMap::from([(labels::RECORD.to_owned(), self.key.clone())])),
            resource_version: over.and_then(|home| home.meta().resource_version.clone()),
            ..ObjectMeta::default()
        };
        H::of(metadata, self)
    }

    fn present_version(&self) -> Version {
        if self.value.is_some() { self.version } else { 0 }
    }
}

/// A record that does not read is not an absent one: taken for absent, data would be bootstrapped anew beside it.
fn readable<H: Home>(home: &H) -> Result<Slot, EngineError> {
    Slot::read(home).ok_or_else(|| {
        let name = home.meta().name.as_deref().unwrap_or_default();
        let detail = "it is not a record of this version of the provisioner";
        EngineError::failed(format!("read {} {name}", kind::<H>()), detail)
    })
}

fn present(slots: impl IntoIterator<Item = Slot>) -> RecordSet {
    let present = slots.into_iter().filter_map(|slot| {
        let record = Record { version: slot.version, value: slot.value? };
        Some((slot.key, record))
    });
    RecordSet(present.collect())
}

impl KubernetesEngine {
    /// All that are there, the lock among them.
    pub(crate) async fn records_present(&self) -> Result<RecordSet, EngineError> {
        let (maps, leases) = try_join(self.slots::<ConfigMap>(), self.slots::<Lease>()).await?;
        // As it is read and written: a ConfigMap of the lock's name is somebody else's.
        let maps = maps.into_iter().filter(|slot| slot.key != lease::KEY);
        Ok(present(maps.chain(leases)))
    }

    async fn slots<H: Home>(&self) -> Result<Vec<Slot>, EngineError> {
        let homes = self.list::<H>(&self.names.selector(Kind::Record)).await?;
        homes.iter().map(readable).collect()
    }

    pub(crate) async fn forget_records(&self) -> Result<(), EngineError> {
        try_join(self.forget_slots::<ConfigMap>(), self.forget_slots::<Lease>()).await.map(drop)
    }

    async fn forget_slots<H: Home>(&self) -> Result<(), EngineError> {
        for record in self.list_meta::<H>(&self.names.selector(Kind::Record)).await? {
            self.delete::<H>(record.metadata.name.as_deref().unwrap_or_default()).await?;
        }
        Ok(())
    }

    async fn slot<H: Home>(&self, key: &str) -> Result<Option<(H, Slot)>, EngineError> {
        let name = Names::record(key);
        let Some(home) = self.find::<H>(&name).await? else { return Ok(None) };
        if !self.names.is(home.meta(), Kind::Record) {
            let (stack, kind) = (&self.names.stack, kind::<H>());
            let detail = format!(
                "it was not made for stack {stack}; kubectl -n {} delete {kind} {name} removes it",
                self.names.namespace
            );
            return Err(EngineError::failed(format!("read {kind} {name}"), detail));
        }
        let slot = readable(&home)?;
        Ok(Some((home, slot)))
    }

    async fn record<H: Home>(&self, key: &str) -> Result<Option<Record>, EngineError> {
        let found = self.slot::<H>(key).await?;
        Ok(found.and_then(|(_, slot)| Some(Record { version: slot.version, value: slot.value? })))
    }

    async fn write(&self, key: &str, expected: Version, value: Option<Value>) -> Result<Version, RecordError> {
        match key {
            lease::KEY => self.write_as::<Lease>(key, expected, value).await,
            _ => self.write_as::<ConfigMap>(key, expected, value).await,
        }
    }

    async fn write_as<H: Home>(
        &self,
        key: &str,
        expected: Version,
        value: Option<Value>,
    ) -> Result<Version, RecordError> {
        let found = self.slot::<H>(key).await?;
        let version = found.as_ref().map_or(0, |(_, slot)| slot.present_version());
        if version != expected {
            return Err(RecordError::Conflict { key: key.to_owned(), expected, found: version });
        }
        let next = found.as_ref().map_or(0, |(_, slot)| slot.version) + 1;
        let slot = Slot { key: key.to_owned(), version: next, value };
        let home = slot.write(&self.names, found.as_ref().map(|(home, _)| home));
        let is_new = found.is_none();
        if is_new {
            self.ensure_namespace().await?;
        }
        let mut written = self.store(&home, is_new).await;
        // The namespace was removed behind our back, or is about to be.
        if is_new && written.as_ref().is_err_and(|error| code(error) == Some(404) || is_terminating(error)) {
            self.forget_namespace().await;
            self.ensure_namespace().await?;
            written = self.store(&home, is_new).await;
        }
        match written {
            Ok(_) => Ok(next),
            // 404: it was there a moment ago, and its namespace went.
            Err(error) if matches!(code(&error), Some(404 | 409)) => {
                let found = self.slot::<H>(key).await?.map_or(0, |(_, slot)| slot.present_version());
                Err(RecordError::Conflict { key: key.to_owned(), expected, found })
            }
            Err(error) => Err(self.failed(format!("write record {key}"))(error).into()),
        }
    }

    async fn store<H: Home>(&self, home: &H, is_new: bool) -> Result<H, kube::Error> {
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let api = self.api::<H>();
        match &home.meta().name {
            Some(name) if !is_new => api.replace(name, &params, home).await,
            _ => api.create(&params, home).await,
        }
    }
}

#[async_trait]
impl Records for KubernetesEngine {
    async fn get(&self, key: &str) -> Result<Option<Record>, EngineError> {
        match key {
            lease::KEY => self.record::<Lease>(key).await,
            _ => self.record::<ConfigMap>(key).await,
        }
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
            let mut map: ConfigMap = slot.write(&names(), None);
            assert_eq!(Slot::read(&map), Some(slot.clone()));
            map.metadata.resource_version = Some("12".to_owned());
            assert_eq!(slot.write(&names(), Some(&map)).metadata.resource_version.as_deref(), Some("12"));
            let lease: Lease = slot.write(&names(), None);
            assert_eq!(Slot::read(&lease), Some(slot));
        }
    }

    #[test]
    fn a_removed_record_is_absent_and_one_that_does_not_read_is_an_error() {
        let slot = |key: &str, value| Slot { key: key.to_owned(), version: 3, value };
        let records = present([slot("a", Some(json!("new"))), slot("b", None)]);
        assert_eq!(records.0.keys().collect::<Vec<_>>(), ["a"]);
        let broken = ConfigMap { data: Some(BTreeMap::new()), ..slot("a", None).write(&names(), None) };
        let said = readable(&broken).unwrap_err().to_string();
        assert!(said.starts_with("read configmap record-a: "), "{said}");
    }
}
