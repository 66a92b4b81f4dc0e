//! Elasticsearch while it answers, PostgreSQL while it does not.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::{
    ALIAS, SearchError, body,
    client::{Call, Client},
    cursor::Engine,
    fallback::Typed,
    request::{Answer, Request},
    suggest::{self, Suggested},
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
            && let Some(answer) =
                link.ask(body::path(request), body::body(request), |reply| body::answer(request, reply)).await
        {
            return Ok(found(answer, "elasticsearch"));
        }
        if began_with == Some(Engine::Elasticsearch) {
            return Err(FindError::CursorOfAbsent);
        }
        let reading = databases.read(request).await?;
        Ok(found(reading.value, reading.source.name()))
    }

    /// With the name of the system that answered.
    pub(crate) async fn suggest(
        &self,
        databases: &Databases,
        typed: &str,
    ) -> Result<(Vec<Suggested>, &'static str), StoreError> {
        if let Some(link) = &self.link
            && let Some(products) = link.ask(suggest::path(), suggest::body(typed), suggest::answer).await
        {
            return Ok((products, "elasticsearch"));
        }
        let reading = databases.read(&Typed(typed)).await?;
        Ok((reading.value, reading.source.name()))
    }

    /// True only where Elasticsearch is set up and cannot be searched.
    pub(crate) async fn is_away(&self) -> bool {
        let Some(link) = &self.link else { return false };
        link.is_searchable().await.is_err()
    }
}

impl Link {
    /// `None` while Elasticsearch is away.
    async fn ask<T>(&self, path: String, body: Value, read: impl FnOnce(Value) -> Result<T, SearchError>) -> Option<T> {
        if !self.breaker.allows() {
            return None;
        }
        match self.send(path, &body).await.and_then(read) {
            Ok(answer) => {
                self.breaker.close();
                Some(answer)
            }
            Err(error) => {
                // What one request is refused for is no reason to send the others elsewhere.
                if error.is_unavailable() {
                    self.breaker.trip();
                }
                tracing::warn!(%error, "search in PostgreSQL");
                None
            }
        }
    }

    async fn send(&self, path: String, body: &Value) -> Result<Value, SearchError> {
        self.client.send(&Call::new(Method::POST, path, ANSWER_WITHIN).json(body)).await?.success()
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::trust::Trust;

    /// Elasticsearch that says the same to every request.
    async fn saying(status: &'static str) -> Link {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Link {
            client: Client::new(&url.parse().unwrap(), &Trust::default()).unwrap(),
            breaker: Breaker::new(Duration::from_secs(60)),
        }
    }

    #[tokio::test]
    async fn a_request_that_is_refused_sends_nobody_elsewhere_and_an_outage_does() {
        for (status, is_left_alone) in [("400 Bad Request", false), ("503 Service Unavailable", true)] {
            let link = saying(status).await;
            assert!(link.ask("x".to_owned(), json!({}), Ok).await.is_none(), "{status}");
            assert_eq!(!link.breaker.allows(), is_left_alone, "{status}");
        }
    }
}
