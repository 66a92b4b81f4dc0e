//! `up`: preflight, plan, carry it out under the lock, verify, say what is where.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures_util::future::join_all;
use provisioner_core::engine::Quiet;
use provisioner_core::execute::Outcome;
use provisioner_core::finding::Finding;
use provisioner_core::lease::Lease;
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::Observed;
use provisioner_core::plan::{Action, Impact, Plan, Policy, Step, Withheld};
use provisioner_core::ready;
use provisioner_core::stack::Workload;
use serde::Serialize;
use serde_json::{Value, json};

use super::apply::{Walk, under_lease, walk};
use super::exit::{Exit, Stop};
use super::open::{self, Address};
use super::plan::StepView;
use super::{Call, doctor, drift, plan, verify};
use crate::context::{Context, Place};
use crate::preflight;
use crate::progress::{Span, Spans, Timings, millis, outcome_json, phases, seconds};
use crate::report::counted;

const SETTLE_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Default, Args)]
pub(super) struct UpArgs {
    /// Only these components and what they need, proven alone; a member stands for its component
    #[arg(value_name = "MEMBER|COMPONENT")]
    what: Vec<String>,

    /// Do not prove afterwards that everything works
    #[arg(long)]
    no_verify: bool,

    /// Put right too what was changed by hand in containers, their files and the servers' own settings
    #[arg(long)]
    deep: bool,

    /// Say what would be done and why; reads only
    #[arg(long)]
    dry_run: bool,

    /// Show when each step began, how long it took, and which of them decided when the run was over
    #[arg(long)]
    timings: bool,
}

impl UpArgs {
    pub(super) fn of(components: &[&str], dry_run: bool) -> Self {
        Self { what: components.iter().map(|name| (*name).to_owned()).collect(), dry_run, ..Self::default() }
    }
}

#[derive(Serialize)]
struct UpReport {
    stack: StackName,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Place>,
    /// What was done, step by step; empty: nothing had to be.
    steps: Vec<Value>,
    withheld: Vec<Withheld>,
    findings: Vec<Finding>,
    entrypoints: Vec<Address>,
    took_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
}

pub(super) async fn up(call: &Call<'_>, arguments: &UpArgs) -> anyhow::Result<Exit> {
    let context = call.cut(Context::to_plan(call)).await??;
    bring_up(call, &context, arguments, || Ok(())).await
}

/// `commit` is called once nothing but the work itself stands between the plan and the stack.
pub(super) async fn bring_up(
    call: &Call<'_>,
    context: &Context,
    arguments: &UpArgs,
    commit: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Exit> {
    let policy = Policy { deep: arguments.deep, ..context.targets(&arguments.what)? };
    let observed = call.cut(context.observe_to(&policy)).await??;
    let first = context.plan(&observed, &policy)?;
    if arguments.dry_run {
        plan::show(call, context, &first)?;
        return Ok(Exit::Done);
    }
    let mut report = UpReport {
        stack: context.name().clone(),
        cluster: context.place.clone(),
        steps: Vec::new(),
        withheld: first.withheld.clone(),
        findings: Vec::new(),
        entrypoints: Vec::new(),
        took_ms: 0,
        timings: None,
    };
    drift::note_unknown(call, &observed);
    for withheld in &first.withheld {
        call.printer.note(&withheld.to_string());
    }
    let mut done = None;
    let concluded = if first.is_empty() {
        let is_blocked = if first.blocked() > 0 { "what is left is withheld" } else { "it is as the manifest says" };
        commit()?;
        call.printer.note(&format!("nothing to do: {}: {is_blocked}", context.told()));
        Ok(())
    } else {
        preflight(call, context, &observed).await?;
        let confirmed = interruption(context, &first);
        if let Some(what) = &confirmed {
            call.confirm(context, what).await?;
        }
        commit()?;
        let work = async |lease: &Lease| stand_up(call, context, &policy, confirmed.as_ref(), lease).await;
        let walk = under_lease(call, context, work).await?;
        report.steps = steps(&walk);
        report.withheld.clone_from(&walk.plan.withheld);
        let again: Vec<&str> = ["up"]
            .into_iter()
            .chain(arguments.deep.then_some("--deep"))
            .chain(arguments.what.iter().map(String::as_str))
            .collect();
        let concluded = walk.conclude(call, context, &again.join(" ")).await;
        done = Some(walk);
        concluded
    };
    let mut verification = None;
    if concluded.is_ok() {
        let observed = if arguments.no_verify {
            call.cut(context.snapshot()).await??
        } else {
            let begin = call.begun.elapsed();
            let (observed, findings) = call.cut(prove(call, context, &policy.targets)).await??;
            report.findings = findings;
            verification = Some(Span { begin, took: call.begun.elapsed().saturating_sub(begin) });
            observed
        };
        report.entrypoints = open::addresses(context, &observed);
    }
    let took = call.begun.elapsed();
    report.took_ms = millis(took);
    report.timings = arguments.timings.then(|| {
        let spans = done.as_ref().map(|walk| &walk.spans);
        Timings::of(done.as_ref().map(|walk| &walk.plan), spans.unwrap_or(&Spans::new()), verification, took)
    });
    let changed = done.as_ref().map(|walk| changed(&walk.plan)).unwrap_or_default();
    call.printer.data(&report, || human(call, context, &report, &changed, concluded.is_ok()))?;
    concluded?;
    let blocked = report.withheld.iter().filter(|withheld| withheld.blocks).count();
    if blocked > 0 {
        let message = format!("up: {} withheld: the stack is not as the manifest says", counted(blocked, "step"));
        return Err(Stop::new(Exit::Refused, message).hint("each line `withheld` names what unlocks it").into());
    }
    if !arguments.no_verify {
        verify::judge(call, &report.findings)?;
    }
    Ok(Exit::Done)
}

/// What the plan takes away from people who use the stack right now.
fn interruption(context: &Context, plan: &Plan) -> Option<String> {
    let interrupts = |step: &&Step| {
        matches!(step.action, Action::Remove { .. } | Action::Change { impact: Impact::Restart | Impact::Anew, .. })
    };
    let steps: Vec<String> = plan.steps.iter().filter(interrupts).map(|step| step.action.to_string()).collect();
    (!steps.is_empty()).then(|| format!("interrupt service of {} ({})", context.told(), steps.join(", ")))
}

pub(super) async fn preflight(call: &Call<'_>, context: &Context, observed: &Observed) -> anyhow::Result<()> {
    let lines = call.cut(doctor::lines(context, observed)).await??;
    for line in preflight::render(&lines, false).lines() {
        call.printer.note(&format!("preflight: {line}"));
    }
    Ok(doctor::refuse(&lines)?)
}

/// Looks and plans again now that nobody else can change anything, and carries that plan out.
pub(super) async fn stand_up(
    call: &Call<'_>,
    context: &Context,
    policy: &Policy,
    confirmed: Option<&String>,
    lease: &Lease,
) -> anyhow::Result<Walk> {
    let observed = call.cut(context.observe_to(policy)).await??;
    context.keep_port(&observed).await.context("note the port of the entrance")?;
    let plan = context.plan(&observed, policy)?;
    // Somebody else's run may have come in between, and with it another interruption than the one agreed to.
    if let Some(what) = interruption(context, &plan).filter(|what| Some(what) != confirmed) {
        call.confirm(context, &what).await?;
    }
    announce(call, context, &plan);
    Ok(walk(call, context, plan, &observed, lease).await)
}

fn announce(call: &Call<'_>, context: &Context, plan: &Plan) {
    call.printer.note(&format!("{}: {}", context.told(), counted(plan.steps.len(), "step")));
    for phase in phases(plan) {
        call.printer.event(&json!({"type": "phase", "phase": phase}));
        if !call.printer.is_for_programs() {
            call.printer.note(&format!("  {:<26} {:>8}", phase.name, counted(phase.steps, "step")));
        }
    }
}

/// Of the targets alone, if there are any: what was not touched is no business of this run.
pub(super) async fn prove(
    call: &Call<'_>,
    context: &Context,
    targets: &BTreeSet<String>,
) -> anyhow::Result<(Observed, Vec<Finding>)> {
    let what: String = targets.iter().map(|target| format!(" {target}")).collect();
    call.printer.note(&format!("verifying{what} from outside"));
    let observed = context.observe().await?;
    settle(context, &observed, targets).await;
    let findings = verify::findings(context, &observed, targets).await;
    Ok((observed, findings))
}

/// Members that were not touched may still be finding their way back to one that was. Who does not settle in time is
/// found out by the checks.
async fn settle(context: &Context, observed: &Observed, targets: &BTreeSet<String>) {
    let access = context.access(observed, &Quiet);
    let is_target = |workload: &&Workload| targets.is_empty() || targets.contains(&workload.component);
    let settled = context.stack.workloads().filter(is_target).map(|workload| {
        let access = &access;
        async move {
            if let Some(component) = context.component(&workload.component) {
                let _ = ready::await_member(component, access, &workload.member, SETTLE_LIMIT).await;
            }
        }
    });
    join_all(settled).await;
}

/// What became of members, one line a kind of change.
fn changed(plan: &Plan) -> Vec<String> {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for action in plan.steps.iter().map(|step| &step.action) {
        let kind = match action {
            Action::Create { .. } => "created",
            Action::Change { impact: Impact::Restart | Impact::Anew, .. } => "replaced",
            Action::Change { impact: Impact::Start, .. } => "started",
            Action::Change { impact: Impact::Reload { .. }, .. } => "reloaded",
            Action::Change { impact: Impact::None { .. }, .. } => "updated",
            Action::Remove { .. } => "removed",
            Action::Await { .. } | Action::Run { .. } => continue,
        };
        kinds.entry(kind).or_default().extend(action.member().map(Member::as_str));
    }
    let changed = kinds.into_iter().filter(|(_, members)| !members.is_empty());
    changed.map(|(kind, members)| format!("{kind:<8} {}", members.join(", "))).collect()
}

fn steps(walk: &Walk) -> Vec<Value> {
    let lost = Outcome::NotBegun;
    let described = walk.plan.steps.iter().map(|step| {
        let mut value = json!(StepView::of(step));
        let outcome = outcome_json(walk.outcomes.get(&step.id).unwrap_or(&lost));
        if let (Value::Object(value), Value::Object(outcome)) = (&mut value, outcome) {
            value.extend(outcome);
        }
        value
    });
    described.collect()
}

fn human(call: &Call<'_>, context: &Context, report: &UpReport, changed: &[String], is_up: bool) -> String {
    let mut text = String::new();
    if !report.findings.is_empty() {
        text.push_str(&verify::human(&report.findings, call.printer.is_colored()));
        text.push('\n');
    }
    if let Some(timings) = &report.timings {
        text.push_str(&timings.human(call.printer.is_colored()));
        text.push('\n');
    }
    if !is_up {
        return text;
    }
    let (name, told) = (context.name(), context.told());
    let took = seconds(call.begun.elapsed());
    text.push_str(&format!("{told} is up, {} in {took}\n", counted(report.steps.len(), "step")));
    for line in changed {
        text.push_str(&format!("  {line}\n"));
    }
    let urls = report.entrypoints.iter().filter_map(|Address { name, url }| Some((*name, url.as_ref()?)));
    let width = urls.clone().map(|(name, _)| name.len()).max().unwrap_or(0).max(8);
    for (name, url) in urls {
        text.push_str(&format!("  {name:<width$} {url}\n"));
    }
    let settings = call.settings;
    if context.place.is_none() {
        text.push_str(&format!("  logins   eval \"$({})\"\n", settings.again("env")));
    }
    for verb in ["open", "status", "verify", "logs", "down"] {
        text.push_str(&format!("  next     {}\n", settings.again(verb)));
    }
    text.push_str(&match &context.place {
        Some(place) => format!("in {place}: what is labelled provisioner.dev/stack={name}; nothing else was changed\n"),
        None => format!(
            "on this host: containers, volumes and a network named {name}-*, images provisioner/*; \
             nothing else was changed\n"
        ),
    });
    text
}
