//! Waiting until a member is usable, and giving up early where it never will be.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::component::{Access, Component};
use crate::engine::LogOptions;
use crate::failure::Failure;
use crate::name::Member;
use crate::observed::State;
use crate::stack::{Restart, Workload};
use crate::wait::{self, Look, WaitError};

const EVERY: Duration = Duration::from_millis(150);
/// One look at the engine for so many looks at the member: a snapshot costs more than a probe.
const ENGINE_LOOK_EVERY: u32 = 5;
/// So often a member with a restart policy may be found between two starts before that counts as a crash loop.
const CRASHES_TOLERATED: u32 = 3;
const LOG_TAIL: u32 = 20;

/// Probes the member through its component until it answers. A verdict is only ever about this moment, so none from
/// before the start can be mistaken for one after it.
pub async fn await_member(
    component: &dyn Component,
    access: &Access<'_>,
    member: &Member,
    limit: Duration,
) -> Result<(), Failure> {
    let restart = access.stack.workload(member).map_or(Restart::Never, |workload: &Workload| workload.restart);
    let (looks, crashes) = (AtomicU32::new(0), AtomicU32::new(0));
    let waited = wait::until(limit, EVERY, async || {
        let reason = match component.ready(access, member).await {
            Ok(()) => return Look::Done(()),
            Err(not_ready) => not_ready.to_string(),
        };
        if (looks.fetch_add(1, Relaxed) + 1).is_multiple_of(ENGINE_LOOK_EVERY)
            && let Some(down) = is_down(access, member).await
        {
            let crashes = crashes.fetch_add(1, Relaxed) + 1;
            if restart == Restart::Never || crashes > CRASHES_TOLERATED {
                return Look::Broken(down);
            }
        }
        Look::Pending(reason)
    });
    match waited.await {
        Ok(()) => Ok(()),
        Err(WaitError::TimedOut { after, last }) => {
            let context = format!("wait for {member}: not ready within {} s: {last}", after.as_secs());
            Err(with_logs(Failure::new(context), access, member).await)
        }
        Err(WaitError::Broken(word)) => {
            Err(with_logs(Failure::new(format!("wait for {member}: its process {word}")), access, member).await)
        }
    }
}

async fn is_down(access: &Access<'_>, member: &Member) -> Option<String> {
    let observed = access.engine.observe().await.ok()?;
    match observed.workload(member).map(|workload| workload.state) {
        None => Some("is gone".to_owned()),
        Some(State::Exited) => Some("has ended".to_owned()),
        Some(State::Restarting) => Some("keeps ending (crash loop)".to_owned()),
        Some(State::Created | State::Running | State::Paused) => None,
    }
}

/// The failure with the member's last log lines and the command that shows more.
async fn with_logs(failure: Failure, access: &Access<'_>, member: &Member) -> Failure {
    let failure = failure.hint(format!("provisioner logs {member}"));
    match tail(access, member).await {
        Some(tail) => failure.output(tail),
        None => failure,
    }
}

async fn tail(access: &Access<'_>, member: &Member) -> Option<String> {
    let options = LogOptions { tail: Some(LOG_TAIL), ..LogOptions::default() };
    let stream = access.engine.logs(member, options).await.ok()?;
    let text = crate::engine::collect_text(stream).await.ok()?;
    (!text.is_empty()).then_some(text)
}
