//! `config rbac`: what whoever runs the other verbs must be allowed in the namespace, for whoever allows it.

use provisioner_kubernetes::{SUBJECT, role};

use super::{Call, Context, Exit, Stop};

pub(super) fn rbac(call: &Call<'_>) -> anyhow::Result<()> {
    let manifest = Context::offline(call)?.manifest;
    let Some(kubernetes) = &manifest.kubernetes else {
        let stop = Stop::new(Exit::Usage, format!("stack {} runs on Docker, which knows no roles", manifest.name));
        return Err(stop.hint("a section `kubernetes:` in the manifest makes Kubernetes its engine").into());
    };
    let namespace = kubernetes.namespace.clone().unwrap_or_else(|| manifest.name.to_string());
    let objects = role(&namespace);
    let documents = objects.iter().map(serde_yaml::to_string).collect::<Result<Vec<_>, _>>()?;
    call.printer.data(&objects, || format!("{}{}", head(&namespace), documents.join("---\n")))
}

fn head(namespace: &str) -> String {
    format!(
        "# The least that suffices for a stack in namespace {namespace}. Somebody with more rights makes that first:\n\
         #   kubectl create namespace {namespace}\n\
         #   kubectl label namespace {namespace} pod-security.kubernetes.io/enforce=restricted\n\
         # {SUBJECT} stands for a user; a group or a service account does as well.\n"
    )
}
