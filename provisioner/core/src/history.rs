//! What was done to the stack, by whom and how it ended: the last runs, kept as a record.

use serde::{Deserialize, Serialize};

use crate::observed::Observed;
use crate::record::{self, RecordError, Records};

pub const KEY: &str = "history";
/// Older runs are forgotten: a record is read with every snapshot, so it stays small.
pub const KEPT: usize = 30;

/// One run that had something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Seconds since 1970 by the clock of whoever ran it.
    pub at: u64,
    pub user: String,
    pub host: String,
    pub command: String,
    pub took_ms: u64,
    pub steps: usize,
    /// Steps that were not done.
    pub left: usize,
    pub ended: Ended,
    /// What a drill has found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<Drill>,
}

/// The verdict of a drill in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// A fault, or `switchover`.
    pub fault: String,
    pub passed: bool,
    /// How long writes were impossible; `None`: they did not come back.
    pub rto_ms: Option<u64>,
    /// Acknowledged rows that were lost.
    pub rpo_rows: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Done,
    Failed,
    LockLost,
    Interrupted,
    TimedOut,
}

impl Ended {
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::LockLost => "lock lost",
            Self::Interrupted => "interrupted",
            Self::TimedOut => "timed out",
        }
    }
}

/// Adds a run as the newest.
pub async fn note(records: &dyn Records, run: &Run) -> Result<(), RecordError> {
    record::update(records, KEY, |runs: Option<Vec<Run>>| {
        let older = runs.unwrap_or_default();
        Some(std::iter::once(run.clone()).chain(older).take(KEPT).collect())
    })
    .await
}

/// Newest first.
pub fn read(observed: &Observed) -> Result<Vec<Run>, RecordError> {
    Ok(observed.records.read(KEY)?.unwrap_or_default())
}
