//! Keeps the index equal to the primary, from events and as a whole.
//!
//! A whole index is filled beside the one that answers, behind an alias of its own. Whoever writes a document writes
//! it to both, and its version decides everywhere, so the order of events and of the filling does not matter: what was
//! committed before the alias was made is read by the filling, what came later is written by its event.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Map, Value, json};
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};

use super::{
    ALIAS, ALIAS_OF_BUILD, SearchError,
    bulk::{self, Bulk, Targets, Written},
    client::{Call, Client},
    documents,
};
use crate::store::answered;

const INDEX: &str = include_str!("index.json");
const BATCH: i64 = 500;
const LOOK_WITHIN: Duration = Duration::from_millis(1500);
/// A bulk request or a change of the cluster's state waits for disks and for other nodes.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// The advisory lock of whoever fills an index; any number that no other part of the app uses.
pub(super) const LOCK: i64 = 0x7365_6172_6368;

pub(crate) struct Indexer {
    client: Client,
    primary: PgPool,
}

#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) index: String,
    pub(crate) products: u64,
    pub(crate) took: Duration,
}

impl Indexer {
    /// `primary`: a replica may not have the change yet that an event tells of.
    pub(crate) fn new(client: Client, primary: PgPool) -> Self {
        Self { client, primary }
    }

    /// Fills a first index when there is none. May be called by many at once: one fills, the others are told that
    /// the index is not there yet.
    pub(crate) async fn ensure(&self) -> Result<(), SearchError> {
        if self.exists().await? {
            return Ok(());
        }
        let mut lock = self.lock().await?;
        // Another process may have finished between the look and the lock.
        let done = if self.exists().await? { Ok(()) } else { self.fill(&mut lock).await.map(drop) };
        unlock(lock).await;
        done
    }

    /// Brings the index up to date with the primary for these products, whatever the events said. May be repeated.
    pub(crate) async fn apply(&self, ids: &[i64]) -> Result<(), SearchError> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        for ids in ids.chunks(usize::try_from(BATCH).unwrap_or(usize::MAX)) {
            if self.write(ids).await? == Written::NoIndex {
                self.ensure().await?;
                // Filled by another process in between, it may be older than the events.
                if self.write(ids).await? == Written::NoIndex {
                    return Err(SearchError::Unavailable("the index is gone again".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// A new index with every product takes the place of the old one at once.
    pub(crate) async fn reindex(&self) -> Result<Filled, SearchError> {
        let mut lock = self.lock().await?;
        let filled = self.fill(&mut lock).await;
        unlock(lock).await;
        filled
    }

    async fn exists(&self) -> Result<bool, SearchError> {
        let reply = self.client.send(&Call::new(Method::GET, format!("_alias/{ALIAS}"), LOOK_WITHIN)).await?;
        if reply.status == 404 {
            return Ok(false);
        }
        reply.success().map(|_| true)
    }

    /// Held as long as the session lives, so it ends with this process at the latest.
    async fn lock(&self) -> Result<PoolConnection<Postgres>, SearchError> {
        let mut connection = self.primary.acquire().await?;
        connection.close_on_drop();
        let taking = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK);
        if answered(taking.fetch_one(&mut *connection)).await? {
            return Ok(connection);
        }
        Err(SearchError::Unavailable("another process is filling the index: try again when it is done".to_owned()))
    }

    async fn write(&self, ids: &[i64]) -> Result<Written, SearchError> {
        let found = answered(documents::by_ids(&self.primary, ids)).await?;
        let mut bulk = Bulk::new(Targets::All);
        for document in &found {
            bulk.put(document);
        }
        // Both are in ascending order.
        for id in ids.iter().filter(|id| found.binary_search_by_key(*id, |document| document.id).is_err()) {
            bulk.hide(*id);
        }
        self.send(Targets::All, bulk).await
    }

    async fn send(&self, targets: Targets, bulk: Bulk) -> Result<Written, SearchError> {
        let documents = bulk.documents();
        let call = Call::new(Method::POST, bulk::PATH, WRITE_WITHIN).lines(bulk.into_lines());
        bulk::judge(targets, documents, &self.client.send(&call).await?.success()?)
    }

    /// Reads through the session that holds the lock: who loses it cannot go on beside another.
    async fn fill(&self, session: &mut PgConnection) -> Result<Filled, SearchError> {
        let started = Instant::now();
        let indices = self.indices().await?;
        for leftover in indices.iter().filter(|index| !index.answers) {
            tracing::warn!(index = leftover.name, "remove what an interrupted fill left behind");
            self.remove(&leftover.name).await?;
        }
        let number = indices.iter().map(|index| index.number).max().unwrap_or(0) + 1;
        let index = format!("{ALIAS}-{number}");
        self.create(&index).await?;
        let old: Vec<&str> = indices.iter().filter(|index| index.answers).map(|index| index.name.as_str()).collect();
        let filled = async {
            let products = self.copy(session).await?;
            self.swap(&index, &old).await?;
            Ok(products)
        };
        match filled.await {
            Ok(products) => Ok(Filled { index, products, took: started.elapsed() }),
            Err(error) => {
                // After a swap whose answer was lost the index answers; then it has to stay.
                if self.indices().await.is_ok_and(|now| now.iter().any(|now| now.name == index && !now.answers))
                    && let Err(error) = self.remove(&index).await
                {
                    tracing::warn!(%error, index, "leave a half-filled index for the next fill to remove");
                }
                Err(error)
            }
        }
    }

    async fn copy(&self, session: &mut PgConnection) -> Result<u64, SearchError> {
        let (mut last, mut products) = (i64::MIN, 0);
        loop {
            let batch = answered(documents::after(&mut *session, last, BATCH)).await?;
            let Some(end) = batch.last() else { return Ok(products) };
            last = end.id;
            products += batch.len() as u64;
            let mut bulk = Bulk::new(Targets::Build);
            for document in &batch {
                bulk.put(document);
            }
            if self.send(Targets::Build, bulk).await? == Written::NoIndex {
                return Err(SearchError::Unavailable("the index that is being filled was removed".to_owned()));
            }
        }
    }

    /// From here on everybody writes to it.
    async fn create(&self, index: &str) -> Result<(), SearchError> {
        let mut settings: Map<String, Value> = serde_json::from_str(INDEX).map_err(|error| SearchError::Refused {
            what: "read index.json".to_owned(),
            status: 0,
            reason: error.to_string(),
        })?;
        settings.insert("aliases".to_owned(), json!({ ALIAS_OF_BUILD: {} }));
        let call = Call::new(Method::PUT, index, WRITE_WITHIN).json(&Value::Object(settings));
        acknowledged(&self.client.send(&call).await?.success()?)
    }

    async fn swap(&self, index: &str, old: &[&str]) -> Result<(), SearchError> {
        let refresh = Call::new(Method::POST, format!("{index}/_refresh"), WRITE_WITHIN);
        self.client.send(&refresh).await?.success()?;
        let mut actions = vec![
            json!({ "add": { "index": index, "alias": ALIAS } }),
            json!({ "remove": { "index": index, "alias": ALIAS_OF_BUILD } }),
        ];
        actions.extend(old.iter().map(|old| json!({ "remove_index": { "index": old } })));
        let call = Call::new(Method::POST, "_aliases", WRITE_WITHIN).json(&json!({ "actions": actions }));
        acknowledged(&self.client.send(&call).await?.success()?)
    }

    async fn remove(&self, index: &str) -> Result<(), SearchError> {
        let reply = self.client.send(&Call::new(Method::DELETE, index, WRITE_WITHIN)).await?;
        if reply.status == 404 { Ok(()) } else { reply.success().map(drop) }
    }

    async fn indices(&self) -> Result<Vec<Index>, SearchError> {
        let call = Call::new(Method::GET, format!("{ALIAS}-*/_alias"), LOOK_WITHIN);
        let reply = self.client.send(&call).await?.success()?;
        Ok(reply.as_object().into_iter().flatten().filter_map(|(name, value)| Index::read(name, value)).collect())
    }
}

/// Closing the session would do, but the server takes a moment to notice.
async fn unlock(mut session: PoolConnection<Postgres>) {
    let unlock = sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK);
    if let Err(error) = answered(unlock.execute(&mut *session)).await {
        tracing::debug!(%error, "the lock ends with its session");
    }
}

/// Until every node knows, some write as if nothing had changed.
fn acknowledged(reply: &Value) -> Result<(), SearchError> {
    if reply["acknowledged"] == true && reply["shards_acknowledged"] != false {
        return Ok(());
    }
    Err(SearchError::Unavailable("not every node took the change of the index in time".to_owned()))
}

#[derive(Debug, PartialEq, Eq)]
struct Index {
    name: String,
    number: u64,
    answers: bool,
}

impl Index {
    /// Leaves alone what is not called like one of ours.
    fn read(name: &str, value: &Value) -> Option<Self> {
        let number = name.strip_prefix(ALIAS)?.strip_prefix('-')?.parse().ok()?;
        let answers = value["aliases"].get(ALIAS).is_some();
        Some(Self { name: name.to_owned(), number, answers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbered_indices_are_ours() {
        let answering = json!({ "aliases": { "products": {} } });
        let found = Index::read("products-12", &answering).unwrap();
        assert_eq!((found.number, found.answers), (12, true));
        let filling = json!({ "aliases": { "products-next": {} } });
        assert!(!Index::read("products-3", &filling).unwrap().answers);
        for name in ["products", "products-next", "products-", "orders-1", "products-1-copy"] {
            assert_eq!(Index::read(name, &answering), None, "{name}");
        }
    }

    #[test]
    fn the_index_uses_only_what_every_distribution_has() {
        let index: Value = serde_json::from_str(INDEX).unwrap();
        assert_eq!(index["mappings"]["dynamic"], "strict");
        assert!(index["settings"].get("analysis").is_none(), "analysers are a module that may be missing");
        for (name, field) in index["mappings"]["properties"].as_object().unwrap() {
            let kind = field["type"].as_str().unwrap();
            assert!(["long", "integer", "keyword", "text", "boolean"].contains(&kind), "{name}: {kind}");
        }
    }
}
