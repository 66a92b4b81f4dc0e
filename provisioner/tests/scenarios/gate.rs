//! A TCP forwarder that can be shut: how a scenario takes a server away from one client and gives it back. Of plain HTTP/1.1 it
//! knows what was asked for.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct State {
    is_shut: bool,
    streams: Vec<TcpStream>,
    /// `GET /api/v1/pods`, in the order in which they came.
    requests: Vec<String>,
}

pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Gate {
    pub(crate) fn open(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, target) = (Arc::clone(&state), target.to_owned());
        // Ends with the process.
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let mut state = shared.lock().unwrap();
                if state.is_shut {
                    continue;
                }
                let Ok(far) = TcpStream::connect(&target) else { continue };
                state.streams.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                let asked = Arc::clone(&shared);
                forward(near.try_clone().unwrap(), far.try_clone().unwrap(), move |line| {
                    if let Some(request) = line.trim_end().strip_suffix(" HTTP/1.1") {
                        asked.lock().unwrap().requests.push(request.to_owned());
                    }
                });
                forward(far, near, |_| {});
            }
        });
        Self { address, state }
    }

    /// Cuts every connection; new ones are closed at once.
    pub(crate) fn shut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_shut = true;
        for stream in state.streams.drain(..) {
            // Most of them are over.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    pub(crate) fn reopen(&self) {
        self.state.lock().unwrap().is_shut = false;
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, look: impl Fn(&str) + Send + 'static) {
    std::thread::spawn(move || {
        let mut piece = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            // A client sends the head of a request in one piece.
            String::from_utf8_lossy(&piece[..length]).lines().for_each(&look);
            if to.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}
