//! A member: its workload, the names by which it is found, and what its component shares.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use provisioner_core::observed::Making;
use provisioner_core::stack::{Fingerprint, Port, Restart, Volume, Workload};
use serde_json::{Map, Value, json};

use super::pod::{Process, apart, object};
use super::probes::{leave_secs, probes};
use crate::access::{Exposure, Options};
use crate::labels::{self, Kind, Labels, Names};

/// What a member is made from, besides its description.
pub(crate) struct Described<'a> {
    pub(crate) names: &'a Names,
    pub(crate) options: &'a Options,
    pub(crate) workload: &'a Workload,
    /// As the description names the image, and as the cluster pulls it.
    pub(crate) image: &'a str,
    pub(crate) in_cluster: &'a str,
    pub(crate) instance: &'a str,
}

/// Data must never be held by two pods at once, which only a StatefulSet promises.
pub(crate) fn is_stateful(workload: &Workload) -> bool {
    !workload.mounts.is_empty()
}

/// Everything of a member but its files, in an order in which it may be applied.
pub(crate) struct Rendered {
    /// What leads to it and guards it, but for its own address.
    pub(crate) around: Vec<Value>,
    /// Bears the fingerprint of what stands around the member, itself included.
    pub(crate) address: Value,
    pub(crate) controller: Value,
}

impl Rendered {
    pub(crate) fn all(self) -> impl Iterator<Item = Value> {
        self.around.into_iter().chain([self.address, self.controller])
    }
}

pub(crate) fn workload(described: &Described<'_>) -> Rendered {
    let Described { names, options, workload, image, .. } = described;
    let Making { process, around } = making(names, options, workload, image);
    let mut rendered = unmarked(described);
    rendered.address["metadata"]["annotations"] = json!({labels::AROUND: around});
    rendered.controller["metadata"]["annotations"][labels::PROCESS] = json!(process);
    rendered
}

/// By how a member is rendered, but for what differs from one making of it to the next, the name by which the cluster pulls its
/// image, and what of the workload never reaches a pod.
pub(crate) fn making(names: &Names, options: &Options, workload: &Workload, image: &str) -> Making {
    let rendered = unmarked(&Described { names, options, workload, image, in_cluster: "", instance: "" });
    let Rendered { mut around, address, mut controller } = rendered;
    around.push(address);
    let mut process = json!([controller["kind"].take(), controller["spec"]["template"].take()]);
    // In which order the keys of an object come, any crate of the program may have chosen.
    process.sort_all_objects();
    around.iter_mut().for_each(Value::sort_all_objects);
    Making { process: Some(Fingerprint::of(&process)), around: Some(Fingerprint::of(&around)) }
}

fn unmarked(described: &Described<'_>) -> Rendered {
    let Described { names, options, workload, .. } = described;
    let mut around = shared(names, &workload.component);
    let member = workload.member.as_str();
    let own = BTreeMap::from([(labels::MEMBER.to_owned(), member.to_owned())]);
    around.push(paths(names, workload));
    around.extend(public(names, options, workload, &own));
    around.extend(workload.names.iter().map(|name| name_service(names, name, workload)));
    let mut address = service(names, member, &own, &workload.ports, &workload.component);
    // Members find each other before anybody can use them; whom a primary leads to is the route's decision.
    address["spec"]["publishNotReadyAddresses"] = json!(true);
    Rendered { around, address, controller: controller(described) }
}

/// The identity and the protection that all members of a component have together.
pub(crate) fn shared(names: &Names, component: &str) -> Vec<Value> {
    let mut wanted = names.labels(Kind::Workload);
    wanted.insert(labels::COMPONENT.to_owned(), component.to_owned());
    let account = json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": component, "labels": wanted},
        "automountServiceAccountToken": false,
    });
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": component, "labels": wanted},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": wanted}},
    });
    vec![account, budget]
}

/// Who reaches which port of the member. One without ports is named too: it had some, perhaps.
fn paths(names: &Names, workload: &Workload) -> Value {
    let mut wanted = names.labels(Kind::Workload);
    wanted.insert(labels::MEMBER.to_owned(), workload.member.to_string());
    let rules = workload.ports.iter().filter_map(|port| {
        let open = json!([{"port": port.port, "protocol": "TCP"}]);
        if port.expose.address().is_some() {
            return Some(json!({"ports": open}));
        }
        let callers = json!({
            "matchLabels": {labels::STACK: names.stack.as_str()},
            "matchExpressions": [{"key": labels::COMPONENT, "operator": "In", "values": port.from}],
        });
        // An empty list of callers would be everybody.
        (!port.from.is_empty()).then(|| json!({"from": [{"podSelector": callers}], "ports": open}))
    });
    let rules: Vec<Value> = rules.collect();
    let mut spec = object(json!({"podSelector": {"matchLabels": wanted}, "policyTypes": ["Ingress"]}));
    // The server keeps no empty list: one would be a difference for whoever compares.
    if !rules.is_empty() {
        spec.insert("ingress".to_owned(), rules.into());
    }
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": workload.member.as_str(), "labels": wanted},
        "spec": spec,
    })
}

fn labels_of(names: &Names, workload: &Workload) -> Labels {
    let mut wanted = names.labels(Kind::Workload);
    wanted.insert(labels::COMPONENT.to_owned(), workload.component.clone());
    wanted.insert(labels::MEMBER.to_owned(), workload.member.to_string());
    wanted.insert(labels::WORKLOAD.to_owned(), workload.member.workload().to_owned());
    wanted.extend(workload.names.iter().map(|name| (labels::name_label(name), "true".to_owned())));
    wanted
}

/// A stable address of those that can be used; one without ports cannot have an address of its own and leads to the pods'.
fn service(names: &Names, name: &str, selected: &Labels, ports: &[Port], component: &str) -> Value {
    let mut wanted = names.labels(Kind::Workload);
    wanted.insert(labels::COMPONENT.to_owned(), component.to_owned());
    let mut selector = names.labels(Kind::Workload);
    selector.extend(selected.clone());
    let mut spec = object(json!({"selector": selector}));
    if ports.is_empty() {
        spec.insert("clusterIP".to_owned(), json!("None"));
    } else {
        spec.insert("ports".to_owned(), service_ports(ports.iter()));
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": wanted}, "spec": spec})
}

fn service_ports<'a>(ports: impl Iterator<Item = &'a Port>) -> Value {
    ports
        .map(|port| json!({"name": port.name, "port": port.port, "protocol": "TCP", "targetPort": port.port}))
        .collect()
}

/// The address of a name that several members may share: it leads past one that is on its way out, or whose node is dead.
pub(crate) fn name_service(names: &Names, name: &str, workload: &Workload) -> Value {
    let selected = BTreeMap::from([(labels::name_label(name), "true".to_owned())]);
    service(names, name, &selected, &workload.ports, &workload.component)
}

/// What people and programs outside the cluster reach, where the cluster has a way for them.
fn public(names: &Names, options: &Options, workload: &Workload, own: &Labels) -> Option<Value> {
    let kind = match options.expose {
        Exposure::Cluster => return None,
        Exposure::NodePort => "NodePort",
        Exposure::LoadBalancer => "LoadBalancer",
    };
    let ports: Vec<Port> = workload.ports.iter().filter(|port| port.expose.address().is_some()).cloned().collect();
    if ports.is_empty() {
        return None;
    }
    let mut public = service(names, &Names::public(&workload.member), own, &ports, &workload.component);
    public["spec"]["type"] = json!(kind);
    for (described, declared) in public["spec"]["ports"].as_array_mut().into_iter().flatten().zip(&ports) {
        described["port"] = json!(declared.expose.address().map(|address| address.port()));
    }
    Some(public)
}

fn controller(described: &Described<'_>) -> Value {
    let Described { names, options, workload, image, in_cluster, instance } = described;
    let wanted = labels_of(names, workload);
    let selector = json!({"matchLabels": {
        labels::STACK: names.stack.as_str(),
        labels::KIND: Kind::Workload.word(),
        labels::MEMBER: workload.member.as_str(),
    }});
    let template = json!({
        "metadata": {"labels": wanted, "annotations": {labels::INSTANCE: instance}},
        "spec": pod_spec(options, workload, in_cluster, names),
    });
    let annotations = json!({
        labels::SPEC: workload.spec_fingerprint(image).as_str(),
        labels::INSTANCE: instance,
        labels::IMAGE: image,
        labels::RESTART: restart_word(workload.restart),
        labels::GRACE: workload.stop.grace_secs.to_string(),
        labels::PORTS: ports_text(&workload.ports),
    });
    let metadata = json!({"name": workload.member.as_str(), "labels": wanted, "annotations": annotations});
    // The number of replicas is left out: power is a matter of its own, and one is what a new member begins with.
    let (kind, spec) = if is_stateful(workload) {
        let spec = json!({
            "serviceName": workload.member.as_str(),
            "podManagementPolicy": "Parallel",
            "revisionHistoryLimit": 1,
            "selector": selector,
            "template": template,
        });
        ("StatefulSet", spec)
    } else {
        let spec = json!({
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 1,
            "selector": selector,
            "template": template,
        });
        ("Deployment", spec)
    };
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec})
}

fn pod_spec(options: &Options, workload: &Workload, image: &str, names: &Names) -> Map<String, Value> {
    let mut main = Map::new();
    let ports: Vec<Value> = workload
        .ports
        .iter()
        .filter(|port| port.is_exposed())
        .map(|port| json!({"containerPort": port.port, "protocol": "TCP"}))
        .collect();
    if !ports.is_empty() {
        main.insert("ports".to_owned(), json!(ports));
    }
    main.extend(probes(workload.probes.as_ref(), &workload.stop));
    let mut spec = Process::of_workload(workload, image).spec(options, main);
    if !is_stateful(workload) {
        // A StatefulSet gives its pod a name of its own.
        spec.insert("hostname".to_owned(), json!(workload.member.as_str()));
    }
    // A node of Erlang asks for itself by its name, long before an address in the cluster would lead to it.
    let own_name = json!([{"ip": "127.0.0.1", "hostnames": [workload.member.as_str()]}]);
    spec.insert("hostAliases".to_owned(), own_name);
    // None at all would be a deletion by force, which proves nothing.
    let grace = workload.stop.grace_secs.max(1) + leave_secs(workload.probes.as_ref());
    spec.insert("terminationGracePeriodSeconds".to_owned(), json!(grace));
    spec.insert("affinity".to_owned(), apart(names, labels::WORKLOAD, workload.member.workload()));
    spec
}

fn restart_word(restart: Restart) -> &'static str {
    match restart {
        Restart::UnlessStopped => "unless_stopped",
        Restart::Never => "never",
    }
}

/// Port to where people expect it, empty for checks.
fn ports_text(ports: &[Port]) -> String {
    let public = |port: &Port| port.expose.address().map(|address| address.to_string()).unwrap_or_default();
    let told: BTreeMap<String, String> =
        ports.iter().filter(|port| port.is_exposed()).map(|port| (port.port.to_string(), public(port))).collect();
    serde_json::to_string(&told).unwrap_or_default()
}

pub(crate) fn volume(names: &Names, options: &Options, volume: &Volume) -> Value {
    let mut spec = Map::from_iter([("accessModes".to_owned(), json!([options.access_mode.word()]))]);
    if let Some(class) = &options.storage_class {
        spec.insert("storageClassName".to_owned(), json!(class));
    }
    claim(names, volume, spec, volume.size_bytes.unwrap_or(options.volume_bytes))
}

/// The same claim with a larger size: how it is reached and by which class stays as it was asked for.
pub(crate) fn grown(names: &Names, volume: &Volume, found: &PersistentVolumeClaim, bytes: u64) -> Value {
    let found = found.spec.clone().unwrap_or_default();
    let kept = [("accessModes", json!(found.access_modes)), ("storageClassName", json!(found.storage_class_name))];
    let spec = kept.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.to_owned(), value));
    claim(names, volume, spec.collect(), bytes)
}

fn claim(names: &Names, volume: &Volume, mut spec: Map<String, Value>, bytes: u64) -> Value {
    let mut wanted = names.labels(Kind::Volume);
    wanted.insert(labels::COMPONENT.to_owned(), volume.component.clone());
    spec.insert("resources".to_owned(), json!({"requests": {"storage": bytes.to_string()}}));
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": volume.name, "labels": wanted, "annotations": {labels::VOLUME: volume.name}},
        "spec": spec,
    })
}
