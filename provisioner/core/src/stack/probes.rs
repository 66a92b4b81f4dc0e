//! How a member says for itself that it can be used.

use serde::Serialize;

/// What an engine asks a member on its own, again and again, where something follows the answers: a cluster's balancer, an
/// eviction. On Docker nothing does, and nobody asks: there the provisioner's own checks decide, from outside and deeper.
/// The same checks decide on a cluster whether a step is done; no step waits for these answers.
///
/// None of these ends a member that is only slow: a primary under load would be lost to a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probes {
    /// It can be used now. Whoever cannot is led to by nobody until it can.
    pub ready: Probe,
    /// `None`: a start takes as long as it takes, as the recovery of a database does.
    pub started: Option<Started>,
    /// So long it goes on as before when it is to stop, until everybody has learnt that it will.
    pub leave_secs: u32,
}

/// What a process has done by a time, whatever is with the systems that it reaches; one that has not is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Started {
    pub probe: Probe,
    pub within_secs: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Probe {
    /// Any status below 400.
    Http { port: u16, path: String, tls: bool },
    /// It accepts a connection.
    Tcp { port: u16 },
    /// Ends with 0 inside the member.
    Command { argv: Vec<String> },
}

impl Probe {
    pub fn http(port: u16, path: impl Into<String>) -> Self {
        Self::Http { port, path: path.into(), tls: false }
    }
}

impl Probes {
    /// Of a member that keeps data: it starts for as long as it has to, and leaves when it is told.
    pub fn ready(ready: Probe) -> Self {
        Self { ready, started: None, leave_secs: 0 }
    }

    /// Of a member that has nothing to recover: what does not stand by then never will.
    pub fn started(self, probe: Probe, within_secs: u32) -> Self {
        Self { started: Some(Started { probe, within_secs }), ..self }
    }
}
