//! `smoke`: a stack of its own, stood up, proven, used, hurt and removed again, whatever comes of it.

mod artifacts;
mod cases;
mod mark;
mod report;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use provisioner_core::clock;
use provisioner_core::engine::Quiet;
use provisioner_core::lease::{self, Lease};
use provisioner_core::manifest::Environment;
use provisioner_core::name::StackName;
use provisioner_core::observed::Observed;
use provisioner_core::plan::Policy;
use provisioner_core::wait;
use rand::Rng;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Call;
use super::apply::take_lock;
use super::down::take_down;
use super::exit::{Exit, Stop};
use super::settings::Settings;
use crate::context::Context;
use crate::interrupt::Interrupt;
use crate::machine;
use artifacts::Transcript;
use cases::Scene;
pub(super) use mark::Mark;
use report::{CASES, CaseResult, Report, Seen};

/// At most so much of the time is kept for taking the stack down; removing a whole stack takes about 10 s.
const CLEANING_MAX: Duration = Duration::from_secs(120);
/// Steps that run when a smoke is cut off may end within this time: a container whose creation is under way would come
/// into being behind the back of whoever removes the stack.
const GRACE: Duration = Duration::from_secs(3);
/// A part of the time for cleaning that what is kept of a failure may take.
const COLLECTING_MAX: Duration = Duration::from_secs(30);
/// What a cut off request made after all is found when the stack is looked at again.
const SWEEPS: usize = 3;
const SUFFIX_LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
const SUFFIX_LENGTH: usize = 5;

#[derive(Debug, Args)]
pub(super) struct SmokeArgs {
    /// Write a JUnit report into a file
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// Folder for logs, findings and events of a smoke that failed [default: artifacts/STACK]
    #[arg(long, value_name = "DIR")]
    artifacts: Option<PathBuf>,

    /// Leave the stack as it is in the end, to look at it
    #[arg(long)]
    keep: bool,
}

pub(super) async fn smoke(call: &Call<'_>, arguments: &SmokeArgs) -> anyhow::Result<Exit> {
    let directory = &call.settings.directory;
    let junit = arguments.junit.as_ref().map(|file| directory.join(file));
    for file in junit.iter().chain(&call.settings.json_into) {
        refuse_unwritable(file)?;
    }
    let manifest = Context::offline(call)?.manifest;
    if manifest.environment != Environment::Ci {
        let found = manifest.environment.word();
        let message =
            format!("smoke: the manifest is of environment {found}, expected ci: the stack goes with its data");
        return Err(Stop::new(Exit::Refused, message).hint("a manifest with `environment: ci`").into());
    }
    let name = match &call.settings.name {
        Some(name) => name.clone(),
        None => own_name(&manifest.name)?,
    };
    let artifacts = match &arguments.artifacts {
        Some(folder) => directory.join(folder),
        None => directory.join("artifacts").join(name.as_str()),
    };
    let transcript = Transcript::default();
    let settings = call.settings.for_stack(name);
    let run =
        Run { call, arguments, settings: &settings, transcript: &transcript, artifacts, since: clock::unix_seconds() };
    let report = run.run().await?;
    if let Some(file) = &junit {
        report.write_junit(file)?;
    }
    call.printer.data(&report, || report.human(call.printer.is_colored()))?;
    let concluded = report.conclude();
    concluded.map_err(|stop| match &report.artifacts {
        Some(folder) => stop.hint(format!("logs, findings and events are in {folder}")),
        None => stop,
    })?;
    Ok(Exit::Done)
}

/// `ci-k3x9p`: no two runs on one engine meet.
fn own_name(base: &StackName) -> anyhow::Result<StackName> {
    let mut random = rand::rng();
    let letters = (0..SUFFIX_LENGTH).map(|_| char::from(SUFFIX_LETTERS[random.random_range(0..SUFFIX_LETTERS.len())]));
    let suffix: String = letters.collect();
    let room = provisioner_core::name::STACK_NAME_MAX - SUFFIX_LENGTH - 1;
    let base: String = base.as_str().chars().take(room).collect();
    Ok(StackName::new(format!("{}-{suffix}", base.trim_end_matches('-')))?)
}

/// Minutes later it would be too late to find out.
fn refuse_unwritable(file: &Path) -> Result<(), Stop> {
    let opened = OpenOptions::new().append(true).create(true).open(file);
    opened.map(|_| ()).map_err(|error| Stop::new(Exit::Usage, format!("write {}: {error}", file.display())))
}

struct Run<'a> {
    call: &'a Call<'a>,
    arguments: &'a SmokeArgs,
    settings: &'a Settings,
    transcript: &'a Transcript,
    artifacts: PathBuf,
    since: u64,
}

impl Run<'_> {
    async fn run(&self) -> anyhow::Result<Report> {
        let Self { call, settings, .. } = self;
        let printer = self.transcript.printer(settings);
        let never = Interrupt::never();
        let whole = call.timeout.unwrap_or(CLEANING_MAX * 5);
        let inner = |interrupt, timeout| Call {
            settings,
            printer: &printer,
            engines: call.engines,
            interrupt,
            stdin: Mutex::new(None),
            timeout: Some(timeout),
            begun: call.begun,
        };
        let work = inner(call.interrupt, whole.saturating_sub(CLEANING_MAX.min(whole / 4)));
        // Whoever interrupts wants the stack gone; the second time the whole run stops where it is.
        let clean = inner(&never, whole);

        let context = work.cut(Context::to_plan(&work)).await??;
        let observed = work.cut(context.snapshot()).await??;
        refuse_taken(&context, &observed)?;
        let lease = take_lock(&work, &context).await?;
        let mut report = Report { stack: context.name().clone(), cases: Vec::new(), took_ms: 0, artifacts: None };
        self.try_out(&work, &context, &observed, &lease, &mut report).await;
        if report.has_failed() {
            self.collect(&context, &mut report).await;
        }
        self.begin(&context, "down");
        let begin = Instant::now();
        let ended = match self.arguments.keep {
            true => self.keep(&context, &observed, lease).await,
            false => remove(&clean, &context, lease).await,
        };
        report.add("down", begin.elapsed(), ended, Seen::default());
        if report.artifacts.is_none() && report.has_failed() {
            self.collect(&context, &mut report).await;
        }
        report.took_ms = crate::progress::millis(call.begun.elapsed());
        Ok(report)
    }

    /// Everything but the removal; the first case that fails is the last that is tried.
    async fn try_out(
        &self,
        work: &Call<'_>,
        context: &Context,
        observed: &Observed,
        lease: &Lease,
        report: &mut Report,
    ) {
        let scene = Scene { call: work, context, lease, outside: self.call.printer };
        for name in CASES.into_iter().filter(|name| *name != "down") {
            let failed = report.failed().next().map(|(failed, _)| failed);
            if let Some(failed) = failed {
                let because = format!("{failed} failed");
                report.add(name, Duration::ZERO, Ok(CaseResult::Skipped { because }), Seen::default());
                continue;
            }
            self.begin(context, name);
            let begin = Instant::now();
            let mut seen = Seen::default();
            let body = async {
                match name {
                    "up" => {
                        self.mark(context, observed, false).await?;
                        cases::up(&scene, observed).await
                    }
                    "verify" => cases::verify(&scene, &Policy::default(), &mut seen).await,
                    "order" => cases::order(&scene, &mut seen).await,
                    _ => cases::recover(&scene, &mut seen).await,
                }
            };
            let result = tokio::select! {
                result = body => result,
                stop = self.over(work) => Err(stop.into()),
            };
            report.add(name, begin.elapsed(), result, seen);
        }
    }

    /// Some time after the run should have stopped, for what does not stop by itself.
    async fn over(&self, work: &Call<'_>) -> Stop {
        let stop = tokio::select! {
            () = work.interrupt.requested() => {
                self.call.printer.note("interrupted: the stack is removed; a second interrupt leaves it to `provisioner prune`");
                Stop::new(Exit::Interrupted, "interrupted")
            }
            () = work.time_is_over() => work.timed_out(),
        };
        wait::pause(GRACE).await;
        stop
    }

    fn begin(&self, context: &Context, case: &str) {
        let (printer, stack) = (self.call.printer, context.name());
        match printer.is_for_programs() {
            true => printer.event(&json!({"type": "case", "stack": stack, "case": case})),
            false => printer.note(&format!("smoke {stack}: {case}")),
        }
    }

    async fn mark(&self, context: &Context, observed: &Observed, kept: bool) -> anyhow::Result<()> {
        let mark = Mark { run: machine::holder(self.call.settings), kept };
        Ok(mark.put(&context.access(observed, &Quiet)).await?)
    }

    async fn keep(&self, context: &Context, observed: &Observed, lease: Lease) -> anyhow::Result<CaseResult> {
        self.mark(context, observed, true).await?;
        lease.release().await?;
        let again = self.settings.again("down --volumes");
        Ok(CaseResult::Skipped { because: format!("--keep leaves the stack: {again}") })
    }

    async fn collect(&self, context: &Context, report: &mut Report) {
        let folder = &self.artifacts;
        let collecting = artifacts::collect(folder, context, self.transcript, report, self.since);
        match tokio::time::timeout(COLLECTING_MAX, collecting).await {
            Ok(Ok(())) => report.artifacts = Some(folder.display().to_string()),
            Ok(Err(error)) => self.call.printer.note(&format!("keep what tells why it failed: {error:#}")),
            Err(_) => self.call.printer.note("keep what tells why it failed: the engine is too slow"),
        }
    }
}

/// A smoke removes everything of its stack in the end, so nothing may be there that it did not make.
fn refuse_taken(context: &Context, observed: &Observed) -> Result<(), Stop> {
    let is_ours = |key: &String| key == lease::KEY;
    let is_free = observed.workloads.is_empty()
        && observed.volumes.is_empty()
        && !observed.network.is_there()
        && observed.records.0.keys().all(is_ours);
    if is_free {
        return Ok(());
    }
    let message = format!("smoke: stack {} is there already, expected a name that is free", context.name());
    Err(Stop::new(Exit::Refused, message)
        .hint("leave --name out, and the run finds a name of its own")
        .hint("what a killed smoke left, `provisioner prune` removes"))
}

async fn remove(clean: &Call<'_>, context: &Context, lease: Lease) -> anyhow::Result<CaseResult> {
    // An engine that was too slow for a while may have cost the lock.
    let lease = if lease.is_held() { lease } else { take_lock(clean, context).await? };
    let mut removed = Ok(());
    for _ in 0..SWEEPS {
        removed = take_down(clean, context, &lease, true).await;
        let left = context.engine.observe().await?;
        if removed.is_ok() && left.workloads.is_empty() && left.volumes.is_empty() && !left.network.is_there() {
            break;
        }
    }
    let released = lease.release().await;
    let left_by = |error: anyhow::Error| {
        let stop = Stop::new(super::exit::of(&error), format!("{error:#}"));
        stop.hint("`provisioner prune` removes what is left").into()
    };
    removed.map_err(left_by)?;
    released?;
    let left = context.engine.observe().await?;
    if !left.is_empty() {
        let members: Vec<&str> = left.workloads.keys().map(|member| member.as_str()).collect();
        let message = format!("of stack {} is left: {} {:?}", context.name(), members.join(" "), left.volumes);
        return Err(left_by(anyhow::anyhow!(message)));
    }
    Ok(CaseResult::Passed { evidence: "members, network, data and records are gone".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runs_own_name_is_one_and_differs() {
        let base = StackName::new("a234567890123456789012345-789012").unwrap();
        let (one, two) = (own_name(&base).unwrap(), own_name(&base).unwrap());
        assert_ne!(one, two);
        assert!(one.as_str().starts_with("a234567890123456789012345-"), "{one}");
        assert!(own_name(&StackName::new("ci").unwrap()).unwrap().as_str().starts_with("ci-"));
    }
}
