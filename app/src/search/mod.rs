//! Full-text search: Elasticsearch, and PostgreSQL while Elasticsearch is away.

mod body;
mod bulk;
pub(crate) mod client;
mod cursor;
mod documents;
mod fallback;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod indexer;
#[cfg(all(test, feature = "live-tests"))]
mod live;
mod nodes;
pub(crate) mod request;
mod service;
pub(crate) mod suggest;

pub(crate) use cursor::Cursor;
pub(crate) use indexer::Indexer;
pub(crate) use service::{FindError, Search};

use anyhow::Context;

use crate::{
    config,
    store::{StoreError, pools},
    trust::Trust,
};

/// What readers ask. Only a filled index carries it.
const ALIAS: &str = "products";
/// Carried by an index while it is being filled, so that what changes meanwhile is written there too.
const ALIAS_OF_BUILD: &str = "products-next";

#[derive(Debug, thiserror::Error)]
pub(crate) enum SearchError {
    /// The same call may succeed in a moment: no node answers, or the cluster or the index is not ready.
    #[error("reach Elasticsearch: {0}")]
    Unavailable(String),
    /// Repeating the call will not help.
    #[error("{what}: found status {status} from Elasticsearch, {reason}")]
    Refused { what: String, status: u16, reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// `app reindex`
pub(crate) async fn reindex(config: &config::Reindex, trust: &Trust) -> anyhow::Result<()> {
    let client = client::Client::new(&config.elasticsearch_url, trust)?;
    let primary = pools::write_pool(config.database_url.postgres()?.application_name("app reindex"), 1);
    let filled = Indexer::new(client, primary).reindex().await.context("fill a new search index")?;
    let took_ms = filled.took.as_secs_f64() * 1e3;
    tracing::info!(index = filled.index, products = filled.products, took_ms, "the new index answers");
    Ok(())
}

impl SearchError {
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Store(StoreError::Unavailable(_)))
    }
}

impl From<sqlx::Error> for SearchError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
