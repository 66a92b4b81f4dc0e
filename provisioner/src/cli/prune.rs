//! `prune`: what dead runs left on this engine, of whichever stack. A stack that somebody made to use is none of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::future::{join_all, try_join_all};
use provisioner_core::engine::Engine;
use provisioner_core::estate::{Estate, Leftover, Survey};
use provisioner_core::lease::{self, Lease, Life};
use provisioner_core::name::StackName;
use provisioner_core::observed::Observed;
use provisioner_core::stack::ResourceId;
use serde::Serialize;

use super::Call;
use super::down::forget;
use super::exit::{Exit, Stop};
use super::manifests;
use super::smoke::Mark;
use crate::machine;
use crate::report::counted;
use crate::table::{Table, Tone};

#[derive(Debug, Args)]
pub(super) struct PruneArgs {
    /// Images too that were made here and that no container runs; making them again takes minutes
    #[arg(long)]
    images: bool,

    /// Say what would be removed and why; reads only
    #[arg(long)]
    dry_run: bool,
}

/// One thing that a survey found, and what is done about it.
#[derive(Debug, Serialize)]
struct Found {
    #[serde(flatten)]
    what: What,
    because: String,
    fate: Fate,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
enum What {
    Stack { stack: StackName },
    Leftover(Leftover),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    /// Somebody lives who needs it, or wants it.
    Stays,
    Dead,
    Removed,
    /// It was to be removed and is still there.
    Left,
}

pub(super) async fn prune(call: &Call<'_>, arguments: &PruneArgs) -> anyhow::Result<Exit> {
    if manifests::cluster(call.settings)?.is_some() {
        let message = "prune looks for what dead runs left on a Docker engine, and a cluster is named";
        let down = call.settings.again("down --volumes");
        return Err(Stop::new(Exit::Usage, message).hint(format!("a stack goes with its namespace: {down}")).into());
    }
    let estate = call.cut(call.engines.estate(&call.settings.environment)).await??;
    let mut survey = call.cut(estate.survey()).await??;
    if let Some(name) = &call.settings.name {
        survey.stacks.retain(|stack| stack == name);
        survey.ended_jobs.retain(|job| matches!(job, Leftover::Job { stack, .. } if stack == name));
    }
    let mut found = call.cut(look(call, &survey, arguments)).await??;
    let dead = found.iter().filter(|found| found.fate == Fate::Dead).count();
    let is_to_do = dead > 0 && !arguments.dry_run;
    if is_to_do {
        confirm(call, &found).await?;
        let going = found.iter_mut().filter(|found| found.fate == Fate::Dead);
        let removing = join_all(going.map(async |found| match remove(call, &*estate, &found.what).await {
            Ok(()) => found.fate = Fate::Removed,
            Err(error) => (found.because, found.fate) = (format!("{error:#}"), Fate::Left),
        }));
        call.cut(removing).await?;
    }
    call.printer.data(&found, || human(&found, call.printer.is_colored()))?;
    let left: Vec<String> =
        found.iter().filter(|found| found.fate == Fate::Left).map(|found| found.what.name().to_owned()).collect();
    if left.is_empty() {
        return Ok(Exit::Done);
    }
    let message = format!("prune: {} of {dead} could not be removed: {}", left.len(), left.join(", "));
    Err(Stop::new(Exit::Error, message).hint("provisioner prune --dry-run").into())
}

/// Judges everything of the survey, by reads only. Stacks are looked at side by side: a dead lock takes [`lease::TTL`].
async fn look(call: &Call<'_>, survey: &Survey, arguments: &PruneArgs) -> anyhow::Result<Vec<Found>> {
    // One that cannot be read, by records of another version perhaps, does not keep the others from being looked at.
    let judged = join_all(survey.stacks.iter().map(async |stack| {
        let is_of_it = |job: &&Leftover| matches!(job, Leftover::Job { stack: of, .. } if of == stack);
        let jobs = survey.ended_jobs.iter().filter(is_of_it).collect();
        judge(call, stack, jobs).await.unwrap_or_else(|error| {
            let what = What::Stack { stack: stack.clone() };
            vec![Found { what, because: format!("could not tell: {error:#}"), fate: Fate::Stays }]
        })
    }));
    let mut found: Vec<Found> = judged.await.into_iter().flatten().collect();
    found.sort_by(|one, other| one.what.cmp(&other.what));
    if arguments.images {
        found.extend(survey.unused_images.iter().map(|image| Found {
            what: What::Leftover(image.clone()),
            because: "no container runs it, and no image that stays is built on it".to_owned(),
            fate: Fate::Dead,
        }));
    }
    Ok(found)
}

async fn open(call: &Call<'_>, stack: &StackName) -> anyhow::Result<Arc<dyn Engine>> {
    call.engines.open(&call.settings.environment, stack, None).await
}

async fn life(call: &Call<'_>, engine: &dyn Engine) -> anyhow::Result<Life> {
    let us = machine::holder(call.settings);
    Ok(lease::life(engine, &|holder| machine::is_dead(holder, &us)).await?)
}

/// A stack and the jobs that ended in it, by one look at who works on it: a second one, seconds later, may find it
/// given up, and take a job of a stack that was just said to live. Nothing is told of a stack that no smoke made.
async fn judge(call: &Call<'_>, stack: &StackName, jobs: Vec<&Leftover>) -> anyhow::Result<Vec<Found>> {
    let engine = open(call, stack).await?;
    let observed = engine.observe().await?;
    let mark = Mark::read(&observed.records)?;
    if mark.is_none() && jobs.is_empty() && !holds_but_a_lock(&observed) {
        return Ok(Vec::new());
    }
    let life = life(call, &*engine).await?;
    let told = match (mark, &life) {
        (Some(Mark { kept: true, run }), _) => Some((format!("kept on purpose by `{}`", run.command), Fate::Stays)),
        (Some(_), Life::Alive(holder)) => Some((format!("{holder} works on it"), Fate::Stays)),
        (Some(_), Life::Abandoned(holder)) => Some((format!("its smoke is gone: {holder}"), Fate::Dead)),
        (Some(Mark { run, .. }), Life::Free) => {
            Some((format!("its smoke ended without removing it: {run}"), Fate::Dead))
        }
        (None, Life::Abandoned(holder)) if holds_but_a_lock(&observed) => {
            Some((format!("nothing is there but the lock of a run that is gone: {holder}"), Fate::Dead))
        }
        (None, _) => None,
    };
    if let Some((because, fate @ Fate::Dead)) = told {
        return Ok(vec![Found { what: What::Stack { stack: stack.clone() }, because, fate }]);
    }
    let stays = told.map(|(because, fate)| Found { what: What::Stack { stack: stack.clone() }, because, fate });
    let jobs = jobs.into_iter().map(|job| {
        let (because, fate) = match &life {
            Life::Alive(holder) => (format!("{holder} works on stack {stack}"), Fate::Stays),
            Life::Free | Life::Abandoned(_) => {
                (format!("its job has ended, and nobody works on stack {stack}"), Fate::Dead)
            }
        };
        Found { what: What::Leftover(job.clone()), because, fate }
    });
    Ok(stays.into_iter().chain(jobs).collect())
}

fn holds_but_a_lock(observed: &Observed) -> bool {
    let is_lock = observed.records.0.keys().map(String::as_str).eq([lease::KEY]);
    is_lock && observed.workloads.is_empty() && observed.volumes.is_empty() && !observed.network.is_there()
}

async fn confirm(call: &Call<'_>, found: &[Found]) -> Result<(), Stop> {
    if call.settings.yes {
        return Ok(());
    }
    let dead: Vec<&Found> = found.iter().filter(|found| found.fate == Fate::Dead).collect();
    let what = format!("remove {}, for good", counted(dead.len(), "thing"));
    let listed = human(found, false);
    if !call.settings.interactive {
        let message = format!("prune: {what}: it asks first, and there is nobody to ask\n{}", listed.trim_end());
        return Err(Stop::new(Exit::Refused, message).hint("say yes beforehand with --yes"));
    }
    match call.agrees(&format!("{listed}{what}? Nothing of it can be had back")).await {
        true => Ok(()),
        false => Err(Stop::new(Exit::Refused, format!("prune: {what}: not confirmed"))),
    }
}

async fn remove(call: &Call<'_>, estate: &dyn Estate, what: &What) -> anyhow::Result<()> {
    match what {
        What::Leftover(leftover) => Ok(estate.discard(leftover).await?),
        What::Stack { stack } => {
            let engine = open(call, stack).await?;
            // Whoever came back to life, or came first, since the look keeps the stack.
            let dead = match life(call, &*engine).await? {
                Life::Alive(holder) => anyhow::bail!("left: {holder} works on it"),
                Life::Abandoned(holder) => Some(holder),
                Life::Free => None,
            };
            let us = machine::holder(call.settings);
            let is_dead = |holder: &lease::Holder| Some(holder) == dead.as_ref();
            let lease = Lease::acquire(Arc::clone(&engine), &us, Duration::ZERO, &is_dead, &|_| ()).await?;
            let removed = remove_all(&*engine).await;
            lease.release().await?;
            removed
        }
    }
}

/// Without a manifest, which the machine of a dead run may have had alone. Nobody uses the stack, so there is no order to
/// keep but the engine's own: what holds data goes after what uses it.
async fn remove_all(engine: &dyn Engine) -> anyhow::Result<()> {
    let observed = engine.observe().await?;
    let ours = observed.workloads.iter().filter(|(_, workload)| workload.spec.is_some());
    let gone = |id: ResourceId| async move { engine.remove(&id).await };
    try_join_all(ours.map(|(member, _)| gone(ResourceId::Workload(member.clone())))).await?;
    engine.remove(&ResourceId::Network).await?;
    // With the last secret goes what holds them all; a run that was killed before it noted the first one left that too.
    let first = [provisioner_components::AUTHORITY.to_owned()];
    let secrets: BTreeSet<String> = observed.secrets.into_keys().chain(first).collect();
    for name in secrets {
        engine.remove(&ResourceId::Secret(name)).await?;
    }
    let volumes = observed.volumes.into_iter().map(|name| gone(ResourceId::Volume(name)));
    try_join_all(volumes).await?;
    forget(engine).await
}

impl What {
    fn name(&self) -> &str {
        match self {
            Self::Stack { stack } => stack.as_str(),
            Self::Leftover(Leftover::Job { container, .. }) => container,
            Self::Leftover(Leftover::Image { reference }) => reference,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Stack { .. } => "stack",
            Self::Leftover(Leftover::Job { .. }) => "job",
            Self::Leftover(Leftover::Image { .. }) => "image",
        }
    }
}

fn human(found: &[Found], color: bool) -> String {
    let mut table = Table::default();
    for Found { what, because, fate } in found {
        let (word, tone) = match fate {
            Fate::Stays => ("stays", Tone::Good),
            Fate::Dead => ("dead", Tone::Warn),
            Fate::Removed => ("removed", Tone::Good),
            Fate::Left => ("left", Tone::Bad),
        };
        table.row(vec![
            (word.to_owned(), Some(tone)),
            (what.kind().to_owned(), None),
            (what.name().to_owned(), None),
            (because.clone(), None),
        ]);
    }
    let of = |fate| found.iter().filter(|found| found.fate == fate).count();
    let (dead, removed) = (of(Fate::Dead), of(Fate::Removed));
    let summary = match (dead, removed) {
        (0, 0) => "nothing that a dead run left\n".to_owned(),
        (0, removed) => format!("{} removed\n", counted(removed, "thing")),
        (dead, _) => format!("{} to remove\n", counted(dead, "thing")),
    };
    format!("{}{summary}", table.render(color))
}
