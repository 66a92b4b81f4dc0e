//! One look at whether a node can be used.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::name::Member;
use reqwest::Method;
use serde::Deserialize;

use super::User;
use super::client::Node;

const LIMIT: Duration = Duration::from_secs(1);

/// What a node says of the cluster that it is in (Elasticsearch 8.19, cluster health API).
#[derive(Debug, Deserialize)]
struct Health {
    status: String,
    number_of_nodes: u64,
    initializing_shards: u64,
    unassigned_shards: u64,
    delayed_unassigned_shards: u64,
    number_of_pending_tasks: u64,
    number_of_in_flight_fetch: u64,
}

/// The node is in a cluster with a master, and the cluster has done for its shards what it can do right now. While nodes
/// are replaced one after the other, the next one may only go once the copies of the last one are back.
pub(super) async fn ready(access: &Access<'_>, member: &Member) -> Result<(), String> {
    let node = Node::of(access, member, LIMIT).await?;
    // The master answers it, so a node without one has none; without the timeout it would wait half a minute.
    let path = "/_cluster/health?master_timeout=500ms&timeout=0s";
    let reply = node.send(Some(User::Admin), Method::GET, path, None).await?;
    match reply.status {
        // 408 says that a wish of the request was not met in time; the body is as good.
        200 | 408 => {}
        503 => return Err("it has no master yet".to_owned()),
        status => return Err(format!("GET {path}: {status}, expected 200")),
    }
    let health: Health = serde_json::from_slice(&reply.body).map_err(|error| format!("read the health: {error}"))?;
    settled(&health)
}

fn settled(health: &Health) -> Result<(), String> {
    let Health { status, number_of_nodes: nodes, unassigned_shards: unassigned, .. } = health;
    let moving = health.initializing_shards
        + health.delayed_unassigned_shards
        + health.number_of_pending_tasks
        + health.number_of_in_flight_fetch;
    match status.as_str() {
        "green" => Ok(()),
        // Copies that no node is there for: a cluster of one, or one that has lost a node for good.
        "yellow" if moving == 0 => Ok(()),
        _ => Err(format!("the cluster of {nodes} is {status}: {unassigned} shards are nowhere, {moving} under way")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(status: &str, unassigned: u64, delayed: u64, fetching: u64) -> Health {
        Health {
            status: status.to_owned(),
            number_of_nodes: 3,
            initializing_shards: 0,
            unassigned_shards: unassigned,
            delayed_unassigned_shards: delayed,
            number_of_pending_tasks: 0,
            number_of_in_flight_fetch: fetching,
        }
    }

    #[test]
    fn a_node_is_ready_when_the_cluster_can_do_no_more_for_its_shards() {
        assert!(settled(&health("green", 0, 0, 0)).is_ok());
        assert!(settled(&health("yellow", 2, 0, 0)).is_ok());
        for (delayed, fetching) in [(2, 0), (0, 1)] {
            let error = settled(&health("yellow", 2, delayed, fetching)).unwrap_err();
            assert!(error.starts_with("the cluster of 3 is yellow: 2 shards are nowhere"), "{error}");
        }
        assert!(settled(&health("red", 1, 0, 0)).is_err());
    }
}
