//! What waits in the outbox, and who changed what.

use axum::{extract::State, response::Response};
use serde::Deserialize;
use serde_json::{Map, json};
use uuid::Uuid;

use super::stock::PageQuery;
use crate::{
    http::{
        doors::Staff,
        error::Problem,
        input::Asked,
        page::{Page, text},
    },
    state::Shared,
    store::{
        admin,
        audit::{self, Search},
        outbox::oldest_unpublished,
    },
};

pub(crate) async fn outbox(
    State(state): State<Shared>,
    Staff(_): Staff,
    Asked(query): Asked<PageQuery>,
) -> Result<Response, Problem> {
    let page = Page::of("outbox", query.cursor.as_deref(), query.limit)?;
    let mut connection = state.databases.connection().await?;
    let rows = admin::outbox::list(&mut connection, page.last.unwrap_or_default(), page.rows()).await?;
    let pending = admin::outbox::pending(&mut connection).await?;
    let oldest = oldest_unpublished(&mut connection).await?;
    let body = [("pending".to_owned(), json!(pending)), ("oldest_seconds".to_owned(), json!(oldest))];
    Ok(page.answer_with(Map::from_iter(body), rows, |entry| entry.id))
}

#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct AuditQuery {
    cursor: Option<String>,
    limit: Option<u32>,
    actor: Option<Uuid>,
    /// `product`, `order`, `user` or `queue`.
    entity: Option<String>,
    /// A SKU, an id or the name of a queue.
    entity_id: Option<String>,
}

pub(crate) async fn audit(
    State(state): State<Shared>,
    Staff(_): Staff,
    Asked(query): Asked<AuditQuery>,
) -> Result<Response, Problem> {
    let page = Page::of("audit", query.cursor.as_deref(), query.limit)?;
    let search = Search {
        actor: query.actor,
        entity: text("entity", query.entity)?,
        entity_id: text("entity_id", query.entity_id)?,
        below: page.last,
        limit: page.rows(),
    };
    let rows = audit::list(&mut *state.databases.connection().await?, search).await?;
    Ok(page.answer(rows, |entry| entry.id))
}
