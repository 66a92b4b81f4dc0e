//! What the human wrote, checked and completed with defaults. Strict: every problem is reported at once, each with its
//! path, what was found and what would be right.

mod bounds;
mod external;
mod kubernetes;
mod messaging;
mod monitoring;
mod parse;
mod postgres;
mod read;
mod sections;
mod thresholds;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use parse::{MANIFEST_SIZE_MAX, parse};
pub use read::{InvalidManifest, Problem};
pub use thresholds::{Threshold, Unit, threshold_rules, thresholds};

use crate::name::{Member, StackName};
use crate::stack::Fingerprint;

/// What a manifest may hold, as JSON Schema 2020-12: for editors, and for the reference.
pub const SCHEMA: &str = include_str!("schema.json");

#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub name: StackName,
    pub environment: Environment,
    /// The address on which entry points are published; 127.0.0.1 unless the manifest says more.
    pub expose: IpAddr,
    /// Days for which the stack's own authority issues certificates.
    pub certificate_days: u32,
    /// `None`: the stack runs on Docker.
    pub kubernetes: Option<Kubernetes>,
    pub nginx: Nginx,
    pub route: Route,
    pub postgres: Postgres,
    pub redis: Redis,
    /// `None` here and below: the manifest has no such section, and the stack no such system.
    pub rabbitmq: Option<Rabbitmq>,
    pub elasticsearch: Option<Elasticsearch>,
    pub mail: Option<Mail>,
    /// `None` too where the app is not the shop and the manifest does not name it.
    pub media: Option<Media>,
    pub monitoring: Option<Monitoring>,
    pub app: App,
    /// Programs of the app that take no requests, by their name.
    pub workers: BTreeMap<String, Worker>,
}

/// Decides what may be done without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    Dev,
    Ci,
    Staging,
    Production,
}

/// Which cluster, where in it, and how it serves people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// Of the kubeconfig. Never the current one by accident: without it a command line must name one.
    pub context: Option<String>,
    /// `None`: the stack's own name.
    pub namespace: Option<String>,
    /// `None`: the cluster's default one.
    pub storage_class: Option<String>,
    pub access_mode: AccessMode,
    pub service: Entrance,
    /// Where the cluster's nodes pull what was pushed for them, without a scheme.
    pub registry: Option<String>,
    /// Secret in the namespace with which images are pulled.
    pub pull_secret: Option<String>,
}

/// Who may hold a volume at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessMode {
    /// One pod, which the cluster promises.
    #[default]
    OncePod,
    /// The pods of one node, where the storage class can promise no more; that a member was stopped is proven in any case.
    Once,
}

/// What stands before the entrance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entrance {
    /// An address inside the cluster, for an Ingress or a gateway of the cluster's own.
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
}

/// What every service has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Somebody's own image instead of the recipe.
    pub image: Option<String>,
    pub memory_bytes: u64,
    /// Thousandths of a core.
    pub cpu_millis: u32,
    /// Of each volume, where the service has one; `None`: what the engine takes for enough.
    pub disk_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Nginx {
    pub service: Service,
    pub http_port: u16,
    /// Requests per second and client address that the API takes, and how many more in a burst.
    pub rate_limit: u32,
    pub burst: u32,
    /// Body size in bytes that a client may send.
    pub body_max_bytes: u64,
    pub tls: Option<NginxTls>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NginxTls {
    pub https_port: u16,
    /// Plain HTTP only leads to HTTPS.
    pub only: bool,
    /// Names and addresses by which people reach the stack; the certificate of the stack's own authority is for them.
    pub names: Vec<String>,
    /// Somebody's own key and certificate instead.
    pub own: Option<OwnPair>,
}

/// Where the key and the certificate of somebody's own are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnPair {
    Files(HostFiles),
    /// A Secret of the cluster that somebody else makes and renews. The digest is filled in by whoever asks the cluster; `None`:
    /// nobody did, or it did not say.
    Kept {
        secret: String,
        digest: Option<Fingerprint>,
    },
}

/// Files of the operator's machine that hold a secret. Relative paths and the digest are filled in by whoever reads the
/// manifest's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFiles {
    pub files: Vec<PathBuf>,
    pub digest: Fingerprint,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub service: Service,
    /// Route members; one on dev, two where a route must survive.
    pub replicas: u32,
}

/// A service that exists already: the stack uses it and has no member of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    pub host: String,
    pub port: u16,
    pub user: Option<String>,
    pub password: Option<HostFiles>,
    /// Certificates of who signed its own; `None`: the connection is in clear.
    pub ca: Option<HostFiles>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalPostgres {
    pub server: External,
    /// Where readers go, on the same port; `None`: to the primary.
    pub read_host: Option<String>,
    pub database: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalRedis {
    pub server: External,
    pub database: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalRabbitmq {
    pub server: External,
    pub vhost: String,
    /// Host and port of its management API, by which queues are made; `None`: they must be there.
    pub management: Option<(String, u16)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Postgres {
    /// In place of everything else here.
    pub external: Option<ExternalPostgres>,
    pub service: Service,
    /// Replicas beside the one primary.
    pub replicas: u32,
    pub synchronous: Synchronous,
    /// Every connection over the network is encrypted.
    pub tls: bool,
    /// Lines for postgresql.conf, after the provisioner's own.
    pub settings: BTreeMap<String, String>,
    /// Members of which something is said.
    pub members: BTreeMap<Member, PostgresMember>,
    pub objectives: Objectives,
}

/// How long writes may be impossible when the primary is lost, and how much time's writes may be lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objectives {
    pub rto: Duration,
    pub rpo: Duration,
}

impl Objectives {
    /// Of the architecture: a replica promoted within 15 minutes, no more than a minute of writes lost. A manifest may ask
    /// for more, never for less.
    pub const ARCHITECTURE: Self = Self { rto: Duration::from_secs(15 * 60), rpo: Duration::from_secs(60) };
}

/// What the choice of a new primary takes into account of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresMember {
    pub region: Option<String>,
    /// Between members with the same WAL the greater one wins.
    pub priority: u32,
    /// Never becomes primary, so commits wait for another replica where there is one.
    pub nofailover: bool,
}

/// What a commit waits for (PostgreSQL 17 docs, 26.2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// Nothing but the primary's own disk.
    Off,
    /// One replica while there is one. When the last goes away, writes wait until the next `up` has seen it; from then on
    /// the primary goes on unprotected, which is shown.
    Preferred,
    /// One replica, always: without any, writes wait.
    Required,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// In place of everything else here.
    pub external: Option<ExternalRedis>,
    pub service: Service,
    /// Every connection is encrypted.
    pub tls: bool,
    /// Lines for redis.conf, after the provisioner's own.
    pub settings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rabbitmq {
    /// In place of everything else here but the queues.
    pub external: Option<ExternalRabbitmq>,
    pub service: Service,
    /// Every client's connection is encrypted, on port 5671.
    pub tls: bool,
    /// Name of each queue to the topics that lead to it.
    pub queues: BTreeMap<String, Vec<String>>,
    /// Lines for rabbitmq.conf, after the provisioner's own.
    pub settings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Elasticsearch {
    /// In place of everything else here.
    pub external: Option<External>,
    pub service: Service,
    /// One, or three and more that survive the loss of one.
    pub nodes: u32,
    /// Of each node's Java heap; at most half of its memory.
    pub heap_bytes: u64,
    /// Lines for elasticsearch.yml, after the provisioner's own.
    pub settings: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Mail {
    /// Sender of the app's mails.
    pub from: String,
    pub server: MailServer,
}

#[derive(Clone, Debug, PartialEq)]
pub enum MailServer {
    /// Takes every mail, delivers none and shows them; for dev and ci.
    Sink(Service),
    /// Somebody's own.
    Smtp { host: String, port: u16, security: MailSecurity, login: Option<MailLogin> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailSecurity {
    None,
    /// Refuses to go on where the server does not offer it.
    StartTls,
    Tls,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailLogin {
    pub user: String,
    pub password: HostFiles,
}

/// Where uploaded pictures lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// With a member of their own: backends put them there over HTTP, the entrance fetches them.
    Member(Service),
    /// In a volume that every backend and the entrance mount; on several machines that takes a shared file system.
    SharedVolume,
}

/// Prometheus, Alertmanager and the exporters.
#[derive(Clone, Debug, PartialEq)]
pub struct Monitoring {
    /// The image of all of them; memory, processor and disk of Prometheus.
    pub service: Service,
    /// How long figures are kept, as Prometheus writes it: `15d`.
    pub retention: String,
    /// Seconds between two looks at every member.
    pub scrape_seconds: u32,
    /// Figures at which alerts begin, instead of those in `monitoring/rules/thresholds.yml`.
    pub thresholds: BTreeMap<String, f64>,
    /// Who is told of every alert; `None`: a page of the stack's own.
    pub webhook: Option<String>,
    pub pagerduty: Option<Pager>,
    pub opsgenie: Option<Pager>,
}

/// A service that wakes people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pager {
    pub key: HostFiles,
    /// Instead of the service's own address.
    pub url: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    pub command: Vec<String>,
    pub replicas: u32,
    pub memory_bytes: u64,
    pub cpu_millis: u32,
    /// Where it says on a private port that it works; without it a process that runs must do.
    pub health: Option<WorkerHealth>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerHealth {
    pub port: u16,
    pub path: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct App {
    pub source: AppSource,
    pub memory_bytes: u64,
    pub cpu_millis: u32,
    /// Backends behind NGINX.
    pub replicas: u32,
    pub serve: Vec<String>,
    /// Run to its end before the backends of a new release start, as the database's owner.
    pub migrate: Option<Vec<String>>,
    /// Run once, after the first migration.
    pub seed: Option<Vec<String>>,
    pub port: u16,
    /// Answers 200 when the app can serve.
    pub health: String,
    pub env: BTreeMap<String, String>,
    /// Variables whose values are read from a file each.
    pub secret_env: BTreeMap<String, HostFiles>,
    pub checks: AppChecks,
    /// Answers 200 through the entrance once an app that is not the shop has done its work: a whole use of it, for smokes.
    pub smoke: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppSource {
    /// A static Linux binary of the operator's machine, put into an image of its own. The digest is filled in by
    /// whoever reads the file.
    Binary {
        file: PathBuf,
        digest: Fingerprint,
    },
    Image(String),
}

/// How deep `verify` may look into the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppChecks {
    /// Any app: its health path, directly and through NGINX.
    Health,
    /// The shop of this repository: listing, caches, an order on its probe product.
    Shop,
}

impl AccessMode {
    pub const ALL: [(&'static str, Self); 2] =
        [("read_write_once_pod", Self::OncePod), ("read_write_once", Self::Once)];

    pub fn word(self) -> &'static str {
        match self {
            Self::OncePod => "read_write_once_pod",
            Self::Once => "read_write_once",
        }
    }
}

impl Manifest {
    /// The sections whose service exists already, by their name.
    pub fn externals(&mut self) -> impl Iterator<Item = (&'static str, &mut External)> {
        let postgres = self.postgres.external.as_mut().map(|external| &mut external.server);
        let redis = self.redis.external.as_mut().map(|external| &mut external.server);
        let rabbitmq = self.rabbitmq.as_mut().and_then(|section| section.external.as_mut());
        let elasticsearch = self.elasticsearch.as_mut().and_then(|section| section.external.as_mut());
        let all = [
            ("postgres", postgres),
            ("redis", redis),
            ("rabbitmq", rabbitmq.map(|external| &mut external.server)),
            ("elasticsearch", elasticsearch),
        ];
        all.into_iter().filter_map(|(name, external)| Some((name, external?)))
    }
}

impl Entrance {
    pub const ALL: [(&'static str, Self); 3] =
        [("cluster_ip", Self::ClusterIp), ("node_port", Self::NodePort), ("load_balancer", Self::LoadBalancer)];

    pub fn word(self) -> &'static str {
        match self {
            Self::ClusterIp => "cluster_ip",
            Self::NodePort => "node_port",
            Self::LoadBalancer => "load_balancer",
        }
    }
}

impl Environment {
    pub const ALL: [(&'static str, Self); 4] =
        [("dev", Self::Dev), ("ci", Self::Ci), ("staging", Self::Staging), ("production", Self::Production)];

    /// Data may be lost and service interrupted without asking first.
    pub fn is_disposable(self) -> bool {
        matches!(self, Self::Dev | Self::Ci)
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Ci => "ci",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}
