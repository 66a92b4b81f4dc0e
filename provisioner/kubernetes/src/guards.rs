//! What stands around members and leads nobody to them: accounts, budgets, policies.

use futures_util::future::try_join3;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use provisioner_core::engine::EngineError;
use provisioner_core::name::Member;
use serde_json::Value;

use crate::connect::KubernetesEngine;
use crate::{labels, pods};

pub(crate) struct Guards {
    accounts: Vec<ObjectMeta>,
    budgets: Vec<ObjectMeta>,
    policies: Vec<ObjectMeta>,
}

impl Guards {
    pub(crate) fn has_policy(&self, name: &str) -> bool {
        named(&self.policies, name).is_some()
    }

    /// The state of a member's own, if all of them are there.
    pub(crate) fn state(&self, member: &Member, component: &str) -> Option<String> {
        named(&self.accounts, component)?;
        Some(state([named(&self.budgets, component)?, named(&self.policies, member.as_str())?]))
    }
}

fn named<'a>(all: &'a [ObjectMeta], name: &str) -> Option<&'a ObjectMeta> {
    all.iter().find(|meta| pods::name(meta) == name)
}

/// The server counts each change of what a budget or a policy asks for, whoever made it.
fn state<'a>(guards: impl IntoIterator<Item = &'a ObjectMeta>) -> String {
    let each = guards
        .into_iter()
        .map(|meta| format!("{}/{}", meta.uid.as_deref().unwrap_or_default(), meta.generation.unwrap_or_default()));
    each.collect::<Vec<_>>().join(" ")
}

/// The same of what has just been applied, in the order in which it is rendered.
pub(crate) fn applied_state(objects: &[Value], applied: &[ObjectMeta]) -> String {
    let is_counted = |object: &Value| matches!(object["kind"].as_str(), Some("PodDisruptionBudget" | "NetworkPolicy"));
    state(objects.iter().zip(applied).filter(|(object, _)| is_counted(object)).map(|(_, meta)| meta))
}

impl KubernetesEngine {
    pub(crate) async fn guards(&self) -> Result<Guards, EngineError> {
        let ours = format!("{}={}", labels::STACK, self.names.stack);
        let (accounts, budgets, policies) = try_join3(
            self.list_meta::<ServiceAccount>(&ours),
            self.list_meta::<PodDisruptionBudget>(&ours),
            self.list_meta::<NetworkPolicy>(&ours),
        )
        .await?;
        Ok(Guards { accounts: metas(accounts), budgets: metas(budgets), policies: metas(policies) })
    }
}

fn metas<K>(listed: Vec<PartialObjectMeta<K>>) -> Vec<ObjectMeta> {
    listed.into_iter().map(|object| object.metadata).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_applied_reads_as_what_is_found_until_somebody_changes_it() {
        let meta = |name: &str, generation: i64| {
            serde_json::from_value::<ObjectMeta>(json!({"name": name, "uid": name, "generation": generation})).unwrap()
        };
        let objects = ["ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"].map(|kind| json!({"kind": kind}));
        let noted = applied_state(&objects, &[meta("redis", 0), meta("redis", 1), meta("redis-1", 2)]);
        let found = |budget, policies| {
            let guards = Guards { accounts: vec![meta("redis", 0)], budgets: vec![meta("redis", budget)], policies };
            guards.state(&Member::nth("redis", 1), "redis")
        };
        assert_eq!(found(1, vec![meta("redis-1", 2)]), Some(noted.clone()));
        assert_ne!(found(2, vec![meta("redis-1", 2)]), Some(noted));
        assert_eq!(found(1, vec![meta("redis-2", 2)]), None);
    }
}
