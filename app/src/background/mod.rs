//! What the relay and the workers have in common: they serve nobody, so a dependency that is away is waited for.

mod status;

use std::time::Duration;

use anyhow::Context;
use sqlx::PgPool;

pub(crate) use status::Status;

use crate::{
    config,
    messaging::{backoff::Backoff, broker::Broker},
    process::{self, Stop},
    store::{
        pools,
        schema::{self, SchemaError},
    },
    telemetry,
    trust::Trust,
};

pub(crate) const BROKER: &str = "broker";
pub(crate) const DATABASE: &str = "database";

pub(crate) struct Background {
    pub(crate) pool: PgPool,
    pub(crate) broker: Broker,
    pub(crate) trust: Trust,
    pub(crate) status: Status,
    pub(crate) stop: Stop,
    pub(crate) shutdown: Duration,
}

impl Background {
    /// Listens first and connects later: /readyz says what is missing.
    pub(crate) async fn start(
        config: &config::Background,
        trust: Trust,
        name: &str,
        pool_size: u32,
    ) -> anyhow::Result<Self> {
        let metrics = telemetry::metrics()?;
        let broker = Broker::new(&config.amqp_url, &trust, format!("app {name}"))?;
        let options = config.database_url.postgres()?.application_name(&format!("app-{}", name.replace(' ', "-")));
        let pool = pools::write_pool(options, pool_size);
        let status = Status::waiting_for(&[BROKER, DATABASE]);
        let routes = status.clone().routes(metrics.clone());
        let address = process::listen_privately(config.metrics_listen, routes, metrics).await?;
        let stop = Stop::on_signal();
        tracing::info!(name, metrics_address = %address, "listening");
        let mut background = Self { pool, broker, trust, status, stop, shutdown: config.shutdown };
        background.wait_for_schema().await?;
        Ok(background)
    }

    async fn wait_for_schema(&mut self) -> anyhow::Result<()> {
        let mut backoff = reconnecting();
        while !self.stop.is_asked() {
            match schema::check(&self.pool).await {
                Ok(()) => {
                    self.status.found(DATABASE);
                    break;
                }
                Err(error @ SchemaError::TooOld { .. }) => return Err(error).context("check the schema"),
                Err(SchemaError::Store(error)) => self.status.missing(DATABASE, &error),
            }
            self.stop.pause(backoff.pause()).await;
        }
        Ok(())
    }
}

/// A restart of a dependency takes seconds: try often at first, and never less than every two seconds.
pub(crate) fn reconnecting() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(2))
}
