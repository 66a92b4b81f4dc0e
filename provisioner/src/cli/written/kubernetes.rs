//! The section of the cluster.

use provisioner_core::manifest::Kubernetes;
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct WrittenKubernetes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_class: Option<&'a str>,
    access_mode: &'static str,
    service: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pull_secret: Option<&'a str>,
}

impl<'a> From<&'a Kubernetes> for WrittenKubernetes<'a> {
    fn from(kubernetes: &'a Kubernetes) -> Self {
        let Kubernetes { context, namespace, storage_class, access_mode, service, registry, pull_secret } = kubernetes;
        Self {
            context: context.as_deref(),
            namespace: namespace.as_deref(),
            storage_class: storage_class.as_deref(),
            access_mode: access_mode.word(),
            service: service.word(),
            registry: registry.as_deref(),
            pull_secret: pull_secret.as_deref(),
        }
    }
}
