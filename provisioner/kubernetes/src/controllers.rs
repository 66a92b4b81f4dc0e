//! What stands in a member's place: a StatefulSet or a Deployment, reduced to what decisions need.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::future::try_join;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::PartialObjectMeta;
use provisioner_core::engine::EngineError;
use provisioner_core::name::Member;
use provisioner_core::observed::{Making, ObservedWorkload, State};
use provisioner_core::stack::Fingerprint;

use crate::connect::KubernetesEngine;
use crate::forward::Forwards;
use crate::guards::Guards;
use crate::labels::{self, Kind, Names};
use crate::pods;

#[derive(Clone, Debug, Default)]
pub(crate) struct Controller {
    pub(crate) meta: ObjectMeta,
    pub(crate) is_stateful: bool,
    pub(crate) replicas: i32,
    pub(crate) template: PodTemplateSpec,
    pub(crate) observed_generation: i64,
    pub(crate) pods_counted: i32,
}

impl From<StatefulSet> for Controller {
    fn from(set: StatefulSet) -> Self {
        let (spec, status) = (set.spec.unwrap_or_default(), set.status.unwrap_or_default());
        Self {
            meta: set.metadata,
            is_stateful: true,
            replicas: spec.replicas.unwrap_or(1),
            template: spec.template,
            observed_generation: status.observed_generation.unwrap_or_default(),
            pods_counted: status.replicas,
        }
    }
}

impl From<Deployment> for Controller {
    fn from(deployment: Deployment) -> Self {
        let (spec, status) = (deployment.spec.unwrap_or_default(), deployment.status.unwrap_or_default());
        Self {
            meta: deployment.metadata,
            is_stateful: false,
            replicas: spec.replicas.unwrap_or(1),
            template: spec.template,
            observed_generation: status.observed_generation.unwrap_or_default(),
            pods_counted: status.replicas.unwrap_or_default(),
        }
    }
}

/// Where members keep their files and how they are found, as far as a state tells it.
pub(crate) struct Surroundings<'a> {
    pub(crate) names: &'a Names,
    pub(crate) pods: &'a [Pod],
    pub(crate) files: &'a [PartialObjectMeta<Secret>],
    pub(crate) services: &'a [Service],
    pub(crate) guards: &'a Guards,
    /// What people reach has a Service of its own.
    pub(crate) is_exposed: bool,
    pub(crate) forwards: &'a Forwards,
}

impl Controller {
    pub(crate) fn member(&self) -> Member {
        Member::named(pods::name(&self.meta))
    }

    /// It was made by a provisioner, for this stack.
    pub(crate) fn is_ours(&self, names: &Names) -> bool {
        names.is(&self.meta, Kind::Workload) && self.annotation(labels::SPEC).is_some()
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&str> {
        labels::annotation(&self.meta, key)
    }

    pub(crate) fn instance(&self) -> String {
        let noted = self.annotation(labels::INSTANCE).map(str::to_owned);
        noted.or_else(|| self.meta.uid.clone()).unwrap_or_default()
    }

    /// How the process was made; what stands around it, its address tells.
    pub(crate) fn making(&self) -> Making {
        Making { process: self.annotation(labels::PROCESS).map(Fingerprint::from_label), around: None }
    }

    /// As the member's own address bears it, which counts as long as all that was applied with it is there too, and is what
    /// it was then.
    fn around_noted(&self, around: &Surroundings<'_>) -> Option<Fingerprint> {
        let service = |name: &str| around.services.iter().find(|service| pods::name(&service.metadata) == name);
        let member = self.member();
        let shared = self.meta.labels.iter().flatten().filter_map(|(key, _)| labels::shared_name(key));
        let is_public = around.is_exposed && self.ports().values().any(|public| !public.is_empty());
        let public = is_public.then(|| Names::public(&member));
        if !shared.chain(public.as_deref()).all(|name| service(name).is_some()) {
            return None;
        }
        let own = service(member.as_str()).filter(|own| around.names.is(&own.metadata, Kind::Workload))?;
        let component = labels::label(&self.meta, labels::COMPONENT).unwrap_or_default();
        let guarded = around.guards.state(&member, component)?;
        // Who applies what is rendered by other means notes none.
        if labels::annotation(&own.metadata, labels::GUARDS).is_some_and(|noted| noted != guarded) {
            return None;
        }
        labels::annotation(&own.metadata, labels::AROUND).map(Fingerprint::from_label)
    }

    /// Stays down once it has ended.
    pub(crate) fn is_once(&self) -> bool {
        self.annotation(labels::RESTART) == Some("never")
    }

    pub(crate) fn ports(&self) -> BTreeMap<u16, String> {
        let text = self.annotation(labels::PORTS).unwrap_or("{}");
        serde_json::from_str::<BTreeMap<u16, String>>(text).unwrap_or_default()
    }

    /// Every pod of the member, whichever instance made it.
    pub(crate) fn pods<'a>(&self, names: &'a Names, pods: &'a [Pod]) -> impl Iterator<Item = &'a Pod> {
        let member = self.member();
        pods.iter().filter(move |pod| {
            names.is(&pod.metadata, Kind::Workload)
                && labels::label(&pod.metadata, labels::MEMBER) == Some(member.as_str())
        })
    }

    pub(crate) fn state<'a>(&self, mut pods: impl Iterator<Item = &'a Pod> + Clone) -> State {
        let is_this = |pod: &Pod| pods::instance(pod) == self.annotation(labels::INSTANCE);
        let mut up = pods.clone().filter(|pod| pods::is_up(pod));
        if pods.clone().any(|pod| pods::is_up(pod) && (is_this(pod) || self.replicas == 0)) {
            return State::Running;
        }
        if up.next().is_some() {
            // The one before it still runs; a run was killed while it was replaced.
            return State::Created;
        }
        if self.replicas == 0 {
            return State::Exited;
        }
        match pods.find(|pod| !pods::is_leaving(pod)) {
            Some(pod) if pods::has_ended(pod) && self.is_once() => State::Exited,
            Some(pod) if pods::has_ended(pod) => State::Restarting,
            _ => State::Created,
        }
    }

    pub(crate) fn observed(&self, around: &Surroundings<'_>) -> Result<ObservedWorkload, EngineError> {
        let names = around.names;
        let is_ours = self.is_ours(names);
        let (member, instance) = (self.member(), self.instance());
        let pods: Vec<&Pod> = self.pods(names, around.pods).collect();
        let up = pods.iter().copied().find(|pod| pods::is_up(pod));
        let state = if is_ours { self.state(pods.iter().copied()) } else { foreign_state(self) };
        let main = pods::main_of(&self.template);
        let image = self.annotation(labels::IMAGE).map(str::to_owned);
        let image = image.or_else(|| main.and_then(|main| main.image.clone())).unwrap_or_default();
        let files = around.files.iter().map(|files| &files.metadata).find(|meta| {
            pods::name(meta) == Names::files(&member)
                && names.is(meta, Kind::Files)
                && labels::annotation(meta, labels::INSTANCE) == Some(instance.as_str())
        });
        let mut published = BTreeMap::new();
        if up.is_some() {
            for port in self.ports().into_keys() {
                published.insert(port, around.forwards.listen(names, &member, port)?);
            }
        }
        Ok(ObservedWorkload {
            component: labels::label(&self.meta, labels::COMPONENT).unwrap_or_default().to_owned(),
            spec: self.annotation(labels::SPEC).filter(|_| is_ours).map(Fingerprint::from_label),
            files: files.filter(|_| is_ours).map(labels::read_files).unwrap_or_default(),
            internal_ip: up.and_then(|pod| address(&member, pod, around.services)),
            instance,
            image,
            state,
            published,
            making: Making { around: self.around_noted(around), ..self.making() },
            public: Some(up.map(|pod| public(&member, pod, around.services)).unwrap_or_default()),
        })
    }
}

/// Nothing is known of the pods of what somebody else made; it counts as up where its owner counts pods.
fn foreign_state(controller: &Controller) -> State {
    if controller.pods_counted > 0 { State::Running } else { State::Exited }
}

/// Where the member's name leads.
fn address(member: &Member, pod: &Pod, services: &[Service]) -> Option<IpAddr> {
    let service = services.iter().find(|service| pods::name(&service.metadata) == member.as_str());
    let own = service.and_then(|service| service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok());
    own.or_else(|| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok())
}

/// Ports that the member's public Service leads to, as far as the cluster has given it an address: that of a load balancer, or
/// a port of each node, of which the member's own is named.
fn public(member: &Member, pod: &Pod, services: &[Service]) -> BTreeMap<u16, String> {
    let name = Names::public(member);
    let Some(service) = services.iter().find(|service| pods::name(&service.metadata) == name) else {
        return BTreeMap::new();
    };
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref()?.first());
    let balancer = balancer.and_then(|ingress| ingress.ip.as_ref().or(ingress.hostname.as_ref()));
    let node = pod.status.as_ref().and_then(|status| status.host_ip.as_ref());
    let told = ports.filter_map(|port| {
        let inside = match port.target_port.as_ref()? {
            IntOrString::Int(inside) => u16::try_from(*inside).ok()?,
            IntOrString::String(_) => return None,
        };
        let address = match (balancer, node, port.node_port) {
            (Some(balancer), ..) => format!("{balancer}:{}", port.port),
            (None, Some(node), Some(node_port)) => format!("{node}:{node_port}"),
            _ => return None,
        };
        Some((inside, address))
    });
    told.collect()
}

impl KubernetesEngine {
    /// Whatever stands under the member's name; two after a run that was killed.
    pub(crate) async fn standing(&self, member: &Member) -> Result<Vec<Controller>, EngineError> {
        let name = member.as_str();
        let (set, deployment) = try_join(self.find::<StatefulSet>(name), self.find::<Deployment>(name)).await?;
        Ok(set.map(Controller::from).into_iter().chain(deployment.map(Controller::from)).collect())
    }

    pub(crate) async fn controller(&self, member: &Member) -> Result<Controller, EngineError> {
        let found = self.standing(member).await?.into_iter().next();
        found.ok_or_else(|| EngineError::NotFound { what: format!("member {member}") })
    }

    pub(crate) async fn pods_of(&self, member: &Member) -> Result<Vec<Pod>, EngineError> {
        self.list::<Pod>(&self.names.member_selector(member)).await
    }

    /// The pod in which the member's process runs.
    pub(crate) async fn running_pod(&self, member: &Member) -> Result<Pod, EngineError> {
        let mut up: Vec<Pod> = self.pods_of(member).await?.into_iter().filter(pods::is_up).collect();
        up.sort_by_key(pods::is_leaving);
        match up.into_iter().next() {
            Some(pod) => Ok(pod),
            None => {
                self.controller(member).await?;
                Err(EngineError::failed(format!("reach {member}"), "it does not run"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn controller(replicas: i32, restart: &str) -> Controller {
        let set = json!({
            "metadata": {"name": "a-1", "annotations": {labels::RESTART: restart}},
            "spec": {"replicas": replicas, "selector": {}, "serviceName": "a-1", "template": {}},
        });
        serde_json::from_value::<StatefulSet>(set).unwrap().into()
    }

    fn pod(state: &serde_json::Value) -> Pod {
        let status = json!({"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": state});
        serde_json::from_value(json!({"metadata": {"name": "a-1-0"}, "status": {"containerStatuses": [status]}}))
            .unwrap()
    }

    #[test]
    fn a_member_runs_as_long_as_its_process_does_whatever_is_asked_for() {
        let up = [pod(&json!({"running": {}}))];
        assert_eq!(controller(0, "never").state(up.iter()), State::Running);
        assert_eq!(controller(0, "never").state([].iter()), State::Exited);
        assert_eq!(controller(1, "never").state([].iter()), State::Created);
    }

    #[test]
    fn one_that_ended_comes_back_only_where_it_may() {
        let ended = [pod(&json!({"waiting": {"reason": "CrashLoopBackOff"}}))];
        assert_eq!(controller(1, "never").state(ended.iter()), State::Exited);
        assert_eq!(controller(1, "unless_stopped").state(ended.iter()), State::Restarting);
    }

    fn told(status: &serde_json::Value) -> BTreeMap<u16, String> {
        let ports = json!([{"port": 443, "targetPort": 8443, "nodePort": 30443}]);
        let service = json!({"metadata": {"name": "nginx-1-public"}, "spec": {"ports": ports}, "status": status});
        let pod = json!({"metadata": {"name": "nginx-1-x"}, "status": {"hostIP": "10.0.0.7"}});
        let (service, pod) = (serde_json::from_value(service).unwrap(), serde_json::from_value(pod).unwrap());
        public(&Member::nth("nginx", 1), &pod, &[service])
    }

    #[test]
    fn a_load_balancer_has_the_declared_port_and_a_node_one_of_its_own() {
        let balanced = json!({"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}});
        assert_eq!(told(&balanced), BTreeMap::from([(8443, "lb.example.com:443".to_owned())]));
        assert_eq!(told(&json!({})), BTreeMap::from([(8443, "10.0.0.7:30443".to_owned())]));
    }
}
