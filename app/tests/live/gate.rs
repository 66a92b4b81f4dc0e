//! A TCP forwarder that can be shut: how a test takes a backing system away from one shop and gives it back.

use std::{net::SocketAddr, sync::Mutex};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
};

pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    target: String,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Gate {
    pub(crate) async fn open(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = Mutex::new(Some(tokio::spawn(forward(listener, target.clone()))));
        Self { address, target, task }
    }

    /// Cuts every connection; new ones are refused.
    pub(crate) async fn shut(&self) {
        let task = self.task.lock().unwrap().take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    pub(crate) fn reopen(&self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(128).unwrap();
        *self.task.lock().unwrap() = Some(tokio::spawn(forward(listener, self.target.clone())));
    }
}

async fn forward(listener: TcpListener, target: String) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        let target = target.clone();
        connections.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(target).await {
                // Either side closing is the end of the connection, not a failure of the test.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
