//! What must hold in a cluster before a stack is touched: every permission, a namespace, a class for volumes, room on the
//! nodes, the images.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures_util::{StreamExt, TryStreamExt, future, stream};
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{Node, ResourceQuota};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{ListParams, PostParams};
use kube::{Api, Resource};
use provisioner_core::engine::{Condition, EngineError};
use provisioner_core::stack::{self, Stack};
use serde::de::DeserializeOwned;

use crate::connect::KubernetesEngine;
use crate::error::code;
use crate::host::{allocatable_memory, takes_pods};
use crate::image::PushedImages;
use crate::labels;
use crate::namespace::Whose;
use crate::quota;
use crate::rbac::{self, Permission};

const ASKED_AT_ONCE: usize = 16;
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const MIB: u64 = 1 << 20;

impl KubernetesEngine {
    pub(crate) async fn conditions(&self, stack: Option<&Stack>) -> Result<Vec<Condition>, EngineError> {
        let permissions = self.missing_permissions().await?;
        let mut conditions = vec![permissions_told(&self.names.namespace, &permissions)];
        // Without them the rest cannot be looked at, and the first refusal would hide the list.
        if !permissions.is_empty() {
            return Ok(conditions);
        }
        let (namespace, classes, nodes, pushed, quotas) = future::try_join5(
            self.namespace_told(),
            self.all::<StorageClass>(),
            self.all::<Node>(),
            self.pushed(),
            self.list::<ResourceQuota>(""),
        )
        .await?;
        conditions.push(namespace);
        conditions.extend(quota::told(&quotas, stack));
        let has_volumes =
            stack.is_none_or(|stack| stack.resources().any(|it| matches!(it, stack::Resource::Volume(_))));
        if has_volumes {
            conditions.push(storage(classes.as_deref(), self.kubernetes.options.storage_class.as_deref()));
        }
        conditions.push(paths());
        conditions.push(room(nodes.as_deref(), stack));
        conditions.extend(stack.map(|stack| images(stack, &pushed)));
        Ok(conditions)
    }

    async fn missing_permissions(&self) -> Result<Vec<Permission>, EngineError> {
        let asked = stream::iter(rbac::permissions()).map(|permission| async move {
            let name = (permission.resource == "namespaces").then(|| self.names.namespace.clone());
            let is_allowed = self.may(permission, Some(&self.names.namespace), name).await?;
            Ok::<_, EngineError>((!is_allowed).then_some(permission))
        });
        asked.buffered(ASKED_AT_ONCE).try_filter_map(|missing| future::ready(Ok(missing))).try_collect().await
    }

    async fn may(
        &self,
        permission: Permission,
        namespace: Option<&str>,
        name: Option<String>,
    ) -> Result<bool, EngineError> {
        let Permission { group, resource, verb } = permission;
        let (resource, part) = resource.split_once('/').map_or((resource, None), |(whole, part)| (whole, Some(part)));
        let attributes = ResourceAttributes {
            group: Some(group.to_owned()),
            resource: Some(resource.to_owned()),
            subresource: part.map(str::to_owned),
            verb: Some(verb.to_owned()),
            namespace: namespace.map(str::to_owned),
            name,
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let api: Api<SelfSubjectAccessReview> = Api::all(self.kubernetes.client.clone());
        let params = PostParams::default();
        let answer =
            self.ask(format!("ask whether {verb} {resource} is allowed"), api.create(&params, &review)).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn namespace_told(&self) -> Result<Condition, EngineError> {
        let namespace = &self.names.namespace;
        let verdict = match self.whose_namespace().await? {
            Whose::Ours(_) => Ok(format!("{namespace}, this stack's own")),
            Whose::Nobodys => self.refuse_occupied().await.map(|()| format!("{namespace}, which is empty")),
            Whose::Leaving => Ok(format!("{namespace} is being removed, which is waited for")),
            Whose::Stacks(other) => Err(self.occupied(&format!("it belongs to stack {other}"))),
            Whose::Absent => {
                let make = Permission { group: "", resource: "namespaces", verb: "create" };
                if self.may(make, None, None).await? {
                    Ok(format!("{namespace} will be made"))
                } else {
                    let detail = "it is not there, and this user may make none; have it made with the Role that \
                                  `provisioner config rbac` prints";
                    Err(EngineError::unfit(format!("use namespace {namespace}"), detail))
                }
            }
        };
        Ok(Condition { subject: "namespace", verdict: verdict.map_err(|error| error.to_string()) })
    }

    /// `None`: the user may not see them, and no Role in one namespace could allow it.
    pub(crate) async fn all<K>(&self) -> Result<Option<Vec<K>>, EngineError>
    where
        K: Resource<Scope = ClusterResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.kubernetes.client.clone());
        let params = ListParams::default();
        let listed = async {
            match api.list(&params).await {
                Err(error) if code(&error) == Some(403) => Ok(None),
                other => other.map(|listed| Some(listed.items)),
            }
        };
        self.ask(format!("list {}", K::plural(&())), listed).await
    }
}

fn permissions_told(namespace: &str, missing: &[Permission]) -> Condition {
    let mut verbs: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for Permission { group, resource, verb } in missing {
        verbs.entry((resource, group)).or_default().push(verb);
    }
    let told = verbs.into_iter().map(|((resource, group), verbs)| {
        let dot = if group.is_empty() { "" } else { "." };
        format!("{} {resource}{dot}{group}", verbs.join(" "))
    });
    let verdict = if missing.is_empty() {
        Ok(format!("all {} that are needed", rbac::permissions().count()))
    } else {
        Err(format!(
            "missing in namespace {namespace}: {}; provisioner config rbac prints the Role that suffices",
            told.collect::<Vec<_>>().join(", ")
        ))
    };
    Condition { subject: "permissions", verdict }
}

fn storage(classes: Option<&[StorageClass]>, wanted: Option<&str>) -> Condition {
    let name = |class: &StorageClass| class.metadata.name.clone().unwrap_or_default();
    let verdict = match (classes, wanted) {
        (None, None) => Ok("the default class; classes may not be listed here".to_owned()),
        (None, Some(wanted)) => Ok(format!("class {wanted}; classes may not be listed here")),
        (Some(classes), wanted) => {
            let is_default = |class: &&StorageClass| labels::annotation(&class.metadata, DEFAULT_CLASS) == Some("true");
            let found = match wanted {
                Some(wanted) => classes.iter().find(|class| name(class) == wanted),
                None => classes.iter().find(is_default),
            };
            let known: Vec<String> = classes.iter().map(name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            match (found, wanted) {
                (Some(class), _) => Ok(format!("class {} of {}", name(class), class.provisioner)),
                (None, Some(wanted)) => {
                    Err(format!("there is no class {wanted}, found {known}; set kubernetes.storage_class"))
                }
                (None, None) => {
                    Err(format!("no class is the default one, found {known}; set kubernetes.storage_class"))
                }
            }
        }
    };
    Condition { subject: "storage", verdict }
}

/// Whether anybody refuses what no policy allows is no part of the cluster's API.
fn paths() -> Condition {
    let told = "who may reach whom is told to the cluster; its network plugin decides whether others are refused";
    Condition { subject: "paths", verdict: Ok(told.to_owned()) }
}

/// Whether the largest member has room on a node, and all of them together.
fn room(nodes: Option<&[Node]>, stack: Option<&Stack>) -> Condition {
    let subject = "nodes";
    let Some(nodes) = nodes else {
        return Condition { subject, verdict: Ok("may not be listed here".to_owned()) };
    };
    let memory: Vec<u64> = nodes.iter().filter(|node| takes_pods(node)).map(allocatable_memory).collect();
    let (total, most) = (memory.iter().sum::<u64>(), memory.iter().copied().max().unwrap_or_default());
    let asked = |workload: &stack::Workload| workload.limits.memory_bytes.unwrap_or_default();
    let needed: u64 = stack.iter().flat_map(|stack| stack.workloads()).map(asked).sum();
    let largest = stack.iter().flat_map(|stack| stack.workloads()).max_by_key(|workload| asked(workload));
    let verdict = match largest {
        _ if memory.is_empty() => {
            Err(format!("none of {} takes pods (Ready, neither cordoned nor tainted)", nodes.len()))
        }
        Some(workload) if asked(workload) > most => Err(format!(
            "{} asks for {}, the largest node has {}; lower {}.memory, or add a larger node",
            workload.member,
            mib(asked(workload)),
            mib(most),
            workload.component
        )),
        _ if needed > total => {
            Err(format!("members ask for {}, all nodes have {}; add a node", mib(needed), mib(total)))
        }
        Some(_) => Ok(format!("{} of {} on {}", mib(needed), mib(total), counted(memory.len()))),
        None => Ok(format!("{} on {}", mib(total), counted(memory.len()))),
    };
    Condition { subject, verdict }
}

fn counted(nodes: usize) -> String {
    if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes / MIB)
}

/// What a registry must have before a pod can run it. Somebody's own image is where its reference says.
fn images(stack: &Stack, pushed: &PushedImages) -> Condition {
    let made = stack.resources().filter_map(|resource| match resource {
        stack::Resource::Image(image) if !matches!(image, stack::Image::Reference { .. }) => Some(image),
        _ => None,
    });
    let made: Vec<&stack::Image> = made.collect();
    let missing = made.iter().filter(|image| !pushed.0.contains_key(&image.reference()));
    let missing: Vec<&str> = missing.map(|image| image.id().0.as_str()).collect();
    let verdict = if missing.is_empty() {
        Ok(format!("{} pushed", made.len()))
    } else {
        Err(format!("not pushed as they are now: {}; `images push` brings them", missing.join(", ")))
    };
    Condition { subject: "images", verdict }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use provisioner_core::name::{Member, StackName};
    use serde_json::{Value, json};

    use super::*;

    fn read<K: DeserializeOwned>(value: Value) -> K {
        serde_json::from_value(value).unwrap()
    }

    fn class(name: &str, is_default: bool) -> StorageClass {
        let annotations = json!({DEFAULT_CLASS: is_default.to_string()});
        read(json!({"metadata": {"name": name, "annotations": annotations}, "provisioner": "example.com/disk"}))
    }

    fn node(memory: &str, taints: &Value) -> Node {
        let status = json!({
            "allocatable": {"memory": memory, "cpu": "2"},
            "conditions": [{"type": "Ready", "status": "True"}],
        });
        read(json!({"metadata": {"name": "n"}, "spec": {"taints": taints}, "status": status}))
    }

    pub(crate) fn workload(member: &str, mib: u64) -> stack::Resource {
        let workload = stack::Workload {
            member: Member::named(member),
            component: "search".to_owned(),
            image: stack::ImageId("base".to_owned()),
            command: Vec::new(),
            env: BTreeMap::new(),
            secret_env: BTreeMap::new(),
            files: Vec::new(),
            mounts: Vec::new(),
            names: Vec::new(),
            ports: Vec::new(),
            user: None,
            scratch: Vec::new(),
            limits: stack::Limits { memory_bytes: Some(mib * MIB), cpu_millis: None, shm_bytes: None },
            stop: stack::Stop { signal: "SIGTERM".to_owned(), grace_secs: 1 },
            restart: stack::Restart::UnlessStopped,
            probes: None,
            after: Vec::new(),
        };
        stack::Resource::Workload(Arc::new(workload))
    }

    fn of(workloads: Vec<stack::Resource>) -> Stack {
        Stack::new(StackName::new("dev").unwrap(), workloads)
    }

    #[test]
    fn each_missing_permission_is_named() {
        let missing = [
            Permission { group: "apps", resource: "statefulsets", verb: "create" },
            Permission { group: "apps", resource: "statefulsets", verb: "patch" },
            Permission { group: "", resource: "pods/exec", verb: "get" },
        ];
        let expected = "missing in namespace shop: get pods/exec, create patch statefulsets.apps; \
                        provisioner config rbac prints the Role that suffices";
        assert_eq!(permissions_told("shop", &missing).verdict, Err(expected.to_owned()));
        assert!(permissions_told("shop", &[]).verdict.is_ok());
    }

    #[test]
    fn volumes_need_a_class_that_is_there() {
        let classes = [class("slow", false), class("fast", true)];
        let verdict = |classes: &[StorageClass], wanted| storage(Some(classes), wanted).verdict;
        assert_eq!(verdict(&classes, None), Ok("class fast of example.com/disk".to_owned()));
        assert_eq!(verdict(&classes, Some("slow")), Ok("class slow of example.com/disk".to_owned()));
        let gone = "there is no class ssd, found slow, fast; set kubernetes.storage_class";
        assert_eq!(verdict(&classes, Some("ssd")), Err(gone.to_owned()));
        let none = "no class is the default one, found slow; set kubernetes.storage_class";
        assert_eq!(verdict(&classes[..1], None), Err(none.to_owned()));
        assert!(verdict(&[], None).unwrap_err().contains("found none"));
        assert!(storage(None, None).verdict.is_ok());
    }

    #[test]
    fn a_member_needs_a_node_that_can_hold_it() {
        let nodes = [node("1Gi", &json!([])), node("2Gi", &json!([]))];
        let tainted = [node("8Gi", &json!([{"key": "control-plane", "effect": "NoSchedule"}]))];
        let stack = of(vec![workload("redis-1", 512), workload("search-1", 1536)]);
        assert_eq!(room(Some(&nodes), Some(&stack)).verdict, Ok("2048 MiB of 3072 MiB on 2 nodes".to_owned()));
        let large = of(vec![workload("search-1", 3000)]);
        let said = room(Some(&nodes), Some(&large)).verdict.unwrap_err();
        assert!(said.starts_with("search-1 asks for 3000 MiB, the largest node has 2048 MiB; lower "), "{said}");
        let many = of((1..=3).map(|nth| workload(&format!("search-{nth}"), 1500)).collect());
        let said = room(Some(&nodes), Some(&many)).verdict.unwrap_err();
        assert_eq!(said, "members ask for 4500 MiB, all nodes have 3072 MiB; add a node");
        let said = room(Some(&tainted), None).verdict.unwrap_err();
        assert_eq!(said, "none of 1 takes pods (Ready, neither cordoned nor tainted)");
        assert!(room(None, Some(&large)).verdict.is_ok());
    }
}
