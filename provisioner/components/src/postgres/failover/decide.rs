//! What is to be done, from what was seen alone.
//!
//! A failover is two plans: the first isolates the lost primary and freezes its replicas, the second is decided by what
//! the frozen ones hold. A refusal comes before the first side effect wherever it can be known by then.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use provisioner_core::component::Task;
use provisioner_core::manifest::Synchronous;
use provisioner_core::name::Member;
use provisioner_core::plan::{Action, Draft, Plan, StepId};
use provisioner_core::stack::{Resource, ResourceId, Stack};

use super::super::cluster::ChangeKind;
use super::super::{NAME, rejoin, run, synchronous, tasks};
use super::elect::{Attributes, Voter, Voters, begun, elect, is_complete, voters};
use super::refusal::Refusal;
use super::steps::REDIRECTED;
use super::survey::{Survey, Told, Unarchived};
use crate::route;

/// What the operator allows and asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Acknowledged rows may be lost.
    pub allow_data_loss: bool,
    /// Another primary is made although the old one cannot be proven down.
    pub force: bool,
}

/// What decisions are made of besides the survey.
pub struct Scene<'a> {
    pub stack: &'a Stack,
    pub survey: &'a Survey,
    pub wish: Wish,
}

impl Scene<'_> {
    fn attributes(&self, member: &Member) -> Attributes {
        super::attributes(self.stack, member)
    }

    fn voters(&self) -> Voters<'_> {
        voters(self.survey, &|member| self.attributes(member))
    }

    fn policy(&self) -> Synchronous {
        synchronous::policy(self.stack)
    }

    /// Whom an earlier run was about to promote. It may never come back: then another one may be made by force.
    fn chosen(&self) -> Option<&Member> {
        let chosen = self.survey.cluster.change.as_ref()?.promoted()?;
        (!self.wish.force || self.survey.told(chosen).is_some()).then_some(chosen)
    }

    /// Whose data it is must be beyond doubt before anything is done.
    fn clear(&self) -> Result<(), Refusal> {
        let cluster = &self.survey.cluster;
        if let Some(told) = self.survey.told(&cluster.primary)
            && told.system_id != cluster.system_id
        {
            return Err(Refusal::Foreign {
                member: cluster.primary.clone(),
                found: told.system_id.clone(),
                expected: cluster.system_id.clone(),
            });
        }
        let chosen = self.chosen();
        let others = self.survey.other_primaries(&cluster.primary).into_iter();
        let others: Vec<&str> = others.filter(|member| Some(*member) != chosen).map(Member::as_str).collect();
        if others.is_empty() {
            return Ok(());
        }
        let reason = format!("{} takes writes, and the record names {}", others.join(", "), cluster.primary);
        Err(Refusal::Unclear(reason))
    }

    /// A new primary that no route leads to serves nobody.
    fn led(&self) -> Result<(), Refusal> {
        let route = &self.survey.route;
        if route.is_empty() || route.values().any(Result::is_ok) {
            return Ok(());
        }
        let reasons = route.iter().filter_map(|(member, answer)| Some((member.clone(), answer.clone().err()?)));
        Err(Refusal::NoRoute { reasons: reasons.collect() })
    }

    /// Whether everything that was acknowledged is among these voters; else what may be lost.
    fn safe(&self, voters: &Voters<'_>) -> Result<(), Refusal> {
        let armed = &self.survey.cluster.synchronous;
        if self.wish.allow_data_loss || is_complete(&voters.voters, armed) {
            return Ok(());
        }
        let primary = &self.survey.cluster.primary;
        let reason = if armed.is_empty() {
            format!("{primary} waited for no replica")
        } else {
            let missing = armed.iter().filter(|member| !voters.voters.iter().any(|voter| voter.member == *member));
            let why = |member: &Member| {
                let reason = voters.others.iter().find(|(other, _)| other == member).map(|(_, reason)| reason.as_str());
                format!("{member} ({})", reason.unwrap_or("it is no replica any more"))
            };
            let missing: Vec<String> = missing.map(why).collect();
            format!("{primary} waited for any one of {}, and {} cannot be asked", joined(armed), missing.join(", "))
        };
        Err(Refusal::MayLose { reason, loss: loss(&voters.voters) })
    }
}

fn joined(members: &BTreeSet<Member>) -> String {
    members.iter().map(Member::as_str).collect::<Vec<_>>().join(", ")
}

/// What is known to be missing, and since when nothing is known.
fn loss(voters: &[Voter<'_>]) -> String {
    let Some(best) = voters.iter().max_by_key(|voter| voter.told.received) else {
        return "no replica tells how much".to_owned();
    };
    let member = best.member;
    let bytes = best.told.primary_end.map(|end| end.0.saturating_sub(best.told.received.0));
    match (bytes, best.told.heard_ms_ago) {
        (Some(bytes), Some(ms)) => {
            format!("{member} lacks at least {bytes} bytes and all of the last {}.{} s", ms / 1000, ms % 1000 / 100)
        }
        _ => format!("{member} has had no connection to it, so everything since then"),
    }
}

/// First plan of a failover: fence the lost primary, freeze its replicas.
pub fn isolate(scene: &Scene<'_>, because: &str) -> Result<Plan, Refusal> {
    let cluster = &scene.survey.cluster;
    let primary = &cluster.primary;
    if cluster.replicas.is_empty() {
        return Err(Refusal::NoReplicas { primary: primary.clone() });
    }
    scene.clear()?;
    let voters = scene.voters();
    if scene.chosen().is_none() {
        scene.led()?;
        promising(scene, &voters)?;
    }
    let mut draft = Draft::default();
    let task = Task::new(NAME, tasks::FENCE).on(primary);
    let task = if scene.wish.force { task.with("force", "yes") } else { task };
    let fence = draft.step(Action::Run { task }, because, &[]);
    // One with a full disk is not elected, and could not write down that it is to stay still. One that follows the chosen
    // is counted no more.
    let counts = |told: &Told| !told.is_full && begun(scene.survey) != Some(told.timeline);
    for voter in voters.voters.iter().filter(|voter| counts(voter.told)) {
        let task = Task::new(NAME, tasks::FREEZE).on(voter.member);
        draft.step(Action::Run { task }, "what it holds must not change while it is counted", &[fence]);
    }
    Ok(draft.finish())
}

/// What is known before anything is done. Who is ahead is not: it shows once they are frozen.
fn promising(scene: &Scene<'_>, voters: &Voters<'_>) -> Result<(), Refusal> {
    if voters.voters.is_empty() {
        return Err(Refusal::NoCandidate { reasons: voters.others.clone() });
    }
    scene.safe(voters)?;
    match elect(&voters.voters, &scene.survey.cluster.synchronous, None) {
        Ok(_) | Err(Refusal::CandidateBehind { .. }) => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

/// Second plan of a failover: promote the winner among the frozen replicas, then all that hangs on it.
pub fn succeed(scene: &Scene<'_>) -> Result<Plan, Refusal> {
    scene.clear()?;
    let cluster = &scene.survey.cluster;
    let voters = scene.voters();
    let home = scene.attributes(&cluster.primary).region;
    let (winner, because) = match scene.chosen() {
        // It may have been promoted by the run that was killed, so it is nobody else's turn.
        Some(chosen) => (chosen, "the election has chosen it already".to_owned()),
        None => {
            scene.safe(&voters)?;
            let winner = elect(&voters.voters, &cluster.synchronous, home.as_deref())?;
            (winner.member, format!("it has received {}, and nobody who counts has more", winner.told.received))
        }
    };
    let others = others(&voters, winner);
    let promotion = Promotion { kind: ChangeKind::Failover, winner, others: &others, because: &because };
    Ok(promote(scene, &promotion, Draft::default(), &[]))
}

fn others(voters: &Voters<'_>, winner: &Member) -> BTreeSet<Member> {
    voters.voters.iter().map(|voter| voter.member).filter(|member| *member != winner).cloned().collect()
}

/// A change was begun, and nobody was promoted: it is taken back. `None`: there is none.
pub fn abandon(scene: &Scene<'_>) -> Result<Option<Plan>, Refusal> {
    scene.clear()?;
    let cluster = &scene.survey.cluster;
    let Some(change) = &cluster.change else { return Ok(None) };
    if let Some(to) = change.promoted() {
        return Err(Refusal::Unclear(format!("{to} may have been promoted instead of {}", cluster.primary)));
    }
    let mut draft = Draft::default();
    let task = Task::new(NAME, tasks::ABANDON).on(&cluster.primary);
    let because = format!("the {} from {} has come to nothing", change.kind.word(), change.from);
    draft.step(Action::Run { task }, because, &[]);
    Ok(Some(draft.finish()))
}

struct Promotion<'a> {
    kind: ChangeKind,
    winner: &'a Member,
    others: &'a BTreeSet<Member>,
    because: &'a str,
}

/// Promotion, route, the other replicas, the old primary, and what commits wait for, in this order of urgency.
fn promote(scene: &Scene<'_>, promotion: &Promotion<'_>, mut draft: Draft, after: &[StepId]) -> Plan {
    let Promotion { kind, winner, others, because } = *promotion;
    let cluster = &scene.survey.cluster;
    let old = &cluster.primary;
    let apart: Vec<_> = others.iter().filter_map(|other| ahead(scene, kind, winner, other)).collect();
    let followers = others.iter().filter(|other| !apart.iter().any(|found| found.member == *other));
    let followers: BTreeSet<Member> = followers.cloned().collect();
    let task = arming(scene, winner, &followers, Task::new(NAME, tasks::PROMOTE).on(winner).with("kind", kind.word()));
    let task = if scene.wish.force { task.with("force", "yes") } else { task };
    let promoted = draft.step(Action::Run { task }, because, after);
    let run = |task: Task| Action::Run { task };
    let leads = format!("writes lead to {old}, expected {winner}");
    let lead = |task| match kind {
        ChangeKind::Failover if !scene.wish.force => run(route::fenced(task)),
        // Not proven to be down, or stopped in order, and could be started again.
        ChangeKind::Failover | ChangeKind::Switchover => run(task),
    };
    let closed = draft.step(lead(route::close_task(winner, &followers)), leads.as_str(), after);
    let pointed = draft.step(lead(route::reopen_task(winner, &followers)), leads.as_str(), &[promoted, closed]);
    for other in &followers {
        let task = |name| Task::new(NAME, name).on(other).with("upstream", winner.as_str());
        let looks = draft.step(run(task(tasks::REDIRECT)), format!("it followed {old}"), after);
        let follow = task(tasks::FOLLOW).with(REDIRECTED, "yes");
        draft.step(run(follow), "a replica is one that rows arrive on", &[promoted, looks]);
    }
    let mut back = Vec::new();
    for Ahead { workload, bytes, .. } in apart {
        let because = format!("it holds {bytes} bytes that {winner} lacks, and that nobody waited for");
        back.push(rejoin::steps(&mut draft, workload, winner, &because, &[pointed]));
    }
    if let Some(workload) = scene.stack.resource(&ResourceId::Workload(old.clone())) {
        let mut before = vec![pointed];
        // A lost one was ended before anybody was elected.
        if kind == ChangeKind::Switchover {
            let end = run(Task::new(NAME, tasks::END).on(old));
            before.push(draft.step(end, "what it has handed over it serves no more", &[promoted]));
        }
        back.push(rejoin::steps(&mut draft, workload, winner, "it was primary", &before));
        let mut all = others.clone();
        all.insert(old.clone());
        let waited_for = synchronous::counted(scene.stack, &all);
        let synchronous = tasks::synchronous_task(winner, scene.policy(), &waited_for);
        let armed = draft.step(run(synchronous), format!("{old} is back"), &back);
        draft.step(run(route::point_task(winner, &all)), format!("{old} takes readers"), &[armed]);
    }
    draft.finish()
}

/// A frozen replica with more than the winner has, which cannot follow it as it is: its data has left the winner's timeline.
struct Ahead<'a> {
    member: &'a Member,
    workload: &'a Resource,
    bytes: u64,
}

fn ahead<'a>(scene: &Scene<'a>, kind: ChangeKind, winner: &Member, other: &'a Member) -> Option<Ahead<'a>> {
    // One that is on the winner's own timeline follows it.
    if kind != ChangeKind::Failover || begun(scene.survey) == Some(scene.survey.told(other)?.timeline) {
        return None;
    }
    let received = |member| Some(scene.survey.told(member)?.received.0);
    let bytes = received(other)?.checked_sub(received(winner)?).filter(|bytes| *bytes > 0)?;
    let workload = scene.stack.resource(&ResourceId::Workload(other.clone()))?;
    Some(Ahead { member: other, workload, bytes })
}

/// What the winner must have before its first write: whom its commits wait for, and a slot for everybody else.
fn arming(scene: &Scene<'_>, winner: &Member, others: &BTreeSet<Member>, task: Task) -> Task {
    let cluster = &scene.survey.cluster;
    let old = &cluster.primary;
    let replicas = || cluster.replicas.iter().filter(|member| *member != winner);
    let armed = synchronous::counted(scene.stack, &armed(scene.policy(), replicas(), others, old));
    let slots: Vec<String> = replicas().chain([old]).map(run::slot_name).collect();
    task.with("names", synchronous::names(&armed)).with("slots", slots.join(" "))
}

/// Whom the new primary waits for from its first write on. Who must always wait waits for the old one where there is
/// nobody else: its writes go on once it is back.
fn armed<'a>(
    policy: Synchronous,
    replicas: impl Iterator<Item = &'a Member>,
    present: &BTreeSet<Member>,
    old: &Member,
) -> BTreeSet<Member> {
    match policy {
        Synchronous::Off => BTreeSet::new(),
        Synchronous::Preferred => present.clone(),
        Synchronous::Required => {
            let replicas: BTreeSet<Member> = replicas.cloned().collect();
            if replicas.is_empty() { BTreeSet::from([old.clone()]) } else { replicas }
        }
    }
}

/// Whom a switchover goes to where nobody is named: what a replica lacks it gets while the primary stops.
pub fn successor(scene: &Scene<'_>) -> Result<Member, Refusal> {
    let home = scene.attributes(&scene.survey.cluster.primary).region;
    let voters = scene.voters();
    let eligible = voters.voters.iter().filter(|voter| !voter.attributes.nofailover);
    let best = eligible.max_by_key(|voter| {
        let is_home = home.is_some() && voter.attributes.region == home;
        (voter.attributes.priority, is_home, Reverse(voter.member))
    });
    best.map(|voter| voter.member.clone()).ok_or(Refusal::NoCandidate { reasons: voters.others })
}

/// The bytes that a replica may lack when its primary is told to stop: it gets them while that stops.
const SWITCHOVER_LAG: u64 = 16 << 20;

/// A planned change of the primary: everything that speaks against it is found before anything is done.
pub fn switchover(scene: &Scene<'_>, to: &str) -> Result<Plan, Refusal> {
    let survey = scene.survey;
    let cluster = &survey.cluster;
    let primary = &cluster.primary;
    let member = Member::named(to);
    if let Some(change) = &cluster.change
        && (change.kind != ChangeKind::Switchover || change.to.as_ref() != Some(&member))
    {
        return Err(Refusal::UnderWay { kind: change.kind.word(), from: change.from.clone() });
    }
    let bad = |reason: &str| Err(Refusal::BadTarget { member: to.to_owned(), reason: reason.to_owned() });
    if member == *primary {
        return Err(Refusal::is_primary(to));
    }
    if scene.stack.workload(&member).is_none_or(|workload| workload.component != NAME) {
        return bad("the stack has no such PostgreSQL member");
    }
    if !cluster.replicas.contains(&member) {
        return bad("it does not belong to the cluster: rejoin it first");
    }
    if scene.attributes(&member).nofailover {
        return bad("the manifest says nofailover");
    }
    scene.clear()?;
    scene.led()?;
    let voters = scene.voters();
    let is_resumed = cluster.change.is_some();
    let reasons = if is_resumed { Vec::new() } else { obstacles(survey, &member, &voters) };
    if !reasons.is_empty() {
        return Err(Refusal::NotReady { primary: primary.clone(), reasons });
    }
    let others = others(&voters, &member);
    let mut draft = Draft::default();
    let run = |task| Action::Run { task };
    let task = |name| Task::new(NAME, name).on(primary).with("to", to);
    // One that is carried on was prepared before it was begun, and its primary may be down by now.
    let prepared = (!is_resumed).then(|| {
        let prepare = arming(scene, &member, &others, task(tasks::PREPARE));
        draft.step(run(prepare), "its shutdown must not hang while nobody takes writes", &[])
    });
    let held = draft.step(run(route::hold_task(&member, &others)), "it must close at once", &[]);
    let ready: Vec<StepId> = prepared.into_iter().chain([held]).collect();
    let handed = draft.step(run(task(tasks::HAND_OVER)), format!("{to} is to be primary"), &ready);
    let because = format!("{primary} has handed over everything");
    let promotion = Promotion { kind: ChangeKind::Switchover, winner: &member, others: &others, because: &because };
    Ok(promote(scene, &promotion, draft, &[handed]))
}

fn obstacles(survey: &Survey, member: &Member, voters: &Voters<'_>) -> Vec<String> {
    let primary = &survey.cluster.primary;
    let mut reasons = Vec::new();
    match survey.members.get(primary).map(|seen| &seen.told) {
        Some(Ok(told)) => {
            if told.in_recovery {
                reasons.push(format!("{primary} is in recovery, expected the primary"));
            }
            if !told.streaming.contains(member) {
                reasons.push(format!("{member} does not stream from {primary}"));
            }
            if told.is_full {
                reasons
                    .push(format!("the disk of {primary} is full, and it might not come to the end of its shutdown"));
            }
            if told.archiving_fails {
                reasons.push(format!("archiving on {primary} fails, and its shutdown would wait for that"));
            }
            if let Some(Unarchived { files, oldest_secs }) = told.unarchived {
                reasons.push(format!(
                    "{files} WAL files of {primary} wait to be archived, the oldest for {oldest_secs} s, and its shutdown \
                     would wait for them"
                ));
            }
            if told.backups_running > 0 {
                reasons.push(format!("{} base backups of {primary} are running", told.backups_running));
            }
        }
        Some(Err(reason)) => reasons.push(format!("{primary} does not answer: {reason}")),
        None => reasons.push(format!("{primary} was not seen")),
    }
    match voters.voters.iter().find(|voter| voter.member == member) {
        Some(voter) => {
            let told = voter.told;
            let end = survey.told(primary).map_or(told.received, |primary| primary.received);
            let lag = end.0.saturating_sub(told.replayed.0);
            if lag > SWITCHOVER_LAG {
                reasons.push(format!("{member} is {lag} bytes behind, expected at most {SWITCHOVER_LAG}"));
            }
            if told.is_full {
                reasons.push(format!("the disk of {member} is full"));
            }
            if told.replay_paused {
                reasons.push(format!("replay is paused on {member}"));
            }
            if told.free_walsenders < 2 {
                reasons.push(format!("{member} has {} WAL senders free, expected 2", told.free_walsenders));
            }
            if told.free_slots < 1 {
                reasons.push(format!("{member} has no replication slot free"));
            }
        }
        None => {
            let found = voters.others.iter().find(|(other, _)| other == member);
            reasons.extend(found.map(|(_, reason)| format!("{member}: {reason}")));
        }
    }
    reasons
}

impl ChangeKind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Switchover => "switchover",
        }
    }
}
