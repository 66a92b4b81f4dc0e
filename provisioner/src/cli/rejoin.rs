//! `rejoin`: a former primary, or a replica that lost its way, follows the primary again.

use clap::Args;
use provisioner_components::postgres::Cluster;
use provisioner_components::postgres::rejoin::{self as procedure, Method, Refusal, Scene};
use provisioner_core::engine::Quiet;
use provisioner_core::name::Member;
use provisioner_core::observed::Observed;
use provisioner_core::plan::Plan;
use serde_json::json;

use super::apply::{under_lease, walk};
use super::exit::{Exit, Stop};
use super::external::refuse_postgres;
use super::failover::cluster;
use super::{Call, plan};
use crate::context::{Context, no_such_member};
use crate::progress::{millis, seconds};

#[derive(Debug, Args)]
pub(super) struct RejoinArgs {
    /// Who rejoins
    member: String,

    /// Where its data cannot follow as it is: rewind it, copy it anew, or (auto) what is faster for its size
    #[arg(long, value_name = "auto|rewind|clone", default_value_t)]
    method: Method,

    /// Say what would be done and why; reads only
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn rejoin(call: &Call<'_>, arguments: &RejoinArgs) -> anyhow::Result<Exit> {
    let context = call.cut(Context::to_change(call)).await??;
    refuse_postgres(&context, "rejoin")?;
    let member = Member::named(arguments.member.as_str());
    if !context.stack.members("postgres").any(|workload| workload.member == member) {
        return Err(no_such_member(&context.stack, &arguments.member).into());
    }
    let (observed, found) = call.cut(decide(call, &context, &member, arguments.method)).await??;
    let primary = cluster(&observed)?.primary;
    if arguments.dry_run {
        plan::show(call, &context, &found.unwrap_or_default())?;
        return Ok(Exit::Done);
    }
    let mut steps = 0;
    if found.is_some() {
        call.confirm(&context, &format!("make {member} follow {primary}; rows that it alone has are put aside"))
            .await?;
        steps = under_lease(call, &context, async |lease| {
            // Somebody else may have changed it while the lock was waited for.
            let (observed, found) = call.cut(decide(call, &context, &member, arguments.method)).await??;
            let Some(plan) = found else { return Ok(0) };
            let steps = plan.steps.len();
            let walk = walk(call, &context, plan, &observed, lease).await;
            walk.conclude(call, &context, &format!("rejoin {member}")).await?;
            Ok(steps)
        })
        .await?;
    }
    let took = call.begun.elapsed();
    let value = json!({
        "stack": context.name(), "member": member, "primary": primary, "steps": steps, "took_ms": millis(took),
    });
    call.printer.data(&value, || match steps {
        0 => format!("nothing to do: {member} follows {primary} already\n"),
        _ => format!("{member} follows {primary}, {}\n  next     {}\n", seconds(took), call.settings.again("verify")),
    })?;
    Ok(Exit::Done)
}

async fn decide(
    call: &Call<'_>,
    context: &Context,
    member: &Member,
    method: Method,
) -> anyhow::Result<(Observed, Option<Plan>)> {
    let observed = context.snapshot().await?;
    let cluster: Cluster = cluster(&observed)?;
    let found = procedure::look(&context.access(&observed, &Quiet), &cluster, member).await;
    let scene = Scene { stack: &context.stack, observed: &observed, cluster: &cluster, found };
    let plan = procedure::decide(&scene, member, method).map_err(|refusal| refused(call, &refusal))?;
    Ok((observed, plan))
}

fn refused(call: &Call<'_>, refusal: &Refusal) -> Stop {
    let exit = match refusal {
        Refusal::IsPrimary { .. } => Exit::BadTarget,
        Refusal::Foreign { .. } => Exit::Foreign,
        Refusal::UnderWay { .. } => Exit::UnderWay,
        Refusal::NoPrimary { .. } => Exit::NotReady,
    };
    Stop::new(exit, format!("rejoin: {refusal}")).hint(call.settings.complete(refusal.hint()))
}
