//! What the provisioner asks of an engine (Docker, Kubernetes, memory). No system's name and no engine's type occurs
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use crate::drift::{Actual, FoundFile};
use crate::fault::Faults;
use crate::name::{Member, StackName};
use crate::observed::{Making, Observed};
use crate::record::Records;
use crate::stack::{File, Job, OnChange, Resource, ResourceId, Stack, Workload};

/// An engine, bound to one stack.
#[async_trait]
pub trait Engine: Send + Sync {
    fn stack(&self) -> &StackName;

    /// One snapshot, by reads only. The number of requests does not grow with the stack.
    async fn observe(&self) -> Result<Observed, EngineError>;

    /// Makes `resource` exist as described and, for a workload, started. Removes what stands in its place, but never
    /// a volume. `image` of a workload is looked up among `images`.
    async fn ensure(
        &self,
        resource: &Resource,
        images: &ImageReferences,
        output: &dyn Output,
    ) -> Result<(), EngineError>;

    /// How it would make the member today, of this image.
    fn making(&self, _workload: &Workload, _image: &str) -> Making {
        Making::default()
    }

    async fn remove(&self, id: &ResourceId) -> Result<(), EngineError>;

    async fn set(&self, member: &Member, power: Power) -> Result<(), EngineError>;

    /// Proof that a member is down and stays down, or an error that says what stands against it.
    async fn stopped(&self, member: &Member) -> Result<StopProof, EngineError>;

    async fn exec(&self, member: &Member, argv: &[String], stdin: Option<Bytes>) -> Result<Execution, EngineError>;

    /// Like `exec`, with input that is passed on as it comes and may outlive the command.
    async fn attach(
        &self,
        member: &Member,
        argv: &[String],
        input: Option<InputStream>,
    ) -> Result<Execution, EngineError> {
        let input = match input {
            Some(input) => Some(collect_input(input).await?),
            None => None,
        };
        self.exec(member, argv, input).await
    }

    /// `argv` as it must be given to `exec` for the command to see the workload's secret variables too.
    fn in_environment(&self, _workload: &Workload, argv: &[String]) -> Vec<String> {
        argv.to_vec()
    }

    /// The member as it really runs, by reads only; `image` is the reference that it should run.
    async fn inspect(&self, member: &Member, image: &str) -> Result<Actual, EngineError>;

    /// What stands at these paths inside a member, running or not, by reads only.
    async fn read_files(&self, member: &Member, paths: &[String]) -> Result<BTreeMap<String, FoundFile>, EngineError>;

    /// The bytes of a small file inside a member, running or not, by reads only; `None`: no regular file stands there.
    async fn read_file(&self, member: &Member, path: &str) -> Result<Option<Vec<u8>>, EngineError>;

    async fn logs(&self, member: &Member, options: LogOptions) -> Result<OutputStream, EngineError>;

    /// Puts files into a member and, if told so, has it take them over. With [`OnChange::Nothing`] it need not run. A file
    /// that lies on a volume of the member is data: it is put there and is no part of what the member was asked to be.
    async fn put_files(&self, member: &Member, files: &[File], then: &OnChange) -> Result<(), EngineError>;

    async fn run(&self, job: &Job, images: &ImageReferences, output: &dyn Output) -> Result<JobOutcome, EngineError>;

    /// Where a member's port is reached from here right now; for short checks only.
    async fn address(&self, member: &Member, port: u16) -> Result<SocketAddr, EngineError>;

    /// Values of the named secrets.
    async fn secrets(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, String>, EngineError>;

    /// Key and certificates of a pair that somebody else keeps in the engine under this name, as PEM; `None`: there is none.
    async fn kept_pair(&self, _name: &str) -> Result<Option<String>, EngineError> {
        Ok(None)
    }

    fn records(&self) -> &dyn Records;

    /// What it can do to members for a drill; `None`: nothing.
    fn faults(&self) -> Option<&dyn Faults> {
        None
    }

    /// What the preflight looks at.
    async fn host(&self) -> Result<Host, EngineError>;

    /// What the preflight cannot know of an engine, by reads only; without a stack: for any.
    async fn examine(&self, _stack: Option<&Stack>) -> Result<Vec<Condition>, EngineError> {
        Ok(Vec::new())
    }

    /// What members use right now, as far as the engine can tell soon; a member that it cannot tell about is absent.
    async fn usage(&self, _members: &[Member]) -> BTreeMap<Member, Usage> {
        BTreeMap::new()
    }

    /// What the engine itself knows of the stack since this second, for whoever looks into a failure afterwards: names of
    /// files and their text, without any secret.
    async fn evidence(&self, _since: u64) -> Result<BTreeMap<String, String>, EngineError> {
        Ok(BTreeMap::new())
    }
}

/// Image id to the reference that the engine knows.
pub type ImageReferences = BTreeMap<crate::stack::ImageId, String>;

pub type OutputStream = Pin<Box<dyn Stream<Item = Result<OutputChunk, EngineError>> + Send>>;

/// What a person or program types into a command.
pub type InputStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputChunk {
    Stdout(Bytes),
    Stderr(Bytes),
}

async fn collect_input(mut input: InputStream) -> Result<Bytes, EngineError> {
    use futures_util::StreamExt;
    let mut collected = Vec::new();
    while let Some(piece) = input.next().await {
        collected.extend_from_slice(&piece.map_err(|error| EngineError::failed("read the command's input", error))?);
    }
    Ok(collected.into())
}

/// A command that runs inside a member.
pub struct Execution {
    pub output: OutputStream,
    /// Resolves to the exit code once `output` has ended.
    pub exit: Pin<Box<dyn Future<Output = Result<i64, EngineError>> + Send>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    pub exit_code: i64,
    pub stdout: String,
    pub stderr: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOutcome {
    pub exit_code: i64,
    /// The last lines of both streams.
    pub tail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Running,
    /// By its own stop signal, within its grace period.
    Stopped,
    Killed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopProof {
    pub instance: String,
    /// What was seen, for the report.
    pub evidence: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    /// Last lines only; `None`: all.
    pub tail: Option<u32>,
    /// Only what was printed at or after this second since 1970, by the engine's clock.
    pub since: Option<u64>,
    /// Each line begins with the time of its printing in RFC 3339 and a space.
    pub times: bool,
}

/// What one member uses; what the engine does not tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Usage {
    /// Without the page cache, which the kernel gives back when somebody needs it.
    pub memory_bytes: Option<u64>,
    pub memory_limit_bytes: Option<u64>,
    /// 100 is one whole core.
    pub cpu_percent: Option<f64>,
    /// What its volumes hold.
    pub disk_bytes: Option<u64>,
}

/// Receives the lines that a long action prints (an image build, a job).
pub trait Output: Send + Sync {
    fn line(&self, line: &str);

    /// What was found or proven on the way and must be known to whoever asked for the action.
    fn tell(&self, line: &str) {
        self.line(line);
    }
}

/// Drops every line.
pub struct Quiet;

impl Output for Quiet {
    fn line(&self, _line: &str) {}
}

/// The machine under the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Product and version as people know it: `Docker 20.10.24`.
    pub engine: String,
    pub is_supported: Result<(), String>,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Free space where images and volumes are kept, if the engine's disk can be seen from here.
    pub free_disk_bytes: Option<u64>,
    /// Which published ports of the machine are taken, and by which container.
    pub ports: BTreeMap<u16, String>,
    /// The engine runs on this very machine, so its ports and limits can be looked at directly.
    pub is_local: bool,
}

/// One thing that must hold before a stack is touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub subject: &'static str,
    /// What was found, or what stands against the stack and what would help.
    pub verdict: Result<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("reach {engine} at {address}: {detail}")]
    Unreachable { engine: &'static str, address: String, detail: String },
    #[error("use {engine} at {address}: permission denied")]
    Denied { engine: &'static str, address: String },
    #[error("{what} does not exist")]
    NotFound { what: String },
    #[error("{operation}: {detail}")]
    Failed { operation: String, detail: String },
    /// It answers, and as things stand this stack cannot be on it.
    #[error("{operation}: {detail}")]
    Unfit { operation: String, detail: String },
    #[error("{operation}: no end after {} s", after.as_secs())]
    TimedOut { operation: String, after: Duration },
    #[error(transparent)]
    Secret(#[from] crate::stack::MissingSecret),
}

impl EngineError {
    pub fn failed(operation: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self::Failed { operation: operation.into(), detail: detail.to_string() }
    }

    pub fn unfit(operation: impl Into<String>, detail: impl std::fmt::Display) -> Self {
        Self::Unfit { operation: operation.into(), detail: detail.to_string() }
    }
}

/// Reads a stream to its end, both channels as one text.
pub async fn collect_text(mut stream: OutputStream) -> Result<String, EngineError> {
    use futures_util::StreamExt;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let (OutputChunk::Stdout(part) | OutputChunk::Stderr(part)) = chunk?;
        bytes.extend_from_slice(&part);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Execution {
    /// Reads a short command to its end.
    pub async fn finish(self) -> Result<Executed, EngineError> {
        use futures_util::StreamExt;
        let Self { mut output, exit } = self;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(chunk) = output.next().await {
            match chunk? {
                OutputChunk::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                OutputChunk::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            }
        }
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Executed { exit_code: exit.await?, stdout: text(stdout), stderr: text(stderr) })
    }
}
