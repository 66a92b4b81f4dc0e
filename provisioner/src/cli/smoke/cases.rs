//! The cases of a smoke. Each does what its verb does, on the run's own stack and under the run's own lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use provisioner_core::component::Component;
use provisioner_core::engine::{Power, Quiet};
use provisioner_core::finding::{Broken, Finding, Verdict};
use provisioner_core::lease::Lease;
use provisioner_core::observed::Observed;
use provisioner_core::plan::Policy;
use provisioner_core::trial::{Client, Expendable, Journey, Trial};
use provisioner_core::wait;
use tokio::time::Instant;

use super::report::{CaseResult, Seen};
use crate::cli::exit::{Exit, Stop};
use crate::cli::{Call, up as up_verb, verify as verify_verb};
use crate::context::Context;
use crate::progress::seconds;
use crate::report::{Printer, counted};

/// Clients of a stack that is being hurt, all from one address: often enough to meet a gap, and below its rate limit.
const CLIENTS: usize = 4;
const KNOCK_EVERY: Duration = Duration::from_millis(100);
/// How long the others must hold out alone before the lost one is brought back.
const ALONE: Duration = Duration::from_secs(1);
/// After it is back, clients are served within this time.
const SERVED_LIMIT: Duration = Duration::from_secs(20);

/// What every case works with.
pub(super) struct Scene<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) context: &'a Context,
    pub(super) lease: &'a Lease,
    /// Where the person who watches is told why a step failed.
    pub(super) outside: &'a Printer,
}

pub(super) async fn up(scene: &Scene<'_>, observed: &Observed) -> anyhow::Result<CaseResult> {
    let Scene { call, context, .. } = scene;
    up_verb::preflight(call, context, observed).await?;
    let steps = stand_up(scene).await?;
    Ok(CaseResult::Passed { evidence: counted(steps, "step") })
}

async fn stand_up(scene: &Scene<'_>) -> anyhow::Result<usize> {
    let Scene { call, context, lease, outside } = scene;
    let walk = up_verb::stand_up(call, context, &Policy::default(), None, lease).await?;
    if let Err(stop) = walk.conclude(call, context, "up").await {
        // Commands for this very stack are no advice: it is removed.
        let advice = |hint: &str| (!hint.starts_with("provisioner ")).then(|| hint.to_owned());
        for block in walk.failures(context, advice).await {
            outside.note(&block);
        }
        return Err(Stop::new(stop.exit, walk.first_failure().unwrap_or_else(|| stop.to_string())).into());
    }
    Ok(walk.plan.steps.len())
}

pub(super) async fn verify(scene: &Scene<'_>, policy: &Policy, seen: &mut Seen) -> anyhow::Result<CaseResult> {
    let Scene { call, context, .. } = scene;
    let (_, findings) = call.cut(up_verb::prove(call, context, &policy.targets)).await??;
    let total = findings.len();
    let judged = verify_verb::judge(call, &findings);
    seen.findings.extend(findings);
    judged.map_err(|stop| Stop::new(stop.exit, stop.to_string()))?;
    Ok(CaseResult::Passed { evidence: format!("{total} of {total} checks passed") })
}

fn trial(context: &Context) -> Option<(&dyn Component, &dyn Trial)> {
    context.components.iter().find_map(|component| Some((&**component, component.trial()?)))
}

/// As a customer uses the stack, from its entrance to everything that an order leads to.
pub(super) async fn order(scene: &Scene<'_>, seen: &mut Seen) -> anyhow::Result<CaseResult> {
    let Scene { call, context, .. } = scene;
    let Some((_, trial)) = trial(context) else {
        return Ok(CaseResult::Skipped { because: "the stack has nothing that a customer uses".to_owned() });
    };
    let observed = call.cut(context.snapshot()).await??;
    let access = context.access(&observed, &Quiet);
    let Journey { findings, not_run } = call.cut(trial.journey(&access)).await?;
    let result = judge(&findings, &not_run);
    seen.findings.extend(findings);
    // A case that is skipped as a whole says why itself.
    if !seen.findings.is_empty() {
        seen.not_run.extend(not_run);
    }
    result
}

fn judge(findings: &[Finding], not_run: &[String]) -> anyhow::Result<CaseResult> {
    let of = |verdict| findings.iter().find(|finding| finding.verdict == verdict);
    let told = |Finding { check, evidence, .. }: &Finding| format!("{check}: {evidence}");
    match (of(Verdict::Fail), of(Verdict::Unknown)) {
        (Some(failed), _) => Err(Stop::new(Exit::VerifyFailed, told(failed)).into()),
        (None, Some(unknown)) => Err(Stop::new(Exit::Unknown, format!("could not tell {}", told(unknown))).into()),
        (None, None) if findings.is_empty() => Ok(CaseResult::Skipped { because: not_run.join("; ") }),
        (None, None) => {
            let told: Vec<&str> = findings.iter().map(|finding| finding.evidence.as_str()).collect();
            Ok(CaseResult::Passed { evidence: told.join("; ") })
        }
    }
}

/// Kills one of those that serve while customers ask, brings it back as `up` does, and proves its component again.
pub(super) async fn recover(scene: &Scene<'_>, seen: &mut Seen) -> anyhow::Result<CaseResult> {
    let Scene { call, context, .. } = scene;
    let found =
        trial(context).and_then(|(component, trial)| Some((component, trial, trial.expendable(&context.stack)?)));
    let Some((component, trial, Expendable { member, others })) = found else {
        return Ok(CaseResult::Skipped { because: "the stack has no member that may be lost".to_owned() });
    };
    let observed = call.cut(context.snapshot()).await??;
    let access = context.access(&observed, &Quiet);
    let client = call.cut(trial.client(&access)).await?;
    let client = client.map_err(|(Broken::Fail(why) | Broken::Unknown(why))| Stop::new(Exit::Unknown, why))?;
    let is_back = AtomicBool::new(false);
    let begin = Instant::now();
    let hurt = async {
        call.printer.note(&format!("killing {member}"));
        let healed = async {
            context.engine.set(&member, Power::Killed).await?;
            wait::pause(ALONE).await;
            stand_up(scene).await
        };
        let healed = healed.await;
        is_back.store(true, Ordering::SeqCst);
        healed.map(|_| begin.elapsed())
    };
    let knocking = join_all((0..CLIENTS).map(|_| knock(&*client, &is_back)));
    let (healed, knocks) = call.cut(async { tokio::join!(hurt, knocking) }).await?;
    let took = healed?;
    let knocks: Vec<Knocks> = knocks.into_iter().collect::<Result<_, _>>()?;
    let asked: usize = knocks.iter().map(|knocks| knocks.asked).sum();
    let slowest = knocks.iter().map(|knocks| knocks.slowest).max().unwrap_or_default();
    let failed: Vec<String> = knocks.into_iter().flat_map(|knocks| knocks.failed).collect();
    if let Some(first) = failed.first().filter(|_| others > 0) {
        let message = format!("{member} was killed, and {} of {asked} requests met it: {first}", failed.len());
        return Err(Stop::new(Exit::VerifyFailed, message).into());
    }
    let policy = context.targets(&[component.name().to_owned()])?;
    verify(scene, &policy, seen).await?;
    let met = match failed.len() {
        0 => format!("none failed, the slowest took {}", seconds(slowest)),
        failed => format!("{failed} failed, since nobody else does its work"),
    };
    Ok(CaseResult::Passed {
        evidence: format!("{member} killed under {asked} requests, {met}; back after {}", seconds(took)),
    })
}

#[derive(Default)]
struct Knocks {
    asked: usize,
    slowest: Duration,
    failed: Vec<String>,
}

/// Asks again and again until the lost member is back, and then until somebody answers.
async fn knock(client: &dyn Client, is_back: &AtomicBool) -> Result<Knocks, Stop> {
    let mut knocks = Knocks::default();
    while !is_back.load(Ordering::SeqCst) {
        knocks.ask(client).await;
        wait::pause(KNOCK_EVERY).await;
    }
    let end = Instant::now() + SERVED_LIMIT;
    while !knocks.ask(client).await {
        if Instant::now() >= end {
            let last = knocks.failed.pop().unwrap_or_default();
            let message = format!("nobody is served {} s after it was brought back: {last}", SERVED_LIMIT.as_secs());
            return Err(Stop::new(Exit::VerifyFailed, message));
        }
        wait::pause(KNOCK_EVERY).await;
    }
    Ok(knocks)
}

impl Knocks {
    async fn ask(&mut self, client: &dyn Client) -> bool {
        self.asked += 1;
        let begin = Instant::now();
        let answer = client.ask().await;
        self.slowest = self.slowest.max(begin.elapsed());
        match answer {
            Ok(()) => true,
            Err(Broken::Fail(why) | Broken::Unknown(why)) => {
                self.failed.push(why);
                false
            }
        }
    }
}
