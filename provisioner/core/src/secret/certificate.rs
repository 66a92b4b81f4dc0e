//! Certificates of the stack's own authority, and somebody's own. A value is one PEM text: the key, then the
//! certificate, then what leads from it to the authority.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

/// Clocks of machines differ; a certificate that is valid a little before it is made is accepted everywhere.
const CLOCK_SKEW: u64 = 60 * 60;

/// When a certificate counts, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    pub from: u64,
    pub until: u64,
}

impl Validity {
    pub(super) fn starting(now: u64, days: u32) -> Self {
        Self { from: now, until: now + u64::from(days) * super::DAY }
    }

    /// Whole days that are left at `now`.
    pub fn days_left(self, now: u64) -> u64 {
        self.until.saturating_sub(now) / super::DAY
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Generate(#[from] rcgen::Error),
    #[error("find a {wanted}: there is none in the PEM text")]
    Missing { wanted: &'static str },
    #[error("read the certificate: {0}")]
    Malformed(String),
    #[error("read the private key: {0}")]
    Key(String),
    #[error("the key does not belong to the certificate")]
    OtherKey,
    #[error("a certificate that ended {} days ago, expected one that is valid", .days)]
    Expired { days: u64 },
    #[error("a certificate that is not valid before {} days from now, expected one that is valid", .days)]
    NotYet { days: u64 },
}

pub(super) fn authority(subject: &str, validity: Validity) -> Result<String, CertificateError> {
    let mut params = params(Vec::new(), &format!("{subject} provisioner CA"), validity)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

pub(super) fn signed(authority: &str, names: &[String], validity: Validity) -> Result<String, CertificateError> {
    let missing = |wanted| CertificateError::Missing { wanted };
    let authority_key = part(authority, "key").ok_or(missing("key of the authority"))?;
    let authority_certificate = part(authority, "crt").ok_or(missing("certificate of the authority"))?;
    let issuer = Issuer::from_ca_cert_pem(&authority_certificate, KeyPair::from_pem(&authority_key)?)?;
    let subject = names.first().cloned().unwrap_or_default();
    let mut params = params(names.to_vec(), &subject, validity)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Nodes of a cluster are each other's clients.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(format!("{}{}{authority_certificate}", key.serialize_pem(), certificate.pem()))
}

fn params(names: Vec<String>, subject: &str, validity: Validity) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.not_before = moment(validity.from.saturating_sub(CLOCK_SKEW))?;
    params.not_after = moment(validity.until)?;
    Ok(params)
}

fn moment(seconds: u64) -> Result<OffsetDateTime, CertificateError> {
    let malformed = |error: &dyn std::fmt::Display| CertificateError::Malformed(error.to_string());
    let seconds = i64::try_from(seconds).map_err(|error| malformed(&error))?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| malformed(&error))
}

/// The PEM blocks of one kind: `crt` for certificates, `key` for private keys. `None` where there are none.
pub fn part(text: &str, name: &str) -> Option<String> {
    let wanted = |label: &str| match name {
        "crt" => label == "CERTIFICATE",
        "key" => label.ends_with("PRIVATE KEY"),
        _ => false,
    };
    let mut found = String::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            inside = wanted(label);
        }
        if inside {
            found.push_str(line);
            found.push('\n');
        }
        inside &= !line.starts_with("-----END ");
    }
    (!found.is_empty()).then_some(found)
}

/// When the first certificate of a PEM text counts.
pub fn validity(text: &str) -> Result<Validity, CertificateError> {
    with_first(text, |certificate| {
        let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or_default();
        Validity { from: seconds(certificate.validity().not_before), until: seconds(certificate.validity().not_after) }
    })
}

/// Somebody's own certificate: the key belongs to it and it is valid now.
pub fn check_own(text: &str, now: u64) -> Result<Validity, CertificateError> {
    let key = part(text, "key").ok_or(CertificateError::Missing { wanted: "private key" })?;
    let key = public_key(&key)?;
    let is_same = with_first(text, |certificate| certificate.public_key().raw == &key[..])?;
    if !is_same {
        return Err(CertificateError::OtherKey);
    }
    let validity = validity(text)?;
    if validity.until <= now {
        return Err(CertificateError::Expired { days: (now - validity.until) / super::DAY });
    }
    if validity.from > now {
        return Err(CertificateError::NotYet { days: (validity.from - now) / super::DAY });
    }
    Ok(validity)
}

/// Of a private key in any of the three forms that programs write, as a certificate has it. rcgen reads PKCS#8 alone, and
/// cert-manager writes PKCS#1 where nobody says otherwise.
fn public_key(key: &str) -> Result<Vec<u8>, CertificateError> {
    let unknown = |error: &dyn std::fmt::Display| CertificateError::Key(error.to_string());
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| unknown(&error))?;
    let key = any_supported_type(&key).map_err(|error| unknown(&error))?;
    let public = key.public_key().ok_or_else(|| unknown(&"it tells no public key"))?;
    Ok(public.to_vec())
}

fn with_first<T>(text: &str, read: impl FnOnce(&X509Certificate<'_>) -> T) -> Result<T, CertificateError> {
    let malformed = |error: &dyn std::fmt::Display| CertificateError::Malformed(error.to_string());
    let certificates = part(text, "crt").ok_or(CertificateError::Missing { wanted: "certificate" })?;
    let first = Pem::iter_from_buffer(certificates.as_bytes()).next();
    let first = first.ok_or(CertificateError::Missing { wanted: "certificate" })?.map_err(|error| malformed(&error))?;
    let parsed = first.parse_x509().map_err(|error| malformed(&error))?;
    Ok(read(&parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn pair(names: &[&str], days: u32) -> String {
        let authority = authority("dev", Validity::starting(NOW, 3650)).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        signed(&authority, &names, Validity::starting(NOW, days)).unwrap()
    }

    #[test]
    fn a_certificate_says_when_it_ends_and_for_whom_it_is() {
        let text = pair(&["nginx-1", "localhost", "127.0.0.1"], 90);
        assert_eq!(validity(&text).unwrap().days_left(NOW), 90);
        let names = with_first(&text, |certificate| {
            let names = certificate.subject_alternative_name().unwrap().unwrap();
            names.value.general_names.iter().map(ToString::to_string).collect::<Vec<_>>()
        });
        insta::assert_debug_snapshot!(names.unwrap(), @r#"
        [
            "DNSName(nginx-1)",
            "DNSName(localhost)",
            "IPAddress(7f:00:00:01)",
        ]
        "#);
        assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2, "the authority comes along");
    }

    #[test]
    fn somebodys_own_certificate_must_be_valid_and_whole() {
        let (one, other) = (pair(&["a"], 90), pair(&["a"], 90));
        let mixed = format!("{}{}", part(&one, "key").unwrap(), part(&other, "crt").unwrap());
        let told = |text: &str, now: u64| check_own(text, now).map(|_| ()).unwrap_err().to_string();
        assert!(check_own(&one, NOW).is_ok());
        assert_eq!(told(&mixed, NOW), "the key does not belong to the certificate");
        assert!(told(&one, NOW + 100 * super::super::DAY).starts_with("a certificate that ended 10 days ago"));
        assert!(told(&one, NOW - 3 * super::super::DAY).contains("is not valid before 2 days from now"));
        assert_eq!(told(&part(&one, "crt").unwrap(), NOW), "find a private key: there is none in the PEM text");
    }

    /// As OpenSSL writes them: `openssl req -x509 -newkey … -nodes -days 36500`, `openssl rsa -traditional`, `openssl ec`.
    #[test]
    fn a_key_is_read_in_each_form_that_programs_write() {
        for text in [include_str!("testdata/rsa-pkcs1.pem"), include_str!("testdata/ec-sec1.pem")] {
            assert!(check_own(text, NOW).is_ok(), "{:?}", check_own(text, NOW));
        }
        let text = include_str!("testdata/rsa-pkcs1.pem").replace("RSA PRIVATE", "DSA PRIVATE");
        assert!(check_own(&text, NOW).unwrap_err().to_string().starts_with("read the private key: "));
    }
}
