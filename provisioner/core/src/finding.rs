//! What a check found, with its evidence. "Could not tell" is a verdict of its own and never a pass.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub component: String,
    /// Stable, lower-case with hyphens: `replica-refuses-write`.
    pub check: String,
    pub level: Level,
    pub verdict: Verdict,
    /// What was seen, in one line.
    pub evidence: String,
    pub took_ms: u64,
}

/// How deep a check looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Level {
    /// The process runs.
    L0,
    /// It speaks its protocol.
    L1,
    /// A round trip as its clients do it.
    L2,
    /// Members agree with each other.
    L3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    Unknown,
}

/// How a check ends: what it saw, and why that is no pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The thing under test is wrong.
    Fail(String),
    /// The check itself could not be made.
    Unknown(String),
}

/// No check may hang a verification.
pub const CHECK_LIMIT: Duration = Duration::from_secs(20);

/// Runs one check and times it. A check that does not end within [`CHECK_LIMIT`] is `Unknown`.
pub async fn check(
    component: &str,
    name: &str,
    level: Level,
    body: impl Future<Output = Result<String, Broken>>,
) -> Finding {
    let start = Instant::now();
    let (verdict, evidence) = match tokio::time::timeout(CHECK_LIMIT, body).await {
        Ok(Ok(evidence)) => (Verdict::Pass, evidence),
        Ok(Err(Broken::Fail(evidence))) => (Verdict::Fail, evidence),
        Ok(Err(Broken::Unknown(evidence))) => (Verdict::Unknown, evidence),
        Err(_) => (Verdict::Unknown, format!("no answer within {} s", CHECK_LIMIT.as_secs())),
    };
    Finding {
        component: component.to_owned(),
        check: name.to_owned(),
        level,
        verdict,
        evidence,
        took_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
    }
}

impl Broken {
    pub fn fail(evidence: impl fmt::Display) -> Self {
        Self::Fail(evidence.to_string())
    }

    pub fn unknown(evidence: impl fmt::Display) -> Self {
        Self::Unknown(evidence.to_string())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Unknown => "unknown",
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", *self as u8)
    }
}
