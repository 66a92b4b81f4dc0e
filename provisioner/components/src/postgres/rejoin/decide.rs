//! Whether a member can rejoin, and what it takes.

use std::collections::BTreeSet;

use provisioner_core::component::{Access, Task};
use provisioner_core::failure::Failure;
use provisioner_core::manifest::Synchronous;
use provisioner_core::name::Member;
use provisioner_core::observed::Observed;
use provisioner_core::plan::{Action, Draft, Plan};
use provisioner_core::stack::{ResourceId, Stack};

use super::super::cluster::Cluster;
use super::super::login::{HOME, Login};
use super::super::sql::Session;
use super::super::{NAME, control, declare, synchronous, tasks};
use super::{LOOK_LIMIT, Method, Rejoin};
use crate::route;

pub struct Scene<'a> {
    pub stack: &'a Stack,
    pub observed: &'a Observed,
    pub cluster: &'a Cluster,
    pub found: Found,
}

/// What the member is at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// It receives from the primary what the primary writes.
    Follows,
    /// Its data is of this cluster, or nobody can tell before it is looked at more closely.
    Apart,
    /// Its data is another cluster's.
    Foreign { system_id: String },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{member} is the primary: there is nobody whom it could follow")]
    IsPrimary { member: Member },
    #[error("{member} holds another cluster's data: system identifier {found}, expected {expected}")]
    Foreign { member: Member, found: String, expected: String },
    #[error("a {kind} from {from} is under way")]
    UnderWay { kind: &'static str, from: Member },
    #[error("{primary}, which {member} would follow, is {state}, expected running")]
    NoPrimary { member: Member, primary: Member, state: String },
}

impl Refusal {
    /// What to do next; those that are commands of ours begin with `provisioner`.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::IsPrimary { .. } => "provisioner status",
            Self::Foreign { .. } => "move that data away, then the same command again",
            Self::UnderWay { .. } | Self::NoPrimary { .. } => "provisioner failover",
        }
    }
}

/// Reads only.
pub async fn look(access: &Access<'_>, cluster: &Cluster, member: &Member) -> Found {
    if access.observed.is_running(member) && follows(access, cluster, member).await.unwrap_or(false) {
        return Found::Follows;
    }
    match control::control(access, member).await {
        Ok(control) if control.system_id != cluster.system_id => Found::Foreign { system_id: control.system_id },
        // Where there is no data, or none that can be read, the job on its volume says so.
        Ok(_) | Err(_) => Found::Apart,
    }
}

async fn follows(access: &Access<'_>, cluster: &Cluster, member: &Member) -> Result<bool, Failure> {
    let session = Session::on(access, member, Login::Superuser, HOME, LOOK_LIMIT).await?;
    let timeline = i32::try_from(cluster.timeline).unwrap_or_default();
    let query = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE pg_is_in_recovery() \
                 AND status = 'streaming' AND sender_host = $1 AND received_tli = $2)";
    let row = session.row(query, &[&cluster.primary.as_str(), &timeline]).await;
    let row = row.map_err(|error| Failure::because(format!("ask {member}"), error))?;
    row.try_get(0).map_err(|error| Failure::because(format!("ask {member}"), error))
}

/// `None`: there is nothing to do.
pub fn decide(scene: &Scene<'_>, member: &Member, method: Method) -> Result<Option<Plan>, Refusal> {
    let Scene { stack, observed, cluster, found } = scene;
    let primary = &cluster.primary;
    if primary == member {
        return Err(Refusal::IsPrimary { member: member.clone() });
    }
    if let Some(change) = &cluster.change {
        return Err(Refusal::UnderWay { kind: change.kind.word(), from: change.from.clone() });
    }
    match found {
        Found::Follows if cluster.replicas.contains(member) => return Ok(None),
        Found::Foreign { system_id } => {
            let (found, expected) = (system_id.clone(), cluster.system_id.clone());
            return Err(Refusal::Foreign { member: member.clone(), found, expected });
        }
        Found::Follows | Found::Apart => {}
    }
    if !observed.is_running(primary) {
        let state = observed.workload(primary).map_or("absent", |found| found.state.word()).to_owned();
        return Err(Refusal::NoPrimary { member: member.clone(), primary: primary.clone(), state });
    }
    let Some(workload) = stack.resource(&ResourceId::Workload(member.clone())) else { return Ok(None) };
    let mut draft = Draft::default();
    let because = if cluster.replicas.contains(member) {
        format!("it does not follow {primary}")
    } else {
        "it is not part of the recorded cluster".to_owned()
    };
    let volume = declare::volume(member);
    let volume = stack.resource(&ResourceId::Volume(volume.clone())).filter(|_| !observed.volumes.contains(&volume));
    let made = volume
        .map(|resource| draft.step(Action::Create { resource: resource.clone() }, "no such volume is there", &[]));
    let stands = observed.workload(member).is_some();
    let rejoin = Rejoin { workload, primary, method, stands };
    let back = rejoin.steps(&mut draft, &because, made.as_slice());
    let run = |task: Task| Action::Run { task };
    let armed = tasks::synchronous_task(primary, synchronous::policy(stack), &waited_for(scene, member));
    let armed = draft.step(run(armed), format!("{member} is back"), &[back]);
    if !cluster.replicas.contains(member) {
        let readers = route::point_task(primary, &replicas(scene, member));
        draft.step(run(readers), format!("{member} takes readers"), &[armed]);
    }
    Ok(Some(draft.finish()))
}

/// The replicas that the stack has once the member is one.
fn replicas(scene: &Scene<'_>, member: &Member) -> BTreeSet<Member> {
    let declared = scene.stack.members(NAME).map(|workload| &workload.member);
    declared.filter(|name| *name == member || scene.cluster.replicas.contains(*name)).cloned().collect()
}

fn waited_for(scene: &Scene<'_>, member: &Member) -> BTreeSet<Member> {
    let mut replicas = replicas(scene, member);
    if synchronous::policy(scene.stack) == Synchronous::Preferred {
        replicas.retain(|replica| replica == member || scene.observed.is_running(replica));
    }
    synchronous::counted(scene.stack, &replicas)
}
