//! PostgreSQL: what is read, what is written, and what a failure means.

pub(crate) mod admin;
pub(crate) mod audit;
pub(crate) mod cancel;
pub(crate) mod cart;
pub(crate) mod history;
pub(crate) mod idempotency;
pub(crate) mod inbox;
pub(crate) mod leftovers;
pub(crate) mod orders;
pub(crate) mod outbox;
pub(crate) mod payments;
pub(crate) mod place;
pub(crate) mod pools;
pub(crate) mod position;
pub(crate) mod products;
pub(crate) mod schema;
mod stock;
pub(crate) mod tokens;
pub(crate) mod users;
pub(crate) mod warm;
pub(crate) mod webhooks;

use std::{io, time::Duration};

use tokio::time::timeout;

/// Three statements that each take as long as one may.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// For work that no request puts an end to: a server that went without a word would be waited for until
/// the kernel gives up, a quarter of an hour.
pub(crate) async fn answered<T, E: From<sqlx::Error>>(work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ANSWER_WITHIN:?}"));
    timeout(ANSWER_WITHIN, work).await.unwrap_or_else(|_| Err(sqlx::Error::Io(silent()).into()))
}

/// read_only_sql_transaction: a demoted primary.
const READ_ONLY: &str = "25006";

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// Nothing happened; the same request may succeed in a moment.
    #[error("reach the database: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Another transaction stood in the way and nothing happened.
    #[error("finish the transaction beside others: {0}")]
    Contended(#[source] sqlx::Error),
    /// The statement took longer than any may. Nothing happened, and it would take as long on any other server.
    #[error("finish a statement in time: {0}")]
    TooSlow(#[source] sqlx::Error),
    /// The connection broke while COMMIT was under way; the idempotency key of the request decides.
    #[error("learn whether the transaction was committed: {0}")]
    OutcomeUnknown(#[source] sqlx::Error),
    #[error("run a statement: {0}")]
    Statement(#[source] sqlx::Error),
}

impl StoreError {
    pub(crate) fn of_commit(error: sqlx::Error) -> Self {
        // A server that answers with an SQL error has rolled back. When it shuts down it may have committed.
        let is_read_only = error.as_database_error().is_some_and(|error| error.code().as_deref() == Some(READ_ONLY));
        match Self::from(error) {
            Self::Unavailable(error) if !is_read_only => Self::OutcomeUnknown(error),
            other => other,
        }
    }

    /// The session should not serve another request.
    pub(crate) fn condemns_connection(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_))
    }

    /// Another server may have an answer: this one is away, or replay on a replica was in the way.
    pub(crate) fn may_pass_elsewhere(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_) | Self::Contended(_))
    }

    /// The same for work that carries a key, and is found by it if it was done after all.
    pub(crate) fn may_pass_with_a_key(&self) -> bool {
        self.may_pass_at_once() || matches!(self, Self::OutcomeUnknown(_))
    }

    /// Worth one more try at once. Not when the pool had no connection to give: that took all of its time-out.
    pub(crate) fn may_pass_at_once(&self) -> bool {
        match self {
            Self::Contended(_) => true,
            Self::Unavailable(error) => !matches!(error, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed),
            Self::TooSlow(_) | Self::OutcomeUnknown(_) | Self::Statement(_) => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{Io, PoolClosed, PoolTimedOut, Protocol, Tls, WorkerCrashed};
        let code = error.as_database_error().and_then(|database| database.code().map(|code| code.into_owned()));
        match (&error, code.as_deref()) {
            (_, Some(code)) => match code {
                // serialization_failure, deadlock_detected, lock_not_available
                "40001" | "40P01" | "55P03" => Self::Contended(error),
                // query_canceled: statement_timeout
                "57014" => Self::TooSlow(error),
                // 53300 is too_many_connections.
                READ_ONLY | "53300" | "57P01" | "57P02" | "57P03" => Self::Unavailable(error),
                _ if code.starts_with("08") => Self::Unavailable(error),
                _ => Self::Statement(error),
            },
            (Io(_) | PoolTimedOut | PoolClosed | Protocol(_) | Tls(_) | WorkerCrashed, None) => {
                Self::Unavailable(error)
            }
            _ => Self::Statement(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_away_and_its_session_is_not_used_again() {
        let error = answered(std::future::pending::<Result<(), StoreError>>()).await.unwrap_err();
        assert_eq!(error.to_string(), "reach the database: error communicating with database: no answer within 15s");
        assert!(error.condemns_connection());
    }
}
