//! Containers as the engine lists them, reduced to what decisions need.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum as Listed, PortSummaryTypeEnum};
use bollard::query_parameters::ListContainersOptions;
use provisioner_core::engine::EngineError;
use provisioner_core::name::Member;
use provisioner_core::observed::{Making, ObservedWorkload, State};
use provisioner_core::stack::Fingerprint;

use crate::connect::DockerEngine;
use crate::labels::{self, Kind, Labels, Names};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) labels: Labels,
    pub(crate) state: State,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) published: BTreeMap<u16, SocketAddr>,
    pub(crate) volumes: Vec<String>,
    /// Seconds since 1970 by the engine's clock.
    pub(crate) created: i64,
}

impl Container {
    /// `network` is the one whose address counts; `remote` stands for "every address" of a remote engine.
    pub(crate) fn read(summary: ContainerSummary, network: &str, remote: Option<IpAddr>) -> Self {
        let networks = summary.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let ip = networks.get(network).and_then(|endpoint| endpoint.ip_address.as_deref());
        let mut published = BTreeMap::new();
        for port in summary.ports.unwrap_or_default() {
            let (Some(public), Some(PortSummaryTypeEnum::TCP)) = (port.public_port, port.typ) else { continue };
            let Some(ip) = port.ip.as_deref().and_then(|ip| ip.parse().ok()) else { continue };
            let address = SocketAddr::new(reachable(ip, remote), public);
            // An engine lists "every address" once for IPv4 and once for IPv6; the former is kept.
            published
                .entry(port.private_port)
                .and_modify(|kept: &mut SocketAddr| *kept = address.min(*kept))
                .or_insert(address);
        }
        Self {
            id: summary.id.unwrap_or_default(),
            name: summary.names.unwrap_or_default().first().map_or("", |n| n.trim_start_matches('/')).to_owned(),
            image: summary.image.unwrap_or_default(),
            labels: summary.labels.unwrap_or_default(),
            state: state(summary.state),
            ip: ip.and_then(|ip| ip.parse().ok()),
            published,
            volumes: summary.mounts.unwrap_or_default().into_iter().filter_map(|mount| mount.name).collect(),
            created: summary.created.unwrap_or_default(),
        }
    }

    /// It was made by a provisioner, for this member of this stack, and has the name that belongs to it.
    pub(crate) fn is_workload(&self, names: &Names, member: &Member) -> bool {
        self.takes_part(names, member) && self.name == names.container(member)
    }

    /// It carries the labels of this member, under whichever name: its network alias and volumes are in use.
    fn takes_part(&self, names: &Names, member: &Member) -> bool {
        names.own(&self.labels)
            && Kind::of(&self.labels) == Some(Kind::Workload)
            && self.labels.get(labels::MEMBER).is_some_and(|label| label == member.as_str())
    }

    /// It stands where this member belongs.
    pub(crate) fn is_in_place_of(&self, names: &Names, member: &Member) -> bool {
        self.name == names.container(member) || self.takes_part(names, member)
    }

    /// A process of it exists that could use its volumes.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Running | State::Paused | State::Restarting)
    }

    pub(crate) fn spec(&self) -> Option<Fingerprint> {
        self.labels.get(labels::SPEC).map(Fingerprint::from_label)
    }

    fn observed(&self, names: &Names, member: &Member) -> ObservedWorkload {
        let is_ours = self.is_workload(names, member);
        ObservedWorkload {
            instance: self.id.clone(),
            component: self.labels.get(labels::COMPONENT).cloned().unwrap_or_default(),
            image: self.image.clone(),
            state: self.state,
            spec: self.spec().filter(|_| is_ours),
            files: if is_ours { labels::read_files(&self.labels) } else { BTreeMap::new() },
            internal_ip: self.ip.filter(|_| self.is_up()),
            published: self.published.clone(),
            public: None,
            making: Making { process: self.labels.get(labels::PROCESS).map(Fingerprint::from_label), around: None },
        }
    }
}

/// Every member of the stack and what stands in its place.
pub(crate) fn workloads(names: &Names, containers: &[Container]) -> BTreeMap<Member, ObservedWorkload> {
    let mut workloads = BTreeMap::new();
    for container in containers {
        if names.other_stack(&container.labels).is_some() {
            continue;
        }
        let member = match Kind::of(&container.labels) {
            Some(Kind::Workload) => container.labels.get(labels::MEMBER).map(Member::named),
            Some(_) => None,
            None => names.member(&container.name),
        };
        let Some(member) = member else { continue };
        let observed = container.observed(names, &member);
        // Of two in one place the rightful one is shown; the other is removed when the member is next made anew.
        if observed.spec.is_some() || !workloads.contains_key(&member) {
            workloads.insert(member, observed);
        }
    }
    workloads
}

fn state(listed: Option<Listed>) -> State {
    match listed {
        Some(Listed::CREATED) => State::Created,
        Some(Listed::RUNNING | Listed::STOPPING) => State::Running,
        Some(Listed::PAUSED) => State::Paused,
        Some(Listed::RESTARTING) => State::Restarting,
        Some(Listed::EXITED | Listed::REMOVING | Listed::DEAD | Listed::EMPTY) | None => State::Exited,
    }
}

/// Where a port that is published on `ip` is reached from the operator's side.
pub(crate) fn reachable(ip: IpAddr, remote: Option<IpAddr>) -> IpAddr {
    if ip.is_unspecified() { remote.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)) } else { ip }
}

impl DockerEngine {
    /// All containers of the engine, whosoever they are: one without our labels may stand under a member's name.
    pub(crate) async fn containers(&self) -> Result<Vec<Container>, EngineError> {
        let options = ListContainersOptions { all: true, ..Default::default() };
        let listed = self.docker.client.list_containers(Some(options)).await;
        let listed = listed.map_err(self.docker.failed("list containers"))?;
        let remote = self.docker.endpoint.remote_host().and_then(|host| host.parse().ok());
        let network = self.names.network();
        Ok(listed.into_iter().map(|summary| Container::read(summary, &network, remote)).collect())
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::PortSummary;
    use provisioner_core::name::StackName;

    use super::*;

    fn names() -> Names {
        Names { stack: StackName::new("dev").unwrap() }
    }

    fn container(name: &str, labels: &[(&str, &str)]) -> Container {
        let summary = ContainerSummary {
            id: Some(format!("id of {name}")),
            names: Some(vec![format!("/{name}")]),
            labels: Some(labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()),
            state: Some(Listed::RUNNING),
            ..ContainerSummary::default()
        };
        Container::read(summary, "dev", None)
    }

    fn ours(name: &str, stack: &str, member: &str) -> Container {
        let kind = (labels::KIND, "workload");
        container(name, &[(labels::STACK, stack), kind, (labels::MEMBER, member), (labels::SPEC, "f00d")])
    }

    #[test]
    fn a_member_is_known_by_name_and_labels() {
        let seen = workloads(&names(), &[ours("dev-redis-1", "dev", "redis-1")]);
        assert_eq!(seen[&Member::named("redis-1")].spec, Some(Fingerprint::from_label("f00d")));
    }

    #[test]
    fn what_stands_under_a_members_name_without_our_labels_has_no_spec() {
        let seen = workloads(&names(), &[container("dev-redis-1", &[])]);
        assert_eq!(seen[&Member::named("redis-1")].spec, None);
    }

    #[test]
    fn a_renamed_member_is_no_longer_what_it_should_be() {
        let seen = workloads(&names(), &[ours("dev-redis-old", "dev", "redis-1")]);
        assert_eq!(seen[&Member::named("redis-1")].spec, None);
        let both = [ours("dev-redis-1", "dev", "redis-1"), ours("dev-redis-old", "dev", "redis-1")];
        assert!(workloads(&names(), &both)[&Member::named("redis-1")].spec.is_some());
    }

    #[test]
    fn jobs_and_other_stacks_are_not_members() {
        let job = container("dev-job-seed", &[(labels::STACK, "dev"), (labels::KIND, "job")]);
        let other = ours("dev-two-redis-1", "dev-two", "redis-1");
        assert!(workloads(&names(), &[job, other]).is_empty());
    }

    #[test]
    fn every_state_of_the_engine_has_a_word() {
        let pairs = [
            (Listed::CREATED, State::Created),
            (Listed::RUNNING, State::Running),
            (Listed::PAUSED, State::Paused),
            (Listed::RESTARTING, State::Restarting),
            (Listed::EXITED, State::Exited),
            (Listed::REMOVING, State::Exited),
            (Listed::DEAD, State::Exited),
        ];
        for (listed, expected) in pairs {
            assert_eq!(state(Some(listed)), expected);
        }
    }

    #[test]
    fn every_address_is_reached_on_loopback_or_at_the_remote_host() {
        let port = |ip: &str| PortSummary {
            ip: Some(ip.to_owned()),
            private_port: 80,
            public_port: Some(8080),
            typ: Some(PortSummaryTypeEnum::TCP),
        };
        let summary = ContainerSummary { ports: Some(vec![port("::"), port("0.0.0.0")]), ..Default::default() };
        let local = Container::read(summary.clone(), "dev", None);
        assert_eq!(local.published[&80].to_string(), "127.0.0.1:8080");
        let remote = Container::read(summary, "dev", Some("10.0.0.5".parse().unwrap()));
        assert_eq!(remote.published[&80].to_string(), "10.0.0.5:8080");
    }
}
