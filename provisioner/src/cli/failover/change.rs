//! Carries a change of the primary out, plan by plan.

use std::time::Duration;

use provisioner_components::postgres::failover::{self, Refusal, Scene, Wish};
use provisioner_components::postgres::{Cluster, rejoin};
use provisioner_core::component::Task;
use provisioner_core::engine::Quiet;
use provisioner_core::execute::Outcome;
use provisioner_core::observed::Observed;
use provisioner_core::plan::{Action, Plan};
use tokio::time::Instant;

use super::detect::{Lost, cluster};
use super::refusal;
use crate::cli::Call;
use crate::cli::apply::{Walk, Work};
use crate::cli::exit::{Exit, Stop};
use crate::context::Context;
use crate::progress::{Span, millis};

/// What has become of the cluster, and when each part of it was over.
pub(crate) struct Change {
    pub(crate) phases: Vec<Phase>,
    pub(crate) cluster: Cluster,
    /// From the promotion of a primary that waits for nobody, though the manifest wants it to, until it waits again.
    pub(crate) unprotected_ms: u64,
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
    work: &mut Work<'_>,
    lost: Lost,
    wish: Wish,
    isolated: impl AsyncFnOnce(),
) -> anyhow::Result<Change> {
    let (call, context) = (work.call, work.context);
    let refuse = |refusal: Refusal| refusal::stop(call.settings, &refusal);
    let detected = call.begun.elapsed();
    let scene = Scene { stack: &context.stack, survey: &lost.survey, wish };
    let isolate = failover::isolate(&scene, &lost.reason).map_err(refuse)?;
    let is_isolated = work.carry(isolate, &lost.observed).await;
    isolated().await;
    if !is_isolated {
        return Err(unfinished(work).await);
    }
    let elected = Instant::now();
    let begin = call.begun.elapsed();
    let mut phases =
        vec![Phase { name: "detect", span: Span { begin: detected.saturating_sub(lost.took), took: lost.took } }];
    let (observed, plan) = succeed(call, context, &lost.reason, wish).await?;
    phases.push(Phase { name: "elect", span: Span { begin, took: elected.elapsed() } });
    if !work.carry(plan, &observed).await {
        mark(work).await;
    }
    conclude(work, phases, "failover").await
}

/// Docker needs a tenth of a second, a cluster that has to make a pod some.
const MARK_LIMIT: Duration = Duration::from_secs(15);

/// After a change that is not done: a former primary that is no replica yet serves nothing, whoever starts it.
pub(crate) async fn mark(work: &Work<'_>) {
    let observed = Observed::default();
    let access = work.context.access(&observed, &Quiet);
    let printer = &work.call.printer;
    let outsiders = match rejoin::outsiders(&access).await {
        Ok(outsiders) => outsiders,
        Err(failure) => return printer.note(&format!("no former primary is kept from serving: {}", failure.chain())),
    };
    for member in outsiders {
        let why = if work.holds_lock() {
            match tokio::time::timeout(MARK_LIMIT, rejoin::mark(&access, &member)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("not done within {} s", MARK_LIMIT.as_secs()),
            }
        } else {
            "the lock could not be kept".to_owned()
        };
        printer.note(&format!(
            "{member} has no mark on its volume as far as is known, so it would serve if somebody started it: {why}"
        ));
    }
}

/// Why the first plan was not done.
async fn unfinished(work: &Work<'_>) -> anyhow::Error {
    match work.conclude("failover").await {
        Err(stop) if work.walks.iter().any(|walk| failed_at(walk, "fence")) => stop.with_exit(Exit::NotFenced).into(),
        Err(stop) => stop.into(),
        Ok(()) => Stop::new(Exit::Error, "failover: a step was not done").into(),
    }
}

fn failed_at(walk: &Walk, name: &str) -> bool {
    walk.plan.steps.iter().any(|step| {
        let is_it = matches!(&step.action, Action::Run { task } if task.name == name);
        is_it && matches!(walk.outcomes.get(&step.id), Some(Outcome::Failed(_)))
    })
}

/// The second plan, from what the frozen members hold.
async fn succeed(call: &Call<'_>, context: &Context, reason: &str, wish: Wish) -> anyhow::Result<(Observed, Plan)> {
    let observed = context.snapshot().await?;
    let survey = failover::survey(&context.access(&observed, &Quiet), Some(reason)).await?;
    let plan = failover::succeed(&Scene { stack: &context.stack, survey: &survey, wish });
    let plan = plan.map_err(|refusal| refusal::stop(call.settings, &refusal))?;
    Ok((observed, plan))
}

/// One plan, as a switchover has it.
pub(crate) async fn carry_out(
    work: &mut Work<'_>,
    (observed, plan): (Observed, Plan),
    what: &str,
) -> anyhow::Result<Change> {
    work.carry(plan, &observed).await;
    conclude(work, Vec::new(), what).await
}

async fn conclude(work: &Work<'_>, mut phases: Vec<Phase>, what: &str) -> anyhow::Result<Change> {
    if let Err(stop) = work.conclude(what).await {
        // The primary serves on: that is a refusal, which only a look at the servers themselves could find.
        let is_unready = work.walks.iter().any(|walk| failed_at(walk, "prepare"));
        return Err(if is_unready { stop.with_exit(Exit::NotReady) } else { stop }.into());
    }
    phases.extend(work.walks.iter().flat_map(phases_of));
    phases.sort_by_key(|phase| phase.span.begin);
    let cluster = cluster(&work.context.snapshot().await?)?;
    Ok(Change { phases, cluster, unprotected_ms: unprotected_ms(&work.walks) })
}

fn unprotected_ms(walks: &[Walk]) -> u64 {
    let (Some((promoted, from)), Some((armed, to))) = (task(walks, "promote"), task(walks, "synchronous")) else {
        return 0;
    };
    let names = |task: &Task| task.with.get("names").is_some_and(|names| !names.is_empty());
    if names(promoted) || !names(armed) {
        return 0;
    }
    millis(to.end().saturating_sub(from.end()))
}

/// The first task of this name that was done, and when.
fn task<'a>(walks: &'a [Walk], name: &str) -> Option<(&'a Task, Span)> {
    let steps = walks.iter().flat_map(|walk| walk.plan.steps.iter().map(move |step| (walk, step)));
    let mut found = steps.filter_map(|(walk, step)| match &step.action {
        Action::Run { task } if task.name == name => Some((task, *walk.spans.get(&step.id)?)),
        _ => None,
    });
    found.next()
}

fn phases_of(walk: &Walk) -> impl Iterator<Item = Phase> {
    let phase = move |(name, tasks): &(&'static str, &[&str])| {
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
    PHASES.iter().filter_map(phase)
}
