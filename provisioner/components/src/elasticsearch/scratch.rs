//! An index for one check, removed after it. Names differ from check to check, so that two operators may verify at once.

use provisioner_core::clock;
use provisioner_core::finding::Broken;
use reqwest::Method;
use serde_json::{Value, json};

use super::client::Node;
use crate::checks::nonce;

const PREFIX: &str = "provisioner-probe-";
/// No check lasts as long; what is older was left by one that was cut off.
const LEFT_AFTER_MS: u64 = 10 * 60 * 1000;

pub(super) struct Scratch {
    pub(super) index: String,
}

impl Scratch {
    /// One shard, and so many copies of it beside the first.
    pub(super) async fn make(node: &Node, replicas: usize) -> Result<Self, Broken> {
        sweep(node).await?;
        let index = format!("{PREFIX}{}", nonce());
        let body = json!({
            "settings": {"number_of_shards": 1, "number_of_replicas": replicas, "hidden": true},
            "mappings": {"properties": {"brand": {"type": "keyword"}, "text": {"type": "text"}}},
        });
        let path = format!("/{index}?wait_for_active_shards=all");
        let scratch = Self { index };
        let made = node.call(Method::PUT, &path, Some(&body)).await;
        match made {
            Ok(answer) if answer["shards_acknowledged"] == json!(true) => Ok(scratch),
            Ok(_) => {
                let late = format!("not all of {} copies were active in time", replicas + 1);
                scratch.removed(node, Err(Broken::fail(late))).await
            }
            Err(broken) => Err(broken),
        }
    }

    /// Written to every copy, and found by whoever searches from then on.
    pub(super) async fn put(&self, node: &Node, id: &str, document: &Value) -> Result<(), Broken> {
        let path = format!("/{}/_doc/{id}?refresh=true&wait_for_active_shards=all", self.index);
        let answer = node.call(Method::PUT, &path, Some(document)).await?;
        match answer["_shards"]["failed"].as_u64() {
            Some(0) => Ok(()),
            failed => Err(Broken::fail(format!("PUT of document {id}: {failed:?} copies failed, expected 0"))),
        }
    }

    /// Removes the index, whatever came of the check that used it.
    pub(super) async fn removed<T>(self, node: &Node, result: Result<T, Broken>) -> Result<T, Broken> {
        let removed = node.call(Method::DELETE, &format!("/{}", self.index), None).await;
        let value = result?;
        removed?;
        Ok(value)
    }
}

async fn sweep(node: &Node) -> Result<(), Broken> {
    let path = format!("/{PREFIX}*/_settings/index.creation_date?expand_wildcards=all&filter_path=*.settings.index");
    let found = node.read(&path).await?;
    for index in left(&found, clock::unix_seconds() * 1000) {
        node.call(Method::DELETE, &format!("/{index}?ignore_unavailable=true"), None).await?;
    }
    Ok(())
}

/// Names of probe indices that no check uses any more.
fn left(found: &Value, now_ms: u64) -> Vec<&str> {
    let is_left = |settings: &Value| {
        let made = settings["settings"]["index"]["creation_date"].as_str().and_then(|text| text.parse::<u64>().ok());
        made.is_some_and(|made| made + LEFT_AFTER_MS < now_ms)
    };
    let indices = found.as_object().into_iter().flatten();
    let old = indices.filter(|(name, settings)| name.starts_with(PREFIX) && is_left(settings));
    old.map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_probe_indices_are_swept() {
        let made = |ms: u64| json!({"settings": {"index": {"creation_date": ms.to_string()}}});
        let found = json!({
            "provisioner-probe-old": made(1),
            "provisioner-probe-new": made(LEFT_AFTER_MS),
            "products-1": made(1),
        });
        assert_eq!(left(&found, LEFT_AFTER_MS + 2), ["provisioner-probe-old"]);
    }
}
