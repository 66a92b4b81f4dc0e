//! Looks at the primary until it is clear what has become of it.

use std::time::Duration;

use provisioner_components::postgres::Cluster;
use provisioner_components::postgres::failover::{self, EVERY, Health, Refusal, Survey, Watcher, heard_by};
use provisioner_core::engine::Quiet;
use provisioner_core::observed::{Observed, State};
use provisioner_core::wait::pause;
use tokio::time::Instant;

use super::refusal;
use crate::cli::Call;
use crate::cli::exit::{Exit, Stop};
use crate::context::Context;

/// By then a hung primary has had all its strikes, and one that was started in place has recovered.
const LIMIT: Duration = Duration::from_secs(15);

pub(crate) enum Detected {
    Healthy { cluster: Cluster, had_trouble: bool },
    Lost(Box<Lost>),
}

/// A primary that is lost, with what was seen then.
pub(crate) struct Lost {
    pub(crate) observed: Observed,
    pub(crate) survey: Survey,
    pub(crate) reason: String,
    /// Since the first look that showed trouble.
    pub(crate) took: Duration,
}

/// What counts as the end of the looking while the primary is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The first look tells.
    Clear,
    /// Something is known to happen to it: it is watched for this long, or until it has recovered by itself.
    Trouble(Duration),
    /// It is watched for ever, and what is unclear stays watched.
    Lost,
}

pub(crate) fn cluster(observed: &Observed) -> anyhow::Result<Cluster> {
    let missing = || Stop::new(Exit::Refused, "the stack has no PostgreSQL cluster yet").hint("provisioner up");
    Ok(Cluster::read(&observed.records)?.ok_or_else(missing)?)
}

pub(crate) async fn detect(call: &Call<'_>, context: &Context, until: Until) -> anyhow::Result<Detected> {
    let mut observed = context.snapshot().await?;
    cluster(&observed)?;
    let mut watcher = Watcher::new(&context.access(&observed, &Quiet)).await?;
    let begin = Instant::now();
    let mut trouble: Option<Instant> = None;
    loop {
        let cluster = cluster(&observed)?;
        let (health, fresh) = watcher.look(&context.access(&observed, &Quiet), &cluster).await?;
        if let Some(fresh) = fresh {
            observed = fresh;
        }
        // That it still talks to its replicas speaks against its death, not against what it says of its own disk.
        let has_said_so = matches!(health, Health::Full(_));
        let unsure = match health {
            Health::Healthy => {
                let is_over = match until {
                    Until::Clear => true,
                    Until::Trouble(limit) => trouble.is_some() || begin.elapsed() >= limit,
                    Until::Lost => false,
                };
                if is_over {
                    return Ok(Detected::Healthy { cluster, had_trouble: trouble.is_some() });
                }
                if trouble.take().is_some() {
                    call.printer.note(&format!("{} is well again", cluster.primary));
                }
                None
            }
            Health::Unsure(reason) => Some(reason),
            Health::Lost(reason) | Health::Full(reason) => {
                let access = context.access(&observed, &Quiet);
                let survey = failover::survey(&access, Some(&reason)).await?;
                let took = trouble.unwrap_or_else(Instant::now).elapsed();
                let is_up = observed.workload(&cluster.primary).is_some_and(|found| found.state == State::Running);
                match heard_by(&survey).filter(|_| is_up && !has_said_so) {
                    Some((replica, ms)) => Some(format!("{reason}; but {replica} heard from it {ms} ms ago")),
                    None => return Ok(Detected::Lost(Box::new(Lost { observed, survey, reason, took }))),
                }
            }
        };
        if let Some(reason) = unsure {
            if trouble.is_none() && until == Until::Lost {
                call.printer.note(&format!("{}: {reason}", cluster.primary));
            }
            let since = *trouble.get_or_insert_with(Instant::now);
            if since.elapsed() >= LIMIT && until != Until::Lost {
                let refusal = Refusal::Unsure { primary: cluster.primary, reason };
                return Err(refusal::stop(call.settings, &refusal).into());
            }
        }
        pause(EVERY).await;
    }
}
