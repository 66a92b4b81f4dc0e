//! The read path that every catalogue route shares: Redis, then the replica, then the primary, then fill.

mod entry;
mod flights;
pub(crate) mod invalidation;
mod question;

use std::{sync::Arc, time::Duration};

use tracing::Instrument;

pub(crate) use entry::Entry;
pub(crate) use flights::Flights;
pub(crate) use question::Question;

use crate::{
    state::{AppState, Shared},
    store::{StoreError, pools::Source, position::Position},
};

/// From then on an answer is served while one reader renews it. The spread keeps what was filled together from growing
/// old together.
const FRESH_SECONDS: u64 = 20;
const FRESH_SPREAD_SECONDS: u64 = 10;

pub(crate) type Answer = Result<Option<(Entry, Source)>, Arc<StoreError>>;

/// Redis keeps the bytes of the answer, so a hit is passed on without being parsed. What was not found is not kept.
pub(crate) async fn read(state: &Shared, question: Question) -> Answer {
    let name = question.name();
    let found = state.cache.find(&name).await;
    let Some(entry) = found.entry else { return fill(state, &question, name, found.changed).await };
    if !entry.is_fresh() && state.cache.may_renew(&name).await {
        let (state, changed) = (Arc::clone(state), found.changed);
        // Who asked does not wait; the next one gets the new answer.
        let renew = async move {
            if let Err(error) = fill(&state, &question, name, changed).await {
                tracing::warn!(%error, "serve what is in the cache a little longer");
            }
        };
        tokio::spawn(renew.in_current_span());
    }
    Ok(Some((entry, Source::Redis)))
}

/// Who has heard of a change does not wait for a query that began before it.
async fn fill(state: &AppState, question: &Question, name: String, changed: Option<Position>) -> Answer {
    let flight = format!("{}:{name}", changed.unwrap_or_default());
    let make = async {
        let reading = state.databases.read_since(changed, question).await.map_err(Arc::new)?;
        let Some(body) = reading.value else { return Ok(None) };
        let fresh_for = Duration::from_secs(FRESH_SECONDS + rand::random_range(0..=FRESH_SPREAD_SECONDS));
        let entry = Entry::new(reading.position, fresh_for, &body);
        state.cache.put(&name, &entry).await;
        Ok(Some((entry, reading.source)))
    };
    state.flights.join(flight, make).await
}
