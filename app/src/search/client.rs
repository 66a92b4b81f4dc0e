//! The few calls of Elasticsearch's HTTP interface that the shop needs.

use std::time::Duration;

use reqwest::{
    Method, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument;

use super::{
    SearchError,
    nodes::{Node, Nodes},
};
use crate::{
    config::SecretUrl,
    traces,
    trust::Trust,
    web::{as_folder, causes, take_credentials},
};

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const REASON_LENGTH: usize = 300;

/// Every call the app makes may be repeated: documents carry their version, an index or alias is only made once.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<(&'static str, String)>,
    /// For one node; two are given that long before the call fails.
    pub(super) within: Duration,
}

impl Call {
    pub(super) fn new(method: Method, path: impl Into<String>, within: Duration) -> Self {
        Self { method, path: path.into(), body: None, within }
    }

    pub(super) fn json(mut self, body: &Value) -> Self {
        self.body = Some((JSON, body.to_string()));
        self
    }

    pub(super) fn lines(mut self, body: String) -> Self {
        self.body = Some((LINES, body));
        self
    }

    fn name(&self) -> String {
        let path = self.path.split('?').next().unwrap_or_default();
        format!("{} /{path}", self.method)
    }
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
    what: String,
}

impl Reply {
    /// The body of a success; anything else is an error with Elasticsearch's own words.
    pub(super) fn success(self) -> Result<Value, SearchError> {
        match self.status {
            200..=299 => Ok(self.body),
            // Not ready, or too busy: 503 is also what a cluster without a master says, 408 one that waits for a shard.
            408 | 429 | 502..=504 => {
                Err(SearchError::Unavailable(format!("{}: status {}, {}", self.what, self.status, self.reason())))
            }
            status => Err(SearchError::Refused { reason: self.reason(), what: self.what, status }),
        }
    }

    pub(super) fn reason(&self) -> String {
        let error = &self.body["error"];
        let kind = error["type"].as_str().unwrap_or("no reason");
        format!("{kind}: {}", error["reason"].as_str().unwrap_or_default()).chars().take(REASON_LENGTH).collect()
    }
}

pub(crate) struct Client {
    /// Without user and password, which never get near an error text or a log.
    base: Url,
    authorization: Option<HeaderValue>,
    nodes: Nodes,
}

impl Client {
    /// Connects to nothing yet.
    pub(crate) fn new(url: &SecretUrl, trust: &Trust) -> anyhow::Result<Self> {
        let mut base = url.elasticsearch()?;
        let authorization = take_credentials(&mut base)?;
        as_folder(&mut base);
        let tls = trust.tls()?;
        let nodes = Nodes::new(&base, rustls::ClientConfig::clone(&tls))?;
        Ok(Self { base, authorization, nodes })
    }

    /// Goes from node to node: one that refuses, hangs or cannot serve fails the call only if the others do too.
    pub(super) async fn send(&self, call: &Call) -> Result<Reply, SearchError> {
        self.send_to_nodes(call).instrument(traces::call("elasticsearch", &call.name())).await
    }

    async fn send_to_nodes(&self, call: &Call) -> Result<Reply, SearchError> {
        let url = self.base.join(&call.path).map_err(|error| SearchError::Refused {
            what: call.name(),
            status: 0,
            reason: error.to_string(),
        })?;
        let give_up = Instant::now() + call.within * 2;
        let mut last = Err(SearchError::Unavailable("the name has no address".to_owned()));
        for node in self.nodes.candidates().await? {
            if Instant::now() >= give_up {
                break;
            }
            last = match timeout_at(give_up, timeout(call.within, self.ask(&node, &url, call))).await {
                Ok(Ok(Ok(reply))) => {
                    node.breaker.close();
                    if !matches!(reply.status, 429 | 502..=504) {
                        return Ok(reply);
                    }
                    Ok(reply)
                }
                Ok(Ok(Err(error))) => Err(self.leave(&node, call, &causes(&error.without_url()))),
                Ok(Err(_)) | Err(_) => Err(self.leave(&node, call, "no answer in time")),
            };
        }
        if last.is_err() {
            self.nodes.forget();
        }
        last
    }

    async fn ask(&self, node: &Node, url: &Url, call: &Call) -> reqwest::Result<Reply> {
        let mut request = node.http.request(call.method.clone(), url.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        if let Some((kind, body)) = &call.body {
            request = request.header(CONTENT_TYPE, *kind).body(body.clone());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let body = response.bytes().await?;
        // A proxy in between may answer with something else than JSON; the status says enough then.
        Ok(Reply { status, body: serde_json::from_slice(&body).unwrap_or_default(), what: call.name() })
    }

    fn leave(&self, node: &Node, call: &Call, why: &str) -> SearchError {
        node.breaker.trip();
        tracing::warn!(address = %node.address, call = call.name(), why, "leave an Elasticsearch node alone for a while");
        SearchError::Unavailable(format!("{} at {}: {why}", call.name(), node.address))
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const WITHIN: Duration = Duration::from_millis(300);

    fn client(url: &str) -> Client {
        Client::new(&url.parse().unwrap(), &Trust::default()).unwrap()
    }

    /// Answers every request with these lines; gives back what it was sent.
    async fn server(answer: &'static str) -> (String, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (address, task)
    }

    #[tokio::test]
    async fn credentials_are_sent_as_a_header_and_shown_nowhere() {
        let (address, request) = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        let client = client(&format!("http://app:p%40ss@{address}"));
        client.send(&Call::new(Method::GET, "x", WITHIN)).await.unwrap().success().unwrap();
        let request = request.await.unwrap();
        assert!(request.contains(&STANDARD.encode("app:p@ss")), "{request}");
        let error = client.send(&Call::new(Method::GET, "x", WITHIN)).await.unwrap_err().to_string();
        assert!(error.contains("GET /x at 127.0.0.1") && !error.contains("ss"), "{error}");
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_words_of_elasticsearch() {
        let (address, _request) = server(
            "HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n{\"error\":{\"type\":\"security_exception\",\"reason\":\"unauthorized\"}}",
        )
        .await;
        let reply =
            client(&format!("http://{address}")).send(&Call::new(Method::GET, "a/b?c=d", WITHIN)).await.unwrap();
        let error = reply.success().unwrap_err();
        assert_eq!(
            error.to_string(),
            "GET /a/b: found status 403 from Elasticsearch, security_exception: unauthorized"
        );
        assert!(!error.is_unavailable());
    }

    /// One address takes connections and says nothing, the other answers: a paused container beside a healthy one.
    #[tokio::test]
    async fn a_node_that_hangs_costs_time_once_and_fails_nothing() {
        let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = hanging.local_addr().unwrap().port();
        let healthy = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = healthy.accept().await {
                tokio::spawn(async move {
                    let mut request = vec![0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
                    }
                });
            }
        });
        let client = client(&format!("http://localhost:{port}"));
        client.nodes.learn(vec![([127, 0, 0, 1], port).into(), ([127, 0, 0, 2], port).into()]).unwrap();
        let mut slow = 0;
        for _ in 0..6 {
            let started = Instant::now();
            client.send(&Call::new(Method::GET, "x", WITHIN)).await.unwrap().success().unwrap();
            slow += usize::from(started.elapsed() >= WITHIN);
        }
        assert_eq!(slow, 1, "only the first call that met the hanging node waited for it");
    }

    #[test]
    fn urls_of_other_kinds_are_refused_without_showing_the_password() {
        for url in ["hunter2", "ftp://app:hunter2@host", "https:///hunter2:9200:x"] {
            let Err(error) = Client::new(&url.parse().unwrap(), &Trust::default()) else { panic!("{url}") };
            assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
        }
    }
}
