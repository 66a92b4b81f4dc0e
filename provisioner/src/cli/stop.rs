//! `stop`: members end by their own signal and stay down until somebody starts them.

use clap::Args;
use provisioner_core::engine::Power;
use provisioner_core::name::Member;
use provisioner_core::observed::{Observed, State};
use serde_json::json;

use super::Call;
use super::apply::under_lease;
use super::down::ranks;
use super::exit::{Exit, Stop};
use crate::context::Context;
use crate::report::counted;

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// Members or whole components; none: all
    #[arg(value_name = "MEMBER|COMPONENT")]
    what: Vec<String>,
}

pub(super) async fn stop(call: &Call<'_>, arguments: &StopArgs) -> anyhow::Result<Exit> {
    let context = call.cut(Context::to_look(call)).await??;
    let observed = call.cut(context.snapshot()).await??;
    let wanted = context.members(&arguments.what, &observed)?;
    let mut stopped: Vec<Member> = Vec::new();
    if !running(&context, &observed, &wanted).is_empty() {
        call.confirm(&context, &format!("stop members of stack {}", context.name())).await?;
        under_lease(call, &context, async |lease| {
            let observed = call.cut(context.snapshot()).await??;
            for member in running(&context, &observed, &wanted) {
                if !lease.is_held() {
                    return Err(Stop::new(Exit::LockHeld, "stop: the lock was lost").into());
                }
                call.cut(context.engine.set(&member, Power::Stopped)).await??;
                call.printer.note(&format!("stopped {member}"));
                stopped.push(member);
            }
            Ok(())
        })
        .await?;
    }
    call.printer.data(&json!({"stack": context.name(), "stopped": stopped}), || match stopped.len() {
        0 => "nothing to do: none of them runs\n".to_owned(),
        count => format!("{} stopped\n  next     {}\n", counted(count, "member"), call.settings.again("start")),
    })?;
    Ok(Exit::Done)
}

/// The wanted members that are not down, users before what they use.
fn running(context: &Context, observed: &Observed, wanted: &[Member]) -> Vec<Member> {
    let is_up = |member: &Member| {
        let state = observed.workload(member).map(|workload| workload.state);
        matches!(state, Some(State::Running | State::Paused | State::Restarting))
    };
    let ordered = ranks(context, observed).into_iter().flatten();
    ordered.filter(|member| wanted.contains(member) && is_up(member)).collect()
}
