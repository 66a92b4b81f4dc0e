//! Records as labelled, empty volumes: one volume a version, the value in a label.
//!
//! Creating a volume whose name exists answers with the existing one, so whoever finds its own nonce in the answer was
//! first. A version is never used twice: the highest one is never removed by a writer, and a removed record leaves its
//! last version behind as a marker, for as long as the stack holds anything else. A writer that was slow may make an old
//! version anew; it finds a higher one beside it that does not descend from its own, and has lost.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bollard::models::{Volume, VolumeCreateRequest};
use bollard::query_parameters::RemoveVolumeOptions;
use provisioner_core::engine::EngineError;
use provisioner_core::record::{Record, RecordError, RecordSet, Records, Version};
use serde_json::Value;

use crate::connect::DockerEngine;
use crate::error::is_missing;
use crate::labels::{Kind, Labels, Names};

const KEY: &str = "provisioner.record";
const VERSION: &str = "provisioner.version";
const VALUE: &str = "provisioner.value";
const NONCE: &str = "provisioner.nonce";
const ANCESTORS: &str = "provisioner.ancestors";
/// How many writes of others may happen between a writer's own write and its look at what became of it.
const ANCESTORS_KEPT: usize = 32;

/// One version of one record.
#[derive(Clone, Debug, PartialEq)]
struct Slot {
    key: String,
    version: Version,
    /// `None`: the record was removed at this version.
    value: Option<Value>,
    nonce: String,
    /// Nonces of the versions that this one was built on, the newest first.
    ancestors: Vec<String>,
}

impl Slot {
    fn following(last: Option<&Self>, key: &str, value: Option<Value>) -> Self {
        let mut ancestors: Vec<String> = last.iter().map(|last| last.nonce.clone()).collect();
        ancestors.extend(last.iter().flat_map(|last| last.ancestors.iter().cloned()));
        ancestors.truncate(ANCESTORS_KEPT);
        let version = last.map_or(0, |last| last.version) + 1;
        Self { key: key.to_owned(), version, value, nonce: nonce(), ancestors }
    }

    /// `other` was written by somebody who had read this very slot.
    fn is_ancestor_of(&self, other: &Self) -> bool {
        other.ancestors.contains(&self.nonce)
    }

    fn read(labels: &Labels) -> Option<Self> {
        if Kind::of(labels) != Some(Kind::Record) {
            return None;
        }
        Some(Self {
            key: labels.get(KEY)?.clone(),
            version: labels.get(VERSION)?.parse().ok()?,
            value: labels.get(VALUE).map(|value| serde_json::from_str(value)).transpose().ok()?,
            nonce: labels.get(NONCE)?.clone(),
            ancestors: labels.get(ANCESTORS)?.split_whitespace().map(str::to_owned).collect(),
        })
    }

    fn labels(&self, names: &Names) -> Labels {
        let mut labels = names.labels(Kind::Record);
        labels.insert(KEY.to_owned(), self.key.clone());
        labels.insert(VERSION.to_owned(), self.version.to_string());
        labels.insert(NONCE.to_owned(), self.nonce.clone());
        labels.insert(ANCESTORS.to_owned(), self.ancestors.join(" "));
        if let Some(value) = &self.value {
            labels.insert(VALUE.to_owned(), value.to_string());
        }
        labels
    }
}

/// The highest version of every record, markers of removed ones included.
fn highest(volumes: &[Volume]) -> BTreeMap<String, Slot> {
    let mut highest: BTreeMap<String, Slot> = BTreeMap::new();
    for slot in volumes.iter().filter_map(|volume| Slot::read(&volume.labels)) {
        let is_newer = highest.get(&slot.key).is_none_or(|known| slot.version > known.version);
        if is_newer {
            highest.insert(slot.key.clone(), slot);
        }
    }
    highest
}

/// A record that does not read is not an absent one: taken for absent, data would be bootstrapped anew beside it.
pub(crate) fn refuse_unreadable(volumes: &[Volume]) -> Result<(), EngineError> {
    let is_unreadable =
        |volume: &&Volume| Kind::of(&volume.labels) == Some(Kind::Record) && Slot::read(&volume.labels).is_none();
    match volumes.iter().find(is_unreadable) {
        None => Ok(()),
        Some(volume) => {
            let detail = "its labels are not those of a record of this version of the provisioner";
            Err(EngineError::failed(format!("read record volume {}", volume.name), detail))
        }
    }
}

pub(crate) fn current(volumes: &[Volume]) -> RecordSet {
    let present = highest(volumes).into_iter().filter_map(|(key, slot)| {
        let record = Record { version: slot.version, value: slot.value? };
        Some((key, record))
    });
    RecordSet(present.collect())
}

impl DockerEngine {
    async fn slots(&self, key: &str) -> Result<Vec<Slot>, EngineError> {
        let mut filters = self.names.filter();
        filters.entry("label".to_owned()).or_default().push(format!("{KEY}={key}"));
        let volumes = self.volumes(filters).await?;
        let mut slots: Vec<Slot> = volumes.iter().filter_map(|volume| Slot::read(&volume.labels)).collect();
        slots.sort_by_key(|slot| slot.version);
        Ok(slots)
    }

    async fn write(&self, key: &str, expected: Version, value: Option<Value>) -> Result<Version, RecordError> {
        let conflict = |found| RecordError::Conflict { key: key.to_owned(), expected, found };
        let last = self.slots(key).await?.pop();
        let found = last.as_ref().filter(|slot| slot.value.is_some()).map_or(0, |slot| slot.version);
        if found != expected {
            return Err(conflict(found));
        }
        let slot = Slot::following(last.as_ref(), key, value);
        let version = slot.version;
        let name = self.names.record(key, version);
        let request = VolumeCreateRequest {
            name: Some(name.clone()),
            labels: Some(slot.labels(&self.names)),
            ..VolumeCreateRequest::default()
        };
        let operation = format!("write record {key}");
        let made = self.docker.client.create_volume(request).await;
        let made = made.map_err(self.docker.failed(operation.as_str()))?;
        match Slot::read(&made.labels) {
            Some(written) if written.nonce == slot.nonce => {}
            Some(written) => return Err(conflict(written.version)),
            None => {
                let detail = format!("volume {name} exists and is no record; docker volume rm {name} removes it");
                return Err(EngineError::failed(operation, detail).into());
            }
        }
        let after = self.slots(key).await?;
        let newer = after.last().filter(|newer| newer.version > version);
        if let Some(newer) = newer.filter(|newer| !slot.is_ancestor_of(newer)) {
            self.delete_volume(&name).await?;
            return Err(conflict(newer.version));
        }
        for older in after.iter().filter(|older| older.version < version) {
            self.delete_volume(&self.names.record(key, older.version)).await?;
        }
        Ok(version)
    }

    /// Removes the markers of removed records once the stack holds nothing else.
    pub(crate) async fn sweep_markers(&self) -> Result<(), EngineError> {
        let volumes = self.volumes(self.names.filter()).await?;
        let is_marker = |volume: &Volume| Slot::read(&volume.labels).is_some_and(|slot| slot.value.is_none());
        if volumes.iter().all(is_marker) {
            for volume in &volumes {
                self.delete_volume(&volume.name).await?;
            }
        }
        Ok(())
    }

    /// Removes a volume that may be gone already.
    pub(crate) async fn delete_volume(&self, name: &str) -> Result<(), EngineError> {
        let removed = self.docker.client.remove_volume(name, None::<RemoveVolumeOptions>).await;
        match removed.map_err(self.docker.failed(format!("remove volume {name}"))) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Records for DockerEngine {
    async fn get(&self, key: &str) -> Result<Option<Record>, EngineError> {
        let last = self.slots(key).await?.pop();
        Ok(last.and_then(|slot| Some(Record { version: slot.version, value: slot.value? })))
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
        Ok(self.sweep_markers().await?)
    }
}

pub(crate) fn nonce() -> String {
    format!("{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use provisioner_core::name::StackName;
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        Names { stack: StackName::new("dev").unwrap() }
    }

    fn slot(key: &str, version: Version, value: Option<Value>) -> Slot {
        let ancestors = vec!["b".to_owned(), "a".to_owned()];
        Slot { key: key.to_owned(), version, value, nonce: "c".to_owned(), ancestors }
    }

    fn volume(slot: &Slot) -> Volume {
        let name = names().record(&slot.key, slot.version);
        Volume { name, labels: slot.labels(&names()), ..Volume::default() }
    }

    #[test]
    fn a_slot_round_trips_through_labels() {
        for value in [Some(json!({"primary": "postgres-1", "epoch": 2})), Some(Value::Null), None] {
            let slot = slot("postgres.cluster", 7, value);
            assert_eq!(Slot::read(&slot.labels(&names())), Some(slot));
        }
    }

    #[test]
    fn the_highest_version_counts_and_a_marker_hides_the_record() {
        let volumes = [
            volume(&slot("a", 9, Some(json!("old")))),
            volume(&slot("a", 10, Some(json!("new")))),
            volume(&slot("b", 1, Some(json!("gone")))),
            volume(&slot("b", 2, None)),
            Volume { labels: names().labels(Kind::Volume), ..Volume::default() },
        ];
        let records = current(&volumes);
        assert_eq!(records.0.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(records.0["a"], Record { version: 10, value: json!("new") });
    }

    #[test]
    fn a_slot_knows_whom_it_descends_from() {
        let first = Slot::following(None, "a", Some(json!(1)));
        let mut last = first.clone();
        for _ in 0..ANCESTORS_KEPT {
            last = Slot::following(Some(&last), "a", None);
            assert!(first.is_ancestor_of(&last));
        }
        assert_eq!(last.version, 1 + ANCESTORS_KEPT as u64);
        let twin = Slot { nonce: "another".to_owned(), ..first };
        assert!(!twin.is_ancestor_of(&last));
    }

    #[test]
    fn a_records_volume_tells_stack_key_and_version() {
        assert_eq!(names().record("postgres.cluster", 3), "dev-record-postgres.cluster-3");
    }
}
