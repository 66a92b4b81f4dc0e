//! `failover`: brings the service back where the primary is lost.

mod change;
mod detect;
mod drill;
mod mend;
mod phases;
mod refusal;
mod series;
mod strike;

use std::time::Duration;

use clap::Args;
use provisioner_components::postgres::Cluster;
use provisioner_components::postgres::failover::{self as procedure, Refusal, Scene, Wish};
use provisioner_core::name::Member;
use provisioner_core::plan::Plan;
use serde_json::json;
use tokio::time::Instant;

use super::apply::noted;
use super::exit::{Exit, Stop};
use super::external::refuse_postgres;
use super::{Call, plan};
use crate::context::Context;
use crate::progress::{millis, seconds};
pub(super) use change::{Change, carry_out, fail_over, mark};
use detect::Lost;
pub(super) use detect::{Detected, Until, cluster, detect};
use drill::DrillArgs;
pub(super) use drill::{DrillVerb, verb as drill_verb};
pub(super) use mend::settle;
pub(super) use refusal::stop as refused;

/// A lock that was free takes no longer; then what was seen before it still holds.
pub(super) const WAITED: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct FailoverArgs {
    /// Go on although rows that were acknowledged may be lost
    #[arg(long)]
    allow_data_loss: bool,

    /// Go on although nothing proves that the old primary is down; what it acknowledges from then on is lost
    #[arg(long)]
    force: bool,

    /// Say what would be done and why; reads only
    #[arg(long)]
    dry_run: bool,

    /// Practise it: keep a ledger of acknowledged writes, hurt the primary, fail over, and judge by the ledger
    #[arg(long, conflicts_with_all = ["dry_run", "force"])]
    drill: bool,

    #[command(flatten)]
    practice: DrillArgs,
}

impl FailoverArgs {
    pub(super) fn runs(&self) -> u32 {
        self.practice.runs()
    }

    fn wish(&self) -> Wish {
        Wish { allow_data_loss: self.allow_data_loss, force: self.force }
    }
}

pub(super) async fn failover(call: &Call<'_>, arguments: &FailoverArgs) -> anyhow::Result<Exit> {
    if !arguments.drill && arguments.practice != DrillArgs::default() {
        return Err(Stop::new(Exit::Usage, "--fault, --runs and --html belong to --drill").into());
    }
    if arguments.drill {
        return drill::drill(call, &arguments.practice, arguments.wish()).await;
    }
    let context = call.cut(Context::to_change(call)).await??;
    refuse_postgres(&context, "failover")?;
    let lost = match call.cut(detect(call, &context, Until::Clear)).await?? {
        Detected::Lost(lost) => *lost,
        Detected::Healthy { cluster: Cluster { primary, .. }, .. } => {
            let none = Refusal::Healthy { primary: primary.clone() };
            return finish(call, &context, &primary, arguments.dry_run, &none).await;
        }
    };
    let primary = lost.survey.cluster.primary.clone();
    call.printer.note(&format!("{primary} is lost: {}", lost.reason));
    if arguments.dry_run {
        return dry_run(call, &context, &lost, arguments.wish());
    }
    let seen = Instant::now();
    call.confirm(&context, &format!("make another member primary than {primary}")).await?;
    let wish = arguments.wish();
    let change = noted(call, &context, async |work| {
        // Whoever had the lock meanwhile may have brought it back, or made another one, and an answer may take minutes.
        let lost = if seen.elapsed() < WAITED { lost } else { again(call, &context).await? };
        fail_over(work, lost, wish, async || ()).await
    })
    .await?;
    show(call, &context, &primary.to_string(), &change)?;
    Ok(Exit::Done)
}

async fn again(call: &Call<'_>, context: &Context) -> anyhow::Result<Lost> {
    match call.cut(detect(call, context, Until::Clear)).await?? {
        Detected::Lost(lost) => Ok(*lost),
        Detected::Healthy { cluster, .. } => {
            Err(refused(call.settings, &Refusal::Healthy { primary: cluster.primary }).into())
        }
    }
}

/// The primary is who it should be: what an earlier change has left undone is done, else `none` tells why nothing is.
pub(super) async fn finish(
    call: &Call<'_>,
    context: &Context,
    primary: &Member,
    is_dry: bool,
    none: &Refusal,
) -> anyhow::Result<Exit> {
    let Some((_, plan)) = call.cut(mend::next(call, context)).await?? else {
        return Err(refused(call.settings, none).into());
    };
    if is_dry {
        plan::show(call, context, &plan)?;
        return Ok(Exit::Done);
    }
    call.confirm(context, &format!("do what a change to {primary} has left undone")).await?;
    let steps = noted(call, context, async |work| mend::mend(work).await).await?;
    let value = json!({"stack": context.name(), "primary": primary, "steps": steps});
    call.printer.data(&value, || {
        let next = call.settings.again("verify");
        format!("{primary} is primary of stack {}; what was left is done\n  next     {next}\n", context.name())
    })?;
    Ok(Exit::Done)
}

/// Both plans; the second as it would be if the replicas had nothing more to receive.
fn dry_run(call: &Call<'_>, context: &Context, lost: &Lost, wish: Wish) -> anyhow::Result<Exit> {
    let scene = Scene { stack: &context.stack, survey: &lost.survey, wish };
    let refuse = |refusal: Refusal| refused(call.settings, &refusal);
    let mut whole = procedure::isolate(&scene, &lost.reason).map_err(refuse)?;
    append(&mut whole, procedure::succeed(&scene).map_err(refuse)?);
    plan::show(call, context, &whole)?;
    Ok(Exit::Done)
}

/// Everything of `next` comes after everything of `plan`.
fn append(plan: &mut Plan, next: Plan) {
    let count = plan.steps.len();
    let before: Vec<_> = plan.steps.iter().map(|step| step.id).collect();
    for mut step in next.steps {
        step.id.0 += count;
        for id in &mut step.after {
            id.0 += count;
        }
        if step.after.is_empty() {
            step.after.clone_from(&before);
        }
        plan.steps.push(step);
    }
}

pub(super) fn show(call: &Call<'_>, context: &Context, old: &str, change: &Change) -> anyhow::Result<()> {
    let Cluster { primary, replicas, epoch, timeline, .. } = &change.cluster;
    let phases: Vec<_> = change
        .phases
        .iter()
        .map(|phase| {
            json!({"name": phase.name, "began_ms": millis(phase.span.begin), "took_ms": millis(phase.span.took)})
        })
        .collect();
    let value = json!({
        "stack": context.name(), "from": old, "to": primary, "epoch": epoch, "timeline": timeline,
        "replicas": replicas, "phases": phases, "took_ms": millis(call.begun.elapsed()),
    });
    call.printer.data(&value, || {
        let mut text = format!("{primary} is primary of stack {}, it was {old}\n", context.name());
        for phase in &change.phases {
            text.push_str(&format!("  {:<16} {:>8}\n", phase.name, seconds(phase.span.took)));
        }
        for verb in ["status", "verify"] {
            text.push_str(&format!("  next     {}\n", call.settings.again(verb)));
        }
        text
    })
}
