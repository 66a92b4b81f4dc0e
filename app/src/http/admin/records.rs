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
    let primary = &state.databases.primary;
    let rows = admin::outbox::list(primary, page.last.unwrap_or_default(), page.rows()).await?;
    let (pending, oldest) = (admin::outbox::pending(primary).await?, oldest_unpublished(primary).await?);
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
    let rows = audit::list(&state.databases.primary, search).await?;
    Ok(page.answer(rows, |entry| entry.id))
}
