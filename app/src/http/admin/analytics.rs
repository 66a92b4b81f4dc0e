//! `/api/v1/admin/analytics/…`, from the replica.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    day::Day,
    http::{
        doors::Staff,
        error::Problem,
        input::Asked,
        page::{self, Page},
    },
    state::Shared,
    store::{
        admin::analytics::{Period, Sales, SalesAfter, StockBelow, TopProducts},
        pools::Reading,
    },
};

const LOW: i32 = 10;
const SOURCE: HeaderName = HeaderName::from_static("x-source");

/// In UTC, both days included; without a first one the last thirty.
#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct SalesQuery {
    cursor: Option<String>,
    limit: Option<u32>,
    #[param(value_type = Option<String>)]
    from: Option<Day>,
    #[param(value_type = Option<String>)]
    to: Option<Day>,
}

/// The same days, and how many products.
#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct TopQuery {
    #[param(value_type = Option<String>)]
    from: Option<Day>,
    #[param(value_type = Option<String>)]
    to: Option<Day>,
    limit: Option<u32>,
}

#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct LowStockQuery {
    /// Fewer pieces than this: 10.
    below: Option<i32>,
    limit: Option<u32>,
}

pub(crate) async fn sales(
    State(state): State<Shared>,
    Staff(_): Staff,
    Asked(SalesQuery { cursor, limit, from, to }): Asked<SalesQuery>,
) -> Result<Response, Problem> {
    let page = Page::of("sales", cursor.as_deref(), limit)?;
    let query = SalesAfter { period: Period { from, to }, last: page.last.as_ref(), limit: page.rows() };
    let Reading { value, source, .. } = state.databases.read(&query).await?;
    let mut response = page.answer(value, Sales::row);
    response.headers_mut().insert(SOURCE, HeaderValue::from_static(source.name()));
    Ok(response)
}

pub(crate) async fn top_products(
    State(state): State<Shared>,
    Staff(_): Staff,
    Asked(TopQuery { from, to, limit }): Asked<TopQuery>,
) -> Result<Response, Problem> {
    let query = TopProducts { period: Period { from, to }, limit: i64::from(page::limit(limit)?) };
    Ok(answer(state.databases.read(&query).await?))
}

pub(crate) async fn low_stock(
    State(state): State<Shared>,
    Staff(_): Staff,
    Asked(LowStockQuery { below, limit }): Asked<LowStockQuery>,
) -> Result<Response, Problem> {
    let query = StockBelow { below: below.unwrap_or(LOW), limit: i64::from(page::limit(limit)?) };
    Ok(answer(state.databases.read(&query).await?))
}

fn answer<T: Serialize>(Reading { value: items, source, .. }: Reading<Vec<T>>) -> Response {
    let headers = [(header::CACHE_CONTROL, "no-store"), (SOURCE, source.name())];
    (headers, Json(json!({ "items": items }))).into_response()
}
