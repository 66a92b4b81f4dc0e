//! Ports of members at addresses of this process: a listener on loopback each, which asks the API for a stream to the
//! member's pod once somebody connects. It stays when the pod is replaced.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::client::UpgradeConnectionError;
use kube::{Api, Client, Error};
use provisioner_core::engine::EngineError;
use provisioner_core::name::Member;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::connect::KubernetesEngine;
use crate::labels::Names;
use crate::pods;
use crate::silence::Silence;

#[derive(Clone)]
pub(crate) struct Forwards {
    client: Client,
    silence: Arc<Silence>,
    listening: Arc<Mutex<BTreeMap<Key, Listening>>>,
}

/// Namespace, member and port.
type Key = (String, Member, u16);

struct Listening {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Forwards {
    pub(crate) fn new(client: Client, silence: Arc<Silence>) -> Self {
        Self { client, silence, listening: Arc::default() }
    }

    /// The address of this port, bound when it is first asked for.
    pub(crate) fn listen(&self, names: &Names, member: &Member, port: u16) -> Result<SocketAddr, EngineError> {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (names.namespace.clone(), member.clone(), port);
        // One whose runtime ended accepts nobody any more.
        if let Some(known) = listening.get(&key).filter(|known| !known.task.is_finished()) {
            return Ok(known.address);
        }
        let failed = |error| EngineError::failed(format!("listen for port {port} of {member}"), error);
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &names.namespace);
        let way = Way { api, silence: Arc::clone(&self.silence), selector: names.member_selector(member), port };
        let task = tokio::spawn(accept(listener, way));
        listening.insert(key, Listening { address, task });
        Ok(address)
    }
}

#[derive(Clone)]
struct Way {
    api: Api<Pod>,
    silence: Arc<Silence>,
    selector: String,
    port: u16,
}

async fn accept(listener: TcpListener, way: Way) {
    loop {
        match listener.accept().await {
            // Whoever connected sees a closed connection where the pod cannot be reached, as with any port.
            Ok((stream, _)) => drop(tokio::spawn(join(stream, way.clone()))),
            // Out of descriptors: the next one may find some again.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn join(mut stream: TcpStream, Way { api, silence, selector, port }: Way) {
    let Ok(found) = api.list(&ListParams::default().labels(&selector)).await else { return };
    let Some(pod) = found.items.iter().find(|pod| pods::is_up(pod) && !pods::is_leaving(pod)) else { return };
    let node = pods::node(pod).unwrap_or_default();
    silence.asks(node);
    let given = api.portforward(pods::name(&pod.metadata), &[port]).await;
    if given.as_ref().map_or_else(is_servers_own, |_| true) {
        silence.hears(node);
    }
    let Ok(mut forwarder) = given else { return };
    if let Some(mut theirs) = forwarder.take_stream(port) {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut theirs).await;
    }
}

/// The API server knew without asking the node: the pod is gone, or it is not allowed.
fn is_servers_own(error: &Error) -> bool {
    match error {
        Error::Api(status) => status.code < 500,
        Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(status)) => status.is_client_error(),
        _ => false,
    }
}

impl KubernetesEngine {
    /// Where a member's port is reached from this process, whichever pod it runs in.
    pub(crate) async fn published(&self, member: &Member, port: u16) -> Result<SocketAddr, EngineError> {
        if !self.controller(member).await?.ports().contains_key(&port) {
            return Err(EngineError::NotFound { what: format!("published port {port} of {member}") });
        }
        self.kubernetes.forwards.listen(&self.names, member, port)
    }
}
