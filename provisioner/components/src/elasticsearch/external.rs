//! Somebody's own Elasticsearch.

use std::time::Duration;

use provisioner_core::component::{Access, Entrypoint, Variable};
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::manifest::Manifest;
use provisioner_core::stack::{External, url_host};
use reqwest::Method;
use serde_json::json;

use super::client::{Node, text};
use super::scratch::Scratch;
use super::{NAME, User};
use crate::checks::nonce;
use crate::external;

/// The release whose queries the shop speaks.
const VERSION_MIN: u64 = 8;
const LIMIT: Duration = Duration::from_secs(10);
/// The app's own index, to which it gives the name `products`.
const INDEX: &str = "products";

pub(super) fn of(manifest: &Manifest) -> Option<External> {
    let server = manifest.elasticsearch.as_ref()?.external.as_ref()?;
    Some(External::new(NAME, server))
}

fn scheme(external: &External) -> &'static str {
    if external.ca.is_some() { "https" } else { "http" }
}

pub(super) fn variable(external: &External) -> Variable {
    Variable {
        name: "ELASTICSEARCH_URL",
        prefix: external.prefix(scheme(external)),
        host: url_host(&external.host),
        port: external.port,
        member: None,
        suffix: String::new(),
        suffix_outside: None,
    }
}

pub(super) fn entrypoint(external: &External) -> Entrypoint {
    let page = Entrypoint::external(NAME, scheme(external), external.address());
    match (&external.user, &external.password) {
        (Some(user), Some(password)) => page.login(user, password),
        _ => page,
    }
}

pub(super) async fn verify(access: &Access<'_>, external: &External) -> Vec<Finding> {
    let login = ("login", login(access, external));
    let (version, tls) = (version(access, external), external::serves(access, external));
    let mut findings = external::first_checks(access, external, login, version, tls).await;
    findings.extend([
        check(NAME, "round-trip", Level::L2, permitted(round_trip(access, external))).await,
        check(NAME, "app-index", Level::L2, permitted(app_index(access, external))).await,
        check(NAME, "shards", Level::L3, permitted(shards(access, external))).await,
    ]);
    findings
}

async fn node(access: &Access<'_>, external: &External) -> Result<Node, Broken> {
    external::address(&external.host, external.port).await?;
    Node::external(access, external, LIMIT).await.map_err(Broken::Unknown)
}

/// What the account may not do is no fault of the cluster.
async fn permitted(body: impl Future<Output = Result<String, Broken>>) -> Result<String, Broken> {
    body.await.map_err(|broken| match broken {
        Broken::Fail(reason) if reason.contains(": 403 ") => Broken::Unknown(format!("the account may not: {reason}")),
        other => other,
    })
}

async fn login(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let node = node(access, external).await?;
    let found = node.read("/_cluster/health").await?;
    let who = external.user.as_deref().unwrap_or("nobody");
    Ok(format!("external, {}: cluster {} as {who}", external.address(), text(&found, "cluster_name")))
}

async fn version(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let node = node(access, external).await?;
    let reply = node.send(Some(User::App), Method::GET, "/", None).await.map_err(Broken::fail)?;
    let found = match reply.status {
        200 => reply.json()?["version"]["number"].clone(),
        // Elasticsearch's smallest distribution has no such page.
        405 => {
            let nodes = node.read("/_nodes/_local?filter_path=nodes.*.version").await?;
            let first = nodes["nodes"].as_object().and_then(|nodes| nodes.values().next());
            first.map(|node| node["version"].clone()).unwrap_or_default()
        }
        _ => return reply.expect(200, "GET /").map(|_| String::new()),
    };
    external::at_least("Elasticsearch", found.as_str().unwrap_or_default(), VERSION_MIN)
}

/// An index of the check's own.
async fn round_trip(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let node = node(access, external).await?;
    let word = nonce();
    let scratch = Scratch::make(&node, 0).await?;
    let asked = async {
        scratch.put(&node, "1", &json!({"brand": word, "text": "lamp"})).await?;
        let query = json!({"query": {"term": {"brand": word}}});
        node.call(Method::POST, &format!("/{}/_search", scratch.index), Some(&query)).await
    };
    let answer = asked.await;
    let found = scratch.removed(&node, answer).await?;
    match text(&found["hits"]["hits"][0]["_source"], "brand") == word {
        true => Ok("a document was written, found and removed".to_owned()),
        false => Err(Broken::fail("a document that was written is not found")),
    }
}

/// Asked, not tried: the index is the app's.
async fn app_index(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let node = node(access, external).await?;
    let names = [format!("{INDEX}*")];
    let privileges = ["read", "write", "create_index", "delete_index", "manage"];
    let wishes = json!({"index": [{"names": names, "privileges": privileges}]});
    let path = "/_security/user/_has_privileges";
    let reply = node.send(Some(User::App), Method::POST, path, Some(&wishes)).await;
    let reply = reply.map_err(|error| Broken::fail(format!("POST {path}: {error}")))?;
    if reply.status != 200 {
        // Without security there is nobody to ask, and everybody may do everything.
        return Err(Broken::unknown(format!("POST {path}: {}, so nobody tells what the account may", reply.status)));
    }
    let granted = reply.json()?;
    let of_index = &granted["index"][format!("{INDEX}*")];
    let lacking: Vec<&str> = privileges.into_iter().filter(|name| of_index[*name] != json!(true)).collect();
    match lacking.as_slice() {
        [] => Ok(format!("the account may {} in {INDEX}*", privileges.join(", "))),
        lacking => Err(Broken::fail(format!("the account may not {} in {INDEX}*", lacking.join(", ")))),
    }
}

async fn shards(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let node = node(access, external).await?;
    let health = node.read("/_cluster/health").await?;
    let count = |key: &str| health[key].as_u64().unwrap_or_default();
    let (status, nodes, missing) = (text(&health, "status"), count("number_of_nodes"), count("unassigned_shards"));
    match status {
        "green" | "yellow" => Ok(format!("{status}, {nodes} nodes, {missing} copies without a node")),
        "" => Err(Broken::unknown(format!("no status in {health}"))),
        _ => Err(Broken::fail(format!("{status}: {missing} shards are nowhere"))),
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::stack::Stack;

    use super::super::Elasticsearch;
    use crate::testing::external_manifest;

    #[test]
    fn programs_are_led_there() {
        let stack = Stack::of(&external_manifest(), [&Elasticsearch as &dyn Component]);
        assert_eq!(stack.workloads().count(), 0);
        let url = "https://shop:@{secret:elasticsearch-password.url}@search.example.com:9200";
        assert_eq!(Elasticsearch.variables(&stack)[0].inside().masked(), url);
    }
}
