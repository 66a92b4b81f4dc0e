//! The namespace of a stack: made with the first thing, marked as the stack's network, removed with the last thing.

use std::time::Duration;

use futures_util::future;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::DeleteParams;
use kube::runtime::wait::await_condition;
use provisioner_core::engine::EngineError;
use serde_json::{Value, json};

use crate::connect::KubernetesEngine;
use crate::error::code;
use crate::guards;
use crate::image;
use crate::labels::{self, Kind, Names};

/// A namespace goes when everything in it has: pods end within their grace periods.
const REMOVAL_LIMIT: Duration = Duration::from_secs(180);

/// What is known of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) is_made: bool,
    pub(crate) is_network: bool,
    pub(crate) is_leaving: bool,
    /// What the server counted of the denial when it was applied.
    pub(crate) guards: Option<String>,
}

/// Whose a namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Absent,
    Ours(Standing),
    Nobodys,
    Stacks(String),
    Leaving,
}

pub(crate) fn whose(names: &Names, found: Option<&Namespace>) -> Whose {
    let Some(namespace) = found else { return Whose::Absent };
    let meta = &namespace.metadata;
    if meta.deletion_timestamp.is_some() {
        return Whose::Leaving;
    }
    let is_set = |key: &str| labels::label(meta, key) == Some("true");
    match labels::label(meta, labels::STACK) {
        None => Whose::Nobodys,
        Some(stack) if stack == names.stack.as_str() => Whose::Ours(Standing {
            is_made: is_set(labels::MADE),
            is_network: is_set(labels::NETWORK),
            is_leaving: is_set(labels::LEAVING),
            guards: labels::annotation(meta, labels::GUARDS).map(str::to_owned),
        }),
        Some(other) => Whose::Stacks(other.to_owned()),
    }
}

/// The namespace as it should be. One that was not made here keeps its own ways.
pub(crate) fn object(names: &Names, standing: &Standing) -> Value {
    let mut wanted = names.labels(Kind::Namespace);
    let mut label = |key: &str, value: &str| wanted.insert(key.to_owned(), value.to_owned());
    if standing.is_made {
        label(labels::MADE, "true");
        label("pod-security.kubernetes.io/enforce", "restricted");
    }
    if standing.is_network {
        label(labels::NETWORK, "true");
    }
    if standing.is_leaving {
        label(labels::LEAVING, "true");
    }
    let mut object =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.namespace, "labels": wanted}});
    if let Some(noted) = &standing.guards {
        object["metadata"]["annotations"] = json!({labels::GUARDS: noted});
    }
    object
}

pub(crate) const DENY: &str = "default-deny";

/// Nobody reaches the stack's pods; each member's own policy says who does. What else is in the namespace is left alone.
pub(crate) fn default_deny(names: &Names) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": DENY, "labels": names.labels(Kind::Namespace)},
        "spec": {
            "podSelector": {"matchLabels": {labels::STACK: names.stack.as_str()}},
            "policyTypes": ["Ingress"],
        },
    })
}

impl KubernetesEngine {
    async fn namespace_found(&self) -> Result<Option<Namespace>, EngineError> {
        let name = &self.names.namespace;
        self.ask(format!("read namespace {name}"), self.namespaces().get_opt(name)).await
    }

    pub(crate) async fn whose_namespace(&self) -> Result<Whose, EngineError> {
        Ok(whose(&self.names, self.namespace_found().await?.as_ref()))
    }

    pub(crate) async fn forget_namespace(&self) {
        *self.has_namespace.lock().await = false;
    }

    /// Makes it, or takes one that was given and holds nothing.
    pub(crate) async fn ensure_namespace(&self) -> Result<(), EngineError> {
        // Held throughout: of many who come at once one makes it.
        let mut has_namespace = self.has_namespace.lock().await;
        if *has_namespace {
            return Ok(());
        }
        let mut whose = self.whose_namespace().await?;
        if whose == Whose::Leaving {
            self.await_namespace_gone().await?;
            whose = Whose::Absent;
        }
        let new = |is_made| object(&self.names, &Standing { is_made, ..Standing::default() });
        match whose {
            Whose::Ours(_) | Whose::Leaving => {}
            Whose::Absent => {
                let made = self.apply(&new(true)).await;
                // Another provisioner may have been faster.
                if made.is_err() && !matches!(self.whose_namespace().await, Ok(Whose::Ours(_))) {
                    return made;
                }
            }
            Whose::Nobodys => {
                self.refuse_occupied().await?;
                self.apply(&new(false)).await?;
            }
            Whose::Stacks(other) => return Err(self.occupied(&format!("it belongs to stack {other}"))),
        }
        *has_namespace = true;
        Ok(())
    }

    /// A namespace without our labels is taken only if somebody named it and nothing runs or is kept in it.
    pub(crate) async fn refuse_occupied(&self) -> Result<(), EngineError> {
        if !self.names.is_given {
            return Err(self.occupied("it was not made for this stack"));
        }
        let (pods, claims) = future::try_join(self.list::<Pod>(""), self.list::<PersistentVolumeClaim>("")).await?;
        let found = pods.iter().map(|pod| ("pod", &pod.metadata));
        let mut found = found.chain(claims.iter().map(|claim| ("claim", &claim.metadata)));
        match found.next() {
            None => Ok(()),
            Some((kind, meta)) => {
                let name = meta.name.as_deref().unwrap_or_default();
                Err(self.occupied(&format!("{kind} {name} is in it, which was not made for this stack")))
            }
        }
    }

    pub(crate) fn occupied(&self, why: &str) -> EngineError {
        let Names { stack, namespace, .. } = &self.names;
        let detail = format!("{why}; name an empty one (--namespace), or name the stack otherwise");
        EngineError::unfit(format!("use namespace {namespace} for stack {stack}"), detail)
    }

    pub(crate) async fn ensure_network(&self) -> Result<(), EngineError> {
        self.ensure_namespace().await?;
        let Whose::Ours(standing) = self.whose_namespace().await? else {
            return Err(self.occupied("it was removed just now"));
        };
        let denial = [default_deny(&self.names)];
        let guards = Some(guards::applied_state(&denial, &self.apply_all(&denial).await?)?);
        let wanted = Standing { is_network: true, is_leaving: false, guards, is_made: standing.is_made };
        if standing == wanted { Ok(()) } else { self.apply(&object(&self.names, &wanted)).await }
    }

    pub(crate) async fn remove_network(&self) -> Result<(), EngineError> {
        let Whose::Ours(standing) = self.whose_namespace().await? else { return Ok(()) };
        for job in self.list_meta::<Job>(&self.names.selector(Kind::Job)).await? {
            self.remove_job(job.metadata.name.as_deref().unwrap_or_default()).await?;
        }
        self.delete::<NetworkPolicy>(DENY).await?;
        let wanted = Standing { is_leaving: true, is_made: standing.is_made, ..Standing::default() };
        self.apply(&object(&self.names, &wanted)).await?;
        self.sweep().await
    }

    /// Once the network is gone the namespace goes with the last thing of the stack.
    pub(crate) async fn sweep(&self) -> Result<(), EngineError> {
        let Whose::Ours(standing) = self.whose_namespace().await? else { return Ok(()) };
        if standing.is_network || !standing.is_leaving || !self.is_empty(&standing).await? {
            return Ok(());
        }
        self.forget_namespace().await;
        if standing.is_made {
            return self.remove_namespace().await;
        }
        self.forget_records().await?;
        // Applied without a field, which gives all of them back.
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.names.namespace}})).await
    }

    /// Nothing of the stack is left and, where the namespace would go with it, nothing of anybody else.
    async fn is_empty(&self, standing: &Standing) -> Result<bool, EngineError> {
        let ours = format!("{}={}", labels::STACK, self.names.stack);
        let counted = if standing.is_made { "" } else { ours.as_str() };
        let none = |count: usize| count == 0;
        let (stateful, stateless, claims, secrets) = future::try_join4(
            self.list_meta::<StatefulSet>(counted),
            self.list_meta::<Deployment>(counted),
            self.list_meta::<PersistentVolumeClaim>(counted),
            self.list_meta::<Secret>(counted),
        )
        .await?;
        let (records, pods, services) = future::try_join3(
            self.records_present(),
            self.list_meta::<Pod>(counted),
            self.list_meta::<Service>(counted),
        )
        .await?;
        let has_records = records.0.keys().any(|key| key != image::RECORD);
        let is_leaving = |meta: &kube::api::ObjectMeta| meta.deletion_timestamp.is_some();
        let pods = pods.iter().filter(|pod| !is_leaving(&pod.metadata)).count();
        Ok(!has_records
            && [stateful.len(), stateless.len(), claims.len(), secrets.len(), pods, services.len()]
                .into_iter()
                .all(none))
    }

    pub(crate) async fn remove_namespace(&self) -> Result<(), EngineError> {
        let name = &self.names.namespace;
        let deleted = async {
            match self.namespaces().delete(name, &DeleteParams::background()).await {
                Err(error) if code(&error) == Some(404) => Ok(()),
                other => other.map(|_| ()),
            }
        };
        self.ask(format!("remove namespace {name}"), deleted).await?;
        self.await_namespace_gone().await
    }

    async fn await_namespace_gone(&self) -> Result<(), EngineError> {
        let name = &self.names.namespace;
        let operation = format!("wait until namespace {name} is gone");
        let gone = await_condition(self.namespaces(), name, |found: Option<&Namespace>| found.is_none());
        match tokio::time::timeout(REMOVAL_LIMIT, gone).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(EngineError::failed(operation, error)),
            Err(_) => Err(EngineError::TimedOut { operation, after: REMOVAL_LIMIT }),
        }
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::name::StackName;

    use super::*;

    fn names() -> Names {
        Names { stack: StackName::new("dev").unwrap(), namespace: "dev".to_owned(), is_given: false }
    }

    fn namespace(labels: &Value) -> Namespace {
        serde_json::from_value(json!({"metadata": {"name": "dev", "labels": labels}})).unwrap()
    }

    #[test]
    fn a_namespace_is_ours_by_its_label_alone() {
        let standing =
            Standing { is_made: true, is_network: true, is_leaving: false, guards: Some("uid/1".to_owned()) };
        let ours: Namespace = serde_json::from_value(object(&names(), &standing)).unwrap();
        assert_eq!(whose(&names(), Some(&ours)), Whose::Ours(standing));
        assert_eq!(whose(&names(), Some(&namespace(&json!({})))), Whose::Nobodys);
        let other = namespace(&json!({"provisioner.dev/stack": "ci"}));
        assert_eq!(whose(&names(), Some(&other)), Whose::Stacks("ci".to_owned()));
        assert_eq!(whose(&names(), None), Whose::Absent);
    }

    #[test]
    fn only_a_namespace_of_our_own_is_told_how_pods_must_be() {
        let standing = |is_made| Standing { is_made, ..Standing::default() };
        let label = |is_made| {
            object(&names(), &standing(is_made))["metadata"]["labels"]["pod-security.kubernetes.io/enforce"].clone()
        };
        assert_eq!((label(true), label(false)), (json!("restricted"), Value::Null));
    }
}
