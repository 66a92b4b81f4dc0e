//! The stack's own authority and what it signs. Every component that serves over TLS declares both; a stack keeps the
//! authority once.

use std::net::SocketAddr;
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use provisioner_core::manifest::Manifest;
use provisioner_core::name::Member;
use provisioner_core::secret;
use provisioner_core::stack::{File, OnChange, Resource, ResourceId, Secret, SecretSource, Stack, Text};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::tls::{self, Handshake};

/// The secret that holds the authority.
pub const AUTHORITY: &str = "ca";
/// Where programs find the authority's certificate.
pub const AUTHORITY_FILE: &str = "/run/provisioner/ca.crt";
/// Ten years: replacing the authority means that every client must learn the new one.
const AUTHORITY_DAYS: u32 = 3650;
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);

pub(crate) fn authority(manifest: &Manifest) -> Resource {
    let source = SecretSource::Authority { subject: manifest.name.to_string(), days: AUTHORITY_DAYS };
    Resource::Secret(Secret { name: AUTHORITY.to_owned(), source })
}

/// Key and certificate of one service: the secret `tls-NAME`, for these names and for connections over loopback.
pub(crate) fn certificate(manifest: &Manifest, name: &str, names: Vec<String>) -> Resource {
    let mut all = names;
    for local in ["localhost", "127.0.0.1", "::1"] {
        if !all.iter().any(|name| name == local) {
            all.push(local.to_owned());
        }
    }
    let days = manifest.certificate_days;
    let source = SecretSource::Certificate { issuer: AUTHORITY.to_owned(), names: all, days };
    Resource::Secret(Secret { name: secret_of(name), source })
}

/// Name of the secret with the key and certificate of a service.
pub(crate) fn secret_of(name: &str) -> String {
    format!("tls-{name}")
}

/// The authority's certificate for programs that trust it. They read it when they connect.
pub fn authority_file() -> File {
    File {
        path: AUTHORITY_FILE.to_owned(),
        mode: 0o444,
        owner: (0, 0),
        content: Text::new(Text::secret(&format!("{AUTHORITY}.crt"))),
        on_change: OnChange::Nothing,
    }
}

/// The same with those by whom external services are believed; `None`: nothing that the stack reaches encrypts.
pub(crate) fn trusted_file(stack: &Stack) -> Option<File> {
    let own = stack.resource(&ResourceId::Secret(AUTHORITY.to_owned())).map(|_| AUTHORITY);
    let others = stack.externals().filter_map(|external| external.ca.as_deref());
    let markers: Vec<String> = own.into_iter().chain(others).map(|name| Text::secret(&format!("{name}.crt"))).collect();
    (!markers.is_empty()).then(|| File { content: Text::new(markers.concat()), ..authority_file() })
}

/// Whom a client believes.
#[derive(Clone)]
pub(crate) enum Trust {
    Authority(RootCertStore),
    /// This very certificate, whoever signed it: somebody's own.
    Pinned(CertificateDer<'static>),
}

impl Trust {
    /// The stack's own authority and nobody else.
    pub(crate) async fn authority(access: &Access<'_>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.add(first(access, AUTHORITY).await?).map_err(|error| format!("trust the stack's authority: {error}"))?;
        Ok(Self::Authority(roots))
    }

    /// Whoever is named in the certificates of this secret.
    pub(crate) async fn signers(access: &Access<'_>, secret: &str) -> Result<Self, String> {
        let text = certificates(access, secret).await?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let certificate =
                certificate.map_err(|error| format!("read the certificates of secret {secret}: {error}"))?;
            // A bundle of many may have some that no current client takes.
            roots.add_parsable_certificates([certificate]);
        }
        if roots.is_empty() {
            return Err(format!("secret {secret} has no certificate that can be trusted"));
        }
        Ok(Self::Authority(roots))
    }

    pub(crate) async fn pinned(access: &Access<'_>, secret: &str) -> Result<Self, String> {
        Ok(Self::Pinned(first(access, secret).await?))
    }

    pub(crate) fn client(&self) -> Result<ClientConfig, String> {
        tls::client(self, &[&TLS13, &TLS12]).map_err(|error| error.to_string())
    }
}

/// The certificates of a secret as PEM, for clients with an own idea of trust.
pub(crate) async fn pem(access: &Access<'_>, secret: &str) -> Result<String, String> {
    certificates(access, secret).await
}

/// The authority's certificate as PEM, for clients with an own idea of trust.
pub(crate) async fn authority_certificate(access: &Access<'_>) -> Result<String, String> {
    certificates(access, AUTHORITY).await
}

/// The first certificate of a secret.
async fn first(access: &Access<'_>, secret: &str) -> Result<CertificateDer<'static>, String> {
    let text = certificates(access, secret).await?;
    CertificateDer::from_pem_slice(text.as_bytes())
        .map_err(|error| format!("read the certificate of secret {secret}: {error}"))
}

async fn certificates(access: &Access<'_>, secret: &str) -> Result<String, String> {
    let value = access.secret(secret).await.map_err(|failure| failure.chain())?;
    secret::part(&value, "crt").ok_or_else(|| format!("secret {secret} has no certificate"))
}

/// The check that every TLS listener shares: both versions that count today, a certificate for `name` that is trusted,
/// and how long it still lasts.
pub(crate) async fn serves(
    access: &Access<'_>,
    member: &Member,
    port: u16,
    name: &str,
    trust: &Trust,
) -> Result<String, Broken> {
    let address = access.engine.address(member, port).await.map_err(|error| Broken::Unknown(error.to_string()))?;
    with_version(address, name, trust, &TLS12).await?;
    let newest = with_version(address, name, trust, &TLS13).await?;
    Ok(format!("TLS 1.2 and 1.3 as {name}, {}", lasts(access, &newest)?))
}

async fn with_version(
    address: SocketAddr,
    name: &str,
    trust: &Trust,
    version: &'static SupportedProtocolVersion,
) -> Result<Handshake, Broken> {
    let config = tls::client(trust, &[version]).map_err(|error| Broken::Unknown(error.to_string()))?;
    let handshake = tls::handshake(address, name, config, HANDSHAKE_LIMIT).await;
    handshake.map_err(|error| Broken::fail(format!("{:?} as {name}: {error}", version.version)))
}

/// Days that the certificate which was presented is still valid.
pub(crate) fn lasts(access: &Access<'_>, handshake: &Handshake) -> Result<String, Broken> {
    let days = secret::validity(&handshake.certificate).map_err(|error| Broken::fail(error.to_string()))?;
    match days.days_left(access.observed.at) {
        0 => Err(Broken::fail("a certificate that ends today, expected one that lasts; provisioner up renews it")),
        days => Ok(format!("{days} days left")),
    }
}
