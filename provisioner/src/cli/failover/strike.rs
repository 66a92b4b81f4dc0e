//! What a drill does to the primary, and what brings the service back.

use std::time::Duration;

use provisioner_components::postgres::failover::Wish;
use provisioner_core::clock;
use provisioner_core::fault::{Fault, Faults};
use provisioner_core::name::{Member, StackName};

use super::change::{Change, fail_over};
use super::detect::{Detected, Until, detect};
use crate::cli::apply::Work;
use crate::cli::exit::{Exit, Stop};
use crate::cli::{Call, switchover};
use crate::context::Context;

/// A fault that is not noticed by then was none for the clients either.
const TROUBLE_LIMIT: Duration = Duration::from_secs(5);

pub(super) enum Strike {
    /// It is hurt, and `failover` does its work.
    Fault { fault: Fault, wish: Wish },
    /// It hands over to this member, or to whoever comes first.
    Switchover { to: Option<String> },
}

/// When it came, and what was done about it. No change: the primary was back by itself.
pub(super) struct Struck {
    pub(super) at_unix_us: u64,
    pub(super) change: Option<Change>,
}

impl Strike {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Fault { fault, .. } => fault.word(),
            Self::Switchover { .. } => "switchover",
        }
    }

    /// What is asked before it is done, with the stack's name.
    pub(super) fn question(&self, stack: &StackName) -> String {
        match self {
            Self::Fault { fault, .. } => format!("hurt the primary of stack {stack} on purpose ({fault})"),
            Self::Switchover { .. } => format!("make another member primary of stack {stack} as a drill"),
        }
    }

    /// Whether this engine can do it. What else it cannot is named.
    pub(super) async fn check(&self, call: &Call<'_>, context: &Context, primary: &Member) -> anyhow::Result<()> {
        let Self::Fault { fault, .. } = self else { return Ok(()) };
        let faults = faults(context)?;
        for other in Fault::ALL {
            let Some(reason) = faults.cannot(primary, other).await? else { continue };
            let message = format!("{other} cannot be injected here: {reason}");
            if other == *fault {
                let others: Vec<&str> =
                    Fault::ALL.into_iter().filter(|fault| *fault != other).map(Fault::word).collect();
                let stop = Stop::new(Exit::Refused, message).hint(format!("others: {}", others.join(", ")));
                return Err(stop.into());
            }
            call.printer.note(&message);
        }
        Ok(())
    }

    pub(super) async fn strike(&self, work: &mut Work<'_>, primary: &Member) -> anyhow::Result<Struck> {
        let (call, context) = (work.call, work.context);
        match self {
            Self::Fault { fault, wish } => {
                let injected = faults(context)?.inject(primary, *fault).await?;
                call.printer.note(&injected.what);
                let change = self.respond(work, *wish).await?;
                Ok(Struck { at_unix_us: injected.at_unix_us, change })
            }
            Self::Switchover { to } => {
                let to = match to {
                    Some(to) => to.clone(),
                    None => call.cut(switchover::successor(call, context)).await??.to_string(),
                };
                call.printer.note(&format!("{primary} hands over to {to}"));
                let at_unix_us = clock::unix_micros();
                let change = switchover::hand_over(work, &to).await?;
                Ok(Struck { at_unix_us, change: Some(change) })
            }
        }
    }

    /// What `failover` does. `None`: the primary is back by itself.
    async fn respond(&self, work: &mut Work<'_>, wish: Wish) -> anyhow::Result<Option<Change>> {
        let (call, context) = (work.call, work.context);
        let lost = match detect(call, context, Until::Trouble(TROUBLE_LIMIT)).await? {
            Detected::Lost(lost) => *lost,
            Detected::Healthy { cluster, had_trouble } => {
                let word = if had_trouble { "is back by itself" } else { "was never missed" };
                call.printer.note(&format!("{} {word}", cluster.primary));
                return Ok(None);
            }
        };
        let primary = lost.survey.cluster.primary.clone();
        call.printer.note(&format!("{primary} is lost: {}", lost.reason));
        // Its network comes back some time; by now it is fenced.
        let healed = async || self.heal(call, context, &primary).await;
        Ok(Some(fail_over(work, lost, wish, healed).await?))
    }

    /// Undoes what was done to a member that still stands.
    pub(super) async fn heal(&self, call: &Call<'_>, context: &Context, primary: &Member) {
        let Self::Fault { fault, .. } = self else { return };
        if let (Some(faults), Some(workload)) = (context.engine.faults(), context.stack.workload(primary))
            && let Err(error) = faults.heal(workload, *fault).await
        {
            call.printer.note(&format!("the fault could not be healed: {error}"));
        }
    }
}

fn faults(context: &Context) -> anyhow::Result<&dyn Faults> {
    Ok(context.engine.faults().ok_or_else(|| Stop::new(Exit::Refused, "this engine can inject no faults"))?)
}
