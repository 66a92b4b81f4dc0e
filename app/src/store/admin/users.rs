//! Everybody's accounts.

use serde::Serialize;
use serde_json::json;
use sqlx::{Connection, FromRow, PgConnection, QueryBuilder};
use uuid::Uuid;

use super::ChangeError;
use crate::{
    accounts::Role,
    store::{
        StoreError,
        audit::{self, Author, Change},
    },
};

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = AdminUser)]
pub(crate) struct User {
    pub(crate) id: Uuid,
    email: String,
    name: String,
    role: String,
    is_active: bool,
    created_at: String,
}

const COLUMNS: &str = "SELECT id, email, name, role, is_active, iso_utc(created_at) AS created_at FROM users WHERE ";

#[derive(Debug, Default)]
pub(crate) struct Search {
    pub(crate) role: Option<Role>,
    pub(crate) email: Option<String>,
    pub(crate) below: Option<Uuid>,
    pub(crate) limit: i64,
}

/// Newest first: an id begins with its time.
pub(crate) async fn list(connection: &mut PgConnection, search: &Search) -> Result<Vec<User>, StoreError> {
    let mut sql = QueryBuilder::new(COLUMNS);
    sql.push("id < ").push_bind(search.below.unwrap_or(Uuid::max()));
    if let Some(role) = search.role {
        sql.push(" AND role = ").push_bind(role.name());
    }
    if let Some(email) = &search.email {
        sql.push(" AND email = ").push_bind(email.clone());
    }
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(search.limit);
    Ok(sql.build_query_as().fetch_all(connection).await?)
}

pub(crate) async fn by_id(connection: &mut PgConnection, id: Uuid) -> Result<User, ChangeError> {
    let mut sql = QueryBuilder::new(COLUMNS);
    sql.push("id = ").push_bind(id);
    sql.build_query_as().fetch_optional(connection).await?.ok_or(ChangeError::Missing("user"))
}

/// What is `None` stays. Whoever is shut out, or has another role now, is logged out everywhere and loses all tokens.
pub(crate) async fn change(
    connection: &mut PgConnection,
    author: &Author,
    id: Uuid,
    role: Option<Role>,
    is_active: Option<bool>,
) -> Result<User, ChangeError> {
    if id == author.id {
        let detail = "ask another administrator to change your own account".to_owned();
        return Err(ChangeError::Conflict("own_account", detail));
    }
    let mut tx = connection.begin().await?;
    // Both, in one order: of two administrators who shut each other out at once one stays.
    let held = sqlx::query_as(
        "SELECT id, role = 'admin' AND is_active FROM users WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE",
    );
    let held: Vec<(Uuid, bool)> = held.bind([author.id, id].as_slice()).fetch_all(&mut *tx).await?;
    if !held.contains(&(author.id, true)) {
        return Err(ChangeError::Conflict("own_account", "you are no administrator any more".to_owned()));
    }
    let before = by_id(&mut tx, id).await?;
    sqlx::query(
        "UPDATE users SET role = coalesce($2, role), is_active = coalesce($3, is_active), \
           session_epoch = session_epoch + 1 WHERE id = $1",
    )
    .bind(id)
    .bind(role.map(Role::name))
    .bind(is_active)
    .execute(&mut *tx)
    .await?;
    sqlx::query("DELETE FROM api_tokens WHERE user_id = $1").bind(id).execute(&mut *tx).await?;
    let after = by_id(&mut tx, id).await?;
    let change = Change {
        action: "user.change",
        entity: "user",
        entity_id: &id.to_string(),
        before: Some(json!(before)),
        after: Some(json!(after)),
    };
    audit::record(&mut tx, author, change).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(after)
}
