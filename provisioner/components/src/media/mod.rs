//! Uploaded pictures. With a member of their own, an NGINX of which the backends write to the private port and which the
//! entrance reads from; or in a volume that the backends and the entrance share. Its file is `nginx/media.conf`.
//!
//! An image of somebody's own must provide NGINX 1.26 with its DAV module and its `mime.types`, and a directory `/srv/media`
//! of user and group 10001.

mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use minijinja::context;
use provisioner_core::component::{Access, Component, NotReady, Variable};
use provisioner_core::finding::Finding;
use provisioner_core::manifest::{Manifest, Media as Section, Service};
use provisioner_core::name::Member;
use provisioner_core::stack::{
    Expose, File, ImageId, Limits, Mount, OnChange, Port, Probe, Probes, Resource, Restart, Secret, Stack, Stop, Text,
    Volume, Workload,
};

use crate::http::Site;
use crate::template::render;
use crate::{app, monitoring, nginx, recipe};

pub(crate) const NAME: &str = "media";
/// Reads for everybody inside the stack, writes for whoever knows the password.
pub(crate) const PORT: u16 = 8090;
/// Volume and place of the pictures, whoever serves them.
const VOLUME: &str = "media";
pub(crate) const DIR: &str = "/srv/media";
/// The address below which the app puts them, and the directory in its place.
const URL: &str = "APP_MEDIA_URL";
pub(crate) const DIR_VARIABLE: &str = "APP_MEDIA_DIR";
const USER: &str = "app";
const PASSWORD: &str = "media-app";
const CONFIG: &str = "/etc/nginx/media.conf";
/// What backends wrote while the volume was theirs belongs to their user.
const OWNER: (u32, u32) = app::USER;

/// Content of a file of `nginx/`.
macro_rules! embedded {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../nginx/", $name))
    };
}

pub struct Media;

pub(crate) fn member() -> Member {
    Member::nth(NAME, 1)
}

pub(crate) fn is_member(manifest: &Manifest) -> bool {
    matches!(manifest.media, Some(Section::Member(_)))
}

/// The member that a manifest asks for.
pub(crate) fn declared(manifest: &Manifest) -> Option<Member> {
    is_member(manifest).then(member)
}

/// Where backends and the entrance mount the pictures themselves.
pub(crate) fn shared_volume(manifest: &Manifest) -> Option<Mount> {
    (manifest.media == Some(Section::SharedVolume)).then(mount)
}

fn mount() -> Mount {
    Mount { volume: VOLUME.to_owned(), path: DIR.to_owned() }
}

#[async_trait]
impl Component for Media {
    fn name(&self) -> &'static str {
        NAME
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        let Some(section) = &manifest.media else { return Vec::new() };
        let size_bytes = match section {
            Section::Member(service) => service.disk_bytes,
            Section::SharedVolume => None,
        };
        let volume = Resource::Volume(Volume { name: VOLUME.to_owned(), component: NAME.to_owned(), size_bytes });
        let Section::Member(service) = section else { return vec![volume] };
        let mut resources = match service.image.as_deref() {
            None => nginx::image(manifest),
            own => recipe(NAME, own, nginx::own_recipe),
        };
        resources.push(volume);
        resources.push(Resource::Secret(Secret::password(PASSWORD, 32)));
        resources.push(Resource::Workload(Arc::new(workload(service))));
        resources
    }

    fn variables(&self, stack: &Stack) -> Vec<Variable> {
        let found = stack.workload(&member()).map(|workload| Variable {
            name: URL,
            prefix: Text::new(format!("http://{USER}:{}@", Text::secret(PASSWORD))),
            host: workload.member.to_string(),
            port: PORT,
            member: Some(workload.member.clone()),
            suffix: "/media/".to_owned(),
            suffix_outside: None,
        });
        found.into_iter().collect()
    }

    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        let site = Site::of(access, member, PORT, Duration::from_secs(1)).await.map_err(NotReady)?;
        let reply = site.get("/health").await.map_err(NotReady)?;
        if reply.status == 200 { Ok(()) } else { Err(NotReady(format!("/health: {}, expected 200", reply.status))) }
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        verify::verify(access).await
    }
}

fn workload(service: &Service) -> Workload {
    let nginx = |words: &[&str]| ["nginx"].iter().chain(words).map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Workload {
        member: member(),
        component: NAME.to_owned(),
        image: ImageId(if service.image.is_some() { NAME } else { nginx::NAME }.to_owned()),
        command: nginx(&["-c", CONFIG]),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: files(&OnChange::Reload { check: nginx(&["-t", "-c", CONFIG]), signal: "SIGHUP".to_owned() }),
        mounts: vec![mount()],
        names: Vec::new(),
        ports: vec![Port::new("http", PORT, Expose::Checks).reached_by(&[nginx::NAME, app::NAME, monitoring::NAME])],
        user: Some(OWNER),
        // Of a draft's way only names: the drafts themselves are on the volume.
        scratch: vec!["/tmp".to_owned()],
        limits: Limits {
            memory_bytes: Some(service.memory_bytes),
            cpu_millis: Some(service.cpu_millis),
            shm_bytes: None,
        },
        // Longer than `worker_shutdown_timeout`.
        stop: Stop { signal: "SIGQUIT".to_owned(), grace_secs: 15 },
        restart: Restart::UnlessStopped,
        probes: Some(Probes::ready(Probe::http(PORT, "/health"))),
        after: Vec::new(),
    }
}

fn files(reload: &OnChange) -> Vec<File> {
    let file = |path: &str, mode, content: &str, on_change: &OnChange| File {
        path: path.to_owned(),
        mode,
        owner: OWNER,
        content: Text::new(content),
        on_change: on_change.clone(),
    };
    let users = render("media.users.j2", embedded!("media.users.j2"), context! { password => Text::secret(PASSWORD) });
    vec![
        file(CONFIG, 0o444, embedded!("media.conf"), reload),
        file("/etc/nginx/site/log.conf", 0o444, embedded!("site/log.conf"), reload),
        // Read at every write.
        file("/etc/nginx/media.users", 0o400, &users, &OnChange::Nothing),
    ]
}
