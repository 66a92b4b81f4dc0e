//! Everything a request may use, built once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use sqlx::PgPool;

use crate::{
    cache::Cache,
    config,
    search::{Search, client::Client},
    store::pools::{self, Databases},
    trust::Trust,
};

pub(crate) type Shared = Arc<AppState>;

pub(crate) struct AppState {
    pub(crate) databases: Databases,
    pub(crate) cache: Cache,
    pub(crate) search: Search,
    /// One connection for readiness, so that a busy pool does not look like a lost primary.
    pub(crate) probe: PgPool,
    draining: AtomicBool,
    schema_checked: AtomicBool,
}

impl AppState {
    /// Connects to nothing yet: the service starts, and says it is not ready, while a database is away.
    pub(crate) fn new(config: &config::Serve) -> anyhow::Result<Self> {
        let primary = named(config.database_url.postgres()?);
        let replica = config.database_replica_url.as_ref().map(config::SecretUrl::postgres).transpose()?.map(named);
        let ca = config.ca_file.as_deref();
        let trust = Trust::read(ca)?;
        let redis = config.redis_url.as_ref().map(|url| url.redis(&trust)).transpose()?;
        let search = config.elasticsearch_url.as_ref().map(|url| Client::new(url, ca)).transpose()?;
        Ok(Self {
            probe: pools::write_pool(primary.clone(), 1),
            databases: Databases::new(
                pools::write_pool(primary, config.pool_size),
                replica.map(|options| pools::read_pool(options, config.pool_size)),
            ),
            cache: Cache::new(redis)?,
            search: Search::new(search),
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
