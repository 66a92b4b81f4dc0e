//! Everything a request may use, built once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use anyhow::Context;
use sqlx::PgPool;

use crate::{
    accounts::{limits::Limits, sessions::Sessions},
    cache::Cache,
    catalogue::{Answer, Flights},
    config,
    media::Media,
    messaging::{broker::Broker, pulse::Pulse, queues::Queues},
    redis_link::RedisLink,
    search::{Search, client::Client},
    store::pools::{self, Databases},
    trust::Trust,
    webhooks::Secrets,
};

pub(crate) type Shared = Arc<AppState>;

pub(crate) struct AppState {
    pub(crate) databases: Databases,
    pub(crate) cache: Cache,
    pub(crate) sessions: Sessions,
    pub(crate) limits: Limits,
    pub(crate) flights: Flights<Answer>,
    pub(crate) search: Search,
    pub(crate) broker: Option<Broker>,
    /// Of the broker, for readiness.
    pub(crate) pulse: Pulse,
    pub(crate) queues: Queues,
    /// Where uploaded pictures go.
    pub(crate) media: Option<Media>,
    pub(crate) webhooks: Secrets,
    /// One connection for readiness, so that a busy pool does not look like a lost primary.
    pub(crate) probe: PgPool,
    draining: AtomicBool,
    schema_checked: AtomicBool,
}

impl AppState {
    /// Connects to nothing yet: the service starts, and says it is not ready, while a database is away.
    pub(crate) fn new(config: &config::Serve, trust: &Trust) -> anyhow::Result<Self> {
        let primary = named(config.database_url.postgres()?);
        let replica = config.database_replica_url.as_ref().map(config::SecretUrl::postgres).transpose()?.map(named);
        let redis = config.redis_url.as_ref().map(|url| url.redis(trust)).transpose()?;
        let redis = redis.map(RedisLink::new).transpose().context("prepare the connection to Redis")?.map(Arc::new);
        let search = config.elasticsearch_url.as_ref().map(|url| Client::new(url, trust)).transpose()?;
        Ok(Self {
            probe: pools::write_pool(primary.clone(), 1),
            databases: Databases::new(
                pools::write_pool(primary, config.pool_size),
                replica.map(|options| pools::read_pool(options, config.pool_size)),
            ),
            sessions: Sessions::new(redis.clone()),
            limits: Limits::new(redis.clone()),
            cache: Cache::new(redis),
            flights: Flights::default(),
            search: Search::new(search),
            broker: config.amqp_url.as_ref().map(|url| Broker::new(url, trust, "app serve")).transpose()?,
            pulse: Pulse::default(),
            queues: Queues::new(config.queues_file.clone()),
            media: Media::new(config, trust)?,
            webhooks: Secrets::read(config.webhook_secrets.as_ref(), config.webhook_secrets_file.as_deref())?,
            draining: AtomicBool::new(false),
            schema_checked: AtomicBool::new(false),
        })
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    pub(crate) fn schema_is_checked(&self) -> bool {
        self.schema_checked.load(Relaxed)
    }

    pub(crate) fn note_schema_checked(&self) {
        self.schema_checked.store(true, Relaxed);
    }
}

fn named(options: sqlx::postgres::PgConnectOptions) -> sqlx::postgres::PgConnectOptions {
    options.application_name("app")
}
