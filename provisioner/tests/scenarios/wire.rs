//! What really goes over the wire to the engine, seen by a proxy in between.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::harness::{Scenario, Stack, docker};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("plan_sends_nothing_but_reads", plan_sends_nothing_but_reads),
    ("an_up_with_nothing_to_do_sends_few_requests_and_only_reads", an_idle_up_sends_few_requests),
];

/// The bound of the project's figures for an `up` with nothing to do.
const IDLE_REQUESTS: usize = 16;

fn plan_sends_nothing_but_reads() {
    let stack = Stack::dev();
    docker(&["rm", "-f", "sc-dev-backend-1"]);
    docker(&["stop", "-t", "30", "sc-dev-postgres-2"]);
    for arguments in [&["plan"][..], &["plan", "--deep"]] {
        let seen = requests_of(&stack, arguments);
        assert!(!seen.is_empty());
        assert!(seen.iter().all(|request| is_read(request)), "{seen:#?}");
    }
    stack.ok(&["up"]);
}

fn an_idle_up_sends_few_requests() {
    let stack = Stack::dev();
    stack.ok(&["up"]);
    let seen = requests_of(&stack, &["up", "--no-verify"]);
    assert!(seen.iter().all(|request| is_read(request)), "{seen:#?}");
    assert!(seen.len() <= IDLE_REQUESTS, "{} requests: {seen:#?}", seen.len());
}

fn is_read(request: &str) -> bool {
    request.starts_with("GET ") || request.starts_with("HEAD ")
}

/// The request lines that one run of the provisioner sends.
fn requests_of(stack: &Stack, arguments: &[&str]) -> Vec<String> {
    let socket = std::env::temp_dir().join(format!("provisioner-wire-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    // Ends with the process; there is no more than one a scenario.
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            relay(client, &noted);
        }
    });
    let host = format!("unix://{}", socket.display());
    let output = stack.command(arguments).env("DOCKER_HOST", host).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::remove_file(&socket).unwrap();
    std::mem::take(&mut *seen.lock().unwrap())
}

fn relay(client: UnixStream, seen: &Arc<Mutex<Vec<String>>>) {
    let engine = UnixStream::connect(PathBuf::from("/var/run/docker.sock")).unwrap();
    let (from_client, to_engine) = (client.try_clone().unwrap(), engine.try_clone().unwrap());
    let seen = Arc::clone(seen);
    std::thread::spawn(move || copy(from_client, to_engine, |bytes| note(bytes, &seen)));
    std::thread::spawn(move || copy(engine, client, |_| ()));
}

fn copy(mut from: UnixStream, mut to: UnixStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        look(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Clients send a request's head in one piece, so its first line stands at the start of a read.
fn note(bytes: &[u8], seen: &Mutex<Vec<String>>) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines().filter(|line| line.ends_with(" HTTP/1.1")) {
        seen.lock().unwrap().push(line.to_owned());
    }
}
