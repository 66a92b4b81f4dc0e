//! Exit codes: one documented table (docs/exit-codes.md), one function from an error to its code.

use std::fmt;
use std::process::ExitCode;

use provisioner_core::engine::EngineError;
use provisioner_core::failure::Failure;
use provisioner_core::manifest::InvalidManifest;
use provisioner_docker::EndpointError;
use provisioner_kubernetes::{AccessError, ConnectError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    Error,
    /// Only with `--detailed-exitcode`: there is something to do.
    Changes,
    Usage,
    Manifest,
    Preflight,
    VerifyFailed,
    Unknown,
    LockHeld,
    Timeout,
    Refused,
    /// Only of `drift`: something is not as it should be.
    Drifted,
    /// Only of `drift`: nothing differs, but something could not be looked at.
    DriftUnknown,
    /// Only of `failover`: there is nothing to fail over.
    Healthy,
    /// Only of `failover`: the primary is not clearly lost.
    Unsure,
    /// No replica can become primary.
    NoCandidate,
    /// Acknowledged rows may be lost.
    MayLose,
    /// Who is primary is not clear.
    Unclear,
    /// The old primary is not proven down.
    NotFenced,
    /// The member named cannot be the new primary.
    BadTarget,
    /// Something speaks against a planned change just now.
    NotReady,
    /// Only of drills: an objective was missed.
    Missed,
    /// There is no replica at all.
    NoReplicas,
    /// Who may become primary lacks what somebody has who may not.
    CandidateBehind,
    /// A member holds another cluster's data.
    Foreign,
    /// No member of the route can be told where to lead.
    NoRoute,
    /// Another change of the primary has to be finished first.
    UnderWay,
    Interrupted,
    /// What the command of `exec` ended with.
    Command(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Error => 1,
            Self::Changes => 2,
            Self::Usage => 64,
            Self::Manifest => 65,
            Self::Preflight => 66,
            Self::VerifyFailed => 67,
            Self::Unknown => 68,
            Self::LockHeld => 69,
            Self::Timeout => 70,
            Self::Refused => 71,
            Self::Drifted => 72,
            Self::DriftUnknown => 73,
            Self::Healthy => 74,
            Self::Unsure => 75,
            Self::NoCandidate => 76,
            Self::MayLose => 77,
            Self::Unclear => 78,
            Self::NotFenced => 79,
            Self::BadTarget => 80,
            Self::NotReady => 81,
            Self::Missed => 82,
            Self::NoReplicas => 83,
            Self::CandidateBehind => 84,
            Self::Foreign => 85,
            Self::UnderWay => 86,
            Self::NoRoute => 87,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }

    /// Codes that do not fit a process's own count as a plain error.
    pub fn of_command(code: i64) -> Self {
        u8::try_from(code).map_or(Self::Error, Self::Command)
    }
}

/// An error of the command line itself, with its exit code and what to do next.
#[derive(Debug)]
pub struct Stop {
    pub exit: Exit,
    message: String,
    hints: Vec<String>,
}

impl Stop {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hints: Vec::new() }
    }

    pub fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Stop {}

/// The exit code of an error: the first cause in its chain that has one of its own.
pub fn of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(of_cause).unwrap_or(Exit::Error)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(stop) = cause.downcast_ref::<Stop>() {
        return Some(stop.exit);
    }
    if cause.is::<InvalidManifest>() {
        return Some(Exit::Manifest);
    }
    if cause.is::<EndpointError>() || cause.is::<AccessError>() || cause.is::<ConnectError>() {
        return Some(Exit::Preflight);
    }
    match cause.downcast_ref::<EngineError>() {
        Some(EngineError::Unreachable { .. } | EngineError::Denied { .. } | EngineError::Unfit { .. }) => {
            return Some(Exit::Preflight);
        }
        Some(EngineError::TimedOut { .. }) => return Some(Exit::Timeout),
        _ => {}
    }
    None
}

/// What an error says should be done next.
pub fn hints(error: &anyhow::Error) -> Vec<String> {
    error.chain().flat_map(hints_of_cause).collect()
}

fn hints_of_cause(cause: &(dyn std::error::Error + 'static)) -> Vec<String> {
    if let Some(stop) = cause.downcast_ref::<Stop>() {
        return stop.hints.clone();
    }
    if let Some(failure) = cause.downcast_ref::<Failure>() {
        return failure.hints.clone();
    }
    match cause.downcast_ref::<EngineError>() {
        Some(EngineError::Unreachable { engine: provisioner_kubernetes::ENGINE, .. }) => {
            vec!["is the cluster up, and this the right context? `kubectl config get-contexts` lists them".to_owned()]
        }
        Some(EngineError::Unreachable { .. }) => {
            vec!["start the engine, or name another one with DOCKER_HOST or `docker context use`".to_owned()]
        }
        Some(EngineError::Denied { .. }) => {
            vec!["let this user use the engine (`sudo usermod -aG docker $USER`, then log in again)".to_owned()]
        }
        _ => Vec::new(),
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
