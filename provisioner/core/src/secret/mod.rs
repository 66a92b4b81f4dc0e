//! How secrets come to be, and when one must be made again. Engines keep the values; what is decided here needs none.

mod certificate;

use std::fs;
use std::path::PathBuf;

use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};

use crate::observed::Observed;
use crate::stack::{Fingerprint, Secret, SecretSource};

pub use certificate::{CertificateError, Validity, check_own, part, validity};

const DAY: u64 = 24 * 60 * 60;

/// What is known about a value without knowing it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Another one for another value.
    pub version: String,
    /// Of the [`SecretSource`] that it was made from.
    pub source: Fingerprint,
    /// The version of the authority that signed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub validity: Option<Validity>,
}

/// A value that was just made.
pub struct Made {
    pub value: String,
    pub note: Note,
}

/// The authority that signs: its value and the version of it.
pub struct Issuer<'a> {
    pub value: &'a str,
    pub version: &'a str,
}

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("make secret {name}: {source}")]
    Certificate { name: String, source: CertificateError },
    #[error("make secret {name}: its issuer {issuer} has no value yet")]
    NoIssuer { name: String, issuer: String },
    #[error("make secret {name}: read {}: {source}", file.display())]
    File { name: String, file: PathBuf, source: std::io::Error },
    #[error("make secret {name}: the engine keeps nothing of somebody's own that is called {kept}")]
    NotKept { name: String, kept: String },
    #[error("make secret {name}: what is in {kept} is not what was looked at beforehand; the same command looks again")]
    Changed { name: String, kept: String },
}

impl Note {
    /// Why the value that is there must be made again; `None`: it may stay.
    pub fn due(&self, secret: &Secret, issuer: Option<&Self>, now: u64) -> Option<String> {
        match &secret.source {
            // Programs hold on to a password; another length is no reason to lock them out.
            SecretSource::Password { .. } => None,
            SecretSource::Files { .. } => (self.source != Fingerprint::of(&secret.source))
                .then(|| "the files that it is read from changed".to_owned()),
            SecretSource::Kept { digest: None, .. } => None,
            SecretSource::Kept { name, .. } => {
                (self.source != Fingerprint::of(&secret.source)).then(|| format!("what is in {name} changed"))
            }
            SecretSource::Authority { .. } => self.expiry(now),
            SecretSource::Certificate { issuer: name, .. } => {
                if self.source != Fingerprint::of(&secret.source) {
                    return Some("what it is issued for changed".to_owned());
                }
                if issuer.is_some_and(|issuer| self.issuer.as_ref() != Some(&issuer.version)) {
                    return Some(format!("{name}, which signs it, is another one now"));
                }
                self.expiry(now)
            }
        }
    }

    /// A certificate is renewed when a third of its time is left, so that a stack that is brought up once in a while
    /// never meets its end.
    fn expiry(&self, now: u64) -> Option<String> {
        let Validity { from, until } = self.validity?;
        let left = until.saturating_sub(now);
        let is_due = now > 0 && left < until.saturating_sub(from) / 3;
        let days = left / DAY;
        is_due.then(|| match left {
            0 => "it has expired".to_owned(),
            _ => format!("it ends in {days} {}", if days == 1 { "day" } else { "days" }),
        })
    }
}

/// Why `secret` must be made, or made again.
pub(crate) fn due(secret: &Secret, observed: &Observed) -> Option<String> {
    let Some(found) = observed.secrets.get(&secret.name).filter(|found| found.is_readable) else {
        return Some("no value can be read".to_owned());
    };
    let issuer = secret.issuer().and_then(|name| observed.secrets.get(name));
    found.note.due(secret, issuer.map(|issuer| &issuer.note), observed.at)
}

/// Makes a value. `kept` is what the engine keeps under the name of [`Secret::kept`]; `version` is its choice, another one each time.
pub fn make(
    secret: &Secret,
    issuer: Option<Issuer<'_>>,
    kept: Option<String>,
    version: String,
    now: u64,
) -> Result<Made, SecretError> {
    let failed = |source| SecretError::Certificate { name: secret.name.clone(), source };
    let source = || Fingerprint::of(&secret.source);
    match &secret.source {
        SecretSource::Password { length } => {
            // The generator of `rand::rng` is a CSPRNG seeded by the operating system.
            let value = Alphanumeric.sample_string(&mut rand::rng(), *length);
            Ok(Made { value, note: Note { version, source: source(), issuer: None, validity: None } })
        }
        SecretSource::Authority { subject, days } => {
            let validity = Validity::starting(now, *days);
            let value = certificate::authority(subject, validity).map_err(failed)?;
            Ok(Made { value, note: Note { version, source: source(), issuer: None, validity: Some(validity) } })
        }
        SecretSource::Certificate { issuer: name, names, days } => {
            let Some(issuer) = issuer else {
                return Err(SecretError::NoIssuer { name: secret.name.clone(), issuer: name.clone() });
            };
            let validity = Validity::starting(now, *days);
            let value = certificate::signed(issuer.value, names, validity).map_err(failed)?;
            let issuer = Some(issuer.version.to_owned());
            Ok(Made { value, note: Note { version, source: source(), issuer, validity: Some(validity) } })
        }
        SecretSource::Files { files, .. } => {
            let mut value = String::new();
            for file in files {
                let read = fs::read_to_string(file);
                let unreadable = |source| SecretError::File { name: secret.name.clone(), file: file.clone(), source };
                value.push_str(&read.map_err(unreadable)?);
            }
            Ok(taken_over(secret, value, version))
        }
        SecretSource::Kept { name: of, digest } => match kept {
            Some(pair) if digest.as_ref() == Some(&Fingerprint::of_bytes(pair.as_bytes())) => {
                Ok(taken_over(secret, pair, version))
            }
            Some(_) => Err(SecretError::Changed { name: secret.name.clone(), kept: of.clone() }),
            None => Err(SecretError::NotKept { name: secret.name.clone(), kept: of.clone() }),
        },
    }
}

/// A value that somebody else made.
fn taken_over(secret: &Secret, value: String, version: String) -> Made {
    // Absent for a password.
    let validity = validity(&value).ok();
    let value = if validity.is_none() { value.trim().to_owned() } else { value };
    Made { value, note: Note { version, source: Fingerprint::of(&secret.source), issuer: None, validity } }
}

/// Text as the user or password of a URL (RFC 3986, 2.3): all but letters, digits and `-._~` is escaped.
pub fn url_encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing into a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::stack::Text;

    const NOW: u64 = 1_800_000_000;

    fn authority() -> Secret {
        Secret { name: "ca".to_owned(), source: SecretSource::Authority { subject: "dev".to_owned(), days: 3650 } }
    }

    fn certificate(names: &[&str]) -> Secret {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let source = SecretSource::Certificate { issuer: "ca".to_owned(), names, days: 90 };
        Secret { name: "tls-nginx".to_owned(), source }
    }

    fn made(secret: &Secret, issuer: Option<&Made>, now: u64) -> Made {
        let issuer = issuer.map(|made| Issuer { value: &made.value, version: &made.note.version });
        make(secret, issuer, None, format!("{}-{now}", secret.name), now).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
        let ca = made(&authority(), None, NOW);
        let secret = certificate(&["localhost"]);
        let note = made(&secret, Some(&ca), NOW).note;
        let due = |days: u64| note.due(&secret, Some(&ca.note), NOW + days * DAY);
        assert_eq!(due(59), None);
        assert_eq!(due(61).as_deref(), Some("it ends in 29 days"));
        assert_eq!(due(91).as_deref(), Some("it has expired"));
    }

    #[test]
    fn other_names_and_another_authority_need_another_certificate() {
        let (ca, other) = (made(&authority(), None, NOW), made(&authority(), None, NOW + 1));
        let note = made(&certificate(&["localhost"]), Some(&ca), NOW).note;
        assert_eq!(note.due(&certificate(&["localhost"]), Some(&ca.note), NOW), None);
        let names = note.due(&certificate(&["shop.example"]), Some(&ca.note), NOW);
        assert_eq!(names.as_deref(), Some("what it is issued for changed"));
        let issuer = note.due(&certificate(&["localhost"]), Some(&other.note), NOW);
        assert_eq!(issuer.as_deref(), Some("ca, which signs it, is another one now"));
    }

    #[test]
    fn a_password_stays_whatever_the_manifest_says() {
        let secret = |length| Secret { name: "p".to_owned(), source: SecretSource::Password { length } };
        let made = made(&secret(24), None, NOW);
        assert_eq!(made.value.len(), 24);
        assert_eq!(made.note.due(&secret(32), None, u64::MAX), None);
    }

    #[test]
    fn a_file_names_key_and_certificate_apart() {
        let ca = made(&authority(), None, NOW);
        let values = BTreeMap::from([("ca".to_owned(), ca.value)]);
        let resolve = |part: &str| Text::new(Text::secret(part)).resolve(&values).unwrap();
        assert!(resolve("ca.crt").starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(!resolve("ca.crt").contains("PRIVATE KEY"));
        assert!(resolve("ca.key").starts_with("-----BEGIN PRIVATE KEY-----"));
        assert!(!resolve("ca.key").contains("CERTIFICATE"));
    }

    #[test]
    fn a_url_takes_any_password() {
        let values = BTreeMap::from([("mail-password".to_owned(), "p@ss:w/ö%".to_owned())]);
        let text = Text::new(format!("smtp://u:{}@mx", Text::secret("mail-password.url")));
        assert_eq!(text.resolve(&values).unwrap(), "smtp://u:p%40ss%3Aw%2F%C3%B6%25@mx");
        assert_eq!(text.secrets().into_iter().collect::<Vec<_>>(), ["mail-password"]);
    }

    #[test]
    fn a_missing_file_is_named() {
        let source = SecretSource::Files { files: vec!["/nowhere/key".into()], digest: Fingerprint::of_bytes(b"") };
        let secret = Secret { name: "own".to_owned(), source };
        let error = make(&secret, None, None, "1".to_owned(), NOW).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("make secret own: read /nowhere/key: "), "{error}");
    }
}
