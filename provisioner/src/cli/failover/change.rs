//! Carries a change of the primary out, plan by plan.

use provisioner_components::postgres::Cluster;
use provisioner_components::postgres::failover::{self, Refusal, Scene, Wish};
use provisioner_core::component::Task;
use provisioner_core::engine::Quiet;
use provisioner_core::execute::Outcome;
use provisioner_core::lease::Lease;
use provisioner_core::observed::Observed;
use provisioner_core::plan::{Action, Plan};
use tokio::time::Instant;

use super::detect::{Lost, cluster};
use super::refusal;
use crate::cli::Call;
use crate::cli::apply::{Walk, carry, note};
use crate::cli::exit::{Exit, Stop};
use crate::context::Context;
use crate::progress::{Span, millis};

/// What was done, and when each part of it was over.
pub(crate) struct Change {
    pub(crate) walks: Vec<Walk>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) cluster: Cluster,
}

impl Change {
    /// From the promotion of a primary that waits for nobody, though the manifest wants it to, until it waits again.
    pub(crate) fn unprotected_ms(&self) -> u64 {
        let (Some((promoted, from)), Some((armed, to))) = (self.task("promote"), self.task("synchronous")) else {
            return 0;
        };
        let names = |task: &Task| task.with.get("names").is_some_and(|names| !names.is_empty());
        if names(promoted) || !names(armed) {
            return 0;
        }
        millis(to.end().saturating_sub(from.end()))
    }

    /// The first task of this name that was done, and when.
    fn task(&self, name: &str) -> Option<(&Task, Span)> {
        let steps = self.walks.iter().flat_map(|walk| walk.plan.steps.iter().map(move |step| (walk, step)));
        let mut found = steps.filter_map(|(walk, step)| match &step.action {
            Action::Run { task } if task.name == name => Some((task, *walk.spans.get(&step.id)?)),
            _ => None,
        });
        found.next()
    }
}

/// A part of the change, since the run's begin.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) span: Span,
}

/// Which tasks make up a phase.
const PHASES: [(&str, &[&str]); 5] = [
    ("fence", &["fence", "freeze"]),
    ("hand over", &["hand-over"]),
    ("promote", &["promote"]),
    ("re-point", &["point"]),
    ("redundancy back", &["follow", "rejoin", "rejoined", "synchronous"]),
];

/// Fences the lost primary, elects among the frozen replicas and promotes the winner. `isolated` happens in between.
pub(crate) async fn fail_over(
    call: &Call<'_>,
    context: &Context,
    lease: &Lease,
    lost: Lost,
    wish: Wish,
    isolated: impl AsyncFnOnce(),
) -> anyhow::Result<Change> {
    let refuse = |refusal: Refusal| refusal::stop(call.settings, &refusal);
    let detected = call.begun.elapsed();
    let scene = Scene { stack: &context.stack, survey: &lost.survey, wish };
    let isolate = failover::isolate(&scene, &lost.reason).map_err(refuse)?;
    let mut walks = vec![carry(call, context, isolate, &lost.observed, lease).await];
    isolated().await;
    let elected = Instant::now();
    let begin = call.begun.elapsed();
    let mut phases =
        vec![Phase { name: "detect", span: Span { begin: detected.saturating_sub(lost.took), took: lost.took } }];
    let plan = match succeed(context, &walks[0], &lost.reason, wish).await {
        Ok(decided) => decided,
        Err(failed) => {
            note(call, context, &walks).await;
            return Err(failed.stop(call, context, &walks[0]).await);
        }
    };
    let (observed, plan) = plan;
    phases.push(Phase { name: "elect", span: Span { begin, took: elected.elapsed() } });
    walks.push(carry(call, context, plan, &observed, lease).await);
    conclude(call, context, walks, phases, "failover").await
}

enum Failed {
    /// A step of the first plan.
    Step,
    Refused(Refusal),
    Error(anyhow::Error),
}

impl Failed {
    async fn stop(self, call: &Call<'_>, context: &Context, walk: &Walk) -> anyhow::Error {
        match self {
            Self::Step => match walk.conclude(call, context, "failover").await {
                Err(stop) if failed_at(walk, "fence") => stop.with_exit(Exit::NotFenced).into(),
                Err(stop) => stop.into(),
                Ok(()) => Stop::new(Exit::Error, "failover: a step was not done").into(),
            },
            Self::Refused(refusal) => refusal::stop(call.settings, &refusal).into(),
            Self::Error(error) => error,
        }
    }
}

fn failed_at(walk: &Walk, name: &str) -> bool {
    walk.plan.steps.iter().any(|step| {
        let is_it = matches!(&step.action, Action::Run { task } if task.name == name);
        is_it && matches!(walk.outcomes.get(&step.id), Some(Outcome::Failed(_)))
    })
}

/// The second plan, from what the frozen members hold.
async fn succeed(context: &Context, isolated: &Walk, reason: &str, wish: Wish) -> Result<(Observed, Plan), Failed> {
    if !isolated.is_done() {
        return Err(Failed::Step);
    }
    let observed = context.snapshot().await.map_err(Failed::Error)?;
    let access = context.access(&observed, &Quiet);
    let survey = failover::survey(&access, Some(reason)).await.map_err(|failure| Failed::Error(failure.into()))?;
    let plan = failover::succeed(&Scene { stack: &context.stack, survey: &survey, wish }).map_err(Failed::Refused)?;
    Ok((observed, plan))
}

/// One plan, as a switchover has it.
pub(crate) async fn carry_out(
    call: &Call<'_>,
    context: &Context,
    lease: &Lease,
    plan: Plan,
    observed: &Observed,
    what: &str,
) -> anyhow::Result<Change> {
    let walk = carry(call, context, plan, observed, lease).await;
    conclude(call, context, vec![walk], Vec::new(), what).await
}

async fn conclude(
    call: &Call<'_>,
    context: &Context,
    walks: Vec<Walk>,
    mut phases: Vec<Phase>,
    what: &str,
) -> anyhow::Result<Change> {
    note(call, context, &walks).await;
    for walk in &walks {
        if let Err(stop) = walk.conclude(call, context, what).await {
            // The primary serves on: that is a refusal, which only a look at the servers themselves could find.
            return Err(if failed_at(walk, "prepare") { stop.with_exit(Exit::NotReady) } else { stop }.into());
        }
        phases.extend(phases_of(walk));
    }
    phases.sort_by_key(|phase| phase.span.begin);
    let cluster = cluster(&context.snapshot().await?)?;
    Ok(Change { walks, phases, cluster })
}

fn phases_of(walk: &Walk) -> Vec<Phase> {
    let phase = |(name, tasks): &(&'static str, &[&str])| {
        let steps = walk.plan.steps.iter().filter(|step| {
            // The route is pointed twice: the second time, for readers, belongs to the redundancy.
            matches!(&step.action, Action::Run { task } if tasks.contains(&task.name.as_str()))
        });
        let spans: Vec<Span> = steps.filter_map(|step| walk.spans.get(&step.id).copied()).collect();
        let begin = spans.iter().map(|span| span.begin).min()?;
        let first_end = spans.first()?.end();
        let last_end = spans.iter().map(|span| span.end()).max()?;
        let end = if *name == "re-point" { first_end } else { last_end };
        Some(Phase { name, span: Span { begin, took: end.saturating_sub(begin) } })
    };
    PHASES.iter().filter_map(phase).collect()
}
