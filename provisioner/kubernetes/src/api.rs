//! One request each, with a limit and an error that says what was being done.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PropagationPolicy, ValidationDirective,
};
use kube::core::PartialObjectMeta;
use kube::{Api, Error, Resource};
use provisioner_core::engine::EngineError;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::connect::KubernetesEngine;
use crate::error::{code, translate};
use crate::labels::MANAGER;
use crate::rbac;

/// Streams may go on for as long as they like.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Kinds of the namespace of a stack.
pub(crate) trait Kept:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned
{
}

impl<K> Kept for K where K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned
{}

impl KubernetesEngine {
    pub(crate) fn api<K: Kept>(&self) -> Api<K> {
        Api::namespaced(self.kubernetes.client.clone(), &self.names.namespace)
    }

    pub(crate) fn namespaces(&self) -> Api<Namespace> {
        Api::all(self.kubernetes.client.clone())
    }

    /// To be put into `map_err`: says what was being done.
    pub(crate) fn failed(&self, operation: impl Into<String>) -> impl FnOnce(Error) -> EngineError {
        let (operation, address) = (operation.into(), self.kubernetes.cluster.to_string());
        move |error| translate(error, operation, &address)
    }

    pub(crate) async fn ask<T>(
        &self,
        operation: impl Into<String>,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        let operation = operation.into();
        match tokio::time::timeout(ANSWER_LIMIT, request).await {
            Ok(answer) => answer.map_err(self.failed(operation)),
            Err(_) => Err(EngineError::TimedOut { operation, after: ANSWER_LIMIT }),
        }
    }

    pub(crate) async fn find<K: Kept>(&self, name: &str) -> Result<Option<K>, EngineError> {
        in_table(&ApiResource::erase::<K>(&()), "get");
        self.ask(format!("read {} {name}", kind::<K>()), self.api::<K>().get_opt(name)).await
    }

    pub(crate) async fn list<K: Kept>(&self, selector: &str) -> Result<Vec<K>, EngineError> {
        in_table(&ApiResource::erase::<K>(&()), "list");
        let params = ListParams::default().labels(selector);
        let listed = self.ask(format!("list {}s", kind::<K>()), self.api::<K>().list(&params)).await?;
        Ok(listed.items)
    }

    /// Names, labels and annotations alone: no value of a Secret leaves the server.
    pub(crate) async fn list_meta<K: Kept>(&self, selector: &str) -> Result<Vec<PartialObjectMeta<K>>, EngineError> {
        in_table(&ApiResource::erase::<K>(&()), "list");
        let params = ListParams::default().labels(selector);
        let listed = self.ask(format!("list {}s", kind::<K>()), self.api::<K>().list_metadata(&params)).await?;
        Ok(listed.items)
    }

    /// Removes what may be gone already; what it owns goes after it.
    pub(crate) async fn delete<K: Kept>(&self, name: &str) -> Result<(), EngineError> {
        self.delete_with::<K>(name, DeleteParams::background()).await
    }

    pub(crate) async fn delete_with<K: Kept>(&self, name: &str, params: DeleteParams) -> Result<(), EngineError> {
        in_table(&ApiResource::erase::<K>(&()), "delete");
        let api = self.api::<K>();
        let deleted = async {
            match api.delete(name, &params).await {
                Err(error) if code(&error) == Some(404) => Ok(()),
                other => other.map(|_| ()),
            }
        };
        self.ask(format!("remove {} {name}", kind::<K>()), deleted).await
    }

    pub(crate) async fn apply(&self, object: &Value) -> Result<(), EngineError> {
        self.applied(object).await.map(drop)
    }

    /// By server-side apply, without force: another manager's fields stay, and a conflict is an error.
    pub(crate) async fn applied(&self, object: &Value) -> Result<DynamicObject, EngineError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        let operation = format!("apply {} {name}", kind.to_lowercase());
        let (resource, is_namespaced) = resource(kind)
            .ok_or_else(|| EngineError::failed(operation.as_str(), "no such kind is made by the engine"))?;
        in_table(&resource, "patch");
        let client = self.kubernetes.client.clone();
        let api: Api<DynamicObject> = if is_namespaced {
            Api::namespaced_with(client, &self.names.namespace, &resource)
        } else {
            Api::all_with(client, &resource)
        };
        let params = PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply(MANAGER) };
        let patch = Patch::Apply(object);
        let applied = async {
            match api.patch(name, &params, &patch).await {
                // An address that was given cannot be taken back: the Service is made anew.
                Err(Error::Api(status)) if status.code == 422 && status.message.contains("clusterIP") => {
                    api.delete(name, &DeleteParams::default()).await?;
                    api.patch(name, &params, &patch).await
                }
                other => other,
            }
        };
        self.ask(operation, applied).await
    }

    pub(crate) async fn apply_all(&self, objects: &[Value]) -> Result<Vec<DynamicObject>, EngineError> {
        futures_util::future::try_join_all(objects.iter().map(|object| self.applied(object))).await
    }
}

/// What is asked of a cluster is what its Role allows: a request that the table lacks ends a debug build.
fn in_table(resource: &ApiResource, verb: &str) {
    let ApiResource { group, plural, .. } = resource;
    debug_assert!(rbac::permits(group, plural, verb), "the table of permissions has no {verb} of {plural}.{group}");
}

pub(crate) fn kind<K: Kept>() -> String {
    K::kind(&()).to_lowercase()
}

pub(crate) fn foreground() -> DeleteParams {
    DeleteParams { propagation_policy: Some(PropagationPolicy::Foreground), ..DeleteParams::default() }
}

/// How a kind is addressed, and whether it lies in a namespace.
fn resource(kind: &str) -> Option<(ApiResource, bool)> {
    let namespaced = |resource| Some((resource, true));
    match kind {
        "Namespace" => Some((ApiResource::erase::<Namespace>(&()), false)),
        "Deployment" => namespaced(ApiResource::erase::<Deployment>(&())),
        "StatefulSet" => namespaced(ApiResource::erase::<StatefulSet>(&())),
        "Job" => namespaced(ApiResource::erase::<Job>(&())),
        "Pod" => namespaced(ApiResource::erase::<Pod>(&())),
        "Service" => namespaced(ApiResource::erase::<Service>(&())),
        "ServiceAccount" => namespaced(ApiResource::erase::<ServiceAccount>(&())),
        "Secret" => namespaced(ApiResource::erase::<Secret>(&())),
        "PersistentVolumeClaim" => namespaced(ApiResource::erase::<PersistentVolumeClaim>(&())),
        "NetworkPolicy" => namespaced(ApiResource::erase::<NetworkPolicy>(&())),
        "PodDisruptionBudget" => namespaced(ApiResource::erase::<PodDisruptionBudget>(&())),
        _ => None,
    }
}
