//! `failover --drill`: the ledger runs, the primary is hurt, then what `failover` does, and the ledger judges it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use provisioner_components::postgres::failover::Wish;
use provisioner_components::postgres::{self, Cluster};
use provisioner_core::clock;
use provisioner_core::component::Access;
use provisioner_core::engine::Quiet;
use provisioner_core::fault::{Fault, Faults, Injected};
use provisioner_core::lease::Lease;
use provisioner_core::name::Member;
use provisioner_drills::journal::Journal;
use provisioner_drills::judge::{Case, Held, Objectives, Stage, Verdict, judge};
use provisioner_drills::ledger::{self, Load, Probe};
use provisioner_drills::report;

use super::change::{Change, fail_over};
use super::detect::{Detected, Until, cluster, detect};
use super::phases::{Clock, phases};
use super::series::Series;
use crate::cli::Call;
use crate::cli::apply::under_lease;
use crate::cli::exit::{Exit, Stop};
use crate::context::Context;
use crate::machine;
use crate::report::write_private;

/// Acknowledged before the fault, so that there is something to lose: about two seconds of the ledger's pace.
const STEADY_ROWS: u64 = 800;
/// Acknowledged after it, so that writes are known to go on.
const AFTER_ROWS: u64 = 200;
const STEADY_LIMIT: Duration = Duration::from_secs(30);
/// A fault that is not noticed by then was none for the clients either.
const TROUBLE_LIMIT: Duration = Duration::from_secs(5);

/// `drill`: the same by its own name.
#[derive(Debug, Args)]
pub(in crate::cli) struct DrillVerb {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Keep a ledger of acknowledged writes, hurt the primary, fail over, and judge by the ledger
    Failover(Practice),
}

#[derive(Debug, Args)]
struct Practice {
    /// Go on although rows that were acknowledged may be lost: the report says which
    #[arg(long)]
    allow_data_loss: bool,

    #[command(flatten)]
    drill: DrillArgs,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(super) struct DrillArgs {
    /// What is done to the primary: kill, host-kill, pause, partition or disk-full [default: kill]
    #[arg(long, value_name = "FAULT")]
    fault: Option<Fault>,

    /// Practise so often; the report then has the least, the median and the greatest of each figure [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,

    /// Write a page with the ledger over time
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl DrillArgs {
    pub(super) fn runs(&self) -> u32 {
        self.runs.unwrap_or(1)
    }
}

impl DrillVerb {
    pub(in crate::cli) fn runs(&self) -> u32 {
        let What::Failover(practice) = &self.what;
        practice.drill.runs()
    }
}

pub(in crate::cli) async fn verb(call: &Call<'_>, arguments: &DrillVerb) -> anyhow::Result<Exit> {
    let What::Failover(Practice { allow_data_loss, drill: practice }) = &arguments.what;
    drill(call, practice, Wish { allow_data_loss: *allow_data_loss, ..Wish::default() }).await
}

pub(super) async fn drill(call: &Call<'_>, arguments: &DrillArgs, wish: Wish) -> anyhow::Result<Exit> {
    let context = call.cut(Context::to_change(call)).await??;
    let fault = arguments.fault.unwrap_or(Fault::Kill);
    let drill = Drill { call, context: &context, probe: Probe::read(&machine::probe()?)?, fault, wish };
    let what = format!("hurt the primary of stack {} on purpose ({})", context.name(), drill.fault);
    call.confirm(&context, &what).await?;
    let mut series = Series::default();
    let runs = arguments.runs();
    for run in 1..=runs {
        if runs > 1 {
            call.printer.note(&format!("run {run} of {runs}"));
        }
        let judged = under_lease(call, &context, async |lease| drill.once(lease).await).await?;
        if let Some(file) = &arguments.html {
            let page = report::html(&judged.verdict, &judged.journal, judged.fault_us)?;
            write_private(&call.settings.directory.join(file), page.as_bytes())?;
        }
        series.push(judged.verdict);
    }
    series.show(call)?;
    Ok(if series.passed() { Exit::Done } else { Exit::Missed })
}

struct Drill<'a> {
    call: &'a Call<'a>,
    context: &'a Context,
    probe: Probe,
    fault: Fault,
    wish: Wish,
}

struct Judged {
    verdict: Verdict,
    journal: Journal,
    fault_us: u64,
}

impl Drill<'_> {
    async fn once(&self, lease: &Lease) -> anyhow::Result<Judged> {
        let Self { call, context, fault, .. } = self;
        let observed = call.cut(context.observe()).await??;
        let before = cluster(&observed)?;
        let faults = self.able(&before.primary).await?;
        let access = context.access(&observed, &Quiet);
        let judged =
            call.cut(self.practise(lease, &access, &before, faults)).await.unwrap_or_else(|cut| Err(cut.into()));
        // Whatever came of it, the ledger does not stay, nor does what was done to a member that still stands.
        let removed = ledger::remove(&access).await;
        if let (Err(_), Some(workload)) = (&judged, context.stack.workload(&before.primary))
            && let Err(error) = faults.heal(workload, *fault).await
        {
            call.printer.note(&format!("the fault could not be healed: {error}"));
        }
        let judged = judged?;
        removed?;
        Ok(judged)
    }

    /// The engine's faults, if this one is among them. Those that are not are named.
    async fn able(&self, primary: &Member) -> anyhow::Result<&dyn Faults> {
        let faults = self.context.engine.faults();
        let faults = faults.ok_or_else(|| Stop::new(Exit::Refused, "this engine can inject no faults"))?;
        for other in Fault::ALL {
            let Some(reason) = faults.cannot(primary, other).await? else { continue };
            let message = format!("{other} cannot be injected here: {reason}");
            if other == self.fault {
                let others: Vec<&str> =
                    Fault::ALL.into_iter().filter(|fault| *fault != other).map(Fault::word).collect();
                let stop = Stop::new(Exit::Refused, message).hint(format!("others: {}", others.join(", ")));
                return Err(stop.into());
            }
            self.call.printer.note(&message);
        }
        Ok(faults)
    }

    async fn practise(
        &self,
        lease: &Lease,
        access: &Access<'_>,
        before: &Cluster,
        faults: &dyn Faults,
    ) -> anyhow::Result<Judged> {
        let Self { call, context, fault, .. } = self;
        ledger::start(access, &self.probe, Load::default()).await?;
        let steady = ledger::steady(access, STEADY_ROWS, STEADY_LIMIT).await?;
        call.printer.note(&format!("the ledger has {} rows acknowledged", steady.acked));
        let begun_unix_us = clock::unix_micros().saturating_sub(super::phases::micros(call.begun.elapsed()));
        let Injected { at_unix_us, what } = faults.inject(&before.primary, *fault).await?;
        call.printer.note(&what);
        let change = self.respond(lease, before, faults).await?;
        let so_far = ledger::progress(access).await?.map_or(0, |progress| progress.acked);
        ledger::steady(access, so_far + AFTER_ROWS, STEADY_LIMIT).await?;
        ledger::stop(access).await?;
        let journal = ledger::collect(access).await?;
        let fault_us = journal.at_unix_us(at_unix_us);
        let after = cluster(&context.snapshot().await?)?;
        let clock = Clock { journal: &journal, begun_unix_us };
        let verdict = judge(&Case {
            engine: "docker",
            fault: fault.word(),
            synchronous: context.manifest.postgres.synchronous,
            objectives: Objectives::ARCHITECTURE,
            journal: &journal,
            fault_us,
            held: &self.held(access, before, &after, &journal).await?,
            phases: phases(change.as_ref(), &clock, fault_us),
            unprotected_ms: change.as_ref().map_or(0, Change::unprotected_ms),
            members_before: self.parts(before),
            members_after: self.parts(&after),
        });
        Ok(Judged { verdict, journal, fault_us })
    }

    /// What `failover` does. `None`: the primary is back by itself.
    async fn respond(&self, lease: &Lease, before: &Cluster, faults: &dyn Faults) -> anyhow::Result<Option<Change>> {
        let Self { call, context, fault, wish, .. } = self;
        let primary = &before.primary;
        let lost = match detect(call, context, Until::Trouble(TROUBLE_LIMIT)).await? {
            Detected::Lost(lost) => *lost,
            Detected::Healthy { had_trouble, .. } => {
                let word = if had_trouble { "is back by itself" } else { "was never missed" };
                call.printer.note(&format!("{primary} {word}"));
                return Ok(None);
            }
        };
        call.printer.note(&format!("{primary} is lost: {}", lost.reason));
        let healed = async || {
            // Its network comes back some time; by now it is fenced.
            if let Some(workload) = context.stack.workload(primary)
                && let Err(error) = faults.heal(workload, *fault).await
            {
                call.printer.note(&format!("the fault could not be healed: {error}"));
            }
        };
        Ok(Some(fail_over(call, context, lease, lost, *wish, healed).await?))
    }

    async fn held(
        &self,
        access: &Access<'_>,
        before: &Cluster,
        after: &Cluster,
        journal: &Journal,
    ) -> anyhow::Result<Vec<Held>> {
        let mut held = Vec::new();
        for member in access.stack.members(postgres::NAME).map(|workload| &workload.member) {
            let stage = if *member == after.primary {
                Stage::Primary
            } else if *member == before.primary {
                Stage::Rebuilt
            } else {
                Stage::Replica
            };
            held.push(ledger::held(access, member, stage, journal.run).await?);
        }
        Ok(held)
    }

    fn parts(&self, cluster: &Cluster) -> std::collections::BTreeMap<Member, String> {
        let members = self.context.stack.members(postgres::NAME).map(|workload| workload.member.clone());
        members.map(|member| (member.clone(), cluster.role(&member).unwrap_or("outside").to_owned())).collect()
    }
}
