//! `POST /api/v1/webhooks/{provider}`: taken at once, dealt with later.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    accounts::NO_STORE,
    error::Problem,
    input::{self, Path},
    observe::RequestId,
};
use crate::{
    state::Shared,
    store::webhooks,
    webhooks::{Forged, Signed},
};

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Taken {
    /// `accepted`, or `duplicate` when it came before.
    status: &'static str,
}

pub(crate) async fn receive(
    State(state): State<Shared>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    Path(provider): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    if !state.webhooks.knows(&provider) {
        return Err(Problem::not_found("no such provider is set up"));
    }
    let body = input::bytes(body)?;
    let header = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        let value = value.filter(|text| (1..=1024).contains(&text.len()));
        value.ok_or_else(|| Problem::bad_request("webhook_headers_missing", format!("expected a header {name}")))
    };
    let signed = Signed {
        id: header("webhook-id")?,
        timestamp: header("webhook-timestamp")?,
        signatures: header("webhook-signature")?,
        body: &body,
    };
    state.webhooks.verify(&provider, &signed, now()).map_err(|forged| {
        tracing::warn!(provider, %forged, "refuse a webhook");
        let code = match forged {
            Forged::Signature => "webhook_signature_wrong",
            Forged::Time => "webhook_time_wrong",
        };
        Problem::new(StatusCode::UNAUTHORIZED, code, forged.to_string())
    })?;
    let event: Value =
        serde_json::from_slice(&body).map_err(|error| Problem::bad_request("invalid_json", error.to_string()))?;
    if !input::can_be_stored(&event) {
        return Err(Problem::bad_request("invalid_json", "found the character U+0000"));
    }
    let id = signed.id;
    let mut connection = state.databases.connection().await?;
    let is_new = webhooks::receive(&mut connection, &provider, id, &event, &request_id).await?;
    let status = if is_new { "accepted" } else { "duplicate" };
    Ok((StatusCode::ACCEPTED, [NO_STORE], Json(Taken { status })).into_response())
}

#[allow(clippy::disallowed_methods, reason = "the provider's clock says the time of day")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
