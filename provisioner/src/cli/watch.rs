//! `watch`: the looking and the failover of `failover`, unattended.

use std::time::Duration;

use provisioner_components::postgres::failover::Wish;
use provisioner_core::wait::pause;
use tokio::time::Instant;

use super::Call;
use super::apply::noted;
use super::exit::{Exit, Stop};
use super::external::refuse_postgres;
use super::failover::{Change, Detected, Until, WAITED, detect, fail_over, show};
use crate::context::Context;

/// After a refusal somebody may bring back what was missing.
const AGAIN: Duration = Duration::from_secs(2);

pub(super) async fn watch(call: &Call<'_>) -> anyhow::Result<Exit> {
    let context = call.cut(Context::to_change(call)).await??;
    refuse_postgres(&context, "watch")?;
    call.confirm(&context, &format!("let failovers of stack {} happen without asking", context.name())).await?;
    call.printer.note(&format!("watching the primary of stack {}", context.name()));
    let mut refused: Option<String> = None;
    loop {
        match once(call, &context).await {
            Ok(Some((old, change))) => {
                refused = None;
                show(call, &context, &old, &change)?;
            }
            Ok(None) => refused = None,
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => {
                let reason = format!("{error:#}");
                if refused.as_ref() != Some(&reason) {
                    call.printer.note(&format!("not failed over: {reason}"));
                    refused = Some(reason);
                }
                call.cut(pause(AGAIN)).await?;
            }
        }
    }
}

/// Waits for a loss and repairs it. `None`: it was no loss any more once the lock was there.
async fn once(call: &Call<'_>, context: &Context) -> anyhow::Result<Option<(String, Change)>> {
    let Detected::Lost(lost) = call.cut(detect(call, context, Until::Lost)).await?? else { return Ok(None) };
    let old = lost.survey.cluster.primary.to_string();
    call.printer.note(&format!("{old} is lost: {}", lost.reason));
    let asked = Instant::now();
    noted(call, context, async |work| {
        // Whoever had the lock meanwhile may have restarted the primary, or replaced it.
        let lost = if asked.elapsed() < WAITED {
            *lost
        } else {
            match call.cut(detect(call, context, Until::Clear)).await?? {
                Detected::Lost(lost) => *lost,
                Detected::Healthy { .. } => return Ok(None),
            }
        };
        // Nobody is there who could accept a loss.
        let change = fail_over(work, lost, Wish::default(), async || ()).await?;
        Ok(Some((old, change)))
    })
    .await
}

/// Somebody ended the watching.
fn is_final(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<Stop>().is_some_and(|stop| stop.exit == Exit::Interrupted))
}
