//! Redis: cache, sessions and counters, with an append-only file and users that may do only what they must.

mod client;
mod drift;
mod encryption;
mod external;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use minijinja::context;
use provisioner_core::component::{Access, Component, NotReady, Variable};
use provisioner_core::drift::Comparisons;
use provisioner_core::finding::Finding;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::stack::{
    Expose, External, File, ImageId, Limits, Mount, OnChange, Port, Probe, Probes, Recipe, Resource, Restart, Secret,
    Stack, Stop, Text, Volume, Workload,
};

pub(crate) use encryption::is_declared as is_encrypted;

use crate::template::render;
use crate::{app, monitoring, recipe};

pub(crate) const NAME: &str = "redis";
const PORT: u16 = 6379;
const DATA: &str = "redis-1-data";
const CONFIGURATION: &str = "/etc/redis/redis.conf";
const USERS: &str = "/etc/redis/users.acl";
const PASSWORD_LENGTH: usize = 24;
/// User and group of the recipe and of the Redis project's images.
const REDIS: (u32, u32) = (999, 999);

/// Redis users, and the secrets that hold their passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    App,
    Admin,
    /// Reads figures and no keys.
    Monitor,
}

impl User {
    const ALL: [Self; 3] = [Self::App, Self::Admin, Self::Monitor];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::App => "app",
            Self::Admin => "admin",
            Self::Monitor => "monitor",
        }
    }

    pub(crate) fn secret(self) -> &'static str {
        match self {
            Self::App => "redis-app",
            Self::Admin => "redis-admin",
            Self::Monitor => "redis-monitor",
        }
    }
}

pub struct Redis;

pub(crate) fn member() -> Member {
    Member::nth(NAME, 1)
}

/// Scheme, name and port inside the stack.
pub(crate) fn url(stack: &Stack) -> String {
    format!("{}://{}:{PORT}", scheme(stack), member())
}

fn scheme(stack: &Stack) -> &'static str {
    if encryption::is_declared(stack) { "rediss" } else { "redis" }
}

#[async_trait]
impl Component for Redis {
    fn name(&self) -> &'static str {
        NAME
    }

    fn external(&self, manifest: &Manifest) -> Option<External> {
        external::of(manifest)
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        if let (Some(found), Some(external)) = (&manifest.redis.external, external::of(manifest)) {
            return external.secrets(&found.server);
        }
        let own = || Recipe {
            id: ImageId(NAME.to_owned()),
            base: ImageId(crate::BASE.to_owned()),
            dockerfile: include_str!("../../recipes/redis/Dockerfile").to_owned(),
            inputs: Vec::new(),
        };
        let mut resources = recipe(NAME, manifest.redis.service.image.as_deref(), own);
        resources.extend(User::ALL.map(|user| Resource::Secret(Secret::password(user.secret(), PASSWORD_LENGTH))));
        resources.extend(encryption::resources(manifest));
        resources.push(Resource::Volume(Volume {
            name: DATA.to_owned(),
            component: NAME.to_owned(),
            size_bytes: manifest.redis.service.disk_bytes,
        }));
        resources.push(Resource::Workload(Arc::new(workload(manifest))));
        resources
    }

    fn variables(&self, stack: &Stack) -> Vec<Variable> {
        if let Some(external) = stack.external(NAME) {
            return vec![external::variable(external)];
        }
        vec![Variable {
            name: "REDIS_URL",
            prefix: Text::new(format!(
                "{}://{}:{}@",
                scheme(stack),
                User::App.name(),
                Text::secret(User::App.secret())
            )),
            host: member().to_string(),
            port: PORT,
            member: Some(member()),
            suffix: "/0".to_owned(),
            suffix_outside: None,
        }]
    }

    async fn drift(&self, access: &Access<'_>) -> Comparisons {
        drift::drift(access).await
    }

    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        client::ready(access, member).await.map_err(NotReady)
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        match access.stack.external(NAME) {
            Some(external) => external::verify(access, external).await,
            None => verify::verify(access).await,
        }
    }
}

fn workload(manifest: &Manifest) -> Workload {
    let service = &manifest.redis.service;
    Workload {
        member: member(),
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: vec!["redis-server".to_owned(), CONFIGURATION.to_owned()],
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: files(manifest),
        mounts: vec![Mount { volume: DATA.to_owned(), path: "/data".to_owned() }],
        names: Vec::new(),
        ports: vec![Port::new("redis", PORT, Expose::Checks).reached_by(&[app::NAME, monitoring::NAME])],
        user: Some(REDIS),
        scratch: Vec::new(),
        limits: Limits {
            memory_bytes: Some(service.memory_bytes),
            cpu_millis: Some(service.cpu_millis),
            shm_bytes: None,
        },
        // Writes and syncs the append-only file before it ends.
        stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 30 },
        restart: Restart::UnlessStopped,
        // Who has not logged in is told nothing, not even that it still loads.
        probes: Some(Probes::ready(Probe::Tcp { port: PORT })),
        after: Vec::new(),
    }
}

/// Redis reads none of its files again while it runs; a new certificate only on a command that nobody sends by itself.
fn files(manifest: &Manifest) -> Vec<File> {
    let settings = context! {
        port => PORT,
        tls => manifest.redis.tls,
        maxmemory => maxmemory(manifest.redis.service.memory_bytes),
        settings => manifest.redis.settings.clone(),
    };
    let users = context! {
        app_password => Text::secret(User::App.secret()),
        admin_password => Text::secret(User::Admin.secret()),
        monitor_password => Text::secret(User::Monitor.secret()),
    };
    let file = |path: &str, mode, content: String| File {
        path: path.to_owned(),
        mode,
        owner: REDIS,
        content: Text::new(content),
        on_change: OnChange::Restart,
    };
    let mut files = vec![
        file(
            CONFIGURATION,
            0o644,
            render("redis.conf.j2", include_str!("../../recipes/redis/redis.conf.j2"), settings),
        ),
        file(USERS, 0o400, render("users.acl.j2", include_str!("../../recipes/redis/users.acl.j2"), users)),
    ];
    if manifest.redis.tls {
        files.extend(encryption::files());
    }
    files
}

/// What of the container's memory may hold data. While the append-only file is rewritten, pages that change exist twice;
/// clients and fragmentation take the rest.
fn maxmemory(memory_bytes: u64) -> u64 {
    memory_bytes / 10 * 6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::manifest;

    #[test]
    fn the_files() {
        let mut manifest = manifest();
        manifest.redis.settings.insert("maxmemory-policy".to_owned(), "allkeys-lru".to_owned());
        let files: Vec<String> = files(&manifest)
            .iter()
            .map(|file| format!("==> {} {:o} {:?}\n{}", file.path, file.mode, file.owner, file.content.masked()))
            .collect();
        insta::assert_snapshot!(files.concat());
    }

    #[test]
    fn encrypted_it_listens_for_nothing_else() {
        let mut manifest = manifest();
        manifest.redis.tls = true;
        let files = files(&manifest);
        let lines: Vec<&str> = files[0].content.masked().lines().collect();
        assert!(lines.contains(&"port 0") && lines.contains(&"tls-port 6379"), "{lines:?}");
        assert!(lines.contains(&"tls-auth-clients no") && lines.contains(&"tls-protocols \"TLSv1.2 TLSv1.3\""));
        let key = files.iter().find(|file| file.path == "/etc/redis/tls/server.key").unwrap();
        assert_eq!((key.mode, key.owner, key.content.masked()), (0o400, REDIS, "@{secret:tls-redis.key}"));

        let stack = Stack::new(manifest.name.clone(), Redis.declare(&manifest));
        assert_eq!(Redis.variables(&stack)[0].inside().masked(), "rediss://app:@{secret:redis-app}@redis-1:6379/0");
    }

    #[test]
    fn passwords_are_named_and_never_held() {
        let stack = Stack::new(manifest().name, Redis.declare(&manifest()));
        let workload = stack.workload(&member()).unwrap();
        let secrets: std::collections::BTreeSet<_> = workload.secrets().collect();
        assert_eq!(secrets.into_iter().collect::<Vec<_>>(), ["redis-admin", "redis-app", "redis-monitor"]);
        assert_eq!(Redis.variables(&stack)[0].inside().masked(), "redis://app:@{secret:redis-app}@redis-1:6379/0");
    }
}
