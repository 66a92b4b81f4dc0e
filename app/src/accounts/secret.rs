//! Random secrets that clients keep, and the digests that we keep.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};

/// 256 bits: nobody guesses one.
const BYTES: usize = 32;

/// Shown to its owner once; it cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; BYTES]>()))
    }

    /// What a client sent, if it can be one of ours.
    pub(crate) fn given(text: &str) -> Option<Self> {
        let is_ours = text.len() == (BYTES * 4).div_ceil(3)
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        is_ours.then(|| Self(text.to_owned()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept: whoever reads the store cannot use it. Looked up by digest, so no comparison takes longer for a
    /// better guess.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_new_each_time_and_recognized() {
        let (one, other) = (Secret::new(), Secret::new());
        assert_ne!(one, other);
        assert_eq!(Secret::given(one.expose()), Some(one.clone()));
        assert_eq!(format!("{one:?}"), "<secret>");
        assert_ne!(one.digest(), other.digest());
        for bad in ["", "short", &"é".repeat(22), &"a".repeat(44), &"a b".repeat(15)] {
            assert_eq!(Secret::given(bad), None, "{bad}");
        }
    }
}
