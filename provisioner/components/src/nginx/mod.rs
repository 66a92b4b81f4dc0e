//! NGINX: the entrance. Its files live in `nginx/` at the root of the repository.
//!
//! An image of somebody's own must provide NGINX 1.26 with its `mime.types`, `/bin/sh`, `getent`, `sha256sum`, and a directory
//! `/var/cache/nginx` that user 33 may write.

mod drift;
mod files;
mod reload;
mod tls;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use provisioner_core::component::{Access, Component, Dependency, Entrypoint, NotReady, Situation, Task, Tasks};
use provisioner_core::drift::Comparisons;
use provisioner_core::failure::Failure;
use provisioner_core::finding::Finding;
use provisioner_core::manifest::{Manifest, NginxTls};
use provisioner_core::name::Member;
use provisioner_core::stack::{
    Expose, ImageId, Limits, Port, Probe, Probes, Recipe, Resource, Restart, Secret, Stack, Stop, Workload,
};

use crate::http::Site;
use crate::{app, certificates, media, monitoring, recipe};

pub use files::rendered_files;
pub(crate) use reload::{enlist, run_enlist};
pub(crate) use tls::{customers, has_own_certificate};

pub(crate) const NAME: &str = "nginx";
/// Customers. Below 1024 a process needs a privilege, or a kernel setting that not every engine makes.
const HTTP: u16 = 8080;
/// Customers, encrypted.
pub(crate) const HTTPS: u16 = 8443;
/// The same server for checks: its own rate limit counters, and it names the backend that answered.
pub(crate) const CHECKS: u16 = 8089;
pub(crate) const STATUS: u16 = 8081;
/// Balancers learn within a second or two; meanwhile its successor on another node comes up.
const LEAVE_SECS: u32 = 5;

pub struct Nginx;

pub(crate) fn member() -> Member {
    Member::nth(NAME, 1)
}

#[async_trait]
impl Component for Nginx {
    fn name(&self) -> &'static str {
        NAME
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        let mut resources = image(manifest);
        if let Some(tls) = &manifest.nginx.tls {
            resources.extend(tls_secrets(manifest, tls));
        }
        resources.push(Resource::Workload(Arc::new(workload(manifest))));
        resources
    }

    fn tasks(&self, situation: &Situation<'_>) -> Tasks {
        reload::tasks(situation)
    }

    fn entrypoints(&self, stack: &Stack) -> Vec<Entrypoint> {
        let has = |port| stack.workload(&member()).is_some_and(|workload| workload.port(port).is_some());
        let known = [("http", HTTP), ("https", HTTPS)].into_iter().filter(|(scheme, _)| has(scheme));
        known.map(|(scheme, port)| Entrypoint::new(scheme, scheme, &member(), port)).collect()
    }

    async fn observe(&self, access: &Access<'_>) -> BTreeMap<String, String> {
        reload::facts(access).await
    }

    async fn drift(&self, access: &Access<'_>) -> Comparisons {
        drift::drift(access).await
    }

    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        let site = Site::of(access, member, STATUS, Duration::from_secs(1)).await.map_err(NotReady)?;
        let reply = site.get("/health").await.map_err(NotReady)?;
        if reply.status == 200 { Ok(()) } else { Err(NotReady(format!("/health: {}, expected 200", reply.status))) }
    }

    async fn run(&self, task: &Task, access: &Access<'_>) -> Result<(), Failure> {
        reload::run(task, access).await
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        verify::verify(access).await
    }
}

/// The image with NGINX, for whoever runs it.
pub(crate) fn image(manifest: &Manifest) -> Vec<Resource> {
    recipe(NAME, manifest.nginx.service.image.as_deref(), own_recipe)
}

pub(crate) fn own_recipe() -> Recipe {
    Recipe {
        id: ImageId(NAME.to_owned()),
        base: ImageId(crate::BASE.to_owned()),
        dockerfile: include_str!("../../recipes/nginx/Dockerfile").to_owned(),
        inputs: Vec::new(),
    }
}

/// A pair of somebody's own, or one that the stack's authority issues.
fn tls_secrets(manifest: &Manifest, tls: &NginxTls) -> Vec<Resource> {
    match &tls.own {
        Some(own) => {
            vec![Resource::Secret(Secret { name: certificates::secret_of(NAME), source: own.into() })]
        }
        None => {
            let mut names = tls.names.clone();
            names.push(member().to_string());
            vec![certificates::authority(manifest), certificates::certificate(manifest, NAME, names)]
        }
    }
}

/// Its own: while there is no backend it serves what it has, and says so of the rest.
fn health() -> Probe {
    Probe::http(STATUS, "/health")
}

fn workload(manifest: &Manifest) -> Workload {
    let nginx = &manifest.nginx;
    let watched = [monitoring::NAME];
    let mut ports = vec![
        Port::new("http", HTTP, Expose::Address { ip: manifest.expose, port: nginx.http_port }),
        Port::new("checks", CHECKS, Expose::Checks).reached_by(&watched),
        Port::new("status", STATUS, Expose::Checks).reached_by(&watched),
    ];
    if let Some(tls) = &nginx.tls {
        ports.push(Port::new("https", HTTPS, Expose::Address { ip: manifest.expose, port: tls.https_port }));
    }
    Workload {
        member: member(),
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: files::script("start"),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: rendered_files(manifest),
        mounts: media::shared_volume(manifest).into_iter().collect(),
        names: Vec::new(),
        ports,
        user: Some(files::WWW_DATA),
        scratch: ["/tmp", "/var/cache/nginx"].map(str::to_owned).to_vec(),
        limits: Limits {
            memory_bytes: Some(nginx.service.memory_bytes),
            cpu_millis: Some(nginx.service.cpu_millis),
            shm_bytes: None,
        },
        // Longer than `worker_shutdown_timeout`.
        stop: Stop { signal: "SIGQUIT".to_owned(), grace_secs: 35 },
        restart: Restart::UnlessStopped,
        probes: Some(Probes { leave_secs: LEAVE_SECS, ..Probes::ready(health()).started(health(), 60) }),
        // It would start without them, and lead nowhere.
        after: app::members(manifest).into_iter().chain(media::declared(manifest)).map(Dependency::Ready).collect(),
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::observed::Observed;
    use provisioner_core::stack::Image;

    use super::*;
    use crate::testing::manifest;

    #[test]
    fn only_the_http_port_is_for_people() {
        let mut manifest = manifest();
        manifest.expose = "0.0.0.0".parse().unwrap();
        let workload = workload(&manifest);
        let open: Vec<_> = workload.ports.iter().filter(|port| port.expose != Expose::Checks).collect();
        assert_eq!(open.len(), 1);
        assert_eq!((open[0].name.as_str(), open[0].port), ("http", HTTP));
    }

    #[test]
    fn the_entrypoint_can_be_opened() {
        let mut manifest = manifest();
        for (expose, url) in [
            ("127.0.0.1", "http://127.0.0.1:8080/"),
            ("0.0.0.0", "http://127.0.0.1:8080/"),
            ("::1", "http://[::1]:8080/"),
            ("192.0.2.7", "http://192.0.2.7:8080/"),
        ] {
            manifest.expose = expose.parse().unwrap();
            let stack = Stack::new(manifest.name.clone(), Nginx.declare(&manifest));
            let entrypoints = Nginx.entrypoints(&stack);
            assert_eq!(entrypoints.len(), 1);
            assert_eq!(entrypoints[0].url(&stack, &Observed::default()).as_deref(), Some(url));
        }
    }

    #[test]
    fn somebodys_own_image_needs_no_recipe() {
        let mut manifest = manifest();
        manifest.nginx.service.image = Some("registry.example/nginx:1".to_owned());
        let stack = Stack::new(manifest.name.clone(), Nginx.declare(&manifest));
        let image = stack.image(&ImageId(NAME.to_owned())).unwrap();
        assert_eq!(
            *image,
            Image::Reference { id: ImageId(NAME.to_owned()), reference: "registry.example/nginx:1".to_owned() }
        );
    }
}
