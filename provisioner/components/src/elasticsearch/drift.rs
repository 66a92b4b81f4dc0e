//! Cluster settings that somebody set by hand: the stack sets none over the API, all of its own are in files.
//!
//! What belongs to an index is the program's that made it, so the app's own index is not compared.

use std::time::Duration;

use provisioner_core::component::{Access, Task};
use provisioner_core::drift::{Comparison, Comparisons, Repair};
use provisioner_core::failure::Failure;
use provisioner_core::finding::Broken;
use provisioner_core::name::Member;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::client::Node;
use super::{NAME, members, tasks};

const LIMIT: Duration = Duration::from_secs(5);
const PATH: &str = "/_cluster/settings?flat_settings=true";
const KINDS: [&str; 2] = ["persistent", "transient"];

pub(super) async fn drift(access: &Access<'_>) -> Comparisons {
    // Every node has the same settings, so one that answers is enough.
    let standing: Vec<&Member> =
        members(access.stack).filter(|member| access.observed.workload(member).is_some()).collect();
    let mut reasons = Vec::new();
    for member in &standing {
        if !access.observed.is_running(member) {
            reasons.push(format!("{member} does not run"));
            continue;
        }
        match settings(access, member).await {
            Ok(found) => return compared(member, &found),
            Err(reason) => reasons.push(reason),
        }
    }
    let first = standing.first();
    first.map(|member| Comparison::unknown(NAME, member, "settings", reasons.join("; "))).into_iter().collect()
}

async fn settings(access: &Access<'_>, member: &Member) -> Result<Value, String> {
    Node::of(access, member, LIMIT).await?.read(PATH).await.map_err(reason)
}

fn reason(broken: Broken) -> String {
    match broken {
        Broken::Fail(reason) | Broken::Unknown(reason) => reason,
    }
}

fn by_hand(found: &Value) -> Vec<(&'static str, String)> {
    let of = |kind: &'static str| {
        let names = found[kind].as_object().into_iter().flat_map(Map::keys);
        names.map(move |name| (kind, name.clone()))
    };
    KINDS.into_iter().flat_map(of).collect()
}

fn compared(member: &Member, found: &Value) -> Comparisons {
    let repair = || Repair::Run { task: Task::new(NAME, tasks::RESET).on(member) };
    let compare =
        |what: String, found: String| Comparison::texts(NAME, member, what, ("not set".to_owned(), found), repair());
    let by_hand = by_hand(found);
    if by_hand.is_empty() {
        return vec![compare("settings".to_owned(), "not set".to_owned())];
    }
    by_hand.into_iter().map(|(kind, name)| compare(format!("setting.{name}"), format!("set ({kind})"))).collect()
}

pub(super) async fn reset(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let failed = |broken: Broken| Failure::because(format!("reset cluster settings on {member}"), reason(broken));
    let node = Node::of(access, member, LIMIT).await.map_err(|error| failed(Broken::Unknown(error)))?;
    let found = node.read(PATH).await.map_err(failed)?;
    let mut body = json!({});
    for (kind, name) in by_hand(&found) {
        body[kind][name] = Value::Null;
    }
    node.call(Method::PUT, "/_cluster/settings", Some(&body)).await.map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_either_kind_is_by_hand_and_its_value_is_not_shown() {
        let found = json!({
            "persistent": {"cluster.routing.allocation.enable": "none"},
            "transient": {"indices.recovery.max_bytes_per_sec": "1mb"},
        });
        let told: Vec<String> =
            compared(&Member::named("elasticsearch-1"), &found).iter().filter_map(Comparison::because).collect();
        assert_eq!(
            told,
            [
                "setting.cluster.routing.allocation.enable is set (persistent), expected not set",
                "setting.indices.recovery.max_bytes_per_sec is set (transient), expected not set",
            ]
        );
        assert_eq!(compared(&Member::named("elasticsearch-1"), &json!({"persistent": {}, "transient": {}})).len(), 1);
    }
}
