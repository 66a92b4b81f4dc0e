//! `start`: members that are down run again. It goes through a plan, because a database member that missed a failover
//! must not simply be started.

use clap::Args;
use provisioner_core::plan::{Action, Impact, Plan};
use serde_json::json;

use super::Call;
use super::apply::{under_lease, walk};
use super::exit::{Exit, Stop};
use crate::context::Context;
use crate::report::counted;

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Components, or members that stand for theirs; none: all
    #[arg(value_name = "MEMBER|COMPONENT")]
    what: Vec<String>,
}

pub(super) async fn start(call: &Call<'_>, arguments: &StartArgs) -> anyhow::Result<Exit> {
    let context = call.cut(Context::to_change(call)).await??;
    let policy = context.targets(&arguments.what)?;
    let observed = call.cut(context.observe()).await??;
    let first = context.plan(&observed, &policy)?;
    only_starts(call, &first)?;
    if !first.is_empty() {
        under_lease(call, &context, async |lease| {
            let observed = call.cut(context.observe()).await??;
            let plan = context.plan(&observed, &policy)?;
            only_starts(call, &plan)?;
            let walk = walk(call, &context, plan, &observed, lease).await;
            Ok(walk.conclude(call, &context, "start").await?)
        })
        .await?;
    }
    let started: Vec<String> = first.steps.iter().filter_map(started).collect();
    call.printer.data(&json!({"stack": context.name(), "started": started}), || match started.len() {
        0 => "nothing to do: all of them run\n".to_owned(),
        count => format!("{} started\n  next     {}\n", counted(count, "member"), call.settings.again("verify")),
    })?;
    Ok(Exit::Done)
}

fn only_starts(call: &Call<'_>, plan: &Plan) -> Result<(), Stop> {
    let more = plan.steps.iter().find(|step| {
        let is_start = started(step).is_some();
        !is_start && !matches!(step.action, Action::Await { .. } | Action::Run { .. })
    });
    match more {
        None => Ok(()),
        Some(step) => {
            let message = format!("start: more than a start is needed: {}, because {}", step.action, step.because);
            let hint = format!("do all of it with: {}", call.settings.again("up"));
            Err(Stop::new(Exit::Refused, message).hint(hint))
        }
    }
}

fn started(step: &provisioner_core::plan::Step) -> Option<String> {
    match &step.action {
        Action::Change { to, impact: Impact::Start } => Some(to.id().to_string()),
        _ => None,
    }
}
