//! Who changed what: a row in the transaction of the change.

use serde::Serialize;
use serde_json::Value;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::StoreError;

/// Whoever makes a change, and by which request.
#[derive(Clone, Debug)]
pub(crate) struct Author {
    pub(crate) id: Uuid,
    pub(crate) email: String,
    pub(crate) request_id: String,
}

/// Whom a row names. Without an id: a provider of payments, which has no account here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actor<'a> {
    pub(crate) id: Option<Uuid>,
    pub(crate) name: &'a str,
    pub(crate) request_id: &'a str,
}

impl<'a> From<&'a Author> for Actor<'a> {
    fn from(author: &'a Author) -> Self {
        Self { id: Some(author.id), name: &author.email, request_id: &author.request_id }
    }
}

#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) action: &'static str,
    pub(crate) entity: &'static str,
    pub(crate) entity_id: &'a str,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

pub(crate) async fn record<'a>(
    tx: &mut PgConnection,
    actor: impl Into<Actor<'a>>,
    change: Change<'_>,
) -> Result<(), StoreError> {
    let actor = actor.into();
    sqlx::query(
        "INSERT INTO audit_log (actor_id, actor, action, entity, entity_id, before, after, request_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(actor.id)
    .bind(actor.name)
    .bind(change.action)
    .bind(change.entity)
    .bind(change.entity_id)
    .bind(change.before)
    .bind(change.after)
    .bind(actor.request_id)
    .execute(tx)
    .await?;
    Ok(())
}

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = AuditEntry)]
pub(crate) struct Entry {
    pub(crate) id: i64,
    at: String,
    actor_id: Option<Uuid>,
    actor: String,
    action: String,
    entity: String,
    entity_id: String,
    before: Option<Value>,
    after: Option<Value>,
    request_id: String,
}

#[derive(Debug, Default)]
pub(crate) struct Search {
    pub(crate) actor: Option<Uuid>,
    pub(crate) entity: Option<String>,
    pub(crate) entity_id: Option<String>,
    pub(crate) below: Option<i64>,
    pub(crate) limit: i64,
}

/// Newest first. Only the filters that are set become SQL.
pub(crate) async fn list(connection: &mut PgConnection, search: Search) -> Result<Vec<Entry>, StoreError> {
    let mut sql = sqlx::QueryBuilder::new(
        "SELECT id, iso_utc(at) AS at, actor_id, actor, action, entity, entity_id, before, after, request_id \
         FROM audit_log WHERE id < ",
    );
    sql.push_bind(search.below.unwrap_or(i64::MAX));
    if let Some(actor) = search.actor {
        sql.push(" AND actor_id = ").push_bind(actor);
    }
    if let Some(entity) = search.entity {
        sql.push(" AND entity = ").push_bind(entity);
    }
    if let Some(id) = search.entity_id {
        sql.push(" AND entity_id = ").push_bind(id);
    }
    sql.push(" ORDER BY id DESC LIMIT ").push_bind(search.limit);
    Ok(sql.build_query_as().fetch_all(connection).await?)
}
