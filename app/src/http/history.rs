//! `GET /api/v1/orders`: one's own orders, newest first.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use serde::Deserialize;

use super::{doors::Reader, error::Problem, input::Asked, page::Page, recent};
use crate::{
    state::Shared,
    store::{StoreError, history::History, pools::Source},
};

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(crate) struct ListQuery {
    cursor: Option<String>,
    limit: Option<u32>,
}

pub(crate) async fn list(
    State(state): State<Shared>,
    Reader(caller): Reader,
    headers: HeaderMap,
    Asked(query): Asked<ListQuery>,
) -> Result<Response, Problem> {
    let page = Page::of("orders", query.cursor.as_deref(), query.limit)?;
    let wanted = recent::wanted(&headers)?;
    let history = History { user: caller.user.id, below: page.last.unwrap_or(i64::MAX), limit: page.rows() };
    let found = state.databases.read_since(Some(wanted), &history).await?;
    // Catalogue reads take an older answer over none. Here an order would be missing that its owner has just placed.
    if found.source == Source::Replica && found.position < wanted {
        return Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut).into());
    }
    let mut response = page.answer(found.value, |order| order.number);
    response.headers_mut().insert("x-source", HeaderValue::from_static(found.source.name()));
    Ok(response)
}
