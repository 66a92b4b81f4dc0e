//! What the engine may ask of a cluster, as one table: the Role that suffices is made from it, the preflight asks for each
//! line of it, and a request that is not in it does not get past a debug build.

use serde_json::{Value, json};

/// The least that suffices in the namespace of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub group: &'static str,
    pub resources: &'static [&'static str],
    pub verbs: &'static [&'static str],
}

const CORE: &str = "";
const STANDING: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

pub const RULES: &[Rule] = &[
    // Its own alone: whose it is, and the labels that say so.
    rule(CORE, &["namespaces"], &["get", "patch"]),
    rule(CORE, &["pods"], &["get", "list", "watch", "create", "patch", "delete"]),
    // Reads and writes of files, checks from inside. The verb is `create` by newer servers, `get` by older ones.
    rule(CORE, &["pods/exec", "pods/portforward"], &["get", "create"]),
    rule(CORE, &["pods/log"], &["get"]),
    rule(CORE, &["services", "serviceaccounts"], &["get", "list", "create", "patch", "delete"]),
    // Records are written by compare-and-swap, which is an update; the lock is a Lease.
    rule(CORE, &["configmaps"], &["get", "list", "create", "update", "delete"]),
    rule(CORE, &["secrets"], &["get", "list", "create", "update", "patch", "delete"]),
    rule(CORE, &["persistentvolumeclaims"], STANDING),
    // Why a pod does not start, and what the namespace is kept to.
    rule(CORE, &["events", "resourcequotas"], &["list"]),
    rule("apps", &["deployments", "statefulsets"], STANDING),
    rule("batch", &["jobs"], STANDING),
    rule("coordination.k8s.io", &["leases"], &["get", "list", "create", "update", "delete"]),
    rule("networking.k8s.io", &["networkpolicies"], &["list", "create", "patch", "delete"]),
    rule("policy", &["poddisruptionbudgets"], &["list", "create", "patch", "delete"]),
];

const fn rule(group: &'static str, resources: &'static [&'static str], verbs: &'static [&'static str]) -> Rule {
    Rule { group, resources, verbs }
}

/// One thing that a user may do or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Permission {
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) verb: &'static str,
}

pub(crate) fn permissions() -> impl Iterator<Item = Permission> {
    RULES.iter().flat_map(|rule| {
        let each = move |resource: &'static str| {
            rule.verbs.iter().map(move |verb| Permission { group: rule.group, resource, verb })
        };
        rule.resources.iter().flat_map(move |resource| each(resource))
    })
}

/// Whether the table has it.
pub(crate) fn permits(group: &str, resource: &str, verb: &str) -> bool {
    permissions().any(|known| (known.group, known.resource, known.verb) == (group, resource, verb))
}

/// The name of Role and RoleBinding.
const NAME: &str = "provisioner";
/// To be replaced by a user, a group or a service account.
pub const SUBJECT: &str = "OPERATOR";

/// The Role that suffices for every verb in this namespace, and what gives it to somebody.
pub fn role(namespace: &str) -> [Value; 2] {
    const API: &str = "rbac.authorization.k8s.io";
    let version = format!("{API}/v1");
    let metadata = json!({"name": NAME, "namespace": namespace});
    let rules: Vec<Value> = RULES
        .iter()
        .map(|rule| json!({"apiGroups": [rule.group], "resources": rule.resources, "verbs": rule.verbs}))
        .collect();
    [
        json!({"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules}),
        json!({
            "apiVersion": version,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": API, "kind": "Role", "name": NAME},
            "subjects": [{"apiGroup": API, "kind": "User", "name": SUBJECT}],
        }),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_permission_stands_in_the_table_once_and_none_is_a_wildcard() {
        let all: Vec<Permission> = permissions().collect();
        let distinct: BTreeSet<Permission> = all.iter().copied().collect();
        assert_eq!(all.len(), distinct.len());
        let words = all.iter().flat_map(|known| [known.group, known.resource, known.verb]);
        assert!(words.into_iter().all(|word| word != "*"));
        assert!(permits("apps", "statefulsets", "patch") && !permits("", "nodes", "list"));
    }
}
