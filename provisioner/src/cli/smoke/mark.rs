//! The record by which a stack is known to be a smoke's own: it may be removed once nobody holds its lock.

use provisioner_core::component::Access;
use provisioner_core::lease::Holder;
use provisioner_core::record::{self, RecordError, RecordSet};
use serde::{Deserialize, Serialize};

const KEY: &str = "smoke";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub(crate) run: Holder,
    /// Somebody wants to look at it: it stays although its run is over.
    pub(crate) kept: bool,
}

impl Mark {
    pub(crate) async fn put(self, access: &Access<'_>) -> Result<(), RecordError> {
        record::update(access.engine.records(), KEY, |_: Option<Self>| Some(self.clone())).await
    }

    pub(crate) fn read(records: &RecordSet) -> Result<Option<Self>, RecordError> {
        records.read(KEY)
    }
}
