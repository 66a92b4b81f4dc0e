//! One's own API tokens.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{
    accounts::{NO_STORE, name_fault, refuse},
    doors::Owner,
    error::Problem,
    input::{Input, Path},
};
use crate::{
    accounts::{Scope, secret::Secret},
    basket::Fault,
    state::Shared,
    store::tokens::{self, NewToken, Token},
};

const DAYS_DEFAULT: i32 = 90;
const DAYS_MAX: i32 = 366;

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRequest {
    name: String,
    scopes: Vec<Scope>,
    #[serde(default)]
    days: Option<i32>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct TokenMade {
    #[serde(flatten)]
    about: Token,
    /// Shown this once.
    token: String,
}

/// The one answer that shows the token.
pub(crate) async fn make(
    State(state): State<Shared>,
    owner: Owner,
    Input(TokenRequest { name, mut scopes, days }): Input<TokenRequest>,
) -> Result<Response, Problem> {
    scopes.sort_unstable();
    scopes.dedup();
    let days = days.unwrap_or(DAYS_DEFAULT);
    let mut faults: Vec<Fault> = name_fault(&name).into_iter().collect();
    if name.is_empty() {
        faults.push(Fault::new("name", "expected what the token is for"));
    }
    if scopes.is_empty() {
        faults.push(Fault::new("scopes", "expected at least one"));
    }
    if let Some(scope) = scopes.iter().find(|scope| owner.user.role < scope.needs()) {
        faults.push(Fault::new("scopes", &format!("{} is not yours to give", scope.name())));
    }
    if !(1..=DAYS_MAX).contains(&days) {
        faults.push(Fault::new("days", &format!("found {days}, expected 1 to {DAYS_MAX}")));
    }
    refuse(&faults, "invalid_token_request")?;
    let secret = Secret::new();
    let token = NewToken { name: &name, digest: secret.digest(), scopes: &scopes, days };
    let mut connection = state.databases.connection().await?;
    let made = tokens::add(&mut connection, owner.user.id, owner.session.epoch, &token).await?;
    let body = TokenMade { about: made, token: secret.expose().to_owned() };
    Ok((StatusCode::CREATED, [NO_STORE], Json(body)).into_response())
}

pub(crate) async fn list(State(state): State<Shared>, owner: Owner) -> Result<Response, Problem> {
    let items = tokens::of_user(&mut *state.databases.connection().await?, owner.user.id).await?;
    Ok(([NO_STORE], Json(json!({ "items": items }))).into_response())
}

pub(crate) async fn remove(
    State(state): State<Shared>,
    owner: Owner,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found("you have no such token");
    let id = Uuid::try_parse(&id).map_err(|_| missing())?;
    if !tokens::remove(&mut *state.databases.connection().await?, owner.user.id, id).await? {
        return Err(missing());
    }
    Ok((StatusCode::NO_CONTENT, [NO_STORE]).into_response())
}
