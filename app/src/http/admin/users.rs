//! `/api/v1/admin/users`: staff reads them, an administrator changes them.

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    accounts::Role,
    basket::Fault,
    http::{
        accounts::{NO_STORE, refuse},
        doors::{Admin, Staff},
        error::Problem,
        input::{Asked, Input, Path},
        observe::RequestId,
        page::{Page, text},
    },
    state::Shared,
    store::admin::users::{self, Search},
};

#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct UserQuery {
    cursor: Option<String>,
    limit: Option<u32>,
    #[param(inline)]
    role: Option<Role>,
    email: Option<String>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UserPatch {
    role: Option<Role>,
    is_active: Option<bool>,
}

pub(crate) async fn list(
    State(state): State<Shared>,
    Staff(_): Staff,
    Asked(query): Asked<UserQuery>,
) -> Result<Response, Problem> {
    let page = Page::of("users", query.cursor.as_deref(), query.limit)?;
    let email = text("email", query.email)?.map(|email| email.to_ascii_lowercase());
    let search = Search { role: query.role, email, below: page.last, limit: page.rows() };
    let rows = users::list(&mut *state.databases.connection().await?, &search).await?;
    Ok(page.answer(rows, |user| user.id))
}

pub(crate) async fn read(
    State(state): State<Shared>,
    Staff(_): Staff,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let mut connection = state.databases.connection().await?;
    Ok(([NO_STORE], Json(users::by_id(&mut connection, user_id(&id)?).await?)).into_response())
}

pub(crate) async fn change(
    State(state): State<Shared>,
    Admin(caller): Admin,
    Extension(request_id): Extension<RequestId>,
    Path(id): Path<String>,
    Input(UserPatch { role, is_active }): Input<UserPatch>,
) -> Result<Response, Problem> {
    let id = user_id(&id)?;
    if role.is_none() && is_active.is_none() {
        refuse(&[Fault::new("role", "expected role or is_active")], "invalid_user")?;
    }
    let author = caller.author(request_id);
    let changed = users::change(&mut *state.databases.connection().await?, &author, id, role, is_active).await?;
    Ok(([NO_STORE], Json(changed)).into_response())
}

fn user_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(text).map_err(|_| Problem::not_found("there is no such user"))
}
