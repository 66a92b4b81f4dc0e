//! What the preflight wants to know of the cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use provisioner_core::engine::{EngineError, Host};

use crate::connect::KubernetesEngine;
use crate::error::ENGINE;
use crate::quantity;

impl KubernetesEngine {
    /// All nodes that take pods, together.
    pub(crate) async fn describe_host(&self) -> Result<Host, EngineError> {
        let listed = self.all::<Node>().await?;
        let may_see = listed.is_some();
        let nodes = listed.unwrap_or_default();
        let usable = || nodes.iter().filter(|node| takes_pods(node));
        let of = |node: &Node, what: &str| node.status.as_ref()?.allocatable.as_ref()?.get(what).cloned();
        let millis: u64 = usable().filter_map(|node| quantity::millis(&of(node, "cpu")?)).map(u64::from).sum();
        Ok(Host {
            engine: format!("{ENGINE} {}", self.kubernetes.release),
            is_supported: if !may_see || usable().next().is_some() {
                Ok(())
            } else {
                Err("it has no node that takes pods".to_owned())
            },
            cpus: u32::try_from(millis / 1000).unwrap_or(u32::MAX),
            memory_bytes: usable().filter_map(|node| quantity::whole(&of(node, "memory")?)).sum(),
            free_disk_bytes: None,
            ports: BTreeMap::new(),
            is_local: false,
        })
    }
}

pub(crate) fn allocatable_memory(node: &Node) -> u64 {
    let amounts = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    amounts.and_then(|amounts| quantity::whole(amounts.get("memory")?)).unwrap_or_default()
}

pub(crate) fn takes_pods(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let is_tainted = taints.into_iter().any(|taint| taint.effect != "PreferNoSchedule");
    let is_closed = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or_default();
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    is_ready && !is_closed && !is_tainted
}
