//! What stands around members and leads nobody to them: accounts, budgets, policies.

use futures_util::future::try_join3;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DynamicObject, PartialObjectMeta};
use provisioner_core::engine::EngineError;
use provisioner_core::name::Member;
use serde_json::Value;

use crate::connect::KubernetesEngine;
use crate::namespace::DENY;
use crate::{labels, pods};

pub(crate) struct Guards {
    accounts: Vec<ObjectMeta>,
    budgets: Vec<ObjectMeta>,
    policies: Vec<ObjectMeta>,
}

impl Guards {
    /// The state of the policy that shuts out whoever no other one lets in.
    pub(crate) fn denial(&self) -> Option<String> {
        named(&self.policies, DENY).map(|policy| state([policy]))
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

/// The same of what has just been applied, in the order in which it is rendered. Where somebody else's field stands beside the
/// rendered ones, nothing was in conflict and all the same it asks for something else.
pub(crate) fn applied_state(objects: &[Value], applied: &[DynamicObject]) -> Result<String, EngineError> {
    let is_counted = |object: &Value| matches!(object["kind"].as_str(), Some("PodDisruptionBudget" | "NetworkPolicy"));
    let counted = || objects.iter().zip(applied).filter(|(object, _)| is_counted(object));
    for (object, applied) in counted() {
        if let Some(field) = foreign_field(&object["spec"], &applied.data["spec"]) {
            let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
            let detail = format!(
                "somebody else set spec.{field}; it is not overwritten: take it back (kubectl edit), or remove the object and run this again"
            );
            return Err(EngineError::failed(format!("apply {kind} {}", pods::name(&applied.metadata)), detail));
        }
    }
    Ok(state(counted().map(|(_, applied)| &applied.metadata)))
}

fn foreign_field<'a>(rendered: &Value, found: &'a Value) -> Option<&'a str> {
    let fields = found.as_object()?;
    fields.iter().find(|(field, value)| rendered[field.as_str()] != **value).map(|(field, _)| field.as_str())
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
        let applied = [("redis", 0), ("redis", 1), ("redis-1", 2)].map(|(name, generation)| DynamicObject {
            types: None,
            metadata: meta(name, generation),
            data: json!({}),
        });
        let noted = applied_state(&objects, &applied).unwrap();
        let found = |budget, policies| {
            let guards = Guards { accounts: vec![meta("redis", 0)], budgets: vec![meta("redis", budget)], policies };
            guards.state(&Member::nth("redis", 1), "redis")
        };
        assert_eq!(found(1, vec![meta("redis-1", 2)]), Some(noted.clone()));
        assert_ne!(found(2, vec![meta("redis-1", 2)]), Some(noted));
        assert_eq!(found(1, vec![meta("redis-2", 2)]), None);
    }

    #[test]
    fn a_field_that_somebody_adds_is_told() {
        let rendered = json!({"policyTypes": ["Ingress"]});
        assert_eq!(foreign_field(&rendered, &rendered), None);
        assert_eq!(foreign_field(&rendered, &json!({"policyTypes": ["Ingress"], "ingress": [{}]})), Some("ingress"));
    }
}
