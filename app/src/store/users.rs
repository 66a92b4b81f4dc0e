//! Users and their tokens.

use serde::Serialize;
use serde_json::json;
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::{
    StoreError,
    audit::{self, Actor, Change},
};
use crate::accounts::Role;

/// The audit log's name for whoever may run this program.
const COMMAND_LINE: &str = "app admin";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct User {
    pub(crate) id: Uuid,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) role: Role,
    #[serde(skip)]
    pub(crate) session_epoch: i32,
}

#[derive(FromRow)]
pub(super) struct Row {
    pub(super) id: Uuid,
    pub(super) email: String,
    pub(super) name: String,
    pub(super) role: String,
    pub(super) session_epoch: i32,
}

impl From<Row> for User {
    fn from(row: Row) -> Self {
        // The table allows no other.
        let role = Role::named(&row.role).unwrap_or(Role::Customer);
        Self { id: row.id, email: row.email, name: row.name, role, session_epoch: row.session_epoch }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("somebody has registered with this address")]
    Taken,
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(crate) async fn register(
    connection: &mut PgConnection,
    email: &str,
    name: &str,
    password_hash: &str,
) -> Result<User, RegisterError> {
    let inserted = sqlx::query_as(
        "INSERT INTO users (id, email, name, password_hash) VALUES ($1, $2, $3, $4) ON CONFLICT (email) DO NOTHING \
         RETURNING id, email, name, role, session_epoch",
    );
    let inserted = inserted.bind(Uuid::now_v7()).bind(email).bind(name).bind(password_hash);
    let row: Option<Row> = inserted.fetch_optional(connection).await.map_err(StoreError::from)?;
    row.map(User::from).ok_or(RegisterError::Taken)
}

/// Active ones only: to the others the shop says what it says to strangers.
pub(crate) async fn by_email(connection: &mut PgConnection, email: &str) -> Result<Option<(User, String)>, StoreError> {
    let query = sqlx::query_as(
        "SELECT id, email, name, role, session_epoch, password_hash FROM users WHERE email = $1 AND is_active",
    );
    let found: Option<(Uuid, String, String, String, i32, String)> =
        query.bind(email).fetch_optional(connection).await?;
    Ok(found.map(|(id, email, name, role, session_epoch, hash)| {
        (Row { id, email, name, role, session_epoch }.into(), hash)
    }))
}

pub(crate) async fn by_id(connection: &mut PgConnection, id: Uuid) -> Result<Option<User>, StoreError> {
    let query = sqlx::query_as("SELECT id, email, name, role, session_epoch FROM users WHERE id = $1 AND is_active");
    let row: Option<Row> = query.bind(id).fetch_optional(connection).await?;
    Ok(row.map(User::from))
}

pub(crate) async fn password_hash(connection: &mut PgConnection, id: Uuid) -> Result<Option<String>, StoreError> {
    let query = sqlx::query_scalar("SELECT password_hash FROM users WHERE id = $1 AND is_active");
    Ok(query.bind(id).fetch_optional(connection).await?)
}

/// Ends every session and every token of the user: whoever knew the old password may have made them.
pub(crate) async fn set_password(
    connection: &mut PgConnection,
    id: Uuid,
    password_hash: &str,
) -> Result<User, StoreError> {
    let mut tx = connection.begin().await?;
    let query = sqlx::query_as(
        "UPDATE users SET password_hash = $2, session_epoch = session_epoch + 1 WHERE id = $1 \
         RETURNING id, email, name, role, session_epoch",
    );
    let row: Row = query.bind(id).bind(password_hash).fetch_one(&mut *tx).await?;
    remove_tokens(&mut tx, id).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(row.into())
}

/// A statement of its own after the one that holds the user: it sees what was added while that one waited.
async fn remove_tokens(tx: &mut PgConnection, user: Uuid) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM api_tokens WHERE user_id = $1").bind(user).execute(tx).await?;
    Ok(())
}

pub(crate) async fn set_name(connection: &mut PgConnection, id: Uuid, name: &str) -> Result<User, StoreError> {
    let query =
        sqlx::query_as("UPDATE users SET name = $2 WHERE id = $1 RETURNING id, email, name, role, session_epoch");
    let row: Row = query.bind(id).bind(name).fetch_one(connection).await?;
    Ok(row.into())
}

/// Made by the operator, from the command line: nobody becomes one by a request. Whoever registered with the address
/// before need not be the person that the operator means, so nothing of theirs opens the account any more. True: it is new.
pub(crate) async fn make_admin(pool: &PgPool, email: &str, password_hash: &str) -> Result<bool, StoreError> {
    let mut tx = pool.begin().await?;
    let held = sqlx::query_as("SELECT role, is_active FROM users WHERE email = $1 FOR UPDATE");
    let held: Option<(String, bool)> = held.bind(email).fetch_optional(&mut *tx).await?;
    let query = sqlx::query_as(
        "INSERT INTO users (id, email, name, password_hash, role) VALUES ($1, $2, '', $3, 'admin') \
         ON CONFLICT (email) DO UPDATE SET role = 'admin', password_hash = excluded.password_hash, is_active = true, \
         session_epoch = users.session_epoch + 1 RETURNING id, session_epoch = 1",
    );
    let (id, is_new): (Uuid, bool) =
        query.bind(Uuid::now_v7()).bind(email).bind(password_hash).fetch_one(&mut *tx).await?;
    remove_tokens(&mut tx, id).await?;
    let by = Actor { id: Some(id), name: COMMAND_LINE, request_id: COMMAND_LINE };
    let change = Change {
        action: "user.make_admin",
        entity: "user",
        entity_id: &id.to_string(),
        before: held.map(|(role, is_active)| json!({ "role": role, "is_active": is_active })),
        after: Some(json!({ "role": Role::Admin, "is_active": true })),
    };
    audit::record(&mut tx, by, change).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(is_new)
}
