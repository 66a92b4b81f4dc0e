//! TLS as clients speak it, for checks: which versions a listener takes and what it shows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certificates::Trust;

/// What came of a handshake that succeeded.
pub(crate) struct Handshake {
    /// `h2` or `http/1.1`, where the listener chose one.
    pub(crate) protocol: Option<String>,
    /// The listener's own certificate, as PEM.
    pub(crate) certificate: String,
}

/// A client with this trust and these versions.
pub(crate) fn client(
    trust: &Trust,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let builder = match trust {
        Trust::Authority(roots) => builder.with_root_certificates(roots.clone()),
        Trust::Pinned(certificate) => {
            let verifier = Pinned { certificate: certificate.clone(), provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    Ok(builder.with_no_client_auth())
}

/// Takes one certificate and no other. That the server holds its key is proven by the handshake's signature as always.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("another certificate is shown than the manifest's".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The handshake alone; nothing is sent after it.
pub(crate) async fn handshake(
    address: SocketAddr,
    name: &str,
    config: ClientConfig,
    limit: Duration,
) -> Result<Handshake, String> {
    let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
    let connected = async {
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let stream = tokio::time::timeout(limit, connected).await.map_err(|_| no_answer(limit))?;
    let stream = stream.map_err(|error| error.to_string())?;
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(<[_]>::first).ok_or("no certificate was shown")?;
    let protocol = session.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned());
    Ok(Handshake { protocol, certificate: pem(shown) })
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {} ms", limit.as_millis())
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// What a listener answers to a client that knows nothing newer than TLS 1.1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OldVersion {
    Refused,
    Accepted,
}

/// A record of TLS 1.0 with a ClientHello of TLS 1.1 (RFC 4346, 7.4.1.2): no current library would send it.
const HELLO_1_1: [u8; 58] = {
    let mut hello = [0_u8; 58];
    let head = [0x16, 0x03, 0x01, 0, 53, 0x01, 0, 0, 49, 0x03, 0x02];
    let mut nth = 0;
    while nth < head.len() {
        hello[nth] = head[nth];
        nth += 1;
    }
    // 32 random bytes (any will do), no session; five suites of that time; no compression.
    let tail = [0, 0, 10, 0xc0, 0x13, 0xc0, 0x14, 0x00, 0x2f, 0x00, 0x35, 0x00, 0x0a, 1, 0];
    nth = 0;
    while nth < tail.len() {
        hello[43 + nth] = tail[nth];
        nth += 1;
    }
    hello
};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

pub(crate) async fn old_version(address: SocketAddr, limit: Duration) -> Result<OldVersion, String> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&HELLO_1_1).await?;
        let mut first = [0_u8; 1];
        let read = stream.read(&mut first).await?;
        Ok::<_, std::io::Error>((read, first[0]))
    };
    let answered = tokio::time::timeout(limit, asked).await.map_err(|_| no_answer(limit))?;
    match answered {
        Ok((0, _) | (_, ALERT)) => Ok(OldVersion::Refused),
        Ok((_, HANDSHAKE)) => Ok(OldVersion::Accepted),
        Ok((_, other)) => Err(format!("a record of type {other}, expected an alert")),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(OldVersion::Refused),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::secret::{self, Issuer, Made};
    use provisioner_core::stack::{Secret, SecretSource};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::version::TLS13;
    use rustls::{RootCertStore, ServerConfig};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);
    /// In the year 2026.
    const NOW: u64 = 1_790_000_000;

    fn made(name: &str, source: SecretSource, issuer: Option<&Made>) -> Made {
        let issuer = issuer.map(|made| Issuer { value: &made.value, version: &made.note.version });
        secret::make(&Secret { name: name.to_owned(), source }, issuer, None, name.to_owned(), NOW).unwrap()
    }

    fn authority() -> Made {
        made("ca", SecretSource::Authority { subject: "test".to_owned(), days: 3650 }, None)
    }

    fn pair(authority: &Made) -> Made {
        let names = vec!["shop.example".to_owned()];
        made("pair", SecretSource::Certificate { issuer: "ca".to_owned(), names, days: 3000 }, Some(authority))
    }

    fn certificate(value: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(secret::part(value, "crt").unwrap().as_bytes()).unwrap()
    }

    fn trusting(authority: &Made) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&authority.value)).unwrap();
        Trust::Authority(roots)
    }

    /// Serves handshakes with this pair until the test ends.
    async fn serving(pair: &Made) -> SocketAddr {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::from_pem_slice(secret::part(&pair.value, "key").unwrap().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate(&pair.value)], key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = TlsAcceptor::from(Arc::new(config.clone())).accept(stream).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn only_the_stacks_own_authority_is_believed() {
        let (ours, other) = (authority(), authority());
        let address = serving(&pair(&ours)).await;
        let shake = async |trust: &Trust, name: &str| {
            handshake(address, name, client(trust, &[&TLS13]).unwrap(), LIMIT).await.map(|_| ())
        };
        assert_eq!(shake(&trusting(&ours), "shop.example").await, Ok(()));
        let stranger = shake(&trusting(&other), "shop.example").await.unwrap_err();
        assert!(stranger.contains("invalid peer certificate"), "{stranger}");
        let misnamed = shake(&trusting(&ours), "other.example").await.unwrap_err();
        assert!(misnamed.contains("not valid for name"), "{misnamed}");
    }

    #[tokio::test]
    async fn a_pinned_certificate_is_the_only_one_that_is_taken() {
        let ours = authority();
        let (shown, other) = (pair(&ours), pair(&ours));
        let address = serving(&shown).await;
        let shake = async |pinned: &Made| {
            let trust = Trust::Pinned(certificate(&pinned.value));
            handshake(address, "any.example", client(&trust, &[&TLS13]).unwrap(), LIMIT).await
        };
        assert_eq!(shake(&shown).await.unwrap().protocol, None);
        let refused = shake(&other).await.map(|_| ()).unwrap_err();
        assert!(refused.contains("another certificate is shown"), "{refused}");
    }

    #[tokio::test]
    async fn an_old_client_is_seen_to_be_refused_or_taken() {
        let address = serving(&pair(&authority())).await;
        assert_eq!(old_version(address, LIMIT).await, Ok(OldVersion::Refused));

        let lax = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = lax.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = lax.accept().await.unwrap();
            let mut hello = [0; HELLO_1_1.len()];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(&[HANDSHAKE, 3, 2]).await.unwrap();
        });
        assert_eq!(old_version(address, LIMIT).await, Ok(OldVersion::Accepted));
    }
}
