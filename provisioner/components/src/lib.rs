//! One module a system: what to declare, what to do once it runs, how to prove that it works.
//!
//! Files that operators know (nginx.conf, redis.conf, postgresql.conf, haproxy.cfg, Dockerfiles) are files of that kind
//! beside the code, never strings inside it.

pub mod app;
mod certificates;
mod checks;
pub mod elasticsearch;
pub mod external;
mod http;
pub mod mail;
pub mod media;
pub mod monitoring;
pub mod nginx;
mod order;
#[cfg(test)]
mod paths;
pub mod postgres;
pub mod rabbitmq;
pub mod redis;
pub mod route;
mod template;
#[cfg(test)]
mod testing;
mod tls;

pub use certificates::{AUTHORITY, AUTHORITY_FILE, authority_file};
use provisioner_core::component::Component;
use provisioner_core::stack::{Image, ImageId, Recipe, Resource};

/// Every component, in the order in which people read a stack: from the entrance to the data.
pub fn all() -> Vec<Box<dyn Component>> {
    vec![
        Box::new(nginx::Nginx),
        Box::new(media::Media),
        Box::new(app::App),
        Box::<route::Route>::default(),
        Box::new(postgres::Postgres),
        Box::new(redis::Redis),
        Box::new(rabbitmq::Rabbitmq),
        Box::new(mail::Mail),
        Box::new(elasticsearch::Elasticsearch),
        Box::new(monitoring::Monitoring),
    ]
}

/// Name of the image that every recipe starts from.
pub const BASE: &str = "base";

/// The component of what drills put into a stack: it belongs to nobody's manifest, and may reach what it tries.
pub const DRILL: &str = "drill";

/// Debian 13: has every system of the stack as a package.
pub const SUITE: &str = "trixie";

/// The image that every recipe starts from; each component with a recipe declares it, the stack keeps it once.
pub fn base() -> Resource {
    Resource::Image(Image::Base { id: ImageId(BASE.to_owned()), suite: SUITE.to_owned() })
}

/// The image of a component: its owner's own, or its recipe with the base it starts from.
pub(crate) fn recipe(name: &str, own: Option<&str>, recipe: impl FnOnce() -> Recipe) -> Vec<Resource> {
    match own {
        Some(reference) => {
            let id = ImageId(name.to_owned());
            vec![Resource::Image(Image::Reference { id, reference: reference.to_owned() })]
        }
        None => vec![base(), Resource::Image(Image::Recipe(recipe()))],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use provisioner_core::component::{Dependency, Situation};
    use provisioner_core::manifest::Manifest;
    use provisioner_core::observed::Observed;
    use provisioner_core::stack::{Probe, Probes, Resource, Stack};

    use super::*;

    /// A plan ignores what nobody offers, so a misspelt name would silently lose an order.
    #[test]
    fn whatever_is_waited_for_exists() {
        for manifest in [testing::manifest(), testing::whole_manifest(), testing::external_manifest()] {
            nothing_is_missing(&manifest);
        }
    }

    /// What a restricted cluster asks for: nobody is root, and no port needs a privilege.
    #[test]
    fn every_member_runs_as_a_number_that_is_not_root_on_ports_for_everybody() {
        let manifest = testing::whole_manifest();
        let components = all();
        let stack = Stack::of(&manifest, components.iter().map(AsRef::as_ref));
        assert!(stack.workloads().count() > 20);
        for workload in stack.workloads() {
            assert!(workload.user.is_some_and(|(user, _)| user != 0), "{}: {:?}", workload.member, workload.user);
            assert!(workload.ports.iter().all(|port| port.port >= 1024), "{}: {:?}", workload.member, workload.ports);
            let is_absolute = |folder: &String| folder.starts_with('/') && !folder.ends_with('/');
            assert!(workload.scratch.iter().all(is_absolute), "{}: {:?}", workload.member, workload.scratch);
        }
    }

    /// A port that nobody listens on would keep a member from ever being ready.
    #[test]
    fn every_member_says_when_it_can_be_used_and_none_with_data_is_given_a_time_to_start() {
        let manifest = testing::whole_manifest();
        let declared = all().into_iter().flat_map(|component| component.declare(&manifest));
        let stack = Stack::new(manifest.name.clone(), declared);
        for workload in stack.workloads() {
            let Some(probes) = &workload.probes else { panic!("{} says nothing", workload.member) };
            assert!(workload.mounts.is_empty() || probes.started.is_none(), "{}", workload.member);
            for probe in probes.started.iter().map(|started| &started.probe).chain([&probes.ready]) {
                let (Probe::Http { port, .. } | Probe::Tcp { port }) = probe else { continue };
                assert!(workload.ports.iter().any(|declared| declared.port == *port), "{}: {port}", workload.member);
            }
        }
    }

    #[test]
    fn another_probe_is_another_member_and_elsewhere_than_on_a_cluster_there_is_none() {
        let manifest = testing::manifest();
        let declared = all().into_iter().flat_map(|component| component.declare(&manifest));
        let stack = Stack::new(manifest.name.clone(), declared);
        let bare = stack.clone().without_cluster_parts();
        let member = nginx::member();
        let (probed, bare) = (stack.workload(&member).unwrap(), bare.workload(&member).unwrap());
        let mut other = probed.clone();
        other.probes = other.probes.map(|probes| Probes { leave_secs: probes.leave_secs + 1, ..probes });
        let prints = [probed, &other, bare].map(|workload| workload.spec_fingerprint("nginx:1"));
        assert_eq!(BTreeSet::from(prints.each_ref().map(|print| print.as_str())).len(), 3);
        assert!(bare.probes.is_none() && bare.ports.iter().all(|port| port.from.is_empty()));
    }

    #[test]
    fn every_volume_has_the_size_that_its_section_says() {
        let sections = ["postgres", "redis", "rabbitmq", "elasticsearch", "media", "mail", "monitoring"];
        let sized: String = sections.map(|name| format!("{name}: {{disk: 20GiB}}\n")).concat();
        let text = format!("name: dev\napp: {{binary: app}}\n{sized}");
        let manifest = provisioner_core::manifest::parse(text.as_bytes()).unwrap();
        let declared = all().into_iter().flat_map(|component| component.declare(&manifest));
        let stack = Stack::new(manifest.name.clone(), declared);
        let unsized_ones = stack.resources().filter_map(|resource| match resource {
            Resource::Volume(volume) if volume.size_bytes != Some(20 << 30) => Some(volume.name.as_str()),
            _ => None,
        });
        // What these remember stays small.
        assert_eq!(unsized_ones.collect::<Vec<_>>(), ["alertmanager-1-data", "pages-1-data"]);
        assert_eq!(stack.resources().filter(|it| matches!(it, Resource::Volume(_))).count(), 12);
    }

    fn nothing_is_missing(manifest: &Manifest) {
        let components = all();
        let stack = Stack::of(manifest, components.iter().map(AsRef::as_ref)).and([Resource::Network]);
        let (observed, changing) = (Observed::default(), BTreeSet::new());
        let situation = Situation { stack: &stack, observed: &observed, changing: &changing };
        let planned: Vec<_> = components.iter().flat_map(|component| component.tasks(&situation).tasks).collect();

        let mut offered: BTreeSet<Dependency> = planned.iter().map(|planned| planned.task.dependency()).collect();
        offered.extend(stack.resources().map(|resource| Dependency::Resource(resource.id())));
        offered.extend(stack.workloads().map(|workload| Dependency::Ready(workload.member.clone())));

        let mut waited_for: Vec<Dependency> = stack.resources().flat_map(Stack::needs).collect();
        for planned in &planned {
            // What a component offers itself, and when, it knows.
            let own = &planned.task.component;
            let is_own = |it: &Dependency| matches!(it, Dependency::Task { component, .. } if component == own);
            waited_for.extend(planned.after.iter().chain(&planned.before).filter(|it| !is_own(it)).cloned());
        }
        let missing: Vec<_> = waited_for.iter().filter(|dependency| !offered.contains(dependency)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
