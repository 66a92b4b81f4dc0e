//! The manifest in its own keys, defaults filled in.

mod external;
mod kubernetes;
mod monitoring;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use provisioner_core::manifest::{
    App, AppChecks, AppSource, Mail, MailSecurity, MailServer, Manifest, Media, Nginx, NginxTls, OwnPair, Postgres,
    PostgresMember, Service, Synchronous, Worker,
};
use provisioner_core::name::{Member, StackName};
use serde::Serialize;

use self::external::{Or, WrittenExternal};
use self::kubernetes::WrittenKubernetes;
use self::monitoring::WrittenMonitoring;

/// The manifest in its own keys, so that what is printed can be given back as a file.
#[derive(Serialize)]
pub(super) struct Written<'a> {
    name: &'a StackName,
    environment: &'static str,
    expose: IpAddr,
    certificate_days: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<WrittenKubernetes<'a>>,
    nginx: WrittenNginx<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<WrittenRoute<'a>>,
    postgres: Or<'a, WrittenPostgres<'a>>,
    redis: Or<'a, WrittenRedis<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rabbitmq: Option<Or<'a, WrittenRabbitmq<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elasticsearch: Option<Or<'a, WrittenElasticsearch<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mail: Option<WrittenMail<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media: Option<WrittenMedia<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    monitoring: Option<WrittenMonitoring<'a>>,
    app: WrittenApp<'a>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    workers: BTreeMap<&'a str, WrittenWorker<'a>>,
}

#[derive(Serialize)]
struct WrittenService<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    memory: String,
    cpus: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<String>,
}

#[derive(Serialize)]
struct WrittenNginx<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    http_port: u16,
    rate_limit: u32,
    burst: u32,
    body_max_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<WrittenNginxTls<'a>>,
}

#[derive(Serialize)]
struct WrittenNginxTls<'a> {
    port: u16,
    only: bool,
    names: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

#[derive(Serialize)]
struct WrittenRoute<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    replicas: u32,
}

#[derive(Serialize)]
struct WrittenPostgres<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    replicas: u32,
    synchronous: &'static str,
    tls: bool,
    settings: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    members: BTreeMap<&'a Member, WrittenPostgresMember<'a>>,
    objectives: WrittenObjectives,
}

#[derive(Serialize)]
struct WrittenObjectives {
    rto: String,
    rpo: String,
}

#[derive(Serialize)]
struct WrittenPostgresMember<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<&'a str>,
    priority: u32,
    nofailover: bool,
}

#[derive(Serialize)]
struct WrittenRedis<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    tls: bool,
    settings: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct WrittenRabbitmq<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    tls: bool,
    queues: &'a BTreeMap<String, Vec<String>>,
    settings: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct WrittenElasticsearch<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    nodes: u32,
    heap: String,
    settings: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct WrittenMail<'a> {
    from: &'a str,
    #[serde(flatten)]
    server: WrittenMailServer<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WrittenMailServer<'a> {
    Sink(WrittenService<'a>),
    Smtp {
        host: &'a str,
        port: u16,
        security: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        user: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        password_file: Option<&'a Path>,
    },
}

#[derive(Serialize)]
#[serde(untagged)]
enum WrittenMedia<'a> {
    Member(WrittenService<'a>),
    SharedVolume { shared_volume: bool },
}

#[derive(Serialize)]
struct WrittenWorker<'a> {
    command: &'a [String],
    replicas: u32,
    memory: String,
    cpus: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<WrittenHealth<'a>>,
}

#[derive(Serialize)]
struct WrittenHealth<'a> {
    port: u16,
    path: &'a str,
}

#[derive(Serialize)]
struct WrittenApp<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    binary: Option<&'a Path>,
    #[serde(flatten)]
    service: WrittenService<'a>,
    replicas: u32,
    serve: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    migrate: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<&'a [String]>,
    port: u16,
    health: &'a str,
    env: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    secret_env: BTreeMap<&'a str, &'a Path>,
    checks: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    smoke: Option<&'a str>,
}

impl<'a> From<&'a Manifest> for Written<'a> {
    fn from(manifest: &'a Manifest) -> Self {
        Self {
            name: &manifest.name,
            environment: manifest.environment.word(),
            expose: manifest.expose,
            certificate_days: manifest.certificate_days,
            kubernetes: manifest.kubernetes.as_ref().map(Into::into),
            nginx: (&manifest.nginx).into(),
            route: manifest
                .postgres
                .external
                .is_none()
                .then(|| WrittenRoute { service: (&manifest.route.service).into(), replicas: manifest.route.replicas }),
            postgres: Or::new(manifest.postgres.external.as_ref().map(WrittenExternal::postgres), || {
                (&manifest.postgres).into()
            }),
            redis: Or::new(manifest.redis.external.as_ref().map(WrittenExternal::redis), || WrittenRedis {
                service: (&manifest.redis.service).into(),
                tls: manifest.redis.tls,
                settings: &manifest.redis.settings,
            }),
            rabbitmq: manifest.rabbitmq.as_ref().map(|rabbitmq| {
                let external = rabbitmq.external.as_ref().map(WrittenExternal::rabbitmq);
                let own = || WrittenRabbitmq {
                    service: (&rabbitmq.service).into(),
                    tls: rabbitmq.tls,
                    queues: &rabbitmq.queues,
                    settings: &rabbitmq.settings,
                };
                Or::new(external, own).with_queues(&rabbitmq.queues)
            }),
            elasticsearch: manifest.elasticsearch.as_ref().map(|elasticsearch| {
                Or::new(elasticsearch.external.as_ref().map(WrittenExternal::of), || WrittenElasticsearch {
                    service: (&elasticsearch.service).into(),
                    nodes: elasticsearch.nodes,
                    heap: memory(elasticsearch.heap_bytes),
                    settings: &elasticsearch.settings,
                })
            }),
            mail: manifest.mail.as_ref().map(Into::into),
            media: manifest.media.as_ref().map(|media| match media {
                Media::Member(service) => WrittenMedia::Member(service.into()),
                Media::SharedVolume => WrittenMedia::SharedVolume { shared_volume: true },
            }),
            monitoring: manifest.monitoring.as_ref().map(Into::into),
            app: (&manifest.app).into(),
            workers: manifest.workers.iter().map(|(name, worker)| (name.as_str(), worker.into())).collect(),
        }
    }
}

impl<'a> From<&'a Nginx> for WrittenNginx<'a> {
    fn from(nginx: &'a Nginx) -> Self {
        let file = |tls: &'a NginxTls, nth: usize| match tls.own.as_ref()? {
            OwnPair::Files(own) => own.files.get(nth).map(PathBuf::as_path),
            OwnPair::Kept { .. } => None,
        };
        let kept = |tls: &'a NginxTls| match tls.own.as_ref()? {
            OwnPair::Kept { secret, .. } => Some(secret.as_str()),
            OwnPair::Files(_) => None,
        };
        Self {
            service: (&nginx.service).into(),
            http_port: nginx.http_port,
            rate_limit: nginx.rate_limit,
            burst: nginx.burst,
            body_max_bytes: nginx.body_max_bytes,
            tls: nginx.tls.as_ref().map(|tls| WrittenNginxTls {
                port: tls.https_port,
                only: tls.only,
                names: &tls.names,
                key: file(tls, 0),
                certificate: file(tls, 1),
                secret: kept(tls),
            }),
        }
    }
}

impl<'a> From<&'a Postgres> for WrittenPostgres<'a> {
    fn from(postgres: &'a Postgres) -> Self {
        Self {
            service: (&postgres.service).into(),
            replicas: postgres.replicas,
            synchronous: match postgres.synchronous {
                Synchronous::Off => "off",
                Synchronous::Preferred => "preferred",
                Synchronous::Required => "required",
            },
            tls: postgres.tls,
            settings: &postgres.settings,
            members: postgres.members.iter().map(|(member, found)| (member, found.into())).collect(),
            objectives: WrittenObjectives {
                rto: humantime::format_duration(postgres.objectives.rto).to_string(),
                rpo: humantime::format_duration(postgres.objectives.rpo).to_string(),
            },
        }
    }
}

impl<'a> From<&'a PostgresMember> for WrittenPostgresMember<'a> {
    fn from(PostgresMember { region, priority, nofailover }: &'a PostgresMember) -> Self {
        Self { region: region.as_deref(), priority: *priority, nofailover: *nofailover }
    }
}

impl<'a> From<&'a Mail> for WrittenMail<'a> {
    fn from(Mail { from, server }: &'a Mail) -> Self {
        let server = match server {
            MailServer::Sink(service) => WrittenMailServer::Sink(service.into()),
            MailServer::Smtp { host, port, security, login } => WrittenMailServer::Smtp {
                host,
                port: *port,
                security: match security {
                    MailSecurity::None => "off",
                    MailSecurity::StartTls => "starttls",
                    MailSecurity::Tls => "tls",
                },
                user: login.as_ref().map(|login| login.user.as_str()),
                password_file: login.as_ref().and_then(|login| login.password.files.first()).map(PathBuf::as_path),
            },
        };
        Self { from, server }
    }
}

impl<'a> From<&'a Worker> for WrittenWorker<'a> {
    fn from(worker: &'a Worker) -> Self {
        Self {
            command: &worker.command,
            replicas: worker.replicas,
            memory: memory(worker.memory_bytes),
            cpus: cores(worker.cpu_millis),
            health: worker.health.as_ref().map(|health| WrittenHealth { port: health.port, path: &health.path }),
        }
    }
}

impl<'a> From<&'a App> for WrittenApp<'a> {
    fn from(app: &'a App) -> Self {
        let (binary, image) = match &app.source {
            AppSource::Binary { file, .. } => (Some(file.as_path()), None),
            AppSource::Image(image) => (None, Some(image.as_str())),
        };
        Self {
            binary,
            service: WrittenService {
                image,
                memory: memory(app.memory_bytes),
                cpus: cores(app.cpu_millis),
                disk: None,
            },
            replicas: app.replicas,
            serve: &app.serve,
            migrate: app.migrate.as_deref(),
            seed: app.seed.as_deref(),
            port: app.port,
            health: &app.health,
            env: &app.env,
            secret_env: app
                .secret_env
                .iter()
                .filter_map(|(name, file)| Some((name.as_str(), file.files.first()?.as_path())))
                .collect(),
            checks: match app.checks {
                AppChecks::Health => "health",
                AppChecks::Shop => "shop",
            },
            smoke: app.smoke.as_deref(),
        }
    }
}

impl<'a> From<&'a Service> for WrittenService<'a> {
    fn from(Service { image, memory_bytes, cpu_millis, disk_bytes }: &'a Service) -> Self {
        let disk = disk_bytes.map(memory);
        Self { image: image.as_deref(), memory: memory(*memory_bytes), cpus: cores(*cpu_millis), disk }
    }
}

/// The largest unit that leaves nothing over.
fn memory(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20)] {
        if bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{}KiB", bytes >> 10)
}

fn cores(millis: u32) -> f64 {
    f64::from(millis) / 1000.0
}
