//! Proof that the nodes are one cluster, that it keeps and finds what is written, and that nobody gets in who should not.

use std::collections::BTreeMap;
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::name::Member;
use provisioner_core::stack::Workload;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Node, text};
use super::cluster::{Cluster, RECORD};
use super::run::{agreed, said};
use super::scratch::Scratch;
use super::{HTTP, NAME, User};
use crate::certificates::{self, Trust};
use crate::checks;
use crate::http::Site;

/// A shard that is looked for may be on its way.
const LIMIT: Duration = Duration::from_secs(10);
const REFUSAL_LIMIT: Duration = Duration::from_secs(3);

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    let nodes: Vec<&Workload> = access.stack.members(NAME).collect();
    let members: Vec<&Member> = nodes.iter().map(|workload| &workload.member).collect();
    let (Some(first), Some(last)) = (members.first(), members.last()) else { return Vec::new() };
    let mut findings = Vec::new();
    for member in &members {
        let named = |what: &str| format!("{what}-{member}");
        let process = async { checks::process(access, member) };
        findings.push(check(NAME, &named("process"), Level::L0, process).await);
        findings.push(check(NAME, &named("tls"), Level::L1, tls(access, member)).await);
        findings.push(check(NAME, &named("strangers-refused"), Level::L1, strangers(access, member)).await);
    }
    findings.push(check(NAME, "app-limited", Level::L2, app_limited(access, first)).await);
    findings.push(check(NAME, "heap", Level::L2, heap(access, &nodes)).await);
    findings.push(check(NAME, "facets", Level::L2, facets(access, first)).await);
    findings.push(check(NAME, "round-trip", Level::L3, round_trip(access, first, last, members.len())).await);
    findings.push(check(NAME, "one-cluster", Level::L3, one_cluster(access, &members)).await);
    findings.push(check(NAME, "shards", Level::L3, shards(access, first, members.len())).await);
    findings
}

async fn tls(access: &Access<'_>, member: &Member) -> Result<String, Broken> {
    let trust = Trust::authority(access).await.map_err(Broken::Unknown)?;
    certificates::serves(access, member, HTTP, NAME, &trust).await
}

/// Over TLS without a login, and in clear.
async fn strangers(access: &Access<'_>, member: &Member) -> Result<String, Broken> {
    let node = open(access, member).await?;
    let reply = node.send(None, Method::GET, "/", None).await;
    reply
        .map_err(|error| Broken::fail(format!("GET / without a login: {error}")))?
        .expect(401, "GET / without a login")?;
    // The same port answers over TLS, so an answer that does not come is a refusal.
    let plain = Site::of(access, member, HTTP, REFUSAL_LIMIT).await.map_err(Broken::Unknown)?;
    match plain.get("/").await {
        Err(_) => Ok("without a login: 401; in clear: no answer".to_owned()),
        Ok(reply) => Err(Broken::fail(format!("GET / in clear: {}, expected no answer", reply.status))),
    }
}

async fn app_limited(access: &Access<'_>, member: &Member) -> Result<String, Broken> {
    let node = open(access, member).await?;
    for (path, expected) in [
        ("/_cluster/health", 200),
        ("/_cluster/settings", 403),
        ("/_security/role", 403),
        ("/_nodes/settings", 403),
        ("/provisioner-probe/_search", 403),
        ("/_all/_settings", 403),
    ] {
        let what = format!("GET {path} as app");
        let reply = node.send(Some(User::App), Method::GET, path, None).await;
        // Of all indices the app is shown its own, which may be none.
        let reply = reply.map_err(|error| Broken::fail(format!("{what}: {error}")))?;
        if path.starts_with("/_all") && reply.status == 200 {
            only_own(&reply.json()?)?;
            continue;
        }
        reply.expect(expected, &what)?;
    }
    // Asked, not tried: a check must not be able to change anything, even where the rule that it checks is broken.
    let wishes = json!({
        "cluster": ["all", "manage", "monitor", "manage_security"],
        "index": [{"names": ["foreign"], "privileges": ["read", "write", "create_index", "delete_index", "manage"]}],
    });
    let path = "/_security/user/_has_privileges";
    let reply = node.send(Some(User::App), Method::POST, path, Some(&wishes)).await;
    let granted =
        reply.map_err(|error| Broken::fail(format!("POST {path} as app: {error}")))?.expect(200, path)?.json()?;
    let mut may = allowed(&granted["cluster"]);
    may.extend(allowed(&granted["index"]["foreign"]));
    if may.is_empty() {
        Ok("settings, users, nodes and a foreign index: 403 for app".to_owned())
    } else {
        Err(Broken::fail(format!("app may {}, expected nothing beyond products*", may.join(", "))))
    }
}

fn only_own(indices: &Value) -> Result<(), Broken> {
    let names = indices.as_object().into_iter().flat_map(|indices| indices.keys());
    match names.into_iter().find(|name| !name.starts_with("products")) {
        None => Ok(()),
        Some(foreign) => Err(Broken::fail(format!("app is shown the index {foreign}, expected products* alone"))),
    }
}

fn allowed(privileges: &Value) -> Vec<String> {
    let each = privileges.as_object().into_iter().flatten();
    each.filter(|(_, granted)| **granted != json!(false)).map(|(name, _)| name.clone()).collect()
}

async fn heap(access: &Access<'_>, nodes: &[&Workload]) -> Result<String, Broken> {
    let Some(first) = nodes.first() else { return Err(Broken::unknown("there is no node")) };
    let node = open(access, &first.member).await?;
    let state = node.read("/_nodes/jvm?filter_path=nodes.*.name,nodes.*.jvm.mem.heap_max_in_bytes").await?;
    let found: BTreeMap<&str, u64> = state["nodes"]
        .as_object()
        .into_iter()
        .flat_map(|nodes| nodes.values())
        .map(|node| (text(node, "name"), node["jvm"]["mem"]["heap_max_in_bytes"].as_u64().unwrap_or_default()))
        .collect();
    let mut told = Vec::new();
    for workload in nodes {
        let expected = declared_heap(workload).ok_or_else(|| Broken::unknown("jvm.options has no -Xmx"))?;
        let member = &workload.member;
        match found.get(member.as_str()) {
            Some(bytes) if bytes >> 20 == expected => told.push(format!("{member} {expected} MiB")),
            Some(bytes) => {
                return Err(Broken::fail(format!("heap of {member}: {} MiB, expected {expected}", bytes >> 20)));
            }
            None => return Err(Broken::fail(format!("{member} is not in the cluster of {} nodes", found.len()))),
        }
    }
    if found.len() > nodes.len() {
        return Err(Broken::fail(format!("{} nodes are in the cluster, expected {}", found.len(), nodes.len())));
    }
    Ok(told.join(", "))
}

fn declared_heap(workload: &Workload) -> Option<u64> {
    let options = workload.files.iter().find(|file| file.path.ends_with("/provisioner.options"))?;
    let line = options.content.masked().lines().find_map(|line| line.strip_prefix("-Xmx"))?;
    line.strip_suffix('m')?.parse().ok()
}

const BRANDS: [(&str, &str); 5] = [("1", "acme"), ("2", "acme"), ("3", "acme"), ("4", "nord"), ("5", "nord")];

async fn facets(access: &Access<'_>, member: &Member) -> Result<String, Broken> {
    let node = open(access, member).await?;
    let scratch = Scratch::make(&node, 0).await?;
    let asked = async {
        for (id, brand) in BRANDS {
            scratch.put(&node, id, &json!({"brand": brand, "text": "lamp"})).await?;
        }
        let query = json!({
            "size": 0,
            "query": {"match": {"text": "lamp"}},
            "aggs": {"brands": {"terms": {"field": "brand"}}},
        });
        let path = format!("/{}/_search?filter_path=hits.total.value,aggregations", scratch.index);
        node.call(Method::POST, &path, Some(&query)).await
    };
    let answer = asked.await;
    let found = scratch.removed(&node, answer).await?;
    let buckets = found["aggregations"]["brands"]["buckets"].as_array().cloned().unwrap_or_default();
    let counted: Vec<(String, u64)> = buckets
        .iter()
        .map(|bucket| (text(bucket, "key").to_owned(), bucket["doc_count"].as_u64().unwrap_or_default()))
        .collect();
    let told: Vec<String> = counted.iter().map(|(brand, count)| format!("{brand} {count}")).collect();
    if told == ["acme 3", "nord 2"] {
        Ok(format!("5 documents by brand: {}", told.join(", ")))
    } else {
        Err(Broken::fail(format!("5 documents by brand: {}, expected acme 3, nord 2", told.join(", "))))
    }
}

/// Written on the first node to all copies, read from the last one's own copy.
async fn round_trip(access: &Access<'_>, first: &Member, last: &Member, nodes: usize) -> Result<String, Broken> {
    let (from, to) = (open(access, first).await?, open(access, last).await?);
    let word = checks::nonce();
    let scratch = Scratch::make(&from, nodes - 1).await?;
    let asked = async {
        scratch.put(&from, "1", &json!({"brand": word, "text": "lamp"})).await?;
        let query = json!({"query": {"term": {"brand": word}}});
        let path = format!("/{}/_search?preference=_only_local", scratch.index);
        to.call(Method::POST, &path, Some(&query)).await
    };
    let answer = asked.await;
    let found = scratch.removed(&from, answer).await?;
    let hit = &found["hits"]["hits"][0]["_source"];
    if text(hit, "brand") == word {
        Ok(format!("written through {first}, active copies {nodes} of {nodes}, found in that of {last}"))
    } else {
        let total = &found["hits"]["total"]["value"];
        Err(Broken::fail(format!("{total} documents in the copy of {last}, expected the one written through {first}")))
    }
}

async fn one_cluster(access: &Access<'_>, members: &[&Member]) -> Result<String, Broken> {
    let mut all = BTreeMap::new();
    for member in members {
        let said = said(access, member).await.map_err(|error| Broken::fail(format!("ask {member}: {error}")))?;
        all.insert((*member).clone(), said);
    }
    let uuid = agreed(&all, members.len()).map_err(Broken::Fail)?;
    let recorded = access.engine.records().get(RECORD).await.map_err(Broken::unknown)?;
    let recorded = recorded.ok_or_else(|| Broken::fail(format!("no record {RECORD}; provisioner up writes it")))?;
    let recorded: Cluster = recorded.read(RECORD).map_err(Broken::unknown)?;
    if recorded.uuid != uuid {
        return Err(Broken::fail(format!("the nodes are in cluster {uuid}, expected {}", recorded.uuid)));
    }
    let master = all.values().next().map(|said| said.master.as_str()).unwrap_or_default();
    Ok(format!("cluster {uuid} as recorded, nodes {0} of {0}, master {master} for all", members.len()))
}

async fn shards(access: &Access<'_>, member: &Member, nodes: usize) -> Result<String, Broken> {
    let node = open(access, member).await?;
    // A shard that was made a moment ago is on its way.
    let reply = node.send(Some(User::Admin), Method::GET, "/_cluster/health?wait_for_status=green&timeout=5s", None);
    let health = reply.await.map_err(Broken::fail)?.json()?;
    let count = |key: &str| health[key].as_u64().unwrap_or_default();
    let (status, active, missing) = (text(&health, "status"), count("active_shards"), count("unassigned_shards"));
    match status {
        "green" => Ok(format!("green, {active} shards active")),
        "yellow" if nodes == 1 => Ok(format!("yellow: {missing} copies have no second node, {active} shards active")),
        "" => Err(Broken::unknown(format!("no status in {health}"))),
        _ => Err(Broken::fail(format!("{status}: {missing} of {} shards are nowhere", active + missing))),
    }
}

async fn open(access: &Access<'_>, member: &Member) -> Result<Node, Broken> {
    Node::of(access, member, LIMIT).await.map_err(Broken::Unknown)
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::stack::Stack;

    use super::*;
    use crate::testing::with_search;

    #[test]
    fn the_heap_that_is_expected_is_the_declared_one() {
        let manifest = with_search("  memory: 800m\n  heap: 256m\n");
        let stack = Stack::new(manifest.name.clone(), super::super::Elasticsearch.declare(&manifest));
        let heaps: Vec<_> = stack.members(NAME).map(declared_heap).collect();
        assert_eq!(heaps, [Some(256), Some(256), Some(256)]);
    }

    #[test]
    fn a_privilege_that_is_granted_is_named() {
        let granted = json!({"all": false, "monitor": true});
        assert_eq!(allowed(&granted), ["monitor"]);
        // An answer without the key says nothing, and nothing is read into it.
        assert!(allowed(&Value::Null).is_empty());
    }

    #[test]
    fn a_foreign_index_is_named() {
        assert!(only_own(&json!({"products-1": {}})).is_ok());
        assert_eq!(
            only_own(&json!({"orders": {}})).unwrap_err(),
            Broken::fail("app is shown the index orders, expected products* alone")
        );
    }
}
