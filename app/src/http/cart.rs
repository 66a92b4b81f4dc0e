//! The cart of whoever is logged in.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    caller::Caller,
    doors::{Buyer, Reader},
    error::Problem,
    input::{Input, Path},
};
use crate::{
    basket::{self, Fault, MAX_QTY, RequestLine},
    state::{AppState, Shared},
    store::{
        StoreError,
        cart::{self, CartLine, Change},
    },
};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CartContents)]
pub(crate) struct Contents {
    items: Vec<RequestLine>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CartQuantity)]
pub(crate) struct Quantity {
    qty: i64,
}

/// One sum a currency: an order takes lines of one only.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Cart {
    items: Vec<CartLine>,
    total_cents: BTreeMap<String, i64>,
}

pub(crate) async fn show(State(state): State<Shared>, Reader(caller): Reader) -> Result<Response, Problem> {
    Ok(answer(current(&state, &caller).await?))
}

pub(crate) async fn replace(
    State(state): State<Shared>,
    Buyer(caller): Buyer,
    Input(Contents { items }): Input<Contents>,
) -> Result<Response, Problem> {
    let mut faults = Vec::new();
    let lines = basket::merge(items, &mut faults);
    faults.extend(lines.iter().filter(|(_, qty)| **qty > MAX_QTY).map(|(sku, qty)| {
        Fault::new("items", &format!("found {qty} of {sku} altogether, expected at most {MAX_QTY}"))
    }));
    if !faults.is_empty() {
        return Err(Problem::faults("invalid_cart", &faults));
    }
    change(&state, &caller, &Change::Replace(&lines)).await
}

pub(crate) async fn clear(State(state): State<Shared>, Buyer(caller): Buyer) -> Result<Response, Problem> {
    change(&state, &caller, &Change::Clear).await
}

pub(crate) async fn show_line(
    State(state): State<Shared>,
    Reader(caller): Reader,
    Path(sku): Path<String>,
) -> Result<Response, Problem> {
    let line = current(&state, &caller).await?.into_iter().find(|line| line.sku == sku);
    let line = line.ok_or_else(|| Problem::not_found("the cart has no such line"))?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(line)).into_response())
}

pub(crate) async fn set_line(
    State(state): State<Shared>,
    Buyer(caller): Buyer,
    Path(sku): Path<String>,
    Input(Quantity { qty }): Input<Quantity>,
) -> Result<Response, Problem> {
    let qty = basket::quantity(qty).map_err(|why| Problem::faults("invalid_cart", &[Fault::new("qty", &why)]))?;
    if !basket::looks_like_sku(&sku) {
        return Err(Problem::not_found("no product has this SKU"));
    }
    change(&state, &caller, &Change::Set(&sku, qty)).await
}

/// What is not there need not be removed.
pub(crate) async fn remove_line(
    State(state): State<Shared>,
    Buyer(caller): Buyer,
    Path(sku): Path<String>,
) -> Result<Response, Problem> {
    if !basket::looks_like_sku(&sku) {
        return Err(Problem::not_found("no product has this SKU"));
    }
    change(&state, &caller, &Change::Remove(&sku)).await
}

async fn current(state: &AppState, caller: &Caller) -> Result<Vec<CartLine>, StoreError> {
    let mut connection = state.databases.connection().await?;
    cart::lines(&mut connection, caller.user.id).await
}

async fn change(state: &AppState, caller: &Caller, change: &Change<'_>) -> Result<Response, Problem> {
    let mut connection = state.databases.connection().await?;
    Ok(answer(cart::change(&mut connection, caller.user.id, change).await?))
}

fn answer(items: Vec<CartLine>) -> Response {
    let mut total_cents = BTreeMap::new();
    for line in &items {
        *total_cents.entry(line.currency.clone()).or_insert(0) += line.line_cents;
    }
    ([(header::CACHE_CONTROL, "no-store")], Json(Cart { items, total_cents })).into_response()
}
