//! The read path that every catalogue route shares: Redis, then the replica, then fill.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use sqlx::PgPool;

use super::error::Problem;
use crate::{
    state::{AppState, Shared},
    store::{StoreError, pools::Source, products},
};

pub(crate) async fn categories(State(state): State<Shared>) -> Result<Response, Problem> {
    read(&state, "categories", |pool| async move { products::categories(&pool).await }).await
}

pub(crate) async fn brands(State(state): State<Shared>) -> Result<Response, Problem> {
    read(&state, "brands", |pool| async move { products::brands(&pool).await }).await
}

pub(crate) async fn read<T, Fut>(
    state: &AppState,
    name: &str,
    load: impl Fn(PgPool) -> Fut,
) -> Result<Response, Problem>
where
    T: Serialize,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let found = read_optional(state, name, |pool| {
        let loading = load(pool);
        async move { loading.await.map(Some) }
    });
    found.await?.ok_or_else(|| Problem::not_found("nothing to list"))
}

/// Redis keeps the bytes of the answer, so a hit is passed on without being parsed. What was not found is not kept.
pub(crate) async fn read_optional<T, Fut>(
    state: &AppState,
    name: &str,
    load: impl Fn(PgPool) -> Fut,
) -> Result<Option<Response>, Problem>
where
    T: Serialize,
    Fut: Future<Output = Result<Option<T>, StoreError>>,
{
    let slot = state.cache.slot(name).await;
    if let Some(slot) = &slot
        && let Some(body) = state.cache.get(slot).await
    {
        return Ok(Some(respond(body, Source::Redis)));
    }
    let (found, source) = state.databases.read(load).await?;
    let Some(found) = found else { return Ok(None) };
    let body = serde_json::to_vec(&found).map_err(|error| StoreError::Statement(sqlx::Error::Encode(error.into())))?;
    if let Some(slot) = &slot {
        state.cache.put(slot, &body).await;
    }
    Ok(Some(respond(body, source)))
}

/// NGINX keeps the answer as long as `max-age` says.
fn respond(body: Vec<u8>, source: Source) -> Response {
    let headers =
        [("content-type", "application/json"), ("cache-control", "public, max-age=5"), ("x-source", source.name())];
    (headers, body).into_response()
}
