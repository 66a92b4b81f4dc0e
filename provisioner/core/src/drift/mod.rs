//! What really is, held against what should be: labels tell what was asked for, this tells what became of it. Three
//! answers, and "could not tell" is never "the same".

mod compare;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures_util::future::join_all;
use serde::Serialize;

pub use compare::workload;

use crate::component::{Access, Component, Task};
use crate::engine::EngineError;
use crate::name::Member;
use crate::stack::{Fingerprint, Text, Workload};

/// One thing that was compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    pub component: String,
    pub member: Option<Member>,
    /// A path: `memory`, `files./etc/nginx/nginx.conf`, `setting.work_mem`.
    pub what: String,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Same,
    /// Values of secrets are in neither text.
    Differs {
        expected: String,
        found: String,
        repair: Repair,
    },
    Unknown {
        reason: String,
    },
}

/// What takes the difference away.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Repair {
    /// The member is made anew; its volumes stay.
    Replace,
    /// The file is put in place again.
    PutFile {
        path: String,
    },
    Run {
        task: Task,
    },
    /// Nothing that is done without a person's decision.
    Command {
        command: String,
    },
}

/// A member as the engine really runs it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    /// The engine's own id of the image, and of the one that the reference names now.
    pub image: String,
    pub expected_image: Option<String>,
    pub command: Vec<String>,
    /// Its command reads the secret variables first.
    pub reads_secret_env: bool,
    pub env: BTreeMap<String, String>,
    /// What the image brings along.
    pub image_command: Vec<String>,
    pub image_env: BTreeMap<String, String>,
    /// As `user:group`, and what the image says; empty: root.
    pub user: String,
    pub image_user: String,
    pub memory_bytes: Option<u64>,
    pub cpu_millis: Option<u32>,
    pub shm_bytes: Option<u64>,
    /// As [`crate::stack::Restart`] serializes, else the engine's own word.
    pub restart: String,
    pub stop_signal: String,
    pub stop_grace_secs: Option<u32>,
    /// Path to volume by its name inside the stack, else what else is mounted there.
    pub mounts: BTreeMap<String, String>,
    /// Names on the stack's network; `None`: it is not on it.
    pub names: Option<Vec<String>>,
    pub other_networks: Vec<String>,
    /// Container port to where it is published; `None`: at a loopback port of the engine's choice.
    pub ports: BTreeMap<u16, Option<SocketAddr>>,
}

/// What stands at a path inside a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundFile {
    Absent,
    File {
        content: Fingerprint,
        mode: u32,
        owner: (u32, u32),
    },
    /// A folder, a link, something too large.
    Other(String),
}

pub type Comparisons = Vec<Comparison>;

impl Comparison {
    pub fn of(component: &str, member: Option<&Member>, what: impl Into<String>, verdict: Verdict) -> Self {
        Self { component: component.to_owned(), member: member.cloned(), what: what.into(), verdict }
    }

    pub fn unknown(component: &str, member: &Member, what: &str, reason: impl Into<String>) -> Self {
        Self::of(component, Some(member), what, Verdict::Unknown { reason: reason.into() })
    }

    /// Equal texts are the same; whoever calls sees to it that neither shows a secret.
    pub fn texts(
        component: &str,
        member: &Member,
        what: impl Into<String>,
        (expected, found): (impl Into<String>, impl Into<String>),
        repair: Repair,
    ) -> Self {
        let (expected, found) = (expected.into(), found.into());
        let verdict = if expected == found { Verdict::Same } else { Verdict::Differs { expected, found, repair } };
        Self::of(component, Some(member), what, verdict)
    }

    /// Why a plan acts: `memory is 64 MiB, expected 128 MiB`.
    pub fn because(&self) -> Option<String> {
        match &self.verdict {
            Verdict::Differs { expected, found, .. } => Some(format!("{} is {found}, expected {expected}", self.what)),
            Verdict::Same | Verdict::Unknown { .. } => None,
        }
    }
}

/// Everything deep: members from the engine, servers over their own protocols. Sends reads only.
pub async fn look(access: &Access<'_>, components: &[Box<dyn Component>]) -> Comparisons {
    let standing = access.stack.workloads().filter(|workload| {
        // What is missing or is somebody else's is a difference of the ordinary plan already.
        access.observed.workload(&workload.member).is_some_and(|found| found.spec.is_some())
    });
    let members = join_all(standing.map(|workload| member(access, workload)));
    let servers = join_all(components.iter().map(|component| component.drift(access)));
    let (members, servers) = futures_util::future::join(members, servers).await;
    members.into_iter().chain(servers).flatten().collect()
}

async fn member(access: &Access<'_>, workload: &Workload) -> Comparisons {
    let reference = access.images.get(&workload.image).map_or(workload.image.0.as_str(), String::as_str);
    let (inspected, files) =
        futures_util::future::join(access.engine.inspect(&workload.member, reference), files(access, workload)).await;
    let unknown = |what: &str, error: &EngineError| {
        vec![Comparison::unknown(&workload.component, &workload.member, what, error.to_string())]
    };
    let is_running = access.observed.is_running(&workload.member);
    let mut all = match inspected {
        Ok(actual) => compare::workload(workload, &actual, is_running),
        Err(error) => unknown("container", &error),
    };
    all.extend(files.unwrap_or_else(|error| unknown("files", &error)));
    all
}

async fn files(access: &Access<'_>, workload: &Workload) -> Result<Comparisons, EngineError> {
    if workload.files.is_empty() {
        return Ok(Vec::new());
    }
    let paths: Vec<String> = workload.files.iter().map(|file| file.path.clone()).collect();
    let found = access.engine.read_files(&workload.member, &paths).await?;
    let names = workload.files.iter().flat_map(|file| file.content.secrets()).map(str::to_owned).collect();
    let values = access.engine.secrets(&names).await?;
    let resolved = |text: &Text| text.resolve(&values).map_err(|error| error.to_string());
    Ok(compare::files(workload, &found, resolved))
}
