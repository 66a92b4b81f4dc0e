//! Whether a webhook comes from whom it says, by the rules of Standard Webhooks: HMAC-SHA256 over id, timestamp and the
//! bytes of the body. The secrets are those of the providers.

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Either way: clocks differ, and whoever has listened has that long to repeat it, which the event's id prevents.
pub(crate) const WINDOW_SECONDS: u64 = 300;
const KEY_MIN: usize = 16;
const SECRET_PREFIX: &str = "whsec_";

/// Keys by provider. Several of one provider are all good, so that a key can be changed.
#[derive(Clone, Default)]
pub(crate) struct Secrets(BTreeMap<String, Vec<Vec<u8>>>);

#[derive(Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) id: &'a str,
    pub(crate) timestamp: &'a str,
    /// `v1,BASE64`, several of them apart by spaces.
    pub(crate) signatures: &'a str,
    pub(crate) body: &'a [u8],
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forged {
    #[error("no signature fits")]
    Signature,
    #[error("the timestamp is more than {WINDOW_SECONDS} s off")]
    Time,
}

impl Secrets {
    /// Without a file there is only what the variable says.
    pub(crate) fn read(given: Option<&Self>, file: Option<&Path>) -> anyhow::Result<Self> {
        let mut secrets = given.cloned().unwrap_or_default();
        if let Some(file) = file {
            let named = || format!("read the webhook secrets in {}", file.display());
            let text = std::fs::read_to_string(file).with_context(named)?;
            let more: Self = text.parse().map_err(anyhow::Error::msg).with_context(named)?;
            for (provider, keys) in more.0 {
                secrets.0.entry(provider).or_default().extend(keys);
            }
        }
        Ok(secrets)
    }

    pub(crate) fn knows(&self, provider: &str) -> bool {
        self.0.contains_key(provider)
    }

    /// `now`: seconds since 1970.
    pub(crate) fn verify(&self, provider: &str, signed: &Signed<'_>, now: u64) -> Result<(), Forged> {
        let keys = self.0.get(provider).map(Vec::as_slice).unwrap_or_default();
        let given = signed.signatures.split(' ').filter_map(|text| STANDARD.decode(text.strip_prefix("v1,")?).ok());
        let is_ours = given.take(10).any(|signature| keys.iter().any(|key| fits(key, signed, &signature)));
        if !is_ours {
            return Err(Forged::Signature);
        }
        let sent: u64 = signed.timestamp.parse().map_err(|_| Forged::Time)?;
        if sent.abs_diff(now) <= WINDOW_SECONDS { Ok(()) } else { Err(Forged::Time) }
    }
}

fn fits(key: &[u8], signed: &Signed<'_>, signature: &[u8]) -> bool {
    // Of any length: HMAC hashes a key that is too long.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return false };
    for part in [signed.id.as_bytes(), b".", signed.timestamp.as_bytes(), b".", signed.body] {
        mac.update(part);
    }
    // In constant time.
    mac.verify_slice(signature).is_ok()
}

/// `provider=secret`, apart by commas or white space; a secret is `whsec_` and base64, or the key itself.
impl FromStr for Secrets {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut secrets = Self::default();
        let pairs = text.split(|character: char| character == ',' || character.is_whitespace());
        for (index, pair) in pairs.filter(|pair| !pair.is_empty()).enumerate() {
            // Never what was found: it may be a secret.
            let expected = |what: &str| format!("entry {} of the webhook secrets: expected {what}", index + 1);
            let (provider, secret) = pair.split_once('=').ok_or_else(|| expected("provider=secret"))?;
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if !(1..=32).contains(&provider.len()) || !provider.bytes().all(is_name) {
                return Err(expected("a provider of up to 32 of a-z, 0-9 and -"));
            }
            let key = match secret.strip_prefix(SECRET_PREFIX) {
                Some(encoded) => STANDARD.decode(encoded).map_err(|_| expected("base64 after whsec_"))?,
                None => secret.as_bytes().to_vec(),
            };
            if key.len() < KEY_MIN {
                return Err(expected(&format!("a key of {KEY_MIN} bytes or more")));
            }
            secrets.0.entry(provider.to_owned()).or_default().push(key);
        }
        Ok(secrets)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "pay=whsec_plJ3nmyCDGBKInavdOK15jsl";
    /// The example of the specification.
    const SIGNED: Signed<'static> = Signed {
        id: "msg_loFOjxBNrRLzqYUf",
        timestamp: "1731705121",
        signatures: "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
        body: br#"{"event_type":"ping","data":{"success":true}}"#,
    };

    #[test]
    fn what_is_signed_is_let_in_within_the_window_and_nothing_else() {
        let secrets: Secrets = SECRET.parse().unwrap();
        let verify = |signed: Signed<'_>, now| secrets.verify("pay", &signed, now);
        for now in [1_731_705_121, 1_731_705_121 - 300, 1_731_705_121 + 300] {
            assert_eq!(verify(SIGNED, now), Ok(()));
        }
        for now in [0, 1_731_705_121 - 301, 1_731_705_121 + 301] {
            assert_eq!(verify(SIGNED, now), Err(Forged::Time));
        }
        let now = 1_731_705_121;
        let rotated = format!("v1,AAAA v2,x {}", SIGNED.signatures);
        assert_eq!(verify(Signed { signatures: &rotated, ..SIGNED }, now), Ok(()));
        for forged in [
            Signed { id: "msg_other", ..SIGNED },
            Signed { timestamp: "1731705122", ..SIGNED },
            Signed { body: br#"{"event_type":"ping","data":{"success":false}}"#, ..SIGNED },
            Signed { signatures: "", ..SIGNED },
            Signed { signatures: "v1,", ..SIGNED },
            Signed { signatures: "rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=", ..SIGNED },
        ] {
            assert_eq!(verify(forged, now), Err(Forged::Signature));
        }
        assert_eq!(secrets.verify("other", &SIGNED, now), Err(Forged::Signature));
        let changing: Secrets = format!("pay=0123456789abcdef\n{SECRET}").parse().unwrap();
        assert_eq!(changing.verify("pay", &SIGNED, now), Ok(()), "one of two keys");
    }

    #[test]
    fn secrets_are_read_and_never_shown() {
        let secrets: Secrets = "pay=0123456789abcdef, ship=whsec_plJ3nmyCDGBKInavdOK15jsl\n".parse().unwrap();
        assert_eq!(format!("{secrets:?}"), r#"{"pay", "ship"}"#);
        assert!(secrets.knows("ship") && !secrets.knows("other") && !"".parse::<Secrets>().unwrap().knows(""));
        for bad in
            ["hunter2", "=hunter2hunter2hunter2", "pay=hunter2", "Pay=hunter2hunter2hunter2", "pay=whsec_hunter2!"]
        {
            let error = bad.parse::<Secrets>().unwrap_err();
            assert!(
                error.starts_with("entry 1 of the webhook secrets: expected ") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}
