//! How far the history of the database goes in what a server shows: a position in its write-ahead log.
//!
//! It is the same on the primary and on every replica, so it tells which of two answers may be the older one.

use std::fmt;

use sqlx::PgConnection;

use super::StoreError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position(u64);

impl Position {
    /// As text it has a fixed length, so that texts compare as the numbers do.
    pub(crate) const DIGITS: usize = 20;

    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let digits = (text.len() == Self::DIGITS && text.iter().all(u8::is_ascii_digit)).then_some(text)?;
        std::str::from_utf8(digits).ok()?.parse().ok().map(Self)
    }

    /// Asked before a query on the same connection: its answer is at least as new as all that could be seen at any smaller
    /// position. Asked on the primary, it is at least that of every change which could be seen before; one that ends just
    /// there may still wait for its replica, unseen.
    pub(crate) async fn ask(connection: &mut PgConnection) -> Result<Self, StoreError> {
        // What was committed was flushed first.
        let bytes: i64 = sqlx::query_scalar(
            "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END \
             - '0/0'::pg_lsn)::bigint",
        )
        .fetch_one(connection)
        .await?;
        Ok(Self(u64::try_from(bytes).unwrap_or_default()))
    }

    /// Where only what has seen everything up to this one can be.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    #[cfg(test)]
    pub(crate) fn of(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_compare_as_positions_do() {
        let positions = [0, 9, 10, 1 << 53, u64::MAX].map(Position);
        let texts = positions.map(|position| position.to_string());
        assert!(texts.is_sorted() && texts.iter().all(|text| text.len() == Position::DIGITS), "{texts:?}");
        for (position, text) in positions.into_iter().zip(texts) {
            assert_eq!(Position::read(text.as_bytes()), Some(position));
        }
        for text in ["", "1", "+0000000000000000001", "99999999999999999999", "0000000000000000000x"] {
            assert_eq!(Position::read(text.as_bytes()), None, "{text}");
        }
    }
}
