//! An answer as Redis keeps it: the position of what it was read from, until when it is fresh, its ETag, its bytes.
//!
//! What is in front has a fixed length: of a hit the bytes are passed on, never parsed or copied.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderValue;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::store::position::Position;

/// 128 bits in hexadecimal between quotes.
const TAG: usize = 34;
/// Seconds since 1970. They fit until the year 2286.
const FRESH_DIGITS: usize = 10;
const FRESH: usize = Position::DIGITS;
const ETAG: usize = FRESH + FRESH_DIGITS;
const BODY: usize = ETAG + TAG;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) position: Position,
    fresh_until: u64,
    stored: Bytes,
}

impl Entry {
    pub(crate) fn new(position: Position, fresh_for: Duration, body: &[u8]) -> Self {
        let digest = Sha256::digest(body);
        let tag: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let fresh_until = (now() + fresh_for).as_secs();
        let mut stored = format!("{position}{fresh_until:0FRESH_DIGITS$}\"{tag}\"").into_bytes();
        stored.extend_from_slice(body);
        Self { position, fresh_until, stored: stored.into() }
    }

    /// `None`: this release has not written it.
    pub(crate) fn read(stored: Vec<u8>) -> Option<Self> {
        let position = Position::read(stored.get(..Position::DIGITS)?)?;
        let fresh_until = std::str::from_utf8(stored.get(FRESH..ETAG)?).ok()?.parse().ok()?;
        let entry = Self { position, fresh_until, stored: stored.into() };
        let tag = entry.stored.get(ETAG..BODY)?;
        (tag.starts_with(b"\"") && tag.ends_with(b"\"") && HeaderValue::from_bytes(tag).is_ok()).then_some(entry)
    }

    /// What Redis keeps.
    pub(crate) fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// Clocks that differ make readers renew too early or too late, within what Redis allows.
    pub(crate) fn is_fresh(&self) -> bool {
        now().as_secs() < self.fresh_until
    }

    pub(crate) fn etag(&self) -> Bytes {
        self.stored.slice(ETAG..BODY)
    }

    pub(crate) fn body(&self) -> Bytes {
        self.stored.slice(BODY..)
    }
}

#[allow(clippy::disallowed_methods, reason = "several processes share what is kept, so it needs the time of day")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(position: u64, body: &[u8]) -> Entry {
        Entry::new(Position::of(position), Duration::from_secs(20), body)
    }

    #[test]
    fn what_is_stored_reads_back_and_the_etag_is_that_of_the_bytes() {
        let whole = entry(42, b"{\"items\":[]}");
        let read = Entry::read(whole.stored().to_vec()).unwrap();
        assert_eq!(read, whole);
        assert_eq!((read.position, &read.body()[..]), (Position::of(42), &b"{\"items\":[]}"[..]));
        assert_eq!(read.etag().len(), TAG);
        assert_eq!(read.etag(), entry(43, b"{\"items\":[]}").etag(), "the same bytes, read later");
        assert_ne!(read.etag(), entry(42, b"{\"items\":[1]}").etag());
        assert!(read.is_fresh() && !Entry::new(Position::of(1), Duration::ZERO, b"").is_fresh());
    }

    #[test]
    fn what_others_have_written_is_no_entry() {
        let whole = entry(1, b"").stored().to_vec();
        assert!(Entry::read(whole.clone()).is_some(), "an empty body");
        for length in 0..whole.len() {
            assert_eq!(Entry::read(whole[..length].to_vec()), None, "{length}");
        }
        let spoilt = |at: usize, byte: u8| {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            Entry::read(bytes)
        };
        for (at, byte) in [(3, b'x'), (FRESH, b'x'), (ETAG, b'x'), (BODY - 4, b'\n')] {
            assert_eq!(spoilt(at, byte), None, "{at}");
        }
    }
}
