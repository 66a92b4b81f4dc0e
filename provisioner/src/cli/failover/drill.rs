//! `drill`: the ledger runs, the primary is hurt or hands over, the service comes back, and the ledger judges it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use provisioner_components::postgres::failover::Wish;
use provisioner_components::postgres::{self, Cluster};
use provisioner_core::clock;
use provisioner_core::component::Access;
use provisioner_core::engine::Quiet;
use provisioner_core::fault::Fault;
use provisioner_core::history::Drill as Found;
use provisioner_core::lease::Lease;
use provisioner_core::name::Member;
use provisioner_drills::journal::Journal;
use provisioner_drills::judge::{Case, Held, Stage, Verdict, judge};
use provisioner_drills::ledger::{self, Load, Probe};
use provisioner_drills::report;

use super::change::mark;
use super::detect::cluster;
use super::phases::{Clock, phases};
use super::series::Series;
use super::strike::{Strike, Struck};
use crate::cli::Call;
use crate::cli::apply::{Work, note, under_lease};
use crate::cli::exit::Exit;
use crate::cli::external::refuse_postgres;
use crate::context::Context;
use crate::machine;
use crate::report::write_private;

/// Acknowledged before the fault, so that there is something to lose: about two seconds of the ledger's pace.
const STEADY_ROWS: u64 = 800;
/// Acknowledged after it, so that writes are known to go on.
const AFTER_ROWS: u64 = 200;
const STEADY_LIMIT: Duration = Duration::from_secs(30);
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
    /// Keep a ledger of acknowledged writes, let the primary hand over, and judge by the ledger
    Switchover(HandOver),
}

#[derive(Debug, Args)]
struct Practice {
    /// Go on although rows that were acknowledged may be lost: the report says which
    #[arg(long)]
    allow_data_loss: bool,

    #[command(flatten)]
    drill: DrillArgs,
}

#[derive(Debug, Args)]
struct HandOver {
    /// Who becomes primary [default: the replica with the greatest priority, of several runs each time]
    #[arg(long, value_name = "MEMBER", conflicts_with = "runs")]
    to: Option<String>,

    #[command(flatten)]
    series: SeriesArgs,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(super) struct DrillArgs {
    /// What is done to the primary: kill, host-kill, pause, partition or disk-full [default: kill]
    #[arg(long, value_name = "FAULT")]
    fault: Option<Fault>,

    #[command(flatten)]
    series: SeriesArgs,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
struct SeriesArgs {
    /// Practise so often; the report then has the least, the median and the greatest of each figure [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,

    /// Write a page with the ledger over time
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl SeriesArgs {
    fn runs(&self) -> u32 {
        self.runs.unwrap_or(1)
    }
}

impl DrillArgs {
    pub(super) fn runs(&self) -> u32 {
        self.series.runs()
    }
}

impl DrillVerb {
    pub(in crate::cli) fn runs(&self) -> u32 {
        match &self.what {
            What::Failover(practice) => practice.drill.runs(),
            What::Switchover(practice) => practice.series.runs(),
        }
    }
}

pub(in crate::cli) async fn verb(call: &Call<'_>, arguments: &DrillVerb) -> anyhow::Result<Exit> {
    match &arguments.what {
        What::Failover(Practice { allow_data_loss, drill: practice }) => {
            drill(call, practice, Wish { allow_data_loss: *allow_data_loss, ..Wish::default() }).await
        }
        What::Switchover(HandOver { to, series: arguments }) => {
            series(call, arguments, Strike::Switchover { to: to.clone() }).await
        }
    }
}

pub(super) async fn drill(call: &Call<'_>, arguments: &DrillArgs, wish: Wish) -> anyhow::Result<Exit> {
    let fault = arguments.fault.unwrap_or(Fault::Kill);
    series(call, &arguments.series, Strike::Fault { fault, wish }).await
}

async fn series(call: &Call<'_>, arguments: &SeriesArgs, strike: Strike) -> anyhow::Result<Exit> {
    let context = call.cut(Context::to_change(call)).await??;
    refuse_postgres(&context, "drill")?;
    let drill = Drill { call, context: &context, probe: Probe::read(&machine::probe()?)?, strike };
    call.confirm(&context, &drill.strike.question(context.name())).await?;
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
    strike: Strike,
}

struct Judged {
    verdict: Verdict,
    journal: Journal,
    fault_us: u64,
}

impl Drill<'_> {
    async fn once(&self, lease: &Lease) -> anyhow::Result<Judged> {
        let Self { call, context, strike, .. } = self;
        let observed = call.cut(context.observe()).await??;
        let before = cluster(&observed)?;
        strike.check(call, context, &before.primary).await?;
        let access = context.access(&observed, &Quiet);
        let mut work = Work::new(call, context, lease);
        // Boxed: whole verbs are within it, deeper than the compiler lays out in one piece.
        let judged = call.cut(Box::pin(self.practise(&mut work, &access, &before))).await;
        let is_cut = judged.is_err();
        let judged = judged.unwrap_or_else(|cut| Err(cut.into()));
        // Whatever came of it, the ledger does not stay, nor does what was done to a member that still stands.
        let removed = ledger::remove(&access).await;
        if judged.is_err() {
            strike.heal(call, context, &before.primary).await;
        }
        // A change that came to its own end has done so itself.
        if is_cut {
            mark(&work).await;
        }
        let found = judged.as_ref().ok().map(|judged| found(&judged.verdict));
        note(call, context, &work.walks, found).await;
        let judged = judged?;
        removed?;
        Ok(judged)
    }

    async fn practise(&self, work: &mut Work<'_>, access: &Access<'_>, before: &Cluster) -> anyhow::Result<Judged> {
        let Self { call, context, strike, .. } = self;
        ledger::start(access, &self.probe, Load::default()).await?;
        let steady = ledger::steady(access, STEADY_ROWS, STEADY_LIMIT).await?;
        call.printer.note(&format!("the ledger has {} rows acknowledged", steady.acked));
        let begun_unix_us = clock::unix_micros().saturating_sub(super::phases::micros(call.begun.elapsed()));
        let Struck { at_unix_us, change } = strike.strike(work, &before.primary).await?;
        let so_far = ledger::progress(access).await?.map_or(0, |progress| progress.acked);
        ledger::steady(access, so_far + AFTER_ROWS, STEADY_LIMIT).await?;
        ledger::stop(access).await?;
        let journal = ledger::collect(access).await?;
        let fault_us = journal.at_unix_us(at_unix_us);
        let after = cluster(&context.snapshot().await?)?;
        let clock = Clock { journal: &journal, begun_unix_us };
        let postgres = &context.manifest.postgres;
        let verdict = judge(&Case {
            engine: self.context.engine_name(),
            fault: strike.word(),
            synchronous: postgres.synchronous,
            objectives: postgres.objectives,
            journal: &journal,
            fault_us,
            held: &self.held(access, before, &after, &journal).await?,
            phases: phases(change.as_ref(), &clock, fault_us),
            unprotected_ms: change.as_ref().map_or(0, |change| change.unprotected_ms),
            members_before: self.parts(before),
            members_after: self.parts(&after),
        });
        Ok(Judged { verdict, journal, fault_us })
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

/// For the history.
fn found(verdict: &Verdict) -> Found {
    let Verdict { fault, passed, rto_ms, rpo_rows, .. } = verdict;
    Found { fault: fault.clone(), passed: *passed, rto_ms: *rto_ms, rpo_rows: *rpo_rows }
}
