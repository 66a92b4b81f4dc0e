//! Short content hashes by which what exists is compared with what should exist.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The first 16 hexadecimal digits of a SHA-256: enough that a collision inside one stack is out of the question,
/// short enough for a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::from_digest(&Sha256::digest(bytes))
    }

    /// Hashes a content that may be larger than memory should be; the same result as [`Self::of_bytes`].
    pub fn of_reader(mut reader: impl std::io::Read) -> std::io::Result<Self> {
        let mut hasher = HashWriter(Sha256::new());
        std::io::copy(&mut reader, &mut hasher)?;
        Ok(Self::from_digest(&hasher.0.finalize()))
    }

    /// Hashes the JSON form of `value`, whose field order is the declaration order of its type.
    pub fn of(value: &impl Serialize) -> Self {
        // Writing into memory cannot fail, and our types have no maps with keys that are not strings.
        let written = serde_json::to_vec(value);
        debug_assert!(written.is_ok(), "fingerprinted types serialize to JSON");
        Self::of_bytes(&written.unwrap_or_default())
    }

    pub fn from_label(label: impl Into<String>) -> Self {
        Self(label.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn from_digest(digest: &[u8]) -> Self {
        let mut text = String::with_capacity(16);
        for byte in digest.iter().take(8) {
            // Writing into a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

struct HashWriter(Sha256);

impl std::io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
