//! Carries out what the plan decided.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use provisioner_core::component::{Access, Task};
use provisioner_core::failure::Failure;
use provisioner_core::finding::Broken;
use provisioner_core::name::Member;
use provisioner_core::record;
use provisioner_core::wait::{self, Look};

use super::client::{Node, text};
use super::cluster::{Cluster, RECORD};
use super::{NAME, declare, drift, tasks};

/// For the whole cluster. Nodes that an interrupted run has started are only met here, so it lasts as long as a start.
const FORM_LIMIT: Duration = Duration::from_secs(240);
const EVERY: Duration = Duration::from_millis(150);
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// What a node calls its cluster while it is in none.
const NO_CLUSTER: &str = "_na_";

pub(super) async fn run(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    match (task.name.as_str(), &task.member) {
        (tasks::TELL, Some(member)) => match (task.with.get("found"), task.with.get("join")) {
            (Some(founders), None) => script(access, member, &["found", founders]).await,
            (None, Some(_)) => script(access, member, &["join"]).await,
            _ => Err(Failure::new(format!("run {task}: it says neither found nor join"))),
        },
        (tasks::RESET, Some(member)) => drift::reset(access, member).await,
        (tasks::FORGET, Some(member)) => forget(access, member).await,
        (tasks::FORM, None) => form(access).await,
        (tasks::DISMISS, None) => dismiss(access).await,
        _ => Err(Failure::new(format!("run {task}: component {NAME} has no such task"))),
    }
}

/// Runs the node's own script inside it.
async fn script(access: &Access<'_>, member: &Member, words: &[&str]) -> Result<(), Failure> {
    let executed = access.engine.exec(member, &declare::script(words), None).await?.finish().await?;
    if executed.exit_code == 0 {
        return Ok(());
    }
    let context = format!("tell {member} `{}`: exit code {}, expected 0", words.join(" "), executed.exit_code);
    Err(Failure::new(context).output(format!("{}{}", executed.stdout, executed.stderr)))
}

async fn forget(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let forgotten = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current?;
        cluster.nodes.remove(member).then_some(cluster)
    });
    Ok(forgotten.await?)
}

async fn dismiss(access: &Access<'_>) -> Result<(), Failure> {
    let records = access.engine.records();
    let version = records.get(RECORD).await?.map_or(0, |record| record.version);
    Ok(records.remove_if(RECORD, version).await?)
}

async fn form(access: &Access<'_>) -> Result<(), Failure> {
    let members: BTreeSet<Member> = access.stack.members(NAME).map(|workload| workload.member.clone()).collect();
    let waited = wait::until(FORM_LIMIT, EVERY, async || match look(access, &members).await {
        Ok(uuid) => Look::Done(uuid),
        Err(reason) => Look::<_, Failure>::Pending(reason),
    });
    let uuid = waited.await.map_err(|error| {
        Failure::because("wait for the nodes to find each other", error).hint("provisioner logs elasticsearch")
    })?;
    let recorded = access.engine.records().get(RECORD).await?;
    if let Some(found) = recorded.map(|record| record.read::<Cluster>(RECORD)).transpose()?
        && found.uuid != uuid
    {
        let context = format!("the nodes are in cluster {uuid}, expected {}, which is recorded", found.uuid);
        return Err(Failure::new(context).hint("provisioner verify tells which node has which cluster"));
    }
    // The word goes before the record comes: from the record on nothing on a volume can found a cluster.
    try_join_all(members.iter().map(|member| script(access, member, &["formed"]))).await?;
    let written = record::update(access.engine.records(), RECORD, |current: Option<Cluster>| {
        let mut cluster = current.unwrap_or_else(|| Cluster { uuid: uuid.clone(), nodes: BTreeSet::new() });
        cluster.nodes.extend(members.iter().cloned());
        Some(cluster)
    });
    Ok(written.await?)
}

/// The one cluster that every node says it is in, together with all the others.
async fn look(access: &Access<'_>, members: &BTreeSet<Member>) -> Result<String, String> {
    let asked = try_join_all(members.iter().map(|member| said(access, member))).await?;
    agreed(&members.iter().cloned().zip(asked).collect(), members.len())
}

/// What one node says: its cluster, and how many nodes that has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) uuid: String,
    pub(super) nodes: usize,
    pub(super) master: String,
}

pub(super) async fn said(access: &Access<'_>, member: &Member) -> Result<Said, String> {
    let node = Node::of(access, member, REQUEST_LIMIT).await?;
    // From the node's own copy: what the master thinks is the same on all of them.
    let path = "/_cluster/state/master_node,nodes?local=true";
    let state = node.read(path).await.map_err(|broken| match broken {
        Broken::Fail(reason) | Broken::Unknown(reason) => reason,
    })?;
    let nodes = state["nodes"].as_object();
    let master = nodes.and_then(|nodes| nodes.get(text(&state, "master_node")));
    Ok(Said {
        uuid: text(&state, "cluster_uuid").to_owned(),
        nodes: nodes.map_or(0, serde_json::Map::len),
        master: master.map(|node| text(node, "name").to_owned()).unwrap_or_default(),
    })
}

/// The cluster of all, or who stands apart.
pub(super) fn agreed(said: &BTreeMap<Member, Said>, expected: usize) -> Result<String, String> {
    let told = || {
        let each = said.iter().map(|(member, said)| {
            let Said { uuid, nodes, master } = said;
            let master = if master.is_empty() { "no master" } else { master.as_str() };
            format!("{member}: {uuid} of {nodes} nodes with {master}")
        });
        each.collect::<Vec<_>>().join(", ")
    };
    let Some(first) = said.values().next() else { return Err("there is no node".to_owned()) };
    let is_whole = said.values().all(|said| said == first) && first.nodes == expected;
    let is_founded = !first.uuid.is_empty() && first.uuid != NO_CLUSTER && !first.master.is_empty();
    if is_whole && is_founded { Ok(first.uuid.clone()) } else { Err(told()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(said: &[(&str, usize, &str)]) -> BTreeMap<Member, Said> {
        let said = said.iter().zip(1..).map(|((uuid, nodes, master), ordinal)| {
            let said = Said { uuid: (*uuid).to_owned(), nodes: *nodes, master: (*master).to_owned() };
            (Member::nth(NAME, ordinal), said)
        });
        said.collect()
    }

    #[test]
    fn a_cluster_is_one_that_all_nodes_agree_on() {
        let one = ("u1", 3, "elasticsearch-2");
        assert_eq!(agreed(&all(&[one, one, one]), 3), Ok("u1".to_owned()));
        assert!(agreed(&all(&[one, one, ("u2", 3, "elasticsearch-2")]), 3).is_err(), "two clusters");
        assert!(agreed(&all(&[one, one, ("u1", 3, "elasticsearch-1")]), 3).is_err(), "two masters");
        assert!(agreed(&all(&[one, one]), 2).is_err(), "more nodes than there should be");
        let alone = ("_na_", 1, "elasticsearch-1");
        assert!(agreed(&all(&[alone]), 1).is_err(), "not founded yet");
        let error = agreed(&all(&[("u1", 1, "")]), 1).unwrap_err();
        assert_eq!(error, "elasticsearch-1: u1 of 1 nodes with no master");
    }
}
