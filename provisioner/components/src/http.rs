//! HTTP as clients speak it, for probes and checks: no proxy, no redirects, bounded time.

use std::net::SocketAddr;
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::failure::chain;
use provisioner_core::finding::Broken;
use provisioner_core::name::Member;
use provisioner_core::stack::url_host;
use reqwest::header::HeaderMap;
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, redirect};

use crate::certificates::Trust;

/// A port of a member as it is reached from here.
#[derive(Clone)]
pub(crate) struct Site {
    client: Client,
    scheme: &'static str,
    /// Host and port.
    address: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Site {
    pub(crate) async fn of(access: &Access<'_>, member: &Member, port: u16, limit: Duration) -> Result<Self, String> {
        let address = access.engine.address(member, port).await.map_err(|error| error.to_string())?;
        Self::at(address, limit)
    }

    pub(crate) fn at(address: SocketAddr, limit: Duration) -> Result<Self, String> {
        let client = builder(limit).build().map_err(|error| chain(&error))?;
        Ok(Self { client, scheme: "http", address: address.to_string() })
    }

    /// A service that exists already, by its own name; without `trust` in clear.
    pub(crate) fn external(host: &str, port: u16, limit: Duration, trust: Option<Trust>) -> Result<Self, String> {
        let (builder, scheme) = match trust {
            Some(trust) => (builder(limit).tls_backend_preconfigured(trust.client()?), "https"),
            None => (builder(limit), "http"),
        };
        let client = builder.build().map_err(|error| chain(&error))?;
        Ok(Self { client, scheme, address: format!("{}:{port}", url_host(host)) })
    }

    /// The same over TLS.
    pub(crate) async fn tls(
        access: &Access<'_>,
        member: &Member,
        port: u16,
        limit: Duration,
        trust: Trust,
    ) -> Result<Self, String> {
        let address = access.engine.address(member, port).await.map_err(|error| error.to_string())?;
        let client =
            builder(limit).tls_backend_preconfigured(trust.client()?).build().map_err(|error| chain(&error))?;
        Ok(Self { client, scheme: "https", address: address.to_string() })
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}://{}{path}", self.scheme, self.address))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Reply, String> {
        reply(self.request(Method::GET, path)).await
    }
}

fn builder(limit: Duration) -> ClientBuilder {
    // Another crate of the program may have chosen a provider already; any one will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(limit)
}

pub(crate) async fn reply(request: RequestBuilder) -> Result<Reply, String> {
    let response = request.send().await.map_err(|error| chain(&error))?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.map_err(|error| chain(&error))?.to_vec();
    Ok(Reply { status, headers, body })
}

impl Reply {
    /// The header's one value; empty where it is absent or not text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Result<serde_json::Value, Broken> {
        serde_json::from_slice(&self.body).map_err(|error| Broken::fail(format!("a body that is not JSON: {error}")))
    }

    /// `what` names the request in the evidence.
    pub(crate) fn expect(self, status: u16, what: &str) -> Result<Self, Broken> {
        if self.status == status {
            return Ok(self);
        }
        let text = self.text();
        let start: String = text.trim().chars().take(200).collect();
        Err(Broken::fail(format!("{what}: {} {start}, expected {status}", self.status)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_says_what_went_wrong() {
        let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Site::at(unused, Duration::from_secs(1)).unwrap().get("/").await.unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn another_status_is_told_with_the_start_of_the_body() {
        let reply = Reply { status: 502, headers: HeaderMap::new(), body: b"Bad Gateway\n".to_vec() };
        assert_eq!(reply.expect(200, "GET /x").unwrap_err(), Broken::fail("GET /x: 502 Bad Gateway, expected 200"));
    }
}
