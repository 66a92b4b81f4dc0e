//! AMQP as clients speak it, each attempt bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::tcp::{AMQPUriTcpExt, RustlsConnector};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{AMQP, AMQPS, NAME, User, VHOST, external, is_tls, member};
use crate::certificates::Trust;

const GREETING_LIMIT: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(5);
/// The protocol header of AMQP 0-9-1, by which a client begins.
const HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// Frame of a method on channel 0; class 10 (connection), method 10 (start).
const METHOD: u8 = 1;
const START: [u8; 4] = [0, 10, 0, 10];
/// A greeting is about 600 bytes.
const GREETING_MAX: usize = 16 << 10;
pub(super) const ACCESS_REFUSED: u16 = 403;
pub(super) const NOT_FOUND: u16 = 404;
pub(super) const RESOURCE_LOCKED: u16 = 405;

pub(super) struct Link {
    connection: Connection,
    pub(super) channel: Channel,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Nothing was asked of RabbitMQ.
    #[error("{0}")]
    NotMade(String),
    #[error("{0}")]
    Refused(#[from] lapin::Error),
    #[error("no answer within {} s", LIMIT.as_secs())]
    Silent,
}

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotMade(reason) => Self::Unknown(reason),
            refused => Self::Fail(refused.to_string()),
        }
    }
}

/// The code by which RabbitMQ refuses, where it was RabbitMQ that did.
pub(super) fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// Where clients go.
struct Place {
    address: SocketAddr,
    /// Whom the certificate must name.
    name: String,
    /// `None`: in clear.
    trust: Option<Trust>,
    vhost: String,
}

impl Place {
    async fn of(access: &Access<'_>) -> Result<Self, String> {
        if let Some(server) = access.stack.external(NAME) {
            let reached = crate::external::reached(&server.host, server.port).await;
            let address = reached.map_err(|error| format!("reach {} from here: {error}", server.address()))?;
            let trust = crate::external::trust(access, server).await?;
            return Ok(Self { address, name: server.host.clone(), trust, vhost: external::vhost(server).to_owned() });
        }
        let is_tls = is_tls(access.stack);
        let port = if is_tls { AMQPS } else { AMQP };
        let address = access.engine.address(&member(), port).await.map_err(|error| error.to_string())?;
        let trust = if is_tls { Some(Trust::authority(access).await?) } else { None };
        Ok(Self { address, name: member().to_string(), trust, vhost: VHOST.to_owned() })
    }
}

/// As `user` with its own password; an external broker has one account for all.
pub(super) async fn connect(access: &Access<'_>, user: User) -> Result<Link, Refusal> {
    if let Some(server) = access.stack.external(NAME) {
        let password = crate::external::password(access, server).await.map_err(Refusal::NotMade)?;
        return log_in(access, server.user.as_deref().unwrap_or_default(), password.unwrap_or_default()).await;
    }
    let secret = access.secret(user.secret()).await.map_err(|failure| Refusal::NotMade(failure.chain()))?;
    log_in(access, user.name(), secret).await
}

pub(super) async fn log_in(access: &Access<'_>, user: &str, password: String) -> Result<Link, Refusal> {
    let Place { address, name, trust, vhost } = Place::of(access).await.map_err(Refusal::NotMade)?;
    let tls: Option<RustlsConnector> = match trust {
        Some(trust) => Some(Arc::new(trust.client().map_err(Refusal::NotMade)?).into()),
        None => None,
    };
    let uri = AMQPUri {
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: user.to_owned(), password },
            host: address.ip().to_string(),
            port: address.port(),
        },
        vhost,
        query: AMQPQueryString::default(),
    };
    tokio::time::timeout(LIMIT, open(uri, name, tls)).await.map_err(|_| Refusal::Silent)?
}

async fn open(uri: AMQPUri, name: String, tls: Option<RustlsConnector>) -> Result<Link, Refusal> {
    let runtime = lapin::runtime::default_runtime()?;
    let stream = async move |uri: AMQPUri, runtime| {
        let plain = uri.connect_async(&runtime).await?;
        match &tls {
            None => Ok(plain),
            // By the name that the certificate is for, not by the address at which it is published here.
            Some(tls) => Ok(plain.into_rustls(tls, &name).await?),
        }
    };
    let properties = ConnectionProperties::default().with_connection_name("provisioner".into());
    let connection = Connection::connector(uri, runtime, stream, properties).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(Link { connection, channel })
}

impl Link {
    /// A refusal ends its channel; the connection goes on.
    pub(super) async fn another_channel(&mut self) -> Result<(), Refusal> {
        self.channel = self.connection.create_channel().await?;
        self.channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(())
    }

    pub(super) async fn close(self) {
        // Whatever goes wrong here, nothing of the check is left on the connection.
        let _ = tokio::time::timeout(LIMIT, self.connection.close(200, "done".into())).await;
    }
}

/// The broker's first words, which it says when clients may come: before any login, so that it is ready before its users
/// are made.
pub(super) async fn greeting(access: &Access<'_>) -> Result<String, String> {
    let Place { address, name, trust, .. } = Place::of(access).await?;
    let config = trust.map(|trust| trust.client()).transpose()?;
    let greeted = async {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let Some(config) = config else { return greet(stream).await };
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        greet(stream.map_err(|error| error.to_string())?).await
    };
    bounded(greeted).await
}

/// What a client that knows no TLS gets to hear.
pub(super) async fn greeting_in_clear(address: SocketAddr) -> Result<String, String> {
    bounded(async { greet(TcpStream::connect(address).await.map_err(|error| error.to_string())?).await }).await
}

async fn bounded(greeted: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    let limit = GREETING_LIMIT;
    let greeted = tokio::time::timeout(limit, greeted).await;
    greeted.map_err(|_| format!("no answer within {} ms", limit.as_millis()))?
}

async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("greet RabbitMQ: {error}");
    stream.write_all(HEADER).await.map_err(failed)?;
    let mut head = [0_u8; 7];
    stream.read_exact(&mut head).await.map_err(failed)?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if head[0] != METHOD || !(START.len()..=GREETING_MAX).contains(&size) {
        return Err(format!(
            "greet RabbitMQ: a frame of type {} with {size} bytes, expected connection.start",
            head[0]
        ));
    }
    let mut frame = vec![0_u8; size];
    stream.read_exact(&mut frame).await.map_err(failed)?;
    match frame.strip_prefix(&START) {
        Some(rest) => Ok(String::from_utf8_lossy(rest).into_owned()),
        None => Err("greet RabbitMQ: another method than connection.start".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn greeted(answer: &[u8]) -> Result<String, String> {
        let (client, mut server) = tokio::io::duplex(1024);
        let answer = answer.to_vec();
        let broker = tokio::spawn(async move {
            let mut header = [0_u8; 8];
            server.read_exact(&mut header).await.unwrap();
            server.write_all(&answer).await.unwrap();
            header
        });
        let greeted = greet(client).await;
        assert_eq!(&broker.await.unwrap(), HEADER);
        greeted
    }

    #[tokio::test]
    async fn only_a_broker_greets() {
        let start = [&[1, 0, 0, 0, 0, 0, 14, 0, 10, 0, 10][..], b"\x00\x09PLAIN   "].concat();
        assert!(greeted(&start).await.unwrap().contains("PLAIN"));
        assert!(greeted(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap_err().contains("expected connection.start"));
        assert!(greeted(b"AMQP\x00\x00\x09\x01").await.unwrap_err().contains("expected connection.start"));
        assert!(greeted(&[1, 0, 0, 0, 0, 0, 4, 0, 10, 0, 11]).await.unwrap_err().contains("another method"));
        assert!(greeted(b"").await.unwrap_err().starts_with("greet RabbitMQ: "));
    }
}
