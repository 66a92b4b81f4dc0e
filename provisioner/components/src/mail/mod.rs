//! Mail: a sink that takes every mail and shows it, or a server of somebody's own, of which the stack has no member.
//!
//! An image of somebody's own for the sink must provide `python3` with aiosmtpd 1.4 and a user with number 999 who owns
//! `/var/lib/sink`.

mod smtp;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use provisioner_core::component::{Access, Component, Entrypoint, NotReady, Variable};
use provisioner_core::finding::Finding;
use provisioner_core::manifest::{Mail as Section, MailLogin, MailSecurity, MailServer, Manifest, Service};
use provisioner_core::name::Member;
use provisioner_core::secret;
use provisioner_core::stack::{
    Expose, File, ImageId, Limits, Mount, OnChange, Port, Probe, Probes, Recipe, Resource, Restart, Secret, Stack,
    Stop, Text, Volume, Workload,
};

use crate::{app, recipe};

pub(crate) use verify::{swept, taken};

pub(crate) const NAME: &str = "mail";
const SMTP: u16 = 1025;
const HTTP: u16 = 8025;
const DATA: &str = "mail-1-data";
const SCRIPT: &str = "/run/provisioner/sink.py";
const URL: &str = "SMTP_URL";
const FROM: &str = "MAIL_FROM";
/// The password of somebody's own server.
const PASSWORD: &str = "mail-password";
/// User and group of the recipe.
const SINK: (u32, u32) = (999, 999);

pub struct Mail;

pub(crate) fn member() -> Member {
    Member::nth(NAME, 1)
}

/// What the app's programs are told beside the address of a member: the sender, and a server that is none.
pub(crate) fn settings(manifest: &Manifest) -> BTreeMap<String, Text> {
    let Some(Section { from, server }) = &manifest.mail else { return BTreeMap::new() };
    let mut settings = BTreeMap::from([(FROM.to_owned(), Text::new(from))]);
    if let MailServer::Smtp { host, port, security, login } = server {
        let (scheme, query) = match security {
            MailSecurity::None => ("smtp", ""),
            MailSecurity::StartTls => ("smtp", "?tls=required"),
            MailSecurity::Tls => ("smtps", ""),
        };
        let login = login.as_ref().map_or_else(String::new, |MailLogin { user, .. }| {
            format!("{}:{}@", secret::url_encoded(user), Text::secret(&format!("{PASSWORD}.url")))
        });
        settings.insert(URL.to_owned(), Text::new(format!("{scheme}://{login}{host}:{port}{query}")));
    }
    settings
}

#[async_trait]
impl Component for Mail {
    fn name(&self) -> &'static str {
        NAME
    }

    fn declare(&self, manifest: &Manifest) -> Vec<Resource> {
        match manifest.mail.as_ref().map(|mail| &mail.server) {
            Some(MailServer::Sink(service)) => sink(service),
            Some(MailServer::Smtp { login: Some(MailLogin { password, .. }), .. }) => {
                vec![Resource::Secret(Secret { name: PASSWORD.to_owned(), source: password.into() })]
            }
            Some(MailServer::Smtp { login: None, .. }) | None => Vec::new(),
        }
    }

    fn variables(&self, stack: &Stack) -> Vec<Variable> {
        let found = stack.workload(&member()).map(|workload| Variable {
            name: URL,
            prefix: Text::new("smtp://"),
            host: workload.member.to_string(),
            port: SMTP,
            member: Some(workload.member.clone()),
            suffix: String::new(),
            suffix_outside: None,
        });
        found.into_iter().collect()
    }

    fn entrypoints(&self, stack: &Stack) -> Vec<Entrypoint> {
        let found = stack.workload(&member()).map(|workload| Entrypoint::new(NAME, "http", &workload.member, HTTP));
        found.into_iter().collect()
    }

    async fn ready(&self, access: &Access<'_>, member: &Member) -> Result<(), NotReady> {
        let address = access.engine.address(member, SMTP).await.map_err(|error| NotReady(error.to_string()))?;
        smtp::greeting(address).await.map(|_| ()).map_err(NotReady)
    }

    async fn verify(&self, access: &Access<'_>) -> Vec<Finding> {
        verify::verify(access).await
    }
}

fn sink(service: &Service) -> Vec<Resource> {
    let own = || Recipe {
        id: ImageId(NAME.to_owned()),
        base: ImageId(crate::BASE.to_owned()),
        dockerfile: include_str!("../../recipes/mail/Dockerfile").to_owned(),
        inputs: Vec::new(),
    };
    let mut resources = recipe(NAME, service.image.as_deref(), own);
    resources.push(Resource::Volume(Volume {
        name: DATA.to_owned(),
        component: NAME.to_owned(),
        size_bytes: service.disk_bytes,
    }));
    resources.push(Resource::Workload(Arc::new(workload(service))));
    resources
}

fn workload(service: &Service) -> Workload {
    Workload {
        member: member(),
        component: NAME.to_owned(),
        image: ImageId(NAME.to_owned()),
        command: ["python3", SCRIPT].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        secret_env: BTreeMap::new(),
        files: vec![File {
            path: SCRIPT.to_owned(),
            mode: 0o444,
            owner: SINK,
            content: Text::new(include_str!("../../recipes/mail/sink.py")),
            on_change: OnChange::Restart,
        }],
        mounts: vec![Mount { volume: DATA.to_owned(), path: "/var/lib/sink".to_owned() }],
        names: Vec::new(),
        ports: vec![
            Port::new("smtp", SMTP, Expose::Checks).reached_by(&[app::NAME]),
            Port::new("http", HTTP, Expose::Checks),
        ],
        user: Some(SINK),
        scratch: Vec::new(),
        limits: Limits {
            memory_bytes: Some(service.memory_bytes),
            cpu_millis: Some(service.cpu_millis),
            shm_bytes: None,
        },
        stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 10 },
        restart: Restart::UnlessStopped,
        probes: Some(Probes::ready(Probe::http(HTTP, "/health"))),
        after: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::manifest::parse;

    use super::*;

    fn manifest(mail: &str) -> Manifest {
        parse(format!("name: dev\nmail: {mail}\napp:\n  binary: target/app\n").as_bytes()).unwrap()
    }

    fn url(mail: &str) -> String {
        settings(&manifest(mail))[URL].masked().to_owned()
    }

    #[test]
    fn somebodys_own_server_has_no_member_and_is_named_with_its_login() {
        let login = "user: shop@example.com, password_file: p";
        assert_eq!(url("{ host: smtp.example.com, security: off }"), "smtp://smtp.example.com:25");
        assert_eq!(url("{ host: smtp.example.com }"), "smtp://smtp.example.com:587?tls=required");
        assert_eq!(
            url(&format!("{{ host: smtp.example.com, security: tls, {login} }}")),
            "smtps://shop%40example.com:@{secret:mail-password.url}@smtp.example.com:465"
        );
        let manifest = manifest(&format!("{{ host: smtp.example.com, {login} }}"));
        let stack = Stack::new(manifest.name.clone(), Mail.declare(&manifest));
        assert_eq!((stack.workloads().count(), stack.resources().count()), (0, 1));
    }

    #[test]
    fn the_sink_is_a_member_and_the_sender_is_told_in_any_case() {
        let manifest = manifest("{ from: a@b.example }");
        let stack = Stack::new(manifest.name.clone(), Mail.declare(&manifest));
        assert_eq!(Mail.variables(&stack)[0].inside().masked(), "smtp://mail-1:1025");
        assert_eq!(settings(&manifest), BTreeMap::from([(FROM.to_owned(), Text::new("a@b.example"))]));
    }
}
