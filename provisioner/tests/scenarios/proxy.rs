//! A proxy in front of the engine: notes what is asked of it, and can refuse some of that.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

const ENGINE: &str = "/var/run/docker.sock";

/// What the engine answers where it has no better word.
const REFUSAL: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 35\r\n\
                       Connection: close\r\n\r\n{\"message\":\"refused by the proxy\"}\n";

pub(crate) struct Proxy {
    socket: PathBuf,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(crate) fn transparent() -> Self {
        Self::start(|_| false)
    }

    /// An engine that cannot end this container, by any means.
    pub(crate) fn powerless_over(container: &str) -> Self {
        let means = ["kill", "stop", "pause", "restart"].map(|verb| format!("/containers/{container}/{verb}"));
        Self::start(move |request| request.starts_with("POST ") && means.iter().any(|path| request.contains(path)))
    }

    /// Request lines for which `refuses` is true are answered with 500 and never reach the engine.
    fn start(refuses: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        let socket = std::env::temp_dir().join(format!("provisioner-proxy-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (noted, refuses) = (Arc::clone(&seen), Arc::new(refuses));
        // Ends with the process; there is no more than one at a time.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (noted, refuses) = (Arc::clone(&noted), Arc::clone(&refuses));
                relay(client, move |request| {
                    noted.lock().unwrap().push(request.to_owned());
                    refuses(request)
                });
            }
        });
        Self { socket, seen }
    }

    /// For `DOCKER_HOST`.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The request lines since the last time.
    pub(crate) fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn relay(client: UnixStream, is_refused: impl Fn(&str) -> bool + Send + 'static) {
    let engine = UnixStream::connect(ENGINE).unwrap();
    let (from_client, to_engine) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
    let mut answer = client.try_clone().unwrap();
    std::thread::spawn(move || {
        copy(from_client, to_engine, |bytes| {
            // Clients send a request's head in one piece, so its first line stands at the start of a read.
            let text = String::from_utf8_lossy(bytes);
            let refused =
                text.lines().filter(|line| line.ends_with(" HTTP/1.1")).filter(|line| is_refused(line)).count();
            if refused > 0 {
                let _ = answer.write_all(REFUSAL.as_bytes());
            }
            refused == 0
        });
    });
    std::thread::spawn(move || copy(engine, client, |_| true));
}

/// Until either end closes, or `passes` is false.
fn copy(mut from: UnixStream, mut to: UnixStream, mut passes: impl FnMut(&[u8]) -> bool) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !passes(&buffer[..length]) || to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
