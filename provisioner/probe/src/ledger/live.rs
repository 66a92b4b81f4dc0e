//! The ledger's session against a server that answers as told, byte by byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::journal::Outcome;
use super::session::{Connector, Table};
use crate::settings::{Place, Settings};

const WARNING: &[u8] =
    b"SWARNING\0VWARNING\0C01000\0Mcanceling wait for synchronous replication due to user request\0\0";
const READ_ONLY: &[u8] = b"SERROR\0VERROR\0C25006\0Mcannot execute INSERT in a read-only transaction\0\0";
const SHUTDOWN: &[u8] = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0";

/// Letter, length, content (PostgreSQL 17 docs, 53.7).
fn message(letter: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len() + 4).unwrap();
    [&[letter][..], &length.to_be_bytes(), content].concat()
}

fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

async fn read(stream: &mut TcpStream) {
    let mut sent = [0; 4096];
    assert!(stream.read(&mut sent).await.unwrap() > 0, "the client went away");
}

/// Takes one session: start, the statement, and then `answer` to the row.
async fn serve(listener: TcpListener, answer: Vec<u8>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    read(&mut stream).await;
    stream.write_all(&[message(b'R', &[0; 4]), ready()].concat()).await.unwrap();
    read(&mut stream).await;
    // Parameters int8, int4, int8; no columns.
    let parameters = [&3_u16.to_be_bytes()[..], &[0, 0, 0, 20, 0, 0, 0, 23, 0, 0, 0, 20]].concat();
    let prepared = [message(b'1', b""), message(b't', &parameters), message(b'n', b""), ready()].concat();
    stream.write_all(&prepared).await.unwrap();
    read(&mut stream).await;
    stream.write_all(&answer).await.unwrap();
    // Until the client leaves.
    let mut rest = [0; 64];
    while stream.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {}
}

async fn settings() -> (Settings, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = Place { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
    let settings = Settings {
        route: place.clone(),
        members: vec![place],
        writers: 1,
        every: Duration::from_millis(5),
        database: "postgres".to_owned(),
        user: "ledger".to_owned(),
        password: "s".to_owned(),
        authority: None,
        journal: "unused".into(),
    };
    (settings, listener)
}

/// What a row is worth that is answered so.
async fn outcome(answer: &[Vec<u8>]) -> Outcome {
    let (settings, listener) = settings().await;
    let server = tokio::spawn(serve(listener, answer.concat()));
    let connector = Connector::new(&settings, 1).unwrap();
    let session = connector.open(connector.route(), Table::Entries).await.unwrap();
    let outcome = session.insert(0, 1).await;
    drop(session);
    server.await.unwrap();
    outcome
}

fn committed() -> Vec<u8> {
    [message(b'2', b""), message(b'C', b"INSERT 0 1\0"), ready()].concat()
}

#[tokio::test]
async fn a_commit_is_acknowledged() {
    assert_eq!(outcome(&[committed()]).await, Outcome::Acked);
}

/// As a server answers whose wait for the standby was cancelled.
#[tokio::test]
async fn a_commit_with_a_warning_is_unknown() {
    let bound = message(b'2', b"");
    let answer = [bound, message(b'N', WARNING), message(b'C', b"INSERT 0 1\0"), ready()];
    assert_eq!(outcome(&answer).await, Outcome::Unknown);
}

#[tokio::test]
async fn an_error_is_a_refusal() {
    assert_eq!(outcome(&[message(b'E', READ_ONLY), ready()]).await, Outcome::Refused);
}

/// It may come after the commit.
#[tokio::test]
async fn a_session_that_is_ended_from_outside_is_unknown() {
    assert_eq!(outcome(&[message(b'E', SHUTDOWN)]).await, Outcome::Unknown);
}

/// A route that takes the connection and leads nowhere.
#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up() {
    let (settings, listener) = settings().await;
    let connector = Connector::new(&settings, 1).unwrap();
    let begin = tokio::time::Instant::now();
    assert!(connector.open(connector.route(), Table::Entries).await.is_err());
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    drop(listener);
}
