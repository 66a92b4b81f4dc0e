//! The cluster as it is recorded, and what a plan will make of it.

use std::collections::BTreeSet;

use provisioner_core::component::Situation;
use provisioner_core::name::Member;
use provisioner_core::plan::Withheld;
use provisioner_core::record::{RecordError, RecordSet};
use serde::{Deserialize, Serialize};

use super::{NAME, declare, tasks};

pub(super) const RECORD: &str = "elasticsearch.cluster";

/// Written once all nodes have found each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// What the nodes call their cluster; nodes with another one hold somebody else's data.
    pub uuid: String,
    /// Members whose volumes hold this cluster's data.
    pub nodes: BTreeSet<Member>,
}

impl Cluster {
    pub fn read(records: &RecordSet) -> Result<Option<Self>, RecordError> {
        records.read(RECORD)
    }
}

/// What stands and what is missing, from the snapshot alone.
pub(super) struct Layout<'a> {
    pub(super) declared: BTreeSet<&'a Member>,
    pub(super) cluster: Option<Cluster>,
    /// Recorded members whose volumes are gone.
    pub(super) lost: BTreeSet<Member>,
}

/// `None` where the stack has no Elasticsearch.
pub(super) fn layout<'a>(situation: &Situation<'a>) -> Result<Option<Layout<'a>>, RecordError> {
    let declared: BTreeSet<&Member> = situation.stack.members(NAME).map(|workload| &workload.member).collect();
    if declared.is_empty() {
        return Ok(None);
    }
    let cluster = Cluster::read(&situation.observed.records)?;
    let is_lost = |member: &&Member| !situation.observed.volumes.contains(&declare::volume(member));
    let lost = cluster.iter().flat_map(|cluster| &cluster.nodes).filter(is_lost).cloned().collect();
    Ok(Some(Layout { declared, cluster, lost }))
}

impl Layout<'_> {
    /// Members whose volumes hold nothing of the recorded cluster.
    pub(super) fn newcomers(&self) -> impl Iterator<Item = &Member> {
        let is_new = |member: &Member| {
            self.cluster.as_ref().is_none_or(|cluster| !cluster.nodes.contains(member)) || self.lost.contains(member)
        };
        self.declared.iter().copied().filter(move |member| is_new(member))
    }

    /// Recorded members that the manifest no longer names.
    pub(super) fn surplus(&self) -> BTreeSet<&Member> {
        let recorded = self.cluster.iter().flat_map(|cluster| &cluster.nodes);
        recorded.filter(|member| !self.declared.contains(member)).collect()
    }

    /// Why the nodes that are left can elect no master, and new ones would be a new, empty cluster.
    pub(super) fn without_majority(&self) -> Option<Withheld> {
        let Cluster { uuid, nodes } = self.cluster.as_ref()?;
        let left = nodes.len() - self.lost.len();
        if left * 2 > nodes.len() {
            return None;
        }
        let volumes: Vec<String> = self.lost.iter().map(declare::volume).collect();
        let reason = format!(
            "the record names cluster {uuid} of {} and the volumes of {} are gone ({}): what is left is no majority",
            count(nodes.len()),
            self.lost.len(),
            volumes.join(", "),
        );
        Some(Withheld {
            what: "start Elasticsearch".to_owned(),
            reason,
            unlock: format!("bring the volumes back; {}", tasks::NEW_CLUSTER),
            blocks: true,
        })
    }
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}
