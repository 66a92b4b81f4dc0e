//! One snapshot of what is. Whoever decides reads only this, so a plan is a pure function of its inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde::Serialize;

use crate::drift::Comparisons;
use crate::name::Member;
use crate::record::RecordSet;
use crate::secret::Note;
use crate::stack::{Fingerprint, SecretVersions};

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Observed {
    /// References of the images that the engine holds.
    pub images: BTreeSet<String>,
    pub network: Network,
    /// What is known of secrets by their name, never a value.
    pub secrets: BTreeMap<String, ObservedSecret>,
    /// Volumes by their name inside the stack.
    pub volumes: BTreeSet<String>,
    /// What was asked of the engine for a volume, where it keeps volumes to a size.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volume_bytes: BTreeMap<String, u64>,
    pub workloads: BTreeMap<Member, ObservedWorkload>,
    pub records: RecordSet,
    /// When this was seen, in seconds since 1970; what ends some day is judged by it.
    #[serde(skip)]
    pub at: u64,
    /// What components read from running members over their own protocols (HTTP GET, SQL SELECT): component to
    /// key to value.
    pub facts: BTreeMap<String, BTreeMap<String, String>>,
    /// How the engine would make members today.
    #[serde(skip)]
    pub makings: BTreeMap<Member, Making>,
    /// What deep comparisons found, where somebody asked for them; empty: nobody did.
    #[serde(skip)]
    pub deep: Comparisons,
}

/// The network of a stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    #[default]
    Absent,
    /// Somebody changed who gets into it, or took away what keeps others out.
    Edited,
    Present,
}

impl Network {
    pub fn is_there(self) -> bool {
        self != Self::Absent
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObservedWorkload {
    /// The engine's own id of this very container or pod; another one means it was replaced.
    pub instance: String,
    pub component: String,
    pub image: String,
    pub state: State,
    /// `None`: something else stands under this member's name.
    pub spec: Option<Fingerprint>,
    pub files: BTreeMap<String, Fingerprint>,
    /// Address on the stack's network while it runs.
    pub internal_ip: Option<std::net::IpAddr>,
    /// Container port to where this process reaches it.
    pub published: BTreeMap<u16, SocketAddr>,
    /// `None`: everybody on the operator's side reaches what is published. `Some`: it is forwarded by this process and ends
    /// with it; these ports have an address, `host:port`, that lasts.
    pub public: Option<BTreeMap<u16, String>>,
    /// As the engine noted when it made it.
    #[serde(skip)]
    pub making: Making,
}

/// How an engine makes a member beyond its description: by the engine's own settings, and by its version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Making {
    /// The process and what it runs in.
    pub process: Option<Fingerprint>,
    /// What leads to the process and guards it.
    pub around: Option<Fingerprint>,
}

impl Making {
    /// What was made before this was noted is not made anew for that.
    pub fn has_process_of(&self, today: &Self) -> bool {
        self.process.is_none() || self.process == today.process
    }
}

/// What of a member the engine would make otherwise today.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outdated {
    Process,
    /// The process can stay.
    Around,
}

impl ObservedWorkload {
    /// Where people reach a port, for as long as the member runs.
    pub fn address(&self, port: u16) -> Option<String> {
        match &self.public {
            None => self.published.get(&port).map(SocketAddr::to_string),
            Some(public) => public.get(&port).cloned(),
        }
    }

    /// Every port with where people reach it.
    pub fn addresses(&self) -> impl Iterator<Item = (u16, String)> {
        let ports = self.published.keys();
        ports.filter_map(|port| Some((*port, self.address(*port)?)))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObservedSecret {
    /// The engine can hand its value out.
    pub is_readable: bool,
    pub note: Note,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Made, never started: a run was killed in between.
    Created,
    Running,
    Paused,
    /// The engine is between two starts of a process that keeps ending.
    Restarting,
    Exited,
}

impl Observed {
    pub fn workload(&self, member: &Member) -> Option<&ObservedWorkload> {
        self.workloads.get(member)
    }

    pub fn outdated(&self, member: &Member) -> Option<Outdated> {
        let today = self.makings.get(member)?;
        let found = &self.workload(member)?.making;
        match found.has_process_of(today) {
            false => Some(Outdated::Process),
            true => (found.around != today.around).then_some(Outdated::Around),
        }
    }

    pub fn is_running(&self, member: &Member) -> bool {
        self.workload(member).is_some_and(|workload| workload.state == State::Running)
    }

    pub fn secret_versions(&self) -> SecretVersions {
        self.secrets.iter().map(|(name, found)| (name.clone(), found.note.version.clone())).collect()
    }

    pub fn fact(&self, component: &str, key: &str) -> Option<&str> {
        self.facts.get(component)?.get(key).map(String::as_str)
    }

    /// Nothing of the stack exists, not even data.
    pub fn is_empty(&self) -> bool {
        self.workloads.is_empty() && self.volumes.is_empty() && self.records.0.is_empty() && !self.network.is_there()
    }
}

impl State {
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
        }
    }
}
