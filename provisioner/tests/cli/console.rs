//! A component of the tests: a page with a login, at a port that the engine picks, served from the app's image.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use provisioner_core::component::{Access, Component, Entrypoint, NotReady};
use provisioner_core::finding::Finding;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::stack::{Expose, ImageId, Limits, Port, Resource, Restart, Secret, Stack, Stop, Text, Workload};

pub(crate) struct Console;

const PORT: u16 = 15672;

fn member() -> Member {
    Member::nth("console", 1)
}

#[async_trait]
impl Component for Console {
    fn name(&self) -> &'static str {
        "console"
    }

    fn declare(&self, _manifest: &Manifest) -> Vec<Resource> {
        let workload = Workload {
            member: member(),
            component: "console".to_owned(),
            image: ImageId("app".to_owned()),
            command: Vec::new(),
            env: BTreeMap::new(),
            secret_env: BTreeMap::from([("PASSWORD".to_owned(), Text::new(Text::secret("console-admin")))]),
            files: Vec::new(),
            mounts: Vec::new(),
            names: Vec::new(),
            ports: vec![Port::new("page", PORT, Expose::Checks)],
            user: None,
            scratch: Vec::new(),
            limits: Limits::default(),
            stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 1 },
            restart: Restart::UnlessStopped,
            probes: None,
            after: Vec::new(),
        };
        vec![Resource::Secret(Secret::password("console-admin", 24)), Resource::Workload(Arc::new(workload))]
    }

    fn entrypoints(&self, _stack: &Stack) -> Vec<Entrypoint> {
        vec![Entrypoint::new("console", "http", &member(), PORT).login("admin", "console-admin")]
    }

    async fn ready(&self, _access: &Access<'_>, _member: &Member) -> Result<(), NotReady> {
        Ok(())
    }

    async fn verify(&self, _access: &Access<'_>) -> Vec<Finding> {
        Vec::new()
    }
}
