//! An engine as a whole, with whatever stacks it holds.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::Serialize;

use crate::engine::EngineError;
use crate::name::StackName;

#[async_trait]
pub trait Estate: Send + Sync {
    /// What is there of any stack, by reads only.
    async fn survey(&self) -> Result<Survey, EngineError>;

    /// Removes one thing that a survey found. One that is gone by now is no error, one that is in use by now is.
    async fn discard(&self, leftover: &Leftover) -> Result<(), EngineError>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Every stack of which anything exists.
    pub stacks: BTreeSet<StackName>,
    /// Containers of jobs that ended, or never began, and were not removed by the run that made them.
    pub ended_jobs: BTreeSet<Leftover>,
    /// Images that were made here and that no container runs or is built on.
    pub unused_images: BTreeSet<Leftover>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Leftover {
    Job { stack: StackName, container: String },
    Image { reference: String },
}
