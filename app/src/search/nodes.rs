//! The addresses behind one name. Each has connections of its own, so that a node that hangs takes only its own along.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use reqwest::Url;
use tokio::{net::lookup_host, time::timeout};

use super::SearchError;
use crate::breaker::Breaker;

const CONNECT_WITHIN: Duration = Duration::from_millis(500);
const LOOK_UP_WITHIN: Duration = Duration::from_millis(500);
const LOOK_UP_EVERY: Duration = Duration::from_secs(10);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: SocketAddr,
    pub(super) http: reqwest::Client,
    pub(super) breaker: Breaker,
}

pub(super) struct Nodes {
    host: String,
    port: u16,
    tls: rustls::ClientConfig,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    nodes: Vec<Arc<Node>>,
    looked_up: Option<Instant>,
    turn: usize,
}

impl Nodes {
    pub(super) fn new(url: &Url, tls: rustls::ClientConfig) -> anyhow::Result<Self> {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            anyhow::bail!("expected a URL with a host")
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port, tls, known: Mutex::default() })
    }

    /// Every node once, in turn; those that failed lately only when no other is left, or to see whether they are back.
    pub(super) async fn candidates(&self) -> Result<Vec<Arc<Node>>, SearchError> {
        if self.look_up_is_due() {
            self.look_up().await?;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.turn = known.turn.wrapping_add(1);
        let mut nodes = known.nodes.clone();
        if !nodes.is_empty() {
            let first = known.turn % nodes.len();
            nodes.rotate_left(first);
        }
        let healthy: Vec<Arc<Node>> = nodes.iter().filter(|node| node.breaker.allows()).cloned().collect();
        Ok(if healthy.is_empty() { nodes } else { healthy })
    }

    /// After every node failed: perhaps they have moved.
    pub(super) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).looked_up = None;
    }

    fn look_up_is_due(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.nodes.is_empty() || known.looked_up.is_none_or(|at| at.elapsed() >= LOOK_UP_EVERY)
    }

    /// Names that cannot be looked up for a moment change nothing for nodes that are known.
    async fn look_up(&self) -> Result<(), SearchError> {
        let found = timeout(LOOK_UP_WITHIN, lookup_host((self.host.as_str(), self.port))).await;
        let trouble = match found {
            Ok(Ok(addresses)) => return self.learn(addresses.collect()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {LOOK_UP_WITHIN:?}"),
        };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.nodes.is_empty() {
            return Err(SearchError::Unavailable(format!("look up {}: {trouble}", self.host)));
        }
        Ok(())
    }

    /// A node that stays keeps its connections and its history.
    pub(super) fn learn(&self, mut addresses: Vec<SocketAddr>) -> Result<(), SearchError> {
        addresses.sort_unstable();
        addresses.dedup();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nodes = Vec::with_capacity(addresses.len());
        for address in addresses {
            match known.nodes.iter().find(|node| node.address == address) {
                Some(node) => nodes.push(Arc::clone(node)),
                None => nodes.push(Arc::new(self.node(address)?)),
            }
        }
        known.nodes = nodes;
        known.looked_up = Some(Instant::now());
        Ok(())
    }

    fn node(&self, address: SocketAddr) -> Result<Node, SearchError> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .resolve(&self.host, address)
            .connect_timeout(CONNECT_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| SearchError::Unavailable(format!("prepare connections: {error}")))?;
        Ok(Node { address, http, breaker: Breaker::new(PAUSE_AFTER_FAILURE) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(url: &str) -> Nodes {
        let tls = crate::trust::Trust::default().tls().unwrap();
        Nodes::new(&url.parse().unwrap(), rustls::ClientConfig::clone(&tls)).unwrap()
    }

    fn addresses(nodes: &[Arc<Node>]) -> Vec<String> {
        nodes.iter().map(|node| node.address.to_string()).collect()
    }

    #[tokio::test]
    async fn nodes_take_turns_and_one_that_failed_waits() {
        let nodes = nodes("http://127.0.0.1:9200");
        nodes.learn(["127.0.0.1:9200", "127.0.0.2:9200"].map(|text| text.parse().unwrap()).to_vec()).unwrap();
        let first = nodes.candidates().await.unwrap();
        let second = nodes.candidates().await.unwrap();
        assert_eq!(first.len(), 2);
        assert_eq!(addresses(&first), addresses(&[Arc::clone(&second[1]), Arc::clone(&second[0])]));
        first[0].breaker.trip();
        for _ in 0..3 {
            assert_eq!(addresses(&nodes.candidates().await.unwrap()), addresses(&first[1..]));
        }
        first[1].breaker.trip();
        assert_eq!(nodes.candidates().await.unwrap().len(), 2, "all failed: all are tried");
    }

    #[tokio::test]
    async fn addresses_of_every_kind_are_understood() {
        for (url, address) in [
            ("http://[::1]:9200", "[::1]:9200"),
            ("https://127.0.0.1", "127.0.0.1:443"),
            ("http://user:password@127.0.0.1:1/", "127.0.0.1:1"),
        ] {
            assert_eq!(addresses(&nodes(url).candidates().await.unwrap()), [address]);
        }
    }
}
