//! `/api/v1/admin/orders`.

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    catalogue::invalidation,
    day::Day,
    http::{
        accounts::NO_STORE,
        doors::Staff,
        error::Problem,
        input::{Asked, Input, Path},
        observe::RequestId,
        page::{Page, text},
    },
    state::{AppState, Shared},
    store::{
        admin::orders::{self, Order, Search, Status},
        cancel,
        orders::OrderItem,
    },
};

#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct OrderQuery {
    cursor: Option<String>,
    limit: Option<u32>,
    #[param(inline)]
    status: Option<Status>,
    email: Option<String>,
    user: Option<Uuid>,
    #[param(value_type = Option<String>)]
    from: Option<Day>,
    #[param(value_type = Option<String>)]
    to: Option<Day>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewStatus {
    status: Status,
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = AdminOrderWithItems)]
pub(crate) struct WithItems {
    #[serde(flatten)]
    order: Order,
    items: Vec<OrderItem>,
}

pub(crate) async fn list(
    State(state): State<Shared>,
    Staff(_): Staff,
    Asked(query): Asked<OrderQuery>,
) -> Result<Response, Problem> {
    let page = Page::of("orders", query.cursor.as_deref(), query.limit)?;
    let search = Search {
        status: query.status,
        email: text("email", query.email)?,
        user: query.user,
        from: query.from,
        to: query.to,
        below: page.last,
        limit: page.rows(),
    };
    let rows = orders::list(&mut *state.databases.connection().await?, &search).await?;
    Ok(page.answer(rows, |order| order.number))
}

pub(crate) async fn read(
    State(state): State<Shared>,
    Staff(_): Staff,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    show(&state, order_id(&id)?).await
}

pub(crate) async fn set_status(
    State(state): State<Shared>,
    Staff(caller): Staff,
    Extension(request_id): Extension<RequestId>,
    Path(id): Path<String>,
    Input(NewStatus { status }): Input<NewStatus>,
) -> Result<Response, Problem> {
    let id = order_id(&id)?;
    let author = caller.author(request_id);
    match status {
        Status::Placed => return Err(not_allowed("an order is placed once, by whoever orders")),
        Status::Cancelled => {
            if cancel::cancel(&state.databases, id, &author.request_id, Some(&author)).await?.is_back_in_stock {
                invalidation::announce_at_once(&state).await;
            }
        }
        Status::Refunded => orders::refund(&mut *state.databases.connection().await?, &author, id).await?,
    }
    show(&state, id).await
}

fn not_allowed(detail: &str) -> Problem {
    Problem::new(axum::http::StatusCode::CONFLICT, "status_not_allowed", detail)
}

fn order_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(text).map_err(|_| Problem::not_found("there is no such order"))
}

async fn show(state: &AppState, id: Uuid) -> Result<Response, Problem> {
    let mut connection = state.databases.connection().await?;
    let (order, items) = orders::by_id(&mut connection, id).await?;
    Ok(([NO_STORE], Json(WithItems { order, items })).into_response())
}
