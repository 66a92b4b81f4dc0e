//! `switchover`: another member becomes primary as planned.

use clap::Args;
use provisioner_components::postgres::failover::{self as procedure, Refusal, Scene, Survey, Wish};
use provisioner_core::engine::Quiet;
use provisioner_core::name::Member;
use provisioner_core::observed::Observed;
use provisioner_core::plan::Plan;

use super::apply::{Work, noted};
use super::exit::Exit;
use super::external::refuse_postgres;
use super::failover::{Change, carry_out, cluster, finish, mark, refused, settle, show};
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
    refuse_postgres(&context, "switchover")?;
    let to = arguments.to.as_str();
    let observed = call.cut(context.snapshot()).await??;
    let old = cluster(&observed)?.primary;
    if old.as_str() == to {
        let none = Refusal::is_primary(to);
        return finish(call, &context, &old, arguments.dry_run, &none).await;
    }
    let (_, plan) = call.cut(decide(call, &context, to)).await??;
    if arguments.dry_run {
        plan::show(call, &context, &plan)?;
        return Ok(Exit::Done);
    }
    call.confirm(&context, &format!("make {to} primary instead of {old}")).await?;
    let change = noted(call, &context, async |work| hand_over(work, to).await).await?;
    show(call, &context, old.as_str(), &change)?;
    Ok(Exit::Done)
}

/// Decided under the lock: somebody else may have changed the cluster while it was waited for.
pub(super) async fn hand_over(work: &mut Work<'_>, to: &str) -> anyhow::Result<Change> {
    let (call, context) = (work.call, work.context);
    let decided = call.cut(decide(call, context, to)).await??;
    let changed = carry_out(work, decided, &format!("switchover --to {to}")).await;
    if changed.is_err() {
        if let Err(error) = settle(work).await {
            call.printer.note(&format!("what is left of it could not be put right: {error:#}"));
        }
        mark(work).await;
    }
    changed
}

async fn decide(call: &Call<'_>, context: &Context, to: &str) -> anyhow::Result<(Observed, Plan)> {
    let (observed, survey) = look(context).await?;
    let scene = Scene { stack: &context.stack, survey: &survey, wish: Wish::default() };
    let plan = procedure::switchover(&scene, to).map_err(|refusal| refused(call.settings, &refusal))?;
    Ok((observed, plan))
}

/// Whom it goes to where nobody is named.
pub(super) async fn successor(call: &Call<'_>, context: &Context) -> anyhow::Result<Member> {
    let (_, survey) = look(context).await?;
    let scene = Scene { stack: &context.stack, survey: &survey, wish: Wish::default() };
    Ok(procedure::successor(&scene).map_err(|refusal| refused(call.settings, &refusal))?)
}

async fn look(context: &Context) -> anyhow::Result<(Observed, Survey)> {
    let observed = context.snapshot().await?;
    cluster(&observed)?;
    let survey = procedure::survey(&context.access(&observed, &Quiet), None).await?;
    Ok((observed, survey))
}
