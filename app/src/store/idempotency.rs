//! A key stands for one piece of work, whatever happens to the connection of whoever asked for it.

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// Names the operation and whose it is; two of them may use the same key without meeting.
pub(crate) fn place_order(user: Option<Uuid>) -> String {
    const OPERATION: &str = "POST /api/v1/orders";
    user.map_or_else(|| OPERATION.to_owned(), |user| format!("{OPERATION} {user}"))
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) scope: &'a str,
    pub(crate) key: &'a str,
    pub(crate) fingerprint: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// This transaction does the work.
    Ours,
    Done {
        status: u16,
        body: String,
    },
    /// Another transaction is at it.
    Running,
    /// The key was used for something else.
    Reused,
}

/// The advisory lock keeps a second request from waiting, with its connection, for the first one's end: an insert
/// alone would block on the row that is not committed yet.
pub(crate) async fn claim(tx: &mut PgConnection, key: Key<'_>) -> Result<Claim, StoreError> {
    let inserted = sqlx::query(
        "INSERT INTO idempotency_keys (scope, key, fingerprint) SELECT $1, $2, $3 \
         WHERE pg_try_advisory_xact_lock(hashtextextended($1 || ' ' || $2, 0)) ON CONFLICT DO NOTHING",
    );
    let inserted = inserted.bind(key.scope).bind(key.key).bind(key.fingerprint).execute(&mut *tx).await?;
    if inserted.rows_affected() == 1 {
        return Ok(Claim::Ours);
    }
    let stored =
        sqlx::query_as("SELECT fingerprint, status, response FROM idempotency_keys WHERE scope = $1 AND key = $2");
    let stored: Option<(String, Option<i16>, Option<String>)> =
        stored.bind(key.scope).bind(key.key).fetch_optional(tx).await?;
    Ok(match stored {
        Some((fingerprint, ..)) if fingerprint != key.fingerprint => Claim::Reused,
        Some((_, Some(status), Some(body))) => match u16::try_from(status) {
            Ok(status) => Claim::Done { status, body },
            Err(_) => Claim::Running,
        },
        Some(_) | None => Claim::Running,
    })
}

pub(crate) async fn complete(tx: &mut PgConnection, key: Key<'_>, status: u16, body: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE idempotency_keys SET status = $3, response = $4 WHERE scope = $1 AND key = $2")
        .bind(key.scope)
        .bind(key.key)
        .bind(i16::try_from(status).unwrap_or(i16::MAX))
        .bind(body)
        .execute(tx)
        .await?;
    Ok(())
}
