//! Run-time truth that the engine keeps with the stack: roles, route targets, releases, the lock.
//!
//! There is no state file on anybody's laptop, so a second operator on another machine sees the same stack.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::EngineError;

/// Counts the writes of one record; 0 stands for "no such record".
pub type Version = u64;

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: Version,
    pub value: Value,
}

/// All records of a stack, by key, as they were read together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordSet(pub BTreeMap<String, Record>);

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Somebody else wrote first; nothing was changed.
    #[error("record {key} is at version {found}, expected {expected}")]
    Conflict { key: String, expected: Version, found: Version },
    #[error("record {key} does not read as {expected}")]
    Malformed {
        key: String,
        expected: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Compare-and-swap storage in the engine. Keys are lower-case words joined by dots: `postgres.cluster`.
#[async_trait]
pub trait Records: Send + Sync {
    async fn get(&self, key: &str) -> Result<Option<Record>, EngineError>;

    /// Writes `value` if the record still has version `expected` (0: does not exist yet) and returns the new version.
    /// Of several writers that expect the same version exactly one succeeds.
    async fn put_if(&self, key: &str, expected: Version, value: Value) -> Result<Version, RecordError>;

    /// Removes the record if it still has version `expected`.
    async fn remove_if(&self, key: &str, expected: Version) -> Result<(), RecordError>;
}

impl RecordSet {
    /// The record under `key` in its own type; `None` where there is none.
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, RecordError> {
        self.0.get(key).map(|record| record.read(key)).transpose()
    }

    pub fn version(&self, key: &str) -> Version {
        self.0.get(key).map_or(0, |record| record.version)
    }
}

impl Record {
    pub fn read<T: DeserializeOwned>(&self, key: &str) -> Result<T, RecordError> {
        serde_json::from_value(self.value.clone()).map_err(|source| RecordError::Malformed {
            key: key.to_owned(),
            expected: std::any::type_name::<T>(),
            source,
        })
    }
}

/// Reads, lets `change` make the next value and writes it, again from the start when somebody was faster.
/// `change` sees `None` where there is no record yet; returning `None` leaves the record as it is.
pub async fn update<T, F>(records: &dyn Records, key: &str, mut change: F) -> Result<(), RecordError>
where
    T: DeserializeOwned + Serialize,
    F: FnMut(Option<T>) -> Option<T> + Send,
{
    loop {
        let found = records.get(key).await?;
        let version = found.as_ref().map_or(0, |record| record.version);
        let current = found.map(|record| record.read(key)).transpose()?;
        let Some(next) = change(current) else { return Ok(()) };
        let value = serde_json::to_value(next).map_err(|source| RecordError::Malformed {
            key: key.to_owned(),
            expected: std::any::type_name::<T>(),
            source,
        })?;
        match records.put_if(key, version, value).await {
            Err(RecordError::Conflict { .. }) => {}
            other => return other.map(|_| ()),
        }
    }
}
