//! What the checks of several components share.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use provisioner_core::name::Member;
use provisioner_core::observed::State;
use provisioner_core::wait::{self, Look};
use reqwest::RequestBuilder;

use crate::http::{self, Reply, Site};
use crate::nginx;

/// The check that every member has: its process runs, as the snapshot tells.
pub(crate) fn process(access: &Access<'_>, member: &Member) -> Result<String, Broken> {
    match access.observed.workload(member) {
        Some(found) if found.state == State::Running => Ok(format!("{member} is running")),
        Some(found) => Err(Broken::fail(format!("{member} is {}, expected running", found.state.word()))),
        None => Err(Broken::fail(format!("{member} is missing, expected running"))),
    }
}

/// A word that was never used before, for probe keys and queries.
pub(crate) fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A listener of NGINX as it is reached from here.
pub(crate) async fn nginx(access: &Access<'_>, port: u16) -> Result<Site, Broken> {
    Site::of(access, &nginx::member(), port, Duration::from_secs(5)).await.map_err(Broken::Unknown)
}

/// An answer that NGINX's rate limit does not stand before: other checks, and other operators', count for the same address. The
/// shop's own limits, which last for minutes, are an answer; theirs alone have a code.
pub(crate) async fn unlimited(what: &str, request: impl Fn() -> RequestBuilder) -> Result<Reply, Broken> {
    let waited =
        wait::until(Duration::from_secs(8), Duration::from_millis(250), async || match http::reply(request()).await {
            Ok(reply) if reply.status == 429 && !reply.json().is_ok_and(|problem| problem["code"].is_string()) => {
                Look::Pending("429".to_owned())
            }
            Ok(reply) => Look::Done(reply),
            Err(error) => Look::Broken(NoAnswer(error)),
        });
    waited.await.map_err(|error| match error {
        wait::WaitError::Broken(NoAnswer(error)) => Broken::fail(format!("{what}: {error}")),
        limited @ wait::WaitError::TimedOut { .. } => Broken::Unknown(format!("{what}: {limited}")),
    })
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoAnswer(String);
