//! A JSON body, read with the errors that clients can use.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Problem;
use crate::state::Shared;

/// The body as a `T`; the extractors before it have been served by then, so who may not ask learns nothing of the rest.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, Problem> {
        let headers = request.headers().clone();
        parse(&headers, Bytes::from_request(request, state).await, "invalid_body").map(Self)
    }
}

/// For handlers that count refusals too; `code` is for JSON that is no `T`.
pub(crate) fn parse<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
    code: &'static str,
) -> Result<T, Problem> {
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
    serde_json::from_slice(&bytes(body)?).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, error.to_string()),
        _ => Problem::bad_request("invalid_json", error.to_string()),
    })
}

/// The body as it came.
pub(crate) fn bytes(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", "the body is longer than this route takes")
        }
        _ => Problem::bad_request("unreadable_body", "the body ended early"),
    })
}

/// PostgreSQL's texts hold every character but one.
pub(crate) fn can_be_stored(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains('\0'),
        Value::Array(items) => items.iter().all(can_be_stored),
        Value::Object(fields) => fields.iter().all(|(name, value)| !name.contains('\0') && can_be_stored(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// What the path names. Of bytes that are no text there is nothing.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        let found = axum::extract::Path::from_request_parts(parts, state).await;
        found.map(|axum::extract::Path(named)| Self(named)).map_err(|error| Problem::not_found(error.body_text()))
    }
}

/// The query as a `T`. Unknown parameters are ignored.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(rejection) => Err(Problem::bad_request("invalid_query", rejection.body_text())),
        }
    }
}
