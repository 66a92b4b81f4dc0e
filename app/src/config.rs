//! The only place that reads the environment: every setting is a flag with a variable of its own.

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use sqlx::postgres::PgConnectOptions;

#[derive(Debug, Parser)]
#[command(name = "app", version, about = "A thin e-commerce service")]
pub(crate) struct Cli {
    /// Log filter, such as `info` or `app=debug,warn`
    #[arg(long, env = "APP_LOG", default_value = "info", global = true)]
    pub(crate) log: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve HTTP until SIGTERM; never migrates
    Serve(Serve),
    /// Apply the migrations this binary carries
    Migrate(Owner),
    /// Fill an empty catalogue with demo products
    Seed(Owner),
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
    #[arg(long, env = "APP_LISTEN", default_value = "0.0.0.0:8000")]
    pub(crate) listen: SocketAddr,
    /// Listener for /metrics; keep it private
    #[arg(long, env = "APP_METRICS_LISTEN", default_value = "0.0.0.0:9000")]
    pub(crate) metrics_listen: SocketAddr,
    /// Connections of each pool; this process holds at most two pools of this size and one spare connection
    #[arg(long, env = "APP_POOL_SIZE", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=64))]
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

    pub(crate) fn redis(&self) -> anyhow::Result<redis::Client> {
        redis::Client::open(self.0.as_str()).context("parse REDIS_URL: expected redis://user:password@host:port/db")
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
        let error = url.redis().unwrap_err();
        assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
    }

    #[test]
    fn serve_has_defaults_for_everything_but_the_primary() {
        let cli = Cli::try_parse_from(["app", "serve", "--database-url", "postgres://db/shop"]).unwrap();
        let Command::Serve(serve) = cli.command else { panic!("expected serve") };
        assert_eq!(serve.listen.port(), 8000);
        assert_eq!(serve.metrics_listen.port(), 9000);
        assert_eq!(serve.pool_size, 10);
    }
}
