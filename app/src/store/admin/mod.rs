//! What staff reads and changes. Each change writes its audit row in its own transaction.

pub(crate) mod analytics;
pub(crate) mod media;
pub(crate) mod orders;
pub(crate) mod outbox;
pub(crate) mod products;
pub(crate) mod stock;
pub(crate) mod users;

use super::StoreError;

/// Why a change is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("there is no such {0}")]
    Missing(&'static str),
    #[error("found version {0}: read it again, then change it")]
    Stale(i64),
    /// A code, and what stands in the way.
    #[error("{1}")]
    Conflict(&'static str, String),
    #[error("a request with this Idempotency-Key is still running")]
    KeyRunning,
    #[error("this Idempotency-Key was used with another payload")]
    KeyReused,
    #[error("no category has this slug")]
    UnknownCategory,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ChangeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
