//! A proxy between the provisioner and the engine that notes every request and can stand in its way.

use std::path::Path;
use std::sync::{Arc, Mutex};

use provisioner_docker::{Docker, Endpoint};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

use super::endpoint;

#[derive(Default)]
pub(crate) struct Proxy {
    /// Method and path of every request that was passed on, in order.
    pub(crate) requests: Mutex<Vec<String>>,
    /// Requests that may still pass; after them every connection is cut, as if the provisioner had been killed.
    pub(crate) left: Mutex<Option<usize>>,
    /// The beginning of requests that wait until they are released.
    pub(crate) held: Mutex<Option<&'static str>>,
    pub(crate) arrived: Notify,
    pub(crate) released: Notify,
}

impl Proxy {
    /// Listens in `folder` and connects through itself.
    pub(crate) async fn start(folder: &Path) -> (Arc<Self>, Docker) {
        let socket = folder.join("docker.sock");
        let proxy = Arc::new(Self::default());
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::clone(&proxy);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let proxy = Arc::clone(&shared);
                tokio::spawn(async move {
                    match endpoint() {
                        Endpoint::Unix(path) => proxy.pass_on(client, UnixStream::connect(path).await.unwrap()).await,
                        Endpoint::Tcp { address, .. } => {
                            proxy.pass_on(client, TcpStream::connect(address).await.unwrap()).await;
                        }
                    }
                });
            }
        });
        let docker = Docker::connect(&Endpoint::Unix(socket)).await.unwrap();
        (proxy, docker)
    }

    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// Lets `left` more requests pass; `None`: all.
    pub(crate) fn cut_after(&self, left: Option<usize>) {
        *self.left.lock().unwrap() = left;
    }

    async fn pass_on(&self, client: UnixStream, engine: impl AsyncRead + AsyncWrite) {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_engine, mut to_engine) = tokio::io::split(engine);
        let up = async {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                let head = String::from_utf8_lossy(&buffer[..read]);
                let first = head.lines().next().unwrap_or_default();
                if let Some(request) = first.strip_suffix(" HTTP/1.1")
                    && !self.admit(request).await
                {
                    return;
                }
                to_engine.write_all(&buffer[..read]).await.unwrap();
            }
            // The client has said everything; the answer may still be under way.
            std::future::pending::<()>().await;
        };
        let down = tokio::io::copy(&mut from_engine, &mut to_client);
        tokio::select! {
            () = up => {}
            _ = down => {}
        }
    }

    async fn admit(&self, request: &str) -> bool {
        let is_held = self.held.lock().unwrap().is_some_and(|held| request.contains(held));
        if is_held {
            self.arrived.notify_one();
            self.released.notified().await;
        }
        let mut left = self.left.lock().unwrap();
        match &mut *left {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        self.requests.lock().unwrap().push(request.to_owned());
        true
    }
}
