//! Redis over TLS: its key and certificate, and the proof that it takes nothing else.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use provisioner_core::manifest::Manifest;
use provisioner_core::stack::{File, OnChange, Resource, ResourceId, Stack, Text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{NAME, PORT, REDIS, member};
use crate::certificates::{self, Trust};

const LIMIT: Duration = Duration::from_secs(2);

pub(super) fn resources(manifest: &Manifest) -> Vec<Resource> {
    if !manifest.redis.tls {
        return Vec::new();
    }
    let names = vec![member().to_string()];
    vec![certificates::authority(manifest), certificates::certificate(manifest, NAME, names)]
}

pub(crate) fn is_declared(stack: &Stack) -> bool {
    stack.resource(&ResourceId::Secret(certificates::secret_of(NAME))).is_some()
}

/// The pair, and the authority for whoever uses `redis-cli --tls` in the member.
pub(super) fn files() -> [File; 3] {
    let secret = certificates::secret_of(NAME);
    let file = |path: &str, mode, part: &str| File {
        path: path.to_owned(),
        mode,
        owner: REDIS,
        content: Text::new(Text::secret(&format!("{secret}.{part}"))),
        on_change: OnChange::Restart,
    };
    [
        file("/etc/redis/tls/server.crt", 0o444, "crt"),
        file("/etc/redis/tls/server.key", 0o400, "key"),
        certificates::authority_file(),
    ]
}

pub(super) async fn serves(access: &Access<'_>) -> Result<String, Broken> {
    let trust = Trust::authority(access).await.map_err(Broken::Unknown)?;
    certificates::serves(access, &member(), PORT, member().as_str(), &trust).await
}

/// A command in clear is no handshake: Redis closes, or sends an alert and closes.
pub(super) async fn plaintext_refused(access: &Access<'_>) -> Result<String, Broken> {
    let address = access.engine.address(&member(), PORT).await.map_err(Broken::unknown)?;
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut answer = [0_u8; 64];
        let length = stream.read(&mut answer).await?;
        Ok::<_, std::io::Error>(answer[..length].to_vec())
    };
    let limit = || Broken::Unknown(format!("PING in clear: no answer within {} ms", LIMIT.as_millis()));
    match tokio::time::timeout(LIMIT, asked).await.map_err(|_| limit())? {
        // RESP: `+PONG`, or `-NOAUTH` to a stranger.
        Ok(answer) if matches!(answer.first(), Some(b'+' | b'-')) => {
            let answer = String::from_utf8_lossy(&answer);
            Err(Broken::fail(format!("PING in clear: {}, expected no answer", answer.trim())))
        }
        Ok(_) => Ok("PING in clear: the connection ends".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
            Ok("PING in clear: the connection is reset".to_owned())
        }
        Err(error) => Err(Broken::Unknown(format!("PING in clear: {error}"))),
    }
}
