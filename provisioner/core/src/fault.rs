//! What a drill does to a member, and the trait by which an engine does it.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use serde::Serialize;

use crate::engine::EngineError;
use crate::name::Member;
use crate::stack::Workload;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The member is killed through the engine and stays dead.
    Kill,
    /// The server's process inside the member is killed by nobody that the engine knows of, as when memory runs out.
    HostKill,
    /// The whole member hangs and keeps its connections.
    Pause,
    /// The member runs on and reaches nobody on the stack's network.
    Partition,
    /// The member's data has no byte left to grow.
    DiskFull,
}

impl Fault {
    pub const ALL: [Self; 5] = [Self::Kill, Self::HostKill, Self::Pause, Self::Partition, Self::DiskFull];

    pub fn word(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::HostKill => "host-kill",
            Self::Pause => "pause",
            Self::Partition => "partition",
            Self::DiskFull => "disk-full",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no fault {0:?}, expected kill, host-kill, pause, partition or disk-full")]
pub struct NoFault(String);

impl FromStr for Fault {
    type Err = NoFault;

    fn from_str(text: &str) -> Result<Self, NoFault> {
        Self::ALL.into_iter().find(|fault| fault.word() == text).ok_or_else(|| NoFault(text.to_owned()))
    }
}

/// A fault that was injected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// When the engine was told, in microseconds since 1970 by this machine's clock: the effect comes after it.
    pub at_unix_us: u64,
    /// What was done, for the report.
    pub what: String,
}

/// An engine that can hurt its members. Whatever it does is bounded to the member.
#[async_trait]
pub trait Faults: Send + Sync {
    /// Why the fault cannot be injected; `None`: it can.
    async fn cannot(&self, member: &Member, fault: Fault) -> Result<Option<String>, EngineError>;

    async fn inject(&self, member: &Member, fault: Fault) -> Result<Injected, EngineError>;

    /// Takes back what outlasts its cause: a freeze, a missing network. May be run again at any time.
    async fn heal(&self, workload: &Workload, fault: Fault) -> Result<(), EngineError>;
}
