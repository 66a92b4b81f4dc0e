//! Members and their volumes: made, replaced, removed.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::{join_all, try_join};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::wait::await_condition;
use provisioner_core::engine::{EngineError, ImageReferences, Power};
use provisioner_core::name::Member;
use provisioner_core::observed::State;
use provisioner_core::stack::{Fingerprint, SecretVersions, Volume, Workload};
use serde_json::{Value, json};

use crate::api::{Kept, foreground, kind};
use crate::connect::KubernetesEngine;
use crate::controllers::Controller;
use crate::labels::{self, Kind, Labels, Names, nonce};
use crate::render::{self, Described, Entry, Rendered};
use crate::{guards, quantity};

const REMOVAL_LIMIT: Duration = Duration::from_secs(120);

impl KubernetesEngine {
    pub(crate) async fn ensure_volume(&self, volume: &Volume) -> Result<(), EngineError> {
        self.ensure_namespace().await?;
        match self.find::<PersistentVolumeClaim>(&volume.name).await? {
            Some(found) if self.names.is(&found.metadata, Kind::Volume) => self.resize(volume, &found).await,
            Some(_) => {
                let stack = &self.names.stack;
                let detail =
                    format!("a claim of this name exists and was not made for stack {stack}; it is left untouched");
                Err(EngineError::failed(format!("create volume {}", volume.name), detail))
            }
            None => self.apply(&render::volume(&self.names, &self.kubernetes.options, volume)).await,
        }
    }

    /// Of what it was asked to be, only more of it can be asked for afterwards.
    async fn resize(&self, volume: &Volume, found: &PersistentVolumeClaim) -> Result<(), EngineError> {
        let Some((wanted, asked)) = volume.size_bytes.zip(asked_bytes(found)) else { return Ok(()) };
        let operation = format!("resize volume {}", volume.name);
        match wanted.cmp(&asked) {
            Ordering::Equal => Ok(()),
            Ordering::Less => {
                let detail = format!("it has {asked} bytes, {wanted} are wanted: a volume never shrinks");
                Err(EngineError::unfit(operation, detail))
            }
            Ordering::Greater => {
                let grown = render::grown(&self.names, volume, found, wanted);
                self.apply(&grown).await.map_err(|error| match error {
                    EngineError::Failed { detail, .. } if detail.contains("can be resized") => {
                        EngineError::unfit(operation, format!("{detail}; {}", no_expansion(volume, asked)))
                    }
                    other => other,
                })
            }
        }
    }

    pub(crate) async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        self.delete::<PersistentVolumeClaim>(name).await?;
        self.await_gone::<PersistentVolumeClaim>(name).await?;
        self.sweep().await
    }

    /// Makes the member anew unless it stands there as described.
    pub(crate) async fn ensure_workload(
        &self,
        workload: &Workload,
        images: &ImageReferences,
    ) -> Result<(), EngineError> {
        let member = &workload.member;
        let operation = format!("create {member}");
        let image = images.get(&workload.image).ok_or_else(|| {
            EngineError::failed(operation.as_str(), format!("image {} has no reference", workload.image.0))
        })?;
        let needs_command =
            !workload.secret_env.is_empty() || workload.restart == provisioner_core::stack::Restart::Never;
        if needs_command && workload.command.is_empty() {
            let detail = "secret variables and a member that is not restarted need a command, found none";
            return Err(EngineError::failed(operation, detail));
        }
        self.ensure_namespace().await?;
        let (standing, resolved) =
            try_join(self.standing(member), self.resolve_files(&workload.files, &workload.secret_env)).await?;
        // Resolved before anything is stopped, so that a missing secret costs no downtime.
        let (entries, versions) = resolved;
        if let [found] = &*standing
            && self.is_as_described(workload, image, found, &versions).await?
        {
            self.surround(workload, image).await?;
            let pods = self.pods_of(member).await?;
            return match found.state(pods.iter()) {
                State::Running | State::Restarting => Ok(()),
                _ => self.set_power(member, Power::Running).await,
            };
        }
        let in_cluster = self.in_cluster(image).await?;
        self.clear(workload, &standing).await?;
        let instance = nonce();
        let described = Described {
            names: &self.names,
            options: &self.kubernetes.options,
            workload,
            image,
            in_cluster: &in_cluster,
            instance: &instance,
        };
        let rendered = render::workload(&described);
        let files = self.files_of(workload, &entries, &instance, &versions);
        try_join(self.apply_around(member, &rendered), self.apply(&files)).await?;
        self.apply(&rendered.controller).await?;
        if standing.iter().any(|found| found.replicas == 0) {
            self.scale(member, render::is_stateful(workload), 1).await?;
        }
        self.await_running(member, &instance).await.map(|_| ())
    }

    /// Puts what stands around a member right. Its process does not notice.
    async fn surround(&self, workload: &Workload, image: &str) -> Result<(), EngineError> {
        let options = &self.kubernetes.options;
        let described = Described { names: &self.names, options, workload, image, in_cluster: "", instance: "" };
        self.apply_around(&workload.member, &render::workload(&described)).await
    }

    /// The address bears its mark only once all the others are there: one that was cut off would be taken for what the mark says.
    async fn apply_around(&self, member: &Member, rendered: &Rendered) -> Result<(), EngineError> {
        let Rendered { around, address, .. } = rendered;
        let mut unmarked = address.clone();
        unmarked["metadata"]["annotations"] = json!({});
        self.apply(&unmarked).await?;
        let public = Names::public(member);
        let is_public = around.iter().any(|object| object["metadata"]["name"] == public.as_str());
        let withdrawn = async || if is_public { Ok(()) } else { self.delete_own_service(&public).await };
        let (applied, ()) = try_join(self.apply_all(around), withdrawn()).await?;
        let mut marked = address.clone();
        marked["metadata"]["annotations"][labels::GUARDS] = guards::applied_state(around, &applied)?.into();
        self.apply(&marked).await
    }

    fn files_of(&self, workload: &Workload, entries: &[Entry], instance: &str, versions: &SecretVersions) -> Value {
        let of = Labels::from([(labels::COMPONENT.to_owned(), workload.component.clone())]);
        let fingerprints = workload.file_fingerprints(versions);
        let name = Names::files(&workload.member);
        render::files_secret(&self.names, &name, of, entries, (instance, &fingerprints))
    }

    /// Takes away what cannot become this member: somebody else's, or of the other kind.
    async fn clear(&self, workload: &Workload, standing: &[Controller]) -> Result<(), EngineError> {
        let is_stateful = render::is_stateful(workload);
        for found in standing {
            if found.is_ours(&self.names) && found.is_stateful == is_stateful {
                continue;
            }
            let name = workload.member.as_str();
            if found.is_stateful {
                self.delete_with::<StatefulSet>(name, foreground()).await?;
                self.await_gone::<StatefulSet>(name).await?;
            } else {
                self.delete_with::<Deployment>(name, foreground()).await?;
                self.await_gone::<Deployment>(name).await?;
            }
        }
        Ok(())
    }

    async fn is_as_described(
        &self,
        workload: &Workload,
        image: &str,
        found: &Controller,
        versions: &SecretVersions,
    ) -> Result<bool, EngineError> {
        let spec = workload.spec_fingerprint(image);
        let today = render::making(&self.names, &self.kubernetes.options, workload, image);
        if !found.is_ours(&self.names)
            || found.is_stateful != render::is_stateful(workload)
            || found.annotation(labels::SPEC) != Some(spec.as_str())
            || !found.making().has_process_of(&today)
        {
            return Ok(false);
        }
        Ok(self.files_noted(&workload.member, &found.instance()).await? == workload.file_fingerprints(versions))
    }

    /// What this instance's files are, as far as they were put in place.
    pub(crate) async fn files_noted(
        &self,
        member: &Member,
        instance: &str,
    ) -> Result<BTreeMap<String, Fingerprint>, EngineError> {
        let found = self.find::<Secret>(&Names::files(member)).await?;
        let found = found.filter(|found| labels::annotation(&found.metadata, labels::INSTANCE) == Some(instance));
        Ok(found.map(|found| labels::read_files(&found.metadata)).unwrap_or_default())
    }

    pub(crate) async fn remove_workload(&self, member: &Member) -> Result<(), EngineError> {
        let standing = self.standing(member).await?;
        for found in standing.iter().filter(|found| found.is_ours(&self.names)) {
            // Stopped first, in order: what is deleted at once leaves its pods to be found by somebody later.
            self.scale(member, found.is_stateful, 0).await?;
        }
        let operation = format!("stop {member}");
        let grace = standing.iter().map(grace_secs).max().unwrap_or_default();
        self.await_no_pods(&self.names.member_selector(member), &operation, grace).await?;
        self.delete_with::<StatefulSet>(member.as_str(), foreground()).await?;
        self.delete_with::<Deployment>(member.as_str(), foreground()).await?;
        self.await_gone::<StatefulSet>(member.as_str()).await?;
        self.await_gone::<Deployment>(member.as_str()).await?;
        self.delete::<Secret>(&Names::files(member)).await?;
        self.delete::<NetworkPolicy>(member.as_str()).await?;
        self.remove_unused(member, &standing).await?;
        self.sweep().await
    }

    /// Addresses and what a component shares, of which nobody is left.
    async fn remove_unused(&self, member: &Member, gone: &[Controller]) -> Result<(), EngineError> {
        let selector = self.names.selector(Kind::Workload);
        let left = try_join(self.list_meta::<StatefulSet>(&selector), self.list_meta::<Deployment>(&selector)).await?;
        let left = left.0.into_iter().map(|set| set.metadata).chain(left.1.into_iter().map(|found| found.metadata));
        let mut used: BTreeSet<String> = BTreeSet::new();
        for meta in left {
            used.extend(meta.labels.unwrap_or_default().into_iter().map(|(key, value)| format!("{key}={value}")));
        }
        let gone_labels = gone.iter().flat_map(|found| found.meta.labels.iter().flatten());
        let unused: Vec<_> = gone_labels.filter(|(key, value)| !used.contains(&format!("{key}={value}"))).collect();
        let mut services = vec![member.to_string(), Names::public(member)];
        services.extend(unused.iter().filter_map(|(key, _)| Some(labels::shared_name(key)?.to_owned())));
        for removed in join_all(services.iter().map(|name| self.delete_own_service(name))).await {
            removed?;
        }
        for (_, component) in unused.iter().filter(|(key, _)| *key == labels::COMPONENT) {
            self.delete::<ServiceAccount>(component).await?;
            self.delete::<PodDisruptionBudget>(component).await?;
        }
        Ok(())
    }

    async fn delete_own_service(&self, name: &str) -> Result<(), EngineError> {
        match self.find::<Service>(name).await? {
            Some(service) if self.names.own(&service.metadata) => self.delete::<Service>(name).await,
            _ => Ok(()),
        }
    }

    pub(crate) async fn await_gone<K>(&self, name: &str) -> Result<(), EngineError>
    where
        K: Kept + Send + Sync + 'static,
    {
        let operation = format!("wait until {} {name} is gone", kind::<K>());
        let gone = await_condition(self.api::<K>(), name, |found: Option<&K>| found.is_none());
        match tokio::time::timeout(REMOVAL_LIMIT, gone).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(EngineError::failed(operation, error)),
            Err(_) => Err(EngineError::TimedOut { operation, after: REMOVAL_LIMIT }),
        }
    }
}

/// What to do where a storage class gives no more than it gave.
fn no_expansion(volume: &Volume, asked: u64) -> String {
    format!(
        "its storage class lets no volume grow (allowVolumeExpansion): set {}.disk to {}MiB as it was, or move the data to a volume of another class",
        volume.component,
        asked >> 20
    )
}

/// The size that a claim asks for; how much of it there is by now, its class knows.
pub(crate) fn asked_bytes(claim: &PersistentVolumeClaim) -> Option<u64> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    quantity::whole(requests.get("storage")?)
}

pub(crate) fn grace_secs(controller: &Controller) -> u64 {
    let spec = controller.template.spec.as_ref();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    u64::try_from(grace).unwrap_or_default()
}
