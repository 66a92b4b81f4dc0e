//! A former primary, or any member that stayed away too long, becomes a replica again.

mod decide;
mod mark;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use provisioner_core::component::{Access, Task};
use provisioner_core::engine::{EngineError, Power};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::plan::{Action, Draft, Impact, StepId};
use provisioner_core::record;
use provisioner_core::stack::{Resource, ResourceId};
use provisioner_core::wait::{self, Look};
use serde::Deserialize;

use super::cluster::{Cluster, RECORD};
use super::login::{HOME, Login};
use super::run::{CLONE_LIMIT_SECS, CONNECT_LIMIT, job, let_follow, make_slot, run_job, slot_name};
use super::sql::{Session, SqlError, WRITING_TIMELINE};
use super::{NAME, tasks};
use crate::checks::nonce;

pub use decide::{Found, Refusal, Scene, decide, look};
pub use mark::{mark, outsiders};

/// A replica that stayed away for long has much to catch up with.
pub(super) const ARRIVAL_LIMIT: Duration = Duration::from_secs(180);
const LOOK_LIMIT: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(50);

/// How the member's data comes to follow the primary, where it cannot do so as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Rewound where it is large, else copied.
    #[default]
    Auto,
    Rewind,
    Clone,
}

impl Method {
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Rewind => "rewind",
            Self::Clone => "clone",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Auto, Self::Rewind, Self::Clone].into_iter().find(|method| method.word() == text);
        known.ok_or_else(|| format!("{text:?} is no way of rejoining, expected auto, rewind or clone"))
    }
}

/// Who rejoins whom.
pub(super) struct Rejoin<'a> {
    /// The member's workload.
    pub(super) workload: &'a Resource,
    pub(super) primary: &'a Member,
    pub(super) method: Method,
    /// The engine has the workload, so that it need only be started.
    pub(super) stands: bool,
}

/// The steps for a member that stands. The last one proves that it has become a replica; what commits wait for is armed
/// after it by whoever knows who else is there.
pub(super) fn steps(
    draft: &mut Draft,
    workload: &Resource,
    primary: &Member,
    because: &str,
    after: &[StepId],
) -> StepId {
    Rejoin { workload, primary, method: Method::Auto, stands: true }.steps(draft, because, after)
}

impl Rejoin<'_> {
    pub(super) fn steps(&self, draft: &mut Draft, because: &str, after: &[StepId]) -> StepId {
        let Self { workload, primary, method, stands } = self;
        let ResourceId::Workload(member) = workload.id() else { return draft.step(self.create(), because, after) };
        let task = |name| Task::new(NAME, name).on(&member).with("from", primary.as_str());
        let rejoin = Action::Run { task: task(tasks::REJOIN).with("method", method.word()) };
        let joined = draft.step(rejoin, because, after);
        let start =
            if *stands { Action::Change { to: (*workload).clone(), impact: Impact::Start } } else { self.create() };
        let started = draft.step(start, format!("its data follows {primary}"), &[joined]);
        let proof = Action::Run { task: task(tasks::REJOINED) };
        draft.step(proof, "a replica is one that rows arrive on", &[started])
    }

    fn create(&self) -> Action {
        Action::Create { resource: self.workload.clone() }
    }
}

/// What the job prints last.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Report {
    method: String,
    kept: Option<String>,
    lost_from: Option<String>,
    lost_to: Option<String>,
    unarchived: Option<String>,
}

pub(super) async fn run(access: &Access<'_>, member: &Member, from: &Member, method: &str) -> Result<(), Failure> {
    let cluster = Cluster::current(access).await?;
    if cluster.primary != *from {
        let found = &cluster.primary;
        return Err(Failure::new(format!("follow {from}: the primary is {found} by now")).hint("provisioner rejoin"));
    }
    if cluster.primary == *member {
        return Err(Failure::new(format!("rejoin {member}: it is the primary")));
    }
    let is_former = !cluster.replicas.contains(member);
    // A former primary gets no time to acknowledge anything.
    let how = if is_former { Power::Killed } else { Power::Stopped };
    match access.engine.set(member, how).await {
        Ok(()) | Err(EngineError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    access.engine.stopped(member).await?;
    let slot = slot_name(member);
    let session = Session::on(access, from, Login::Superuser, HOME, CONNECT_LIMIT).await?;
    let made = make_slot(&session, &slot).await;
    made.map_err(|error| Failure::because(format!("make slot {slot} on {from}"), error))?;
    let mut job = job(access, member, "rejoin", CLONE_LIMIT_SECS);
    let_follow(access, &mut job, &cluster, member);
    job.env.insert("METHOD".to_owned(), method.to_owned());
    if is_former {
        let since = format!("since epoch {} another member is primary: provisioner rejoin {member}", cluster.epoch);
        job.env.insert("FORMER".to_owned(), since);
    }
    let report: Report = run_job(access, &job).await?;
    access.output.tell(&report.told(member));
    if let Some(kept) = &report.unarchived {
        access.output.tell(&format!(
            "{member} has WAL that was never archived, and will not be by a replica: it is kept in {kept} for whoever puts it \
             into the archive; until then no point in time after it can be restored without a newer base backup"
        ));
    }
    let joined = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current?;
        cluster.replicas.insert(member.clone()).then_some(cluster)
    });
    Ok(joined.await?)
}

impl Report {
    fn told(&self, member: &Member) -> String {
        let done = match self.method.as_str() {
            "follow" => "follows with the data that it had",
            "rewind" => "was rewound",
            _ => "was copied anew",
        };
        let Self { kept: Some(kept), lost_from: Some(from), .. } = self else { return format!("{member} {done}") };
        let to = self.lost_to.as_ref().map_or_else(|| "its end".to_owned(), Clone::clone);
        format!("{member} {done}; its own WAL from {from} to {to}, which no other member has, is kept in {kept}")
    }
}

/// A row that was written on the primary has come to the member over the primary's timeline. That a receiver says
/// `streaming` is no proof: one that has diverged says so at times and never gets a row.
pub(super) async fn prove(
    access: &Access<'_>,
    primary: &Member,
    member: &Member,
    limit: Duration,
) -> Result<(), Failure> {
    let doing = || format!("prove that {member} follows {primary}");
    let failed = |error: SqlError| Failure::because(doing(), error);
    let session = Session::on(access, primary, Login::Superuser, HOME, CONNECT_LIMIT).await?;
    let (purpose, nonce) = (format!("rejoin {member}"), nonce());
    // Where commits wait for this very member, this one must not.
    session.execute("SET synchronous_commit = local").await.map_err(failed)?;
    let statement = format!(
        "INSERT INTO provisioner.marker (purpose, nonce) VALUES ($1, $2) \
         ON CONFLICT (purpose) DO UPDATE SET nonce = excluded.nonce, written_at = clock_timestamp() \
         RETURNING ({WRITING_TIMELINE})::text"
    );
    let timeline = session.text(&statement, &[&purpose, &nonce]).await.map_err(failed)?;
    let expected = format!("{nonce} {timeline}");
    let waited = wait::until(limit, EVERY, async || match arrived(access, member, &purpose).await {
        Ok(found) if found == expected => Look::<(), SqlError>::Done(()),
        Ok(found) if found.starts_with(&nonce) => {
            Look::Pending(format!("the row is there, and its receiver is not on timeline {timeline}"))
        }
        Ok(_) => Look::Pending("the row is not there".to_owned()),
        Err(failure) => Look::Pending(failure.chain()),
    });
    waited.await.map_err(|error| Failure::because(doing(), error))
}

async fn arrived(access: &Access<'_>, member: &Member, purpose: &str) -> Result<String, Failure> {
    let session = Session::on(access, member, Login::Superuser, HOME, LOOK_LIMIT).await?;
    let query = "SELECT coalesce((SELECT nonce FROM provisioner.marker WHERE purpose = $1), '') || ' ' \
                 || coalesce((SELECT received_tli FROM pg_stat_wal_receiver WHERE pg_is_in_recovery())::text, '')";
    session.text(query, &[&purpose]).await.map_err(|error| Failure::because(format!("ask {member}"), error))
}
