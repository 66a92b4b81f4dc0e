//! What the broker has, held against its definitions. Passwords cannot be read; `verify` proves them by using them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use provisioner_core::component::{Access, Task};
use provisioner_core::drift::{Comparison, Comparisons, Repair};
use provisioner_core::finding::Broken;
use serde_json::{Value, json};

use super::definitions::{self, DEFINE};
use super::management::Management;
use super::{NAME, User, VHOST, member};

const LIMIT: Duration = Duration::from_secs(3);
/// The checks declare it themselves while they run.
const PASSING: &str = "probe.own";

/// A kind of definition: how one is told from another, what is compared, and what takes a foreign one away.
struct Kind {
    key: &'static str,
    word: &'static str,
    names: &'static [&'static str],
    values: &'static [&'static str],
    /// Of `rabbitmqctl`, with the name behind it; empty: `rabbitmqctl` has none.
    remove: &'static str,
}

const KINDS: [Kind; 6] = [
    Kind { key: "users", word: "user", names: &["name"], values: &["tags"], remove: "delete_user" },
    Kind {
        key: "permissions",
        word: "permission",
        names: &["user"],
        values: &["configure", "write", "read"],
        remove: "clear_permissions --vhost app",
    },
    Kind {
        key: "queues",
        word: "queue",
        names: &["name"],
        values: &["durable", "auto_delete", "arguments"],
        remove: "delete_queue --vhost app",
    },
    Kind {
        key: "exchanges",
        word: "exchange",
        names: &["name"],
        values: &["type", "durable", "auto_delete", "internal", "arguments"],
        remove: "",
    },
    Kind {
        key: "bindings",
        word: "binding",
        names: &["source", "routing_key", "destination"],
        values: &["arguments"],
        remove: "",
    },
    Kind {
        key: "policies",
        word: "policy",
        names: &["name"],
        values: &["pattern", "apply-to", "priority", "definition"],
        remove: "clear_policy --vhost app",
    },
];

pub(super) async fn drift(access: &Access<'_>) -> Comparisons {
    if access.stack.workload(&member()).is_none() || access.observed.workload(&member()).is_none() {
        return Vec::new();
    }
    match compared(access).await {
        Ok(comparisons) => comparisons,
        Err(reason) => vec![Comparison::unknown(NAME, &member(), "definitions", reason)],
    }
}

async fn compared(access: &Access<'_>) -> Result<Comparisons, String> {
    let wanted = definitions::wanted(access.stack)?;
    let management = Management::of(access, LIMIT).await?;
    let mut all = Vec::new();
    for kind in KINDS {
        let path = match kind.key {
            "users" => "/api/users".to_owned(),
            "permissions" => format!("/api/vhosts/{VHOST}/permissions"),
            key => format!("/api/{key}/{VHOST}"),
        };
        let found: Vec<Value> = management.read(&path).await.map_err(|broken| match broken {
            Broken::Fail(reason) | Broken::Unknown(reason) => reason,
        })?;
        let wanted = wanted[kind.key].as_array().cloned().unwrap_or_default();
        all.extend(kind.compare(&wanted, &found));
    }
    Ok(all)
}

fn define() -> Repair {
    Repair::Run { task: Task::new(NAME, DEFINE).on(&member()) }
}

impl Kind {
    fn compare(&self, wanted: &[Value], found: &[Value]) -> Comparisons {
        let by_name = |values: &[Value]| -> BTreeMap<String, Value> {
            values.iter().filter(|value| self.is_ours(value)).map(|value| (self.name(value), value.clone())).collect()
        };
        let (wanted, found) = (by_name(wanted), by_name(found));
        let names: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
        let compared = names.into_iter().map(|name| {
            let (expected, seen, repair) = match (wanted.get(name), found.get(name)) {
                (Some(_), None) => ("there".to_owned(), "missing".to_owned(), define()),
                (None, Some(_)) => ("not there".to_owned(), "foreign".to_owned(), self.removal(name)),
                (Some(wanted), Some(found)) => self.values(wanted, found),
                (None, None) => (String::new(), String::new(), define()),
            };
            Comparison::texts(NAME, &member(), format!("{}.{name}", self.word), (expected, seen), repair)
        });
        compared.collect()
    }

    /// What the broker makes by itself, and what the administrator is, is in no definitions.
    fn is_ours(&self, value: &Value) -> bool {
        let text = |key: &str| value[key].as_str().unwrap_or_default();
        match self.key {
            "users" => text("name") != User::Admin.name(),
            "exchanges" => !text("name").is_empty() && !text("name").starts_with("amq."),
            "bindings" => !text("source").is_empty() && text("destination") != PASSING,
            "queues" => text("name") != PASSING,
            _ => true,
        }
    }

    fn name(&self, value: &Value) -> String {
        let parts = self.names.iter().map(|name| value[*name].as_str().unwrap_or_default());
        parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }

    fn values(&self, wanted: &Value, found: &Value) -> (String, String, Repair) {
        let differing: Vec<&str> =
            self.values.iter().copied().filter(|key| plain(&wanted[*key]) != plain(&found[*key])).collect();
        let told = |value: &Value| {
            let parts = differing.iter().map(|key| format!("{key} {}", plain(&value[*key])));
            if differing.is_empty() { "as declared".to_owned() } else { parts.collect::<Vec<_>>().join(", ") }
        };
        // A queue and an exchange cannot be changed, only made anew, and messages would be lost with them.
        let repair = match self.key {
            "queues" | "exchanges" => self.removal(&self.name(found)),
            _ => define(),
        };
        (told(wanted), told(found), repair)
    }

    fn removal(&self, name: &str) -> Repair {
        let command = if self.remove.is_empty() {
            format!("remove {} {name} in RabbitMQ's management page (provisioner open rabbitmq)", self.word)
        } else {
            format!("provisioner exec {} -- rabbitmqctl {} {name}", member(), self.remove)
        };
        Repair::Command { command }
    }
}

/// Without what the broker adds: a queue's arguments of no other value than its type's, tags in either form.
fn plain(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::Array(items) => Value::String(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")),
        value => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(kind: &str, wanted: &Value, found: &Value) -> Vec<String> {
        let kind = KINDS.iter().find(|one| one.key == kind).unwrap();
        let compared = kind.compare(wanted.as_array().unwrap(), found.as_array().unwrap());
        compared.iter().filter_map(Comparison::because).collect()
    }

    #[test]
    fn queues_are_missing_foreign_or_different() {
        let queue = |name: &str, kind: &str| json!({"name": name, "durable": true, "auto_delete": false, "arguments": {"x-queue-type": kind}});
        let wanted = json!([queue("q.email", "quorum"), queue("q.gone", "quorum")]);
        let found = json!([queue("q.email", "classic"), queue("mine", "classic"), queue(PASSING, "classic")]);
        assert_eq!(
            reasons("queues", &wanted, &found),
            [
                "queue.mine is foreign, expected not there",
                "queue.q.email is arguments {\"x-queue-type\":\"classic\"}, expected arguments {\"x-queue-type\":\"quorum\"}",
                "queue.q.gone is missing, expected there",
            ]
        );
    }

    #[test]
    fn what_the_broker_makes_by_itself_is_not_foreign() {
        let found = json!([{"name": ""}, {"name": "amq.topic"}]);
        assert_eq!(reasons("exchanges", &json!([]), &found), Vec::<String>::new());
        let found = json!([{"source": "", "destination": "q", "routing_key": "q", "arguments": {}}]);
        assert_eq!(reasons("bindings", &json!([]), &found), Vec::<String>::new());
        assert_eq!(
            reasons("users", &json!([]), &json!([{"name": "admin", "tags": ["administrator"]}])),
            Vec::<String>::new()
        );
    }
}
