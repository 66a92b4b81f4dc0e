//! Every failure is an RFC 9457 problem with a stable `code`.

use std::any::Any;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    accounts::{password::PasswordError, sessions::SessionsAway},
    basket::Fault,
    cursor::CursorError,
    media::MediaError,
    messaging::{broker::BrokerError, queues::QueuesError},
    search::FindError,
    store::{
        StoreError, admin::ChangeError, cancel::CancelError, cart::CartError, place::PlaceError, tokens::AddError,
        users::RegisterError,
    },
};

#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    extra: Map<String, Value>,
    retry_after: Option<u32>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), extra: Map::new(), retry_after: None }
    }

    pub(crate) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this route does not take that method")
    }

    pub(crate) fn too_many_requests(seconds: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_tries", format!("try again in {seconds} s"))
            .retry_after(seconds)
    }

    /// All that is wrong with a body, at once.
    pub(crate) fn faults(code: &'static str, faults: &[Fault]) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, "the request has faults, see errors")
            .with("errors", json!(faults))
    }

    pub(crate) fn timed_out() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", "the request took too long").retry_after(1)
    }

    fn internal() -> Self {
        let detail = "the service failed; the request id finds the reason in its log";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = self.extra;
        body.insert("type".to_owned(), "about:blank".into());
        body.insert("title".to_owned(), self.status.canonical_reason().unwrap_or("Error").into());
        body.insert("status".to_owned(), self.status.as_u16().into());
        body.insert("code".to_owned(), self.code.into());
        body.insert("detail".to_owned(), self.detail.into());
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        let mut response = (self.status, headers, Value::Object(body).to_string()).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<&StoreError> for Problem {
    /// Logged here, where it is handled; clients learn what to do, not what the database said.
    fn from(error: &StoreError) -> Self {
        let unavailable = |code, detail: &str| Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail).retry_after(1);
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, "answer 503");
                unavailable("database_unavailable", "the database does not answer; nothing was changed")
            }
            StoreError::Contended(_) => {
                tracing::warn!(%error, "answer 503");
                unavailable("contended", "other requests stood in the way; nothing was changed")
            }
            StoreError::TooSlow(_) => {
                tracing::warn!(%error, "answer 503");
                unavailable("too_slow", "the database did not finish in time; nothing was changed: ask for less")
            }
            StoreError::OutcomeUnknown(_) => {
                tracing::error!(%error, "answer 503");
                unavailable(
                    "outcome_unknown",
                    "the database went away during the commit: repeat the request with the same Idempotency-Key",
                )
            }
            StoreError::Statement(_) => {
                tracing::error!(%error, "answer 500");
                Self::internal()
            }
        }
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Self {
        let detail = error.to_string();
        match error {
            PlaceError::OutOfStock(skus) => {
                Self::new(StatusCode::CONFLICT, "out_of_stock", detail).with("skus", json!(skus))
            }
            PlaceError::UnknownSku(skus) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_sku", detail).with("skus", json!(skus))
            }
            PlaceError::MixedCurrencies(skus) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "mixed_currencies", detail).with("skus", json!(skus))
            }
            PlaceError::CartEmpty => Self::new(StatusCode::CONFLICT, "cart_empty", detail),
            PlaceError::KeyRunning => Self::new(StatusCode::CONFLICT, "idempotency_key_running", detail).retry_after(1),
            PlaceError::KeyReused => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", detail),
            PlaceError::Store(error) => error.into(),
        }
    }
}

impl From<CancelError> for Problem {
    fn from(error: CancelError) -> Self {
        match error {
            CancelError::Missing => Self::not_found(error.to_string()),
            CancelError::TooLate(_) => Self::new(StatusCode::CONFLICT, "not_cancellable", error.to_string()),
            CancelError::Store(error) => error.into(),
        }
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let detail = error.to_string();
        match error {
            ChangeError::Missing(_) => Self::not_found(detail),
            ChangeError::Stale(version) => {
                Self::new(StatusCode::PRECONDITION_FAILED, "version_stale", detail).with("version", version)
            }
            ChangeError::Conflict(code, _) => Self::new(StatusCode::CONFLICT, code, detail),
            ChangeError::KeyRunning => Self::from(PlaceError::KeyRunning),
            ChangeError::KeyReused => Self::from(PlaceError::KeyReused),
            ChangeError::UnknownCategory => Self::faults("invalid_product", &[Fault::new("category", &detail)]),
            ChangeError::Store(error) => error.into(),
        }
    }
}

impl From<QueuesError> for Problem {
    fn from(error: QueuesError) -> Self {
        tracing::error!(%error, "answer 500");
        Self::internal()
    }
}

impl From<BrokerError> for Problem {
    fn from(error: BrokerError) -> Self {
        tracing::warn!(%error, "answer 503");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "broker_unavailable", "the broker does not do what was asked")
            .retry_after(1)
    }
}

impl From<MediaError> for Problem {
    fn from(error: MediaError) -> Self {
        tracing::error!(%error, "answer 503");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "media_unavailable", "the picture could not be stored")
            .retry_after(1)
    }
}

impl From<CartError> for Problem {
    fn from(error: CartError) -> Self {
        let detail = error.to_string();
        match error {
            CartError::UnknownSku(skus) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_sku", detail).with("skus", json!(skus))
            }
            CartError::Full => Self::new(StatusCode::CONFLICT, "cart_full", detail),
            CartError::Store(error) => error.into(),
        }
    }
}

impl From<SessionsAway> for Problem {
    fn from(error: SessionsAway) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "sessions_unavailable", error.to_string()).retry_after(1)
    }
}

impl From<PasswordError> for Problem {
    fn from(error: PasswordError) -> Self {
        match error {
            PasswordError::Busy => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", error.to_string()).retry_after(1),
            PasswordError::Hash(_) => {
                tracing::error!(%error, "answer 500");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed")
            }
        }
    }
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Taken => Self::new(StatusCode::CONFLICT, "address_taken", error.to_string()),
            RegisterError::Store(error) => error.into(),
        }
    }
}

impl From<AddError> for Problem {
    fn from(error: AddError) -> Self {
        let detail = error.to_string();
        match error {
            AddError::SessionOver => Self::new(StatusCode::UNAUTHORIZED, "session_over", detail),
            AddError::TooMany => Self::new(StatusCode::CONFLICT, "too_many_tokens", detail),
            AddError::Store(error) => error.into(),
        }
    }
}

impl From<FindError> for Problem {
    fn from(error: FindError) -> Self {
        match error {
            FindError::CursorOfAbsent => Self::bad_request("invalid_cursor", error.to_string()),
            FindError::Store(error) => error.into(),
        }
    }
}

impl From<CursorError> for Problem {
    fn from(error: CursorError) -> Self {
        Self::bad_request("invalid_cursor", error.to_string())
    }
}

/// The panic hook has logged the reason.
pub(crate) fn after_panic(_: Box<dyn Any + Send>) -> axum::http::Response<Body> {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the service failed").into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_is_json_with_a_stable_code_and_is_never_cached() {
        let response = Problem::from(PlaceError::OutOfStock(vec!["A-1".to_owned()])).into_response();
        assert_eq!(response.status(), StatusCode::CONFLICT);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let expected = json!({ "type": "about:blank", "title": "Conflict", "status": 409, "code": "out_of_stock",
            "detail": "not enough stock of A-1", "skus": ["A-1"] });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_lost_database_is_503_with_retry_after_and_says_nothing_about_it() {
        let response = Problem::from(StoreError::from(sqlx::Error::PoolTimedOut)).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let response = Problem::from(StoreError::from(sqlx::Error::ColumnNotFound("secret".to_owned())));
        assert_eq!(response.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.detail.contains("secret"));
    }

    #[test]
    fn a_connection_lost_in_commit_leaves_the_outcome_open() {
        let lost = || sqlx::Error::Io(std::io::Error::other("reset"));
        assert_eq!(Problem::from(StoreError::from(lost())).code, "database_unavailable");
        assert_eq!(Problem::from(StoreError::of_commit(lost())).code, "outcome_unknown");
    }
}
