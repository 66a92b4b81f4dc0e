//! What the cluster can tell about a stack after a failure: how its pods stand, and what happened to them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Event, Pod};
use provisioner_core::engine::EngineError;
use serde_json::{Value, json};

use crate::connect::KubernetesEngine;
use crate::labels;
use crate::pods;

impl KubernetesEngine {
    pub(crate) async fn tell(&self, since: u64) -> Result<BTreeMap<String, String>, EngineError> {
        let mut events: Vec<(i64, String)> = self.list::<Event>("").await?.iter().map(line).collect();
        events.retain(|(at, _)| u64::try_from(*at).unwrap_or_default() >= since);
        events.sort();
        let events = events.into_iter().map(|(_, line)| line + "\n").collect();
        let mut files = BTreeMap::from([("events.txt".to_owned(), events)]);
        for pod in self.list::<Pod>(&format!("{}={}", labels::STACK, self.names.stack)).await? {
            files.insert(format!("pods/{}.json", pods::name(&pod.metadata)), format!("{:#}\n", told(&pod)));
        }
        Ok(files)
    }
}

fn line(event: &Event) -> (i64, String) {
    let at = event.last_timestamp.as_ref().map(|time| time.0.as_second());
    let at = at.or(event.event_time.as_ref().map(|time| time.0.as_second())).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let about = &event.involved_object;
    let line = format!(
        "{at} {} {} {} {}: {}",
        text(&event.type_),
        text(&about.kind).to_lowercase(),
        text(&about.name),
        text(&event.reason),
        text(&event.message)
    );
    (at, line)
}

/// The parts that explain an end. Environment and command lines stay out, since a person may have put secrets there.
fn told(pod: &Pod) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let limits: Vec<Value> =
        spec.containers.iter().map(|one| json!({"container": one.name, "resources": one.resources})).collect();
    json!({
        "name": pods::name(&pod.metadata),
        "node": spec.node_name,
        "deleted": pod.metadata.deletion_timestamp,
        "grace": spec.termination_grace_period_seconds,
        "limits": limits,
        "status": pod.status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event: Event = serde_json::from_value(json!({
            "metadata": {}, "type": "Warning", "reason": "BackOff", "message": "Back-off pulling image",
            "involvedObject": {"kind": "Pod", "name": "redis-1-0"}, "lastTimestamp": "1970-01-01T00:00:07Z",
        }))
        .unwrap();
        assert_eq!(line(&event), (7, "7 Warning pod redis-1-0 BackOff: Back-off pulling image".to_owned()));
    }

    #[test]
    fn what_people_put_into_variables_and_commands_is_not_shown() {
        let container = json!({"name": "main", "command": ["s3cret"], "env": [{"name": "TOKEN", "value": "s3cret"}]});
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"containers": [container]}})).unwrap();
        assert!(!told(&pod).to_string().contains("s3cret"));
    }
}
