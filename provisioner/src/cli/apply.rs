//! Carrying a plan out: under the stack's lock, with progress, within the time, until somebody interrupts.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use provisioner_components::{postgres, route};
use provisioner_core::clock;
use provisioner_core::component::Task;
use provisioner_core::engine::{LogOptions, collect_text};
use provisioner_core::execute::{self, Execution, Outcome, Outcomes, execute};
use provisioner_core::failure::chain;
use provisioner_core::history::{self, Drill, Ended, Run};
use provisioner_core::lease::{Holder, Lease, LeaseError};
use provisioner_core::observed::Observed;
use provisioner_core::plan::{Action, Plan, StepId};
use tokio::time::Instant;

use super::Call;
use super::exit::{Exit, Stop};
use crate::context::Context;
use crate::machine;
use crate::progress::{HEARTBEAT, Progress, Spans, millis};

/// How long one member may take to answer after its start; a database that replays a long log needs minutes.
const READY_LIMIT: Duration = Duration::from_secs(180);
/// How long running steps may go on once the run's time is over.
const GRACE: Duration = Duration::from_secs(10);
const LOG_TAIL: u32 = 20;

/// What came of a plan.
pub(super) struct Walk {
    pub(super) plan: Plan,
    pub(super) outcomes: Outcomes,
    pub(super) spans: Spans,
    cut: Option<Cut>,
}

/// What ended a run from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Interrupted,
    TimedOut,
}

/// Takes the stack's lock, does `work` and gives the lock back whatever came of it.
pub(super) async fn under_lease<T>(
    call: &Call<'_>,
    context: &Context,
    work: impl AsyncFnOnce(&Lease) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let lease = take_lock(call, context).await?;
    let result = work(&lease).await;
    let released = lease.release().await;
    let value = result?;
    released?;
    Ok(value)
}

/// The stack's lock, once nobody else works on the stack.
pub(super) async fn take_lock(call: &Call<'_>, context: &Context) -> anyhow::Result<Lease> {
    let us = machine::holder(call.settings);
    let is_dead = |other: &_| machine::is_dead(other, &us);
    let on_wait = |other: &_| {
        if !is_dead(other) && !call.settings.lock_timeout.is_zero() {
            let seconds = call.settings.lock_timeout.as_secs();
            call.printer.note(&format!("waiting up to {seconds} s for the lock of {other}"));
        }
    };
    let engine = Arc::clone(&context.engine);
    let taken = Lease::acquire(engine, &us, call.settings.lock_timeout, &is_dead, &on_wait);
    call.cut(taken).await?.map_err(|error| held(call, error))
}

/// A holder who lives is never robbed silently: the command that does it is named instead.
fn held(call: &Call<'_>, error: LeaseError) -> anyhow::Error {
    let LeaseError::Held { holder, .. } = &error else { return error.into() };
    let release = call.settings.again(&format!("lock release {}", holder.id));
    let stop = Stop::new(Exit::LockHeld, error.to_string());
    stop.hint("wait longer with --lock-timeout")
        .hint(format!("if that run hangs, end it, or take its lock: {release}"))
        .into()
}

pub(super) async fn walk(call: &Call<'_>, context: &Context, plan: Plan, observed: &Observed, lease: &Lease) -> Walk {
    let walk = carry(call, context, plan, observed, lease).await;
    note(call, context, std::slice::from_ref(&walk), None).await;
    walk
}

/// A run of several plans under one lock, and what was carried out so far.
pub(super) struct Work<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) context: &'a Context,
    lease: &'a Lease,
    pub(super) walks: Vec<Walk>,
}

impl<'a> Work<'a> {
    pub(super) fn new(call: &'a Call<'a>, context: &'a Context, lease: &'a Lease) -> Self {
        Self { call, context, lease, walks: Vec::new() }
    }

    pub(super) fn holds_lock(&self) -> bool {
        self.lease.is_held()
    }

    /// Whether all of the plan was done.
    pub(super) async fn carry(&mut self, plan: Plan, observed: &Observed) -> bool {
        let walk = carry(self.call, self.context, plan, observed, self.lease).await;
        let is_done = walk.is_done();
        self.walks.push(walk);
        is_done
    }

    /// `Ok` when every step of every plan is done.
    pub(super) async fn conclude(&self, what: &str) -> Result<(), Stop> {
        for walk in &self.walks {
            walk.conclude(self.call, self.context, what).await?;
        }
        Ok(())
    }
}

/// Does work under the stack's lock, and keeps it in the history whatever came of it.
pub(super) async fn noted<T>(
    call: &Call<'_>,
    context: &Context,
    work: impl AsyncFnOnce(&mut Work<'_>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    under_lease(call, context, async |lease| {
        let mut done = Work::new(call, context, lease);
        let result = work(&mut done).await;
        note(call, context, &done.walks, None).await;
        result
    })
    .await
}

/// Keeps a run in the history.
pub(super) async fn note(call: &Call<'_>, context: &Context, walks: &[Walk], drill: Option<Drill>) {
    let Some(run) = run(call, walks, drill) else { return };
    if let Err(error) = history::note(context.engine.records(), &run).await {
        call.printer.note(&format!("this run is missing in the history: {}", chain(&error)));
    }
}

/// `None`: nothing was done.
fn run(call: &Call<'_>, walks: &[Walk], drill: Option<Drill>) -> Option<Run> {
    let ended = match (walks.last(), &drill) {
        (Some(walk), _) => walk.ended(),
        // The service came back without us.
        (None, Some(_)) => Ended::Done,
        (None, None) => return None,
    };
    let Holder { user, host, command, .. } = machine::holder(call.settings);
    let took = call.begun.elapsed();
    Some(Run {
        at: clock::unix_seconds().saturating_sub(took.as_secs()),
        user,
        host,
        command,
        took_ms: millis(took),
        steps: walks.iter().map(|walk| walk.plan.steps.len()).sum(),
        left: walks.iter().map(Walk::left).sum(),
        ended,
        drill,
    })
}

/// Carries a plan out, without a word in the history.
pub(super) async fn carry(call: &Call<'_>, context: &Context, plan: Plan, observed: &Observed, lease: &Lease) -> Walk {
    let progress = Progress::new(call.settings, call.printer, &plan, call.begun);
    let stop = execute::Stop::default();
    let execution = Execution {
        engine: &*context.engine,
        components: &context.components,
        stack: &context.stack,
        observed,
        listener: &progress,
        lease: Some(lease),
        stop: stop.clone(),
        ready_limit: READY_LIMIT,
        at_one_go: at_one_go(&plan),
    };
    let mut cut = None;
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    let mut cut_off = Instant::now();
    let outcomes = {
        let mut run = std::pin::pin!(execute(&plan, &execution));
        loop {
            tokio::select! {
                outcomes = &mut run => break outcomes,
                _ = heartbeat.tick() => progress.heartbeat(),
                () = call.interrupt.requested(), if cut.is_none() => {
                    stop.request();
                    cut = Some(Cut::Interrupted);
                    call.printer.note("stopping once the running steps have ended; Ctrl-C again stops at once");
                }
                () = call.time_is_over(), if cut.is_none() => {
                    stop.request();
                    cut = Some(Cut::TimedOut);
                    cut_off = Instant::now() + GRACE;
                }
                () = tokio::time::sleep_until(cut_off), if cut == Some(Cut::TimedOut) => {
                    // The steps are dropped where they are; what became of them the next plan shows.
                    break Outcomes::new();
                }
            }
        }
    };
    let spans = progress.spans();
    drop(progress);
    Walk { plan, outcomes, spans, cut }
}

/// From the end of one primary to the first write on the other.
fn at_one_go(plan: &Plan) -> BTreeSet<StepId> {
    let is_part = |task: &Task| match task.component.as_str() {
        postgres::NAME => ["hand-over", "promote", "redirect"].contains(&task.name.as_str()),
        route::NAME => task.name == "close" || task.with.contains_key("closed"),
        _ => false,
    };
    let steps = plan.steps.iter().filter(|step| matches!(&step.action, Action::Run { task } if is_part(task)));
    steps.map(|step| step.id).collect()
}

impl Walk {
    fn ended(&self) -> Ended {
        match self.cut {
            Some(Cut::Interrupted) => Ended::Interrupted,
            Some(Cut::TimedOut) => Ended::TimedOut,
            None if self.left() == 0 => Ended::Done,
            None if self.outcomes.values().any(|outcome| matches!(outcome, Outcome::Failed(_))) => Ended::Failed,
            None => Ended::LockLost,
        }
    }

    fn is_done(&self) -> bool {
        self.left() == 0
    }

    fn left(&self) -> usize {
        self.plan.steps.iter().filter(|step| !self.is_step_done(step.id)).count()
    }

    fn is_step_done(&self, id: StepId) -> bool {
        matches!(self.outcomes.get(&id), Some(Outcome::Done { .. }))
    }

    /// `Ok` when every step is done, else why not, after a word about each step that failed.
    pub(super) async fn conclude(&self, call: &Call<'_>, context: &Context, what: &str) -> Result<(), Stop> {
        for line in self.failures(context, |hint| Some(call.settings.complete(hint))).await {
            call.printer.note(&line);
        }
        let (total, left) = (self.plan.steps.len(), self.left());
        let (exit, message) = match self.ended() {
            Ended::Done => return Ok(()),
            Ended::Interrupted => (Exit::Interrupted, format!("{what}: interrupted, {left} of {total} steps left")),
            Ended::TimedOut => {
                let seconds = call.timeout.unwrap_or_default().as_secs();
                (Exit::Timeout, format!("{what}: no end within {seconds} s"))
            }
            Ended::LockLost => (Exit::LockHeld, format!("{what}: the lock was lost, {left} of {total} steps left")),
            Ended::Failed => {
                let count = |is: fn(&Outcome) -> bool| self.outcomes.values().filter(|outcome| is(outcome)).count();
                let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
                let skipped = count(|outcome| matches!(outcome, Outcome::Skipped { .. }));
                let message =
                    format!("{what}: {failed} of {total} steps failed, {skipped} were skipped because of that");
                (Exit::Error, message)
            }
        };
        let again = format!("what is done stays; go on with: {}", call.settings.again(what));
        Err(Stop::new(exit, message).hint(again))
    }

    /// Why the first step failed that did.
    pub(super) fn first_failure(&self) -> Option<String> {
        let failed = self.plan.steps.iter().find_map(|step| match self.outcomes.get(&step.id)? {
            Outcome::Failed(failure) => Some(failure),
            _ => None,
        });
        failed.map(provisioner_core::failure::Failure::chain)
    }

    /// Every failed step with its error, the program's last words and what `advice` makes of its hints.
    pub(super) async fn failures(&self, context: &Context, advice: impl Fn(&str) -> Option<String>) -> Vec<String> {
        let mut blocks = Vec::new();
        for step in &self.plan.steps {
            let Some(Outcome::Failed(failure)) = self.outcomes.get(&step.id) else { continue };
            let mut block = format!("\nstep {} failed: {}\n  {}", step.id.0, step.action, failure.chain());
            let output = match &failure.output {
                Some(output) => Some(output.clone()),
                None => match step.action.member() {
                    Some(member) => log_tail(context, member).await,
                    None => None,
                },
            };
            for line in output.iter().flat_map(|output| output.lines()) {
                let _ = write!(block, "\n  | {line}");
            }
            for hint in failure.hints.iter().filter_map(|hint| advice(hint)) {
                let _ = write!(block, "\n  hint: {hint}");
            }
            blocks.push(block);
        }
        blocks
    }
}

async fn log_tail(context: &Context, member: &provisioner_core::name::Member) -> Option<String> {
    let options = LogOptions { tail: Some(LOG_TAIL), ..LogOptions::default() };
    let stream = context.engine.logs(member, options).await.ok()?;
    collect_text(stream).await.ok().filter(|text| !text.is_empty())
}
