//! Placing, reading and cancelling an order.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use uuid::Uuid;

use super::{
    caller::Caller,
    error::Problem,
    input::{self, Path},
    observe::RequestId,
    recent,
};
use crate::{
    accounts::{Role, Scope},
    basket::{Basket, OrderRequest},
    catalogue::invalidation,
    state::{AppState, Shared},
    store::{
        cancel,
        idempotency::{self, Key},
        orders::{self, Found},
        place::{self, Answered, CREATED, Outcome, PlaceError, Purchase},
        users::User,
    },
    telemetry,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("idempotent-replay");

pub(crate) async fn place(
    State(state): State<Shared>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    caller: Option<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    if let Some(caller) = &caller {
        caller.demand(Scope::Order)?;
    }
    let user = caller.map(|caller| caller.user);
    let placed = try_place(&state, &request_id, user.as_ref(), &headers, body).await;
    let outcome = match &placed {
        Ok(Answered { outcome: Outcome::Placed { .. }, .. }) => "placed",
        Ok(Answered { outcome: Outcome::Replayed { .. }, .. }) => "replayed",
        Err(Refusal::Invalid(_)) => "invalid",
        Err(Refusal::Order(error)) => outcome_label(error),
    };
    metrics::counter!(telemetry::ORDERS, "outcome" => outcome).increment(1);
    match placed {
        Ok(Answered { outcome: Outcome::Placed { body, sold_out }, position }) => {
            if sold_out {
                // Listings say `in_stock`; this one order changed what they should say.
                invalidation::announce_at_once(&state).await;
            }
            Ok(recent::stamp(stored(CREATED, body, false), position))
        }
        Ok(Answered { outcome: Outcome::Replayed { status, body }, position }) => {
            Ok(recent::stamp(stored(status, body, true), position))
        }
        Err(Refusal::Invalid(problem)) => Err(problem),
        Err(Refusal::Order(error)) => Err(error.into()),
    }
}

enum Refusal {
    Invalid(Problem),
    Order(PlaceError),
}

async fn try_place(
    state: &Shared,
    request_id: &str,
    user: Option<&User>,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Answered, Refusal> {
    let key = idempotency_key(headers).map_err(Refusal::Invalid)?;
    let basket = basket(headers, body, user).map_err(Refusal::Invalid)?;
    let user = user.map(|user| user.id);
    let (scope, fingerprint) = (idempotency::place_order(user), basket.fingerprint());
    let key = Key { scope: &scope, key, fingerprint: &fingerprint };
    let purchase = Purchase { basket: &basket, user, key, request_id };
    place::place(&state.databases, &purchase).await.map_err(Refusal::Order)
}

fn outcome_label(error: &PlaceError) -> &'static str {
    match error {
        PlaceError::OutOfStock(_) => "out_of_stock",
        PlaceError::UnknownSku(_) | PlaceError::MixedCurrencies(_) | PlaceError::CartEmpty => "invalid",
        PlaceError::KeyRunning | PlaceError::KeyReused => "key_conflict",
        PlaceError::Store(_) => "failed",
    }
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(IDEMPOTENCY_KEY).ok_or_else(|| {
        Problem::bad_request(
            "idempotency_key_missing",
            "send an Idempotency-Key header: a fresh UUID for each order, the same one for each retry",
        )
    })?;
    let printable = |key: &&str| (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    let key = value.to_str().ok().filter(printable);
    key.ok_or_else(|| {
        Problem::bad_request("idempotency_key_invalid", "expected 1 to 255 printable ASCII characters without spaces")
    })
}

fn basket(headers: &HeaderMap, body: Result<Bytes, BytesRejection>, user: Option<&User>) -> Result<Basket, Problem> {
    let request: OrderRequest = input::parse(headers, body, "invalid_order")?;
    Basket::new(request, user.map(|user| user.email.as_str()))
        .map_err(|faults| Problem::faults("invalid_order", &faults))
}

pub(super) fn stored(status: u16, body: String, replay: bool) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::CREATED);
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    let mut response = (status, headers, body).into_response();
    if replay {
        response.headers_mut().insert(IDEMPOTENT_REPLAY, HeaderValue::from_static("true"));
    }
    response
}

pub(crate) async fn by_id(
    State(state): State<Shared>,
    caller: Option<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let found = find(&state, caller.as_ref(), &id, Scope::Read, Scope::AdminRead).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(found.order)).into_response())
}

pub(crate) async fn cancel(
    State(state): State<Shared>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    caller: Option<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let Found { order, user: owner } = find(&state, caller.as_ref(), &id, Scope::Order, Scope::AdminWrite).await?;
    let is_staff = |caller: &&Caller| caller.user.role >= Role::Staff && owner != Some(caller.user.id);
    let author = caller.as_ref().filter(is_staff);
    let author = author.map(|caller| caller.clone().author(RequestId(request_id.clone())));
    let cancelled = cancel::cancel(&state.databases, order.id, &request_id, author.as_ref()).await?;
    metrics::counter!(telemetry::ORDERS, "outcome" => "cancelled").increment(1);
    if cancelled.is_back_in_stock {
        invalidation::announce_at_once(&state).await;
    }
    let response = ([(header::CACHE_CONTROL, "no-store")], Json(cancelled.order)).into_response();
    Ok(recent::stamp(response, cancelled.position.filter(|_| caller.is_some())))
}

/// A guest's order is for whoever knows its id; an account's for that account and for staff, and for nobody else is it
/// there at all. From the primary, so that whoever just ordered finds the order.
async fn find(
    state: &AppState,
    caller: Option<&Caller>,
    id: &str,
    own: Scope,
    others: Scope,
) -> Result<Found, Problem> {
    let missing = || Problem::not_found("no order has this id");
    let id = Uuid::try_parse(id).map_err(|_| missing())?;
    let mut connection = state.databases.connection().await?;
    let found = orders::by_id(&mut connection, id).await?.ok_or_else(missing)?;
    match (found.user, caller) {
        (None, _) => {}
        (Some(owner), Some(caller)) if caller.user.id == owner => caller.demand(own)?,
        (Some(_), Some(caller)) if caller.may(others) => {}
        (Some(_), _) => return Err(missing()),
    }
    Ok(found)
}
