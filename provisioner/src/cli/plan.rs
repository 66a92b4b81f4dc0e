//! `plan`: what would be done and why. Reads only.

use clap::Args;
use provisioner_core::engine::Condition;
use provisioner_core::name::StackName;
use provisioner_core::plan::{Action, Impact, Plan, Policy, Step, StepId, Withheld};
use serde::Serialize;

use super::exit::Exit;
use super::external::{self, ExternalView};
use super::{Call, drift};
use crate::context::{Context, Place};
use crate::report::counted;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Only these components and what they need
    components: Vec<String>,

    /// Exit with 2 when there is something to do
    #[arg(long)]
    detailed_exitcode: bool,

    /// Look into containers, their files and the servers' own settings too; reads only
    #[arg(long)]
    deep: bool,
}

/// A plan for programs.
#[derive(Serialize)]
pub(super) struct PlanView<'a> {
    stack: &'a StackName,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a Place>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external: Vec<ExternalView>,
    changes: usize,
    steps: Vec<StepView<'a>>,
    withheld: &'a [Withheld],
}

#[derive(Serialize)]
pub(super) struct StepView<'a> {
    pub(super) id: StepId,
    pub(super) action: &'static str,
    pub(super) target: String,
    pub(super) because: &'a str,
    pub(super) after: &'a [StepId],
    /// Paths of the files that are put in place.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub(super) files: &'a [String],
}

pub(super) async fn plan(call: &Call<'_>, arguments: &PlanArgs) -> anyhow::Result<Exit> {
    let context = Context::to_plan(call).await?;
    let policy = Policy { deep: arguments.deep, ..context.targets(&arguments.components)? };
    let observed = context.observe_to(&policy).await?;
    let plan = context.plan(&observed, &policy)?;
    show(call, &context, &plan)?;
    note_certificate(call, &context);
    drift::note_unknown(call, &observed);
    Ok(if arguments.detailed_exitcode && (!plan.is_empty() || plan.blocked() > 0) { Exit::Changes } else { Exit::Done })
}

/// `up` would refuse.
pub(super) fn note_certificate(call: &Call<'_>, context: &Context) {
    if let Some(Condition { verdict: Err(reason), .. }) = &context.certificate {
        call.printer.note(&format!("refused by up: {reason}"));
    }
}

pub(super) fn show(call: &Call<'_>, context: &Context, plan: &Plan) -> anyhow::Result<()> {
    call.printer.data(&PlanView::of(context, plan), || external::human(&context.stack) + &human(&context.told(), plan))
}

fn human(stack: &str, plan: &Plan) -> String {
    let summary = match plan.steps.len() {
        0 if plan.blocked() > 0 => format!("{stack} is not as the manifest says, and what is left is withheld\n"),
        0 => format!("{stack} is as the manifest says, nothing to do\n"),
        steps => format!("{stack}: {}\n", counted(steps, "step")),
    };
    format!("{plan}{summary}")
}

impl<'a> PlanView<'a> {
    fn of(context: &'a Context, plan: &'a Plan) -> Self {
        let steps: Vec<StepView<'a>> = plan.steps.iter().map(StepView::of).collect();
        let (stack, cluster) = (context.name(), context.place.as_ref());
        Self {
            stack,
            cluster,
            external: external::views(&context.stack),
            changes: steps.len(),
            steps,
            withheld: &plan.withheld,
        }
    }
}

impl<'a> StepView<'a> {
    pub(super) fn of(step: &'a Step) -> Self {
        let (action, target, files): (_, _, &[String]) = match &step.action {
            Action::Create { resource } => ("create", resource.id().to_string(), &[]),
            Action::Change { to, impact } => {
                let (action, files): (_, &[String]) = match impact {
                    Impact::None { files } => ("update", files),
                    Impact::Reload { files } => ("reload", files),
                    Impact::Restart | Impact::Anew => ("replace", &[]),
                    Impact::Start => ("start", &[]),
                };
                (action, to.id().to_string(), files)
            }
            Action::Remove { id } => ("remove", id.to_string(), &[]),
            Action::Await { member, .. } => ("await", member.to_string(), &[]),
            Action::Run { task } => ("run", task.to_string(), &[]),
        };
        Self { id: step.id, action, target, because: &step.because, after: &step.after, files }
    }
}
