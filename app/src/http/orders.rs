//! `POST /api/v1/orders` and `GET /api/v1/orders/{id}`.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use uuid::Uuid;

use super::{error::Problem, observe::RequestId};
use crate::{
    basket::{Basket, OrderRequest},
    state::Shared,
    store::{
        idempotency::Key,
        orders::{self, CREATED, Outcome, PlaceError, Purchase},
    },
    telemetry,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("idempotent-replay");

pub(crate) async fn place(
    State(state): State<Shared>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let placed = try_place(&state, &request_id, &headers, body).await;
    let outcome = match &placed {
        Ok(Outcome::Placed { .. }) => "placed",
        Ok(Outcome::Replayed { .. }) => "replayed",
        Err(Refusal::Invalid(_)) => "invalid",
        Err(Refusal::Order(error)) => outcome_label(error),
    };
    metrics::counter!(telemetry::ORDERS, "outcome" => outcome).increment(1);
    match placed {
        Ok(Outcome::Placed { body, sold_out }) => {
            if sold_out {
                // Listings say `in_stock`; this one order changed what they should say.
                state.cache.invalidate().await;
            }
            Ok(stored(CREATED, body, false))
        }
        Ok(Outcome::Replayed { status, body }) => Ok(stored(status, body, true)),
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
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Outcome, Refusal> {
    let key = idempotency_key(headers).map_err(Refusal::Invalid)?;
    let basket = basket(headers, body).map_err(Refusal::Invalid)?;
    let fingerprint = basket.fingerprint();
    let purchase = Purchase { basket: &basket, key: Key { key, fingerprint: &fingerprint }, request_id };
    orders::place(&state.databases.primary, &purchase).await.map_err(Refusal::Order)
}

fn outcome_label(error: &PlaceError) -> &'static str {
    match error {
        PlaceError::OutOfStock(_) => "out_of_stock",
        PlaceError::UnknownSku(_) | PlaceError::MixedCurrencies(_) => "invalid",
        PlaceError::KeyRunning | PlaceError::KeyReused => "key_conflict",
        PlaceError::Store(_) => "failed",
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<&str, Problem> {
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

fn basket(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Basket, Problem> {
    let is_json = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(';').next().is_some_and(|kind| kind.trim() == "application/json"))
    };
    if !headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "expected Content-Type: application/json",
        ));
    }
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "expected at most 64 KiB")
        }
        _ => Problem::bad_request("unreadable_body", "the body ended early"),
    })?;
    let request: OrderRequest = serde_json::from_slice(&body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_order", error.to_string())
        }
        _ => Problem::bad_request("invalid_json", error.to_string()),
    })?;
    Basket::new(request).map_err(|faults| {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_order", "the order has faults, see errors")
            .with("errors", json!(faults))
    })
}

fn stored(status: u16, body: String, replay: bool) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::CREATED);
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    let mut response = (status, headers, body).into_response();
    if replay {
        response.headers_mut().insert(IDEMPOTENT_REPLAY, HeaderValue::from_static("true"));
    }
    response
}

pub(crate) async fn by_id(State(state): State<Shared>, Path(id): Path<String>) -> Result<Response, Problem> {
    let missing = || Problem::not_found("no order has this id");
    let id = Uuid::try_parse(&id).map_err(|_| missing())?;
    let order = orders::by_id(&state.databases.primary, id).await?.ok_or_else(missing)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(order)).into_response())
}
