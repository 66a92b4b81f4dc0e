//! Walks a plan. Decides nothing: what a step does is in the step, and a step whose prerequisite failed is skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use crate::component::{Access, Component};
use crate::engine::{Engine, ImageReferences, Output, Power};
use crate::failure::Failure;
use crate::lease::Lease;
use crate::observed::{Observed, Outdated};
use crate::plan::{Action, Impact, Plan, Step, StepId};
use crate::ready;
use crate::stack::{File, OnChange, Resource, Stack, Workload};

/// Steps that run at the same time; on a laptop more only makes each slower.
const PARALLEL: usize = 8;

#[derive(Debug)]
pub enum Outcome {
    Done {
        took: Duration,
    },
    Failed(Failure),
    Skipped {
        because_of: StepId,
    },
    /// The operator stopped the run, or the lock was lost, before this step was begun.
    NotBegun,
}

/// What happens while a plan is walked, for progress displays.
pub enum Event<'a> {
    Started(&'a Step),
    Output(&'a Step, &'a str),
    /// A line that is shown to everybody.
    Told(&'a Step, &'a str),
    Finished(&'a Step, &'a Outcome),
}

pub trait Listener: Send + Sync {
    fn hear(&self, event: Event<'_>);
}

/// Everything that walking a plan needs.
pub struct Execution<'a> {
    pub engine: &'a dyn Engine,
    pub components: &'a [Box<dyn Component>],
    pub stack: &'a Stack,
    pub observed: &'a Observed,
    pub listener: &'a dyn Listener,
    /// Held while steps run; a step is not begun once it is lost.
    pub lease: Option<&'a Lease>,
    pub stop: Stop,
    /// How long a member may take to answer after its start.
    pub ready_limit: Duration,
    /// Once one of these steps was begun the others are as well, whoever asks to stop: between them nobody is served.
    pub at_one_go: BTreeSet<StepId>,
}

/// Asks a running execution to begin no further step.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

pub type Outcomes = BTreeMap<StepId, Outcome>;

/// Runs the steps in parallel along the plan's edges. Independent steps go on when one fails.
pub async fn execute(plan: &Plan, execution: &Execution<'_>) -> Outcomes {
    let images = execution.stack.image_references();
    let mut outcomes = Outcomes::new();
    let mut waiting: BTreeSet<StepId> = plan.steps.iter().map(|step| step.id).collect();
    let steps: BTreeMap<StepId, &Step> = plan.steps.iter().map(|step| (step.id, step)).collect();
    let mut running = FuturesUnordered::new();
    let may_begin = |step: &Step, is_going: bool| {
        !execution.stop.is_requested() || is_going && execution.at_one_go.contains(&step.id)
    };
    loop {
        let is_held = execution.lease.is_none_or(Lease::is_held);
        let is_going = execution.at_one_go.iter().any(|id| !waiting.contains(id));
        for step in &plan.steps {
            if !waiting.contains(&step.id) {
                continue;
            }
            match verdict(step, &outcomes) {
                Prerequisites::Broken(because_of) => {
                    waiting.remove(&step.id);
                    let outcome = Outcome::Skipped { because_of };
                    execution.listener.hear(Event::Finished(step, &outcome));
                    outcomes.insert(step.id, outcome);
                }
                Prerequisites::Done if is_held && running.len() < PARALLEL && may_begin(step, is_going) => {
                    waiting.remove(&step.id);
                    execution.listener.hear(Event::Started(step));
                    running.push(run_step(step, execution, &images));
                }
                Prerequisites::Done | Prerequisites::Open => {}
            }
        }
        let Some((id, outcome)) = running.next().await else {
            let is_waiting = !is_held && !waiting.is_empty() && !execution.stop.is_requested();
            match execution.lease {
                Some(lease) if is_waiting && lease.is_regained().await => continue,
                _ => break,
            }
        };
        if let Some(step) = steps.get(&id) {
            execution.listener.hear(Event::Finished(step, &outcome));
        }
        outcomes.insert(id, outcome);
    }
    for id in waiting {
        outcomes.insert(id, Outcome::NotBegun);
    }
    outcomes
}

enum Prerequisites {
    Done,
    Open,
    Broken(StepId),
}

fn verdict(step: &Step, outcomes: &Outcomes) -> Prerequisites {
    let mut all = Prerequisites::Done;
    for id in &step.after {
        match outcomes.get(id) {
            Some(Outcome::Done { .. }) => {}
            Some(Outcome::Failed(_)) => return Prerequisites::Broken(*id),
            Some(Outcome::Skipped { because_of }) => return Prerequisites::Broken(*because_of),
            Some(Outcome::NotBegun) | None => all = Prerequisites::Open,
        }
    }
    all
}

async fn run_step(step: &Step, execution: &Execution<'_>, images: &ImageReferences) -> (StepId, Outcome) {
    let start = Instant::now();
    let output = StepOutput { step, listener: execution.listener };
    let outcome = match perform(&step.action, execution, images, &output).await {
        Ok(()) => Outcome::Done { took: start.elapsed() },
        Err(failure) => Outcome::Failed(failure),
    };
    (step.id, outcome)
}

struct StepOutput<'a> {
    step: &'a Step,
    listener: &'a dyn Listener,
}

impl Output for StepOutput<'_> {
    fn line(&self, line: &str) {
        self.listener.hear(Event::Output(self.step, line));
    }

    fn tell(&self, line: &str) {
        self.listener.hear(Event::Told(self.step, line));
    }
}

async fn perform(
    action: &Action,
    execution: &Execution<'_>,
    images: &ImageReferences,
    output: &dyn Output,
) -> Result<(), Failure> {
    let Execution { engine, stack, observed, .. } = execution;
    let access = Access { engine: *engine, stack, observed, images, output };
    match action {
        Action::Create { resource } => Ok(engine.ensure(resource, images, output).await?),
        Action::Change { to: resource @ Resource::Workload(workload), impact } => match impact {
            Impact::Anew => {
                // An engine keeps what was asked for in the same words, so what stands there goes first.
                engine.remove(&resource.id()).await?;
                Ok(engine.ensure(resource, images, output).await?)
            }
            Impact::Restart => Ok(engine.ensure(resource, images, output).await?),
            Impact::Start => {
                // As described it is, so what stands around it is all that is left to make.
                if is_around_outdated(observed, workload) {
                    engine.ensure(resource, images, output).await?;
                }
                Ok(engine.set(&workload.member, Power::Running).await?)
            }
            Impact::Reload { files } | Impact::None { files } => {
                take_over(*engine, workload, files).await?;
                if is_around_outdated(observed, workload) {
                    engine.ensure(resource, images, output).await?;
                }
                Ok(())
            }
        },
        Action::Change { to, .. } => Ok(engine.ensure(to, images, output).await?),
        Action::Remove { id } => Ok(engine.remove(id).await?),
        Action::Await { component, member } => {
            let component = find(execution.components, component)?;
            ready::await_member(component, &access, member, execution.ready_limit).await
        }
        Action::Run { task } => {
            let component = find(execution.components, &task.component)?;
            component.run(task, &access).await.map_err(|failure| failure.within(format!("run {task}")))
        }
    }
}

fn is_around_outdated(observed: &Observed, workload: &Workload) -> bool {
    observed.outdated(&workload.member) == Some(Outdated::Around)
}

/// Puts the changed files in, one group a way of taking them over, so that each checker and signal runs once.
async fn take_over(engine: &dyn Engine, workload: &Workload, paths: &[String]) -> Result<(), Failure> {
    let mut groups: Vec<(&OnChange, Vec<File>)> = Vec::new();
    for file in workload.files.iter().filter(|file| paths.contains(&file.path)) {
        match groups.iter_mut().find(|(then, _)| *then == &file.on_change) {
            Some((_, files)) => files.push(file.clone()),
            None => groups.push((&file.on_change, vec![file.clone()])),
        }
    }
    for (then, files) in groups {
        engine.put_files(&workload.member, &files, then).await?;
    }
    Ok(())
}

fn find<'a>(components: &'a [Box<dyn Component>], name: &str) -> Result<&'a dyn Component, Failure> {
    let found = components.iter().find(|component| component.name() == name);
    found.map(AsRef::as_ref).ok_or_else(|| Failure::new(format!("find component {name}: there is none of that name")))
}

/// Asks every component for what it can read from its running members, all at once.
pub async fn observe_facts(
    engine: &dyn Engine,
    components: &[Box<dyn Component>],
    stack: &Stack,
    observed: &Observed,
) -> BTreeMap<String, BTreeMap<String, String>> {
    let images = stack.image_references();
    let access = Access { engine, stack, observed, images: &images, output: &crate::engine::Quiet };
    let asked = components.iter().map(|component| {
        let access = &access;
        async move { (component.name().to_owned(), component.observe(access).await) }
    });
    futures_util::future::join_all(asked).await.into_iter().filter(|(_, facts)| !facts.is_empty()).collect()
}
