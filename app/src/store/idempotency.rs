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

/// What a key was used for before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Used {
    /// The same work, with this answer.
    Done {
        status: u16,
        body: String,
    },
    Otherwise,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// This transaction does the work.
    Ours,
    Used(Used),
    /// Another transaction is at it.
    Running,
}

/// SQL: whether this transaction alone is at the work of scope $1 and key $2. It keeps a second request from waiting, with its
/// connection, for the first one's end: an insert alone would block on the row that is not committed yet.
macro_rules! try_lock {
    () => {
        "pg_try_advisory_xact_lock(hashtextextended($1 || ' ' || $2, 0))"
    };
}
pub(super) use try_lock;

/// Whether this transaction alone is at it, from here to its end.
pub(super) async fn lock(tx: &mut PgConnection, key: Key<'_>) -> Result<bool, StoreError> {
    let locked = sqlx::query_scalar(concat!("SELECT ", try_lock!())).bind(key.scope).bind(key.key);
    Ok(locked.fetch_one(tx).await?)
}

pub(crate) async fn claim(tx: &mut PgConnection, key: Key<'_>) -> Result<Claim, StoreError> {
    let inserted = sqlx::query(concat!(
        "INSERT INTO idempotency_keys (scope, key, fingerprint) SELECT $1, $2, $3 WHERE ",
        try_lock!(),
        " ON CONFLICT DO NOTHING"
    ));
    let inserted = inserted.bind(key.scope).bind(key.key).bind(key.fingerprint).execute(&mut *tx).await?;
    if inserted.rows_affected() == 1 {
        return Ok(Claim::Ours);
    }
    Ok(used(tx, key).await?.map_or(Claim::Running, Claim::Used))
}

/// Only what was committed is there, and that has an answer.
pub(super) async fn used(connection: &mut PgConnection, key: Key<'_>) -> Result<Option<Used>, StoreError> {
    let stored = sqlx::query_as(
        "SELECT fingerprint, status, response FROM idempotency_keys \
         WHERE scope = $1 AND key = $2 AND status IS NOT NULL AND response IS NOT NULL",
    );
    let stored: Option<(String, i16, String)> = stored.bind(key.scope).bind(key.key).fetch_optional(connection).await?;
    Ok(stored.and_then(|(fingerprint, status, body)| {
        if fingerprint != key.fingerprint {
            return Some(Used::Otherwise);
        }
        u16::try_from(status).ok().map(|status| Used::Done { status, body })
    }))
}

/// Another transaction has used the key after this one began.
pub(super) fn is_taken(error: &sqlx::Error) -> bool {
    let constraint = error.as_database_error().and_then(|error| error.constraint());
    constraint == Some("idempotency_keys_pkey")
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
