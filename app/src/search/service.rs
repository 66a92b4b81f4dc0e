//! Elasticsearch while it answers, PostgreSQL while it does not.

use std::time::Duration;

use reqwest::Method;

use super::{
    ALIAS, SearchError, body,
    client::{Call, Client},
    cursor::Engine,
    fallback,
    request::{Answer, Request},
};
use crate::{
    breaker::Breaker,
    store::{StoreError, pools::Databases},
    telemetry,
};

const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
const HEALTH_WITHIN: Duration = Duration::from_millis(400);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error("what gave this cursor is away: start again without it")]
    CursorOfAbsent,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An answer and the name of the system that gave it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) answer: Answer,
    pub(crate) source: &'static str,
}

pub(crate) struct Search {
    link: Option<Link>,
}

struct Link {
    client: Client,
    breaker: Breaker,
}

impl Search {
    pub(crate) fn new(client: Option<Client>) -> Self {
        Self { link: client.map(|client| Link { client, breaker: Breaker::new(PAUSE_AFTER_FAILURE) }) }
    }

    pub(crate) async fn find(&self, databases: &Databases, request: &Request) -> Result<Found, FindError> {
        let began_with = request.after.and_then(|cursor| cursor.engine());
        if began_with != Some(Engine::Postgres)
            && let Some(link) = &self.link
            && let Some(answer) = link.find(request).await
        {
            return Ok(found(answer, "elasticsearch"));
        }
        if began_with == Some(Engine::Elasticsearch) {
            return Err(FindError::CursorOfAbsent);
        }
        let (answer, source) = databases.read(|pool| async move { fallback::search(&pool, request).await }).await?;
        Ok(found(answer, source.name()))
    }

    /// True only where Elasticsearch is set up and cannot be searched.
    pub(crate) async fn is_away(&self) -> bool {
        let Some(link) = &self.link else { return false };
        link.is_searchable().await.is_err()
    }
}

impl Link {
    async fn find(&self, request: &Request) -> Option<Answer> {
        if !self.breaker.allows() {
            return None;
        }
        match self.ask(request).await {
            Ok(answer) => {
                self.breaker.close();
                Some(answer)
            }
            Err(error) => {
                self.breaker.trip();
                tracing::warn!(%error, "search in PostgreSQL");
                None
            }
        }
    }

    async fn ask(&self, request: &Request) -> Result<Answer, SearchError> {
        let call = Call::new(Method::POST, body::path(request), ANSWER_WITHIN).json(&body::body(request));
        body::answer(request, self.client.send(&call).await?.success()?)
    }

    async fn is_searchable(&self) -> Result<(), SearchError> {
        let call = Call::new(Method::GET, format!("_cluster/health/{ALIAS}?timeout=0s"), HEALTH_WITHIN);
        let health = self.client.send(&call).await?.success()?;
        match health["status"].as_str() {
            Some("green" | "yellow") => Ok(()),
            _ => Err(SearchError::Unavailable("the index is not whole".to_owned())),
        }
    }
}

fn found(answer: Answer, source: &'static str) -> Found {
    metrics::counter!(telemetry::SEARCHES, "source" => source).increment(1);
    Found { answer, source }
}
