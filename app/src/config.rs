//! The only place that reads the environment: every setting is a flag with a variable of its own.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use lapin::uri::AMQPUri;
use lettre::{
    AsyncSmtpTransport, Tokio1Executor,
    transport::smtp::{
        AsyncSmtpTransportBuilder,
        client::{Certificate, Tls, TlsParameters},
    },
};
use redis::TlsCertificates;
use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::{traces, trust::Trust, webhooks::Secrets};

#[derive(Debug, Parser)]
#[command(name = "app", version, about = "A thin e-commerce service")]
pub(crate) struct Cli {
    /// Log filter, such as `info` or `app=debug,warn`
    #[arg(long, env = "APP_LOG", default_value = "info", global = true)]
    pub(crate) log: String,
    /// PEM file with a CA that is trusted besides the system's roots, whatever is reached
    #[arg(long, env = "STACK_CA_FILE", global = true)]
    pub(crate) ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) traces: traces::Settings,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve HTTP until SIGTERM; never migrates
    Serve(Box<Serve>),
    /// Apply the migrations this binary carries
    Migrate(Owner),
    /// Fill an empty catalogue with demo products
    Seed(Seed),
    /// Make an administrator; the password is the first line of standard input
    Admin(Admin),
    /// Publish the events of the outbox until SIGTERM
    Relay(Relay),
    /// Do what the messages of one queue say until SIGTERM
    Worker(Worker),
    /// Fill a new search index and put it in the place of the old one
    Reindex(Reindex),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The primary: takes every write
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: SecretUrl,
    /// The replica: answers catalogue reads; without it the primary does
    #[arg(long, env = "DATABASE_REPLICA_URL", hide_env_values = true)]
    pub(crate) database_replica_url: Option<SecretUrl>,
    /// The cache; without it every read goes to a database
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub(crate) redis_url: Option<SecretUrl>,
    /// The search engine: `https://user:password@host:9200`; without it a database answers searches
    #[arg(long, env = "ELASTICSEARCH_URL", hide_env_values = true)]
    pub(crate) elasticsearch_url: Option<SecretUrl>,
    /// The broker, for dead letters and /readyz; without it they are neither listed nor replayed
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    pub(crate) amqp_url: Option<SecretUrl>,
    /// File with the names of the queues that have dead letters, one a line; without it those of this program's workers
    #[arg(long, env = "APP_QUEUES_FILE")]
    pub(crate) queues_file: Option<PathBuf>,
    /// Where uploaded pictures are put over HTTP, `http://user:password@host:8090/media/`; without it none is taken
    #[arg(long, env = "APP_MEDIA_URL", hide_env_values = true)]
    pub(crate) media_url: Option<SecretUrl>,
    /// Directory for them in its place, which is served below /media/
    #[arg(long, env = "APP_MEDIA_DIR")]
    pub(crate) media_dir: Option<PathBuf>,
    /// `provider=secret`, apart by commas: who may send webhooks
    #[arg(long, env = "APP_WEBHOOK_SECRETS", hide_env_values = true)]
    pub(crate) webhook_secrets: Option<Secrets>,
    /// The same in a file
    #[arg(long, env = "APP_WEBHOOK_SECRETS_FILE")]
    pub(crate) webhook_secrets_file: Option<PathBuf>,
    #[arg(long, env = "APP_LISTEN", default_value = "0.0.0.0:8000")]
    pub(crate) listen: SocketAddr,
    /// Listener for /metrics; keep it private
    #[arg(long, env = "APP_METRICS_LISTEN", default_value = "0.0.0.0:9000")]
    pub(crate) metrics_listen: SocketAddr,
    /// Connections of each pool, 2 to 64: catalogue reads keep half of a replica's for themselves. This process holds at most
    /// two pools of this size and one spare connection
    #[arg(long, env = "APP_POOL_SIZE", default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=64))]
    pub(crate) pool_size: u32,
    /// Seconds between SIGTERM, when /readyz turns 503, and closing the listener
    #[arg(long, env = "APP_DRAIN_SECONDS", default_value = "2", value_parser = seconds)]
    pub(crate) drain: Duration,
    /// Seconds that open requests may take after the listener closed
    #[arg(long, env = "APP_SHUTDOWN_SECONDS", default_value = "20", value_parser = seconds)]
    pub(crate) shutdown: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Owner {
    /// The primary, as the role that owns the tables
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: SecretUrl,
}

#[derive(Debug, Args)]
pub(crate) struct Admin {
    /// Address to log in with; whoever has it already gets the role and the new password
    pub(crate) email: String,
    /// The primary
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: SecretUrl,
}

#[derive(Debug, Args)]
pub(crate) struct Seed {
    #[command(flatten)]
    pub(crate) owner: Owner,
    /// Besides the demo products that many parts of TPC-H, the same every time; find them after `app reindex`
    #[arg(long, value_name = "PRODUCTS", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) scale: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Reindex {
    /// The primary
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: SecretUrl,
    /// Elasticsearch: `https://user:password@host:9200`
    #[arg(long, env = "ELASTICSEARCH_URL", hide_env_values = true)]
    pub(crate) elasticsearch_url: SecretUrl,
}

#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// The cache, which is told of changes; the same as that of `serve`
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub(crate) redis_url: Option<SecretUrl>,
    #[command(flatten)]
    pub(crate) background: Background,
}

#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Tell customers that an order was placed or cancelled
    Email(EmailWorker),
    /// Bring products in the search index up to date
    Search(SearchWorker),
    /// Take the shop's own tasks
    Custom(CustomWorker),
}

#[derive(Debug, Args)]
pub(crate) struct EmailWorker {
    #[command(flatten)]
    pub(crate) background: Background,
    /// `smtp://host:25`, `smtp://user:password@host:587?tls=required` or `smtps://user:password@host`
    #[arg(long, env = "SMTP_URL", hide_env_values = true)]
    pub(crate) smtp_url: SecretUrl,
    /// Sender of every mail
    #[arg(long, env = "MAIL_FROM")]
    pub(crate) mail_from: String,
}

#[derive(Debug, Args)]
pub(crate) struct SearchWorker {
    #[command(flatten)]
    pub(crate) background: Background,
    /// Elasticsearch: `https://user:password@host:9200`
    #[arg(long, env = "ELASTICSEARCH_URL", hide_env_values = true)]
    pub(crate) elasticsearch_url: SecretUrl,
}

#[derive(Debug, Args)]
pub(crate) struct CustomWorker {
    #[command(flatten)]
    pub(crate) background: Background,
    /// The sender of webhooks whose `payment.succeeded` marks an order as paid
    #[arg(long, env = "APP_PAYMENT_PROVIDER", default_value = "pay")]
    pub(crate) payment_provider: String,
}

/// What the relay and all workers need.
#[derive(Debug, Args)]
pub(crate) struct Background {
    /// The primary
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: SecretUrl,
    /// The broker: `amqp://user:password@host:5672/vhost`, or amqps with TLS
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    pub(crate) amqp_url: SecretUrl,
    /// Listener for /metrics, /livez and /readyz; keep it private
    #[arg(long, env = "APP_METRICS_LISTEN", default_value = "0.0.0.0:9000")]
    pub(crate) metrics_listen: SocketAddr,
    /// Seconds that messages under way may take after SIGTERM
    #[arg(long, env = "APP_SHUTDOWN_SECONDS", default_value = "20", value_parser = seconds)]
    pub(crate) shutdown: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds @ 0..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err("expected whole seconds from 0 to 3600".to_owned()),
    }
}

/// A URL that may carry a password: it cannot be printed by accident, and parses where it is used.
#[derive(Clone)]
pub(crate) struct SecretUrl(String);

impl SecretUrl {
    pub(crate) fn postgres(&self) -> anyhow::Result<PgConnectOptions> {
        PgConnectOptions::from_str(&self.0)
            .context("parse the database URL: expected postgres://user:password@host:port/name")
    }

    pub(crate) fn redis(&self, trust: &Trust) -> anyhow::Result<redis::Client> {
        const EXPECTED: &str = "parse REDIS_URL: expected redis://user:password@host:port/db or rediss://…";
        if !self.0.starts_with("rediss:") {
            return redis::Client::open(self.0.as_str()).context(EXPECTED);
        }
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(trust.bundle()?) };
        redis::Client::build_with_tls(self.0.as_str(), certificates).context(EXPECTED)
    }
}

impl SecretUrl {
    pub(crate) fn elasticsearch(&self) -> anyhow::Result<Url> {
        self.http().context("parse ELASTICSEARCH_URL: expected https://user:password@host:9200 or http://…")
    }

    pub(crate) fn media(&self) -> anyhow::Result<Url> {
        self.http().context("parse APP_MEDIA_URL: expected http://user:password@host:8090/media/ or https://…")
    }

    /// The parser's own message may repeat parts of the URL.
    fn http(&self) -> Option<Url> {
        Url::parse(&self.0).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    }

    pub(crate) fn amqp(&self) -> anyhow::Result<AMQPUri> {
        // The parser's own message repeats the URL, password and all.
        self.0
            .parse()
            .map_err(|_| anyhow::anyhow!("parse AMQP_URL: expected amqp://user:password@host:5672/vhost or amqps://…"))
    }

    /// Follows lettre's own form of URLs, and trusts the stack's CA besides.
    pub(crate) fn smtp(&self, trust: &Trust) -> anyhow::Result<AsyncSmtpTransportBuilder> {
        const EXPECTED: &str =
            "parse SMTP_URL: expected smtp://host:25, smtp://user:password@host:587?tls=required or smtps://…";
        // The parsers' own messages may repeat parts of the URL.
        let expected = || anyhow::anyhow!(EXPECTED);
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(&self.0).map_err(|_| expected())?;
        let url = Url::parse(&self.0).map_err(|_| expected())?;
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        if url.scheme() == "smtp" && tls.is_none() {
            return Ok(builder);
        }
        let mut parameters = TlsParameters::builder(url.host_str().ok_or_else(expected)?.to_owned());
        if let Some(pem) = trust.pem() {
            let ca = Certificate::from_pem(pem).context("read the CA for the mail server")?;
            parameters = parameters.add_root_certificate(ca);
        }
        let parameters = parameters.build().context("prepare TLS for the mail server")?;
        Ok(builder.tls(match (url.scheme(), tls.as_deref()) {
            ("smtps", _) => Tls::Wrapper(parameters),
            (_, Some("opportunistic")) => Tls::Opportunistic(parameters),
            _ => Tls::Required(parameters),
        }))
    }
}

impl FromStr for SecretUrl {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret url>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_url_never_shows_its_password() {
        let cli = Cli::try_parse_from(["app", "migrate", "--database-url", "postgres://shop:hunter2@db/shop"]).unwrap();
        assert!(!format!("{cli:?}").contains("hunter2"));
        let url: SecretUrl = "postgres:/hunter2 is not a url".parse().unwrap();
        if let Err(error) = url.postgres() {
            assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
        }
        let url: SecretUrl = "http://shop:hunter2@cache".parse().unwrap();
        let error = url.redis(&Trust::default()).unwrap_err();
        assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
        let url: SecretUrl = "rediss://shop:hunter2@cache:port/0".parse().unwrap();
        let error = url.redis(&Trust::default()).unwrap_err();
        assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
    }

    #[test]
    fn serve_has_defaults_for_everything_but_the_primary() {
        let cli = Cli::try_parse_from(["app", "serve", "--database-url", "postgres://db/shop"]).unwrap();
        let Command::Serve(serve) = cli.command else { panic!("expected serve") };
        assert_eq!(serve.listen.port(), 8000);
        assert_eq!(serve.metrics_listen.port(), 9000);
        assert_eq!(serve.pool_size, 10);
        // Warm sessions would keep the only one: nothing else could read from the replica.
        let one = ["app", "serve", "--database-url", "postgres://db/shop", "--pool-size", "1"];
        assert!(Cli::try_parse_from(one).unwrap_err().to_string().contains("2..=64"));
    }

    #[test]
    fn every_command_takes_the_ca_of_the_stack() {
        for command in ["serve", "migrate", "seed", "relay"] {
            let words = ["app", command, "--ca-file", "ca.crt", "--database-url", "postgres://db/shop"];
            let words = words.into_iter().chain((command == "relay").then_some("--amqp-url=amqp://mq/app"));
            assert_eq!(Cli::try_parse_from(words).unwrap().ca_file, Some(PathBuf::from("ca.crt")), "{command}");
        }
    }

    #[test]
    fn urls_are_checked_without_being_repeated() {
        let trust = Trust::default();
        let url = |text: &str| -> SecretUrl { text.parse().unwrap() };
        for good in ["smtp://mail-1:1025", "smtp://shop:hunter2@mail:587?tls=required", "smtps://shop:hunter2@mail"] {
            url(good).smtp(&trust).unwrap();
        }
        url("amqps://app:hunter2@rabbitmq-1/app").amqp().unwrap();
        for bad in ["ftp://shop:hunter2@media/", "media-1/hunter2"] {
            let error = format!("{:#}", url(bad).media().unwrap_err());
            assert!(error.starts_with("parse APP_MEDIA_URL: expected ") && !error.contains("hunter2"), "{error}");
        }
        for bad in ["http://shop:hunter2@mail", "smtp://shop:hunter2@mail?tls=maybe", "hunter2"] {
            let (smtp, amqp) = (url(bad).smtp(&trust).err().unwrap(), url(bad).amqp().unwrap_err());
            assert!(format!("{smtp:#}").starts_with("parse SMTP_URL: expected "), "{smtp:#}");
            assert!(!format!("{smtp:#}{amqp:#}").contains("hunter2"), "{smtp:#} {amqp:#}");
        }
    }

    #[test]
    fn every_worker_has_a_queue_of_its_own() {
        let common = ["--database-url", "postgres://db/shop", "--amqp-url", "amqp://mq/app"];
        let parse = |words: &[&str]| Cli::try_parse_from([&["app"], words, &common].concat());
        assert!(matches!(parse(&["relay"]).unwrap().command, Command::Relay(_)));
        let Command::Worker(worker) = parse(&["worker", "custom"]).unwrap().command else { panic!("expected worker") };
        assert!(matches!(worker.task, Task::Custom(_)));
        assert!(parse(&["worker", "sms"]).is_err() && parse(&["worker"]).is_err());
        assert!(parse(&["worker", "email"]).unwrap_err().to_string().contains("--smtp-url"));
    }
}
