//! Whom TLS connections believe: the system's roots, where there are any, and the stack's own CA.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    pem: Option<Vec<u8>>,
}

impl Trust {
    pub(crate) fn read(file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(file) = file else { return Ok(Self::default()) };
        let pem = std::fs::read(file).with_context(|| format!("read the CA certificates in {}", file.display()))?;
        let trust = Self { pem: Some(pem) };
        let found = trust.own().with_context(|| format!("read the CA certificates in {}", file.display()))?;
        anyhow::ensure!(!found.is_empty(), "{} has no certificate: expected PEM", file.display());
        Ok(trust)
    }

    /// The stack's CA as PEM.
    pub(crate) fn pem(&self) -> Option<&[u8]> {
        self.pem.as_deref()
    }

    fn own(&self) -> anyhow::Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_slice_iter(self.pem().unwrap_or_default())
            .collect::<Result<_, _>>()
            .map_err(|error| anyhow::anyhow!("decode PEM: {error}"))
    }

    /// All of them as PEM, for a client that takes nothing else.
    pub(crate) fn bundle(&self) -> anyhow::Result<Vec<u8>> {
        let system = rustls_native_certs::load_native_certs().certs;
        let usable = system.into_iter().filter(|root| RootCertStore::empty().add(root.clone()).is_ok());
        let roots = usable
            .chain(self.own()?)
            .map(|root| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(root)));
        Ok(roots.collect::<String>().into_bytes())
    }

    /// A container need not have any system roots, so their absence is no error.
    pub(crate) fn tls(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for certificate in self.own()? {
            roots.add(certificate).context("trust the stack's CA")?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("configure TLS")?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_must_hold_a_certificate() {
        let dir = std::env::temp_dir().join(format!("app-trust-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("ca.crt");
        let error = |file: &Path| format!("{:#}", Trust::read(Some(file)).unwrap_err());
        assert!(error(&file).contains("ca.crt"));
        std::fs::write(&file, "no certificate").unwrap();
        assert!(error(&file).ends_with("has no certificate: expected PEM"), "{}", error(&file));
        std::fs::remove_dir_all(&dir).unwrap();
        Trust::read(None).unwrap().tls().unwrap();
    }
}
