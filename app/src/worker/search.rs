//! `search.*`: brings products in the search index up to date.
//!
//! An event says only which product changed. The indexer reads the product from the primary and the index refuses older
//! versions, so doing it twice, late or in any order ends the same: no inbox is needed.

use std::collections::BTreeSet;

use super::{Failure, Handled, Handler};
use crate::{
    background::Background,
    config,
    messaging::envelope::Envelope,
    search::{Indexer, SearchError, client::Client},
    store::outbox::INDEX_PRODUCT,
};

const ELASTICSEARCH: &str = "elasticsearch";

pub(crate) struct Indexing {
    indexer: Indexer,
}

impl Indexing {
    pub(crate) fn new(config: &config::SearchWorker, background: &Background) -> anyhow::Result<Self> {
        let client = Client::new(&config.elasticsearch_url, &background.trust)?;
        Ok(Self { indexer: Indexer::new(client, background.pool.clone()) })
    }
}

impl From<SearchError> for Failure {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::Store(error) => error.into(),
            error if error.is_unavailable() => Self::Away { what: ELASTICSEARCH, why: error.to_string() },
            error => Self::Transient(error.to_string()),
        }
    }
}

impl Handler for Indexing {
    const NEEDS: Option<&'static str> = Some(ELASTICSEARCH);

    async fn prepare(&self) -> Result<(), Failure> {
        Ok(self.indexer.ensure().await?)
    }

    async fn handle(&self, events: &[Envelope]) -> Result<Handled, Failure> {
        let ids = events.iter().map(product_id).collect::<Result<BTreeSet<i64>, Failure>>()?;
        self.indexer.apply(&Vec::from_iter(ids)).await?;
        Ok(Handled::Done)
    }
}

/// Several events of one product are one look at it.
fn product_id(event: &Envelope) -> Result<i64, Failure> {
    if event.topic != INDEX_PRODUCT {
        return Err(Failure::unknown_topic(event));
    }
    let id = event.data["product_id"].as_i64();
    id.ok_or_else(|| Failure::undecodable(&format!("found product_id {}, expected a number", event.data["product_id"])))
}
