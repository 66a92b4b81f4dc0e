//! Proof that the broker works: its state as it tells it, and messages that go every way there is.

use std::collections::BTreeMap;
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use reqwest::Method;
use serde::Deserialize;

use super::definitions::{Definitions, Policy};
use super::management::Management;
use super::{AMQPS, NAME, User, VHOST, amqp, is_tls, member, probe};
use crate::certificates::{self, Trust};
use crate::checks;

const LIMIT: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    if access.stack.workload(&member()).is_none() {
        return Vec::new();
    }
    let mut findings = vec![
        check(NAME, "process", Level::L0, async { checks::process(access, &member()) }).await,
        check(NAME, "greeting", Level::L1, greeting(access)).await,
        check(NAME, "alarms", Level::L1, alarms(access)).await,
        check(NAME, "strangers-refused", Level::L1, strangers_refused(access)).await,
    ];
    if is_tls(access.stack) {
        findings.push(check(NAME, "tls", Level::L1, tls(access)).await);
        findings.push(check(NAME, "plaintext-refused", Level::L1, plaintext_refused(access)).await);
    }
    findings.extend([
        check(NAME, "app-limited", Level::L2, probe::app_limited(access)).await,
        check(NAME, "round-trip", Level::L2, probe::round_trip(access)).await,
        check(NAME, "unroutable", Level::L2, probe::unroutable(access)).await,
        check(NAME, "poison", Level::L2, probe::poison(access)).await,
        check(NAME, "retry-delay", Level::L2, probe::retry_delay(access)).await,
        check(NAME, "queues", Level::L3, queues(access)).await,
        check(NAME, "policies", Level::L3, policies(access)).await,
    ]);
    findings
}

async fn management(access: &Access<'_>) -> Result<Management, Broken> {
    Management::of(access, LIMIT).await.map_err(Broken::Unknown)
}

async fn greeting(access: &Access<'_>) -> Result<String, Broken> {
    amqp::greeting(access).await.map_err(Broken::Fail)?;
    let link = amqp::connect(access, User::App).await?;
    link.close().await;
    Ok(format!("AMQP 0-9-1, app logged in to {VHOST}"))
}

async fn tls(access: &Access<'_>) -> Result<String, Broken> {
    let trust = Trust::authority(access).await.map_err(Broken::Unknown)?;
    certificates::serves(access, &member(), AMQPS, member().as_str(), &trust).await
}

async fn plaintext_refused(access: &Access<'_>) -> Result<String, Broken> {
    let address = access.engine.address(&member(), AMQPS).await;
    let address = address.map_err(|error| Broken::Unknown(error.to_string()))?;
    match amqp::greeting_in_clear(address).await {
        Ok(_) => Err(Broken::fail(format!("port {AMQPS} greets in clear, expected TLS alone"))),
        Err(refused) => Ok(format!("port {AMQPS} in clear: {refused}")),
    }
}

#[derive(Deserialize)]
struct Node {
    name: String,
    running: bool,
    /// Absent in the first seconds after a start.
    #[serde(flatten)]
    figures: Option<Figures>,
}

#[derive(Deserialize)]
struct Figures {
    mem_used: u64,
    mem_limit: u64,
    disk_free: u64,
    disk_free_limit: u64,
}

/// While an alarm stands every publisher waits.
async fn alarms(access: &Access<'_>) -> Result<String, Broken> {
    let management = management(access).await?;
    let nodes: Vec<Node> = management.read("/api/nodes").await?;
    let [node] = &nodes[..] else {
        return Err(Broken::fail(format!("{} nodes, expected 1", nodes.len())));
    };
    let Node { name, running, figures } = node;
    if !running {
        return Err(Broken::fail(format!("{name} is not running")));
    }
    let seen = figures.as_ref().map_or_else(
        || format!("{name}: no figures yet"),
        |Figures { mem_used, mem_limit, disk_free, disk_free_limit }| {
            let [used, limit, free, needed] =
                [mem_used, mem_limit, disk_free, disk_free_limit].map(|bytes| bytes / MIB);
            format!("{name}: {used} of {limit} MiB memory, {free} MiB disk free and at least {needed} needed")
        },
    );
    let path = "/api/health/checks/alarms";
    let reply = management.send(Method::GET, path, None).await.map_err(Broken::Unknown)?;
    match reply.status {
        200 => Ok(format!("no alarm; {seen}")),
        503 => Err(Broken::fail(format!("an alarm stands, publishers wait; {seen}"))),
        status => Err(Broken::unknown(format!("GET {path}: {status}, expected 200"))),
    }
}

async fn strangers_refused(access: &Access<'_>) -> Result<String, Broken> {
    let management = management(access).await?;
    let guest = management.send(Method::GET, "/api/users/guest", None).await.map_err(Broken::Unknown)?;
    guest.expect(404, "GET /api/users/guest")?;
    let stranger = management.stranger("/api/overview").await.map_err(Broken::Unknown)?;
    stranger.expect(401, "GET /api/overview without a login")?;
    probe::strangers_refused(access).await
}

#[derive(Deserialize)]
struct Found {
    name: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    online: Vec<String>,
    #[serde(default)]
    leader: String,
    #[serde(default)]
    policy: Option<String>,
    #[serde(default)]
    messages: u64,
}

/// From the broker's own tables: its statistics are some seconds old.
async fn found(management: &Management) -> Result<BTreeMap<String, Found>, Broken> {
    let path = format!("/api/queues/{VHOST}?disable_stats=true&enable_queue_totals=true");
    let found: Vec<Found> = management.read(&path).await?;
    Ok(found.into_iter().map(|queue| (queue.name.clone(), queue)).collect())
}

async fn queues(access: &Access<'_>) -> Result<String, Broken> {
    let definitions = Definitions::of(access.stack).map_err(Broken::Unknown)?;
    let management = management(access).await?;
    let nodes: Vec<Node> = management.read("/api/nodes").await?;
    let found = found(&management).await?;
    let mut waiting = Vec::new();
    for wanted in definitions.queues.iter().map(|queue| &queue.name) {
        let Some(queue) = found.get(wanted) else {
            return Err(Broken::fail(format!("queue {wanted} is missing")));
        };
        if queue.kind != "quorum" {
            return Err(Broken::fail(format!("queue {wanted} is {}, expected quorum", queue.kind)));
        }
        let (members, online) = (queue.members.len(), queue.online.len());
        if members != nodes.len() || online != members || !queue.online.contains(&queue.leader) {
            let seen = format!("{online} of {members} members online, leader {:?}", queue.leader);
            return Err(Broken::fail(format!("queue {wanted}: {seen}, expected {} and a leader", nodes.len())));
        }
        if queue.messages > 0 {
            waiting.push(format!("{} in {wanted}", queue.messages));
        }
    }
    let messages = if waiting.is_empty() { "no messages".to_owned() } else { waiting.join(", ") };
    let (queues, nodes) = (definitions.queues.len(), nodes.len());
    Ok(format!("{queues} quorum queues, each with a leader and {nodes}/{nodes} members; {messages}"))
}

/// Without dead letters at least once and refusal of publishers, either alone, the broker falls back to dropping.
async fn policies(access: &Access<'_>) -> Result<String, Broken> {
    let definitions = Definitions::of(access.stack).map_err(Broken::Unknown)?;
    let management = management(access).await?;
    let live: Vec<Policy> = management.read(&format!("/api/policies/{VHOST}")).await?;
    let operator: Vec<Policy> = management.read(&format!("/api/operator-policies/{VHOST}")).await?;
    if let Some(policy) = operator.first() {
        return Err(Broken::fail(format!("operator policy {} outweighs the stack's, expected none", policy.name)));
    }
    for wanted in &definitions.policies {
        match live.iter().find(|policy| policy.name == wanted.name) {
            Some(policy) if policy == wanted => {}
            Some(policy) => {
                let (found, wanted_is) = (&policy.definition, &wanted.definition);
                return Err(Broken::fail(format!("policy {}: {found}, expected {wanted_is}", wanted.name)));
            }
            None => return Err(Broken::fail(format!("policy {} is missing", wanted.name))),
        }
    }
    let found = found(&management).await?;
    for wanted in definitions.queues.iter().map(|queue| &queue.name) {
        let applied = found.get(wanted).and_then(|queue| queue.policy.as_deref());
        if applied != Some(wanted) {
            let applied = applied.unwrap_or("none");
            return Err(Broken::fail(format!("queue {wanted} follows policy {applied}, expected its own")));
        }
    }
    let at_least_once =
        definitions.policies.iter().filter(|policy| policy.definition["dead-letter-strategy"] == "at-least-once");
    Ok(format!("{} policies in force, {} at least once", definitions.policies.len(), at_least_once.count()))
}
