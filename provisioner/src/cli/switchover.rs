//! `switchover`: another member becomes primary as planned.

use clap::Args;
use provisioner_components::postgres::failover::{self as procedure, Scene, Wish};
use provisioner_core::engine::Quiet;
use provisioner_core::observed::Observed;
use provisioner_core::plan::Plan;

use super::apply::under_lease;
use super::exit::Exit;
use super::failover::{carry_out, cluster, refused, show};
use super::{Call, plan};
use crate::context::Context;

#[derive(Debug, Args)]
pub(super) struct SwitchoverArgs {
    /// Who becomes primary
    #[arg(long, value_name = "MEMBER")]
    to: String,

    /// Say what would be done and why; reads only
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn switchover(call: &Call<'_>, arguments: &SwitchoverArgs) -> anyhow::Result<Exit> {
    let context = call.cut(Context::to_change(call)).await??;
    let (observed, plan) = call.cut(decide(call, &context, &arguments.to)).await??;
    if arguments.dry_run {
        plan::show(call, &context, &plan)?;
        return Ok(Exit::Done);
    }
    let old = cluster(&observed)?.primary;
    call.confirm(&context, &format!("make {} primary instead of {old}", arguments.to)).await?;
    let change = under_lease(call, &context, async |lease| {
        // Somebody else may have changed it while the lock was waited for.
        let (observed, plan) = call.cut(decide(call, &context, &arguments.to)).await??;
        carry_out(call, &context, lease, plan, &observed, &format!("switchover --to {}", arguments.to)).await
    })
    .await?;
    show(call, &context, old.as_str(), &change)?;
    Ok(Exit::Done)
}

async fn decide(call: &Call<'_>, context: &Context, to: &str) -> anyhow::Result<(Observed, Plan)> {
    let observed = context.snapshot().await?;
    cluster(&observed)?;
    let survey = procedure::survey(&context.access(&observed, &Quiet), None).await?;
    let scene = Scene { stack: &context.stack, survey: &survey, wish: Wish::default() };
    let plan = procedure::switchover(&scene, to).map_err(|refusal| refused(call.settings, &refusal))?;
    Ok((observed, plan))
}
