//! Alive, ready, version, metrics.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::{join, time::timeout};

use crate::{
    cache::Health,
    state::{AppState, Shared},
    store::schema,
};

/// Less than any orchestrator's own time-out, so that it sees the verdict and not a silence.
const CHECK_WITHIN: Duration = Duration::from_millis(900);
const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Alive {
    status: &'static str,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Readiness {
    /// `ready` or `unready`.
    status: &'static str,
    reasons: Vec<String>,
    /// What is away without which the shop still sells.
    degraded: Vec<&'static str>,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Version {
    name: &'static str,
    version: &'static str,
    schema: i64,
}

/// Says only that the process answers: a restart would not bring a database back.
pub(crate) async fn livez() -> Response {
    (NO_STORE, Json(Alive { status: "alive" })).into_response()
}

pub(crate) async fn readyz(State(state): State<Shared>) -> Response {
    let (primary, replica, redis, rabbitmq, elasticsearch, media) = join!(
        primary_trouble(&state),
        replica_is_away(&state),
        state.cache.health(),
        rabbitmq_is_away(&state),
        elasticsearch_is_away(&state),
        media_is_away(&state)
    );
    let mut reasons = Vec::new();
    if state.is_draining() {
        reasons.push("draining".to_owned());
    }
    reasons.extend(primary);
    let mut degraded = Vec::new();
    if replica {
        degraded.push("replica");
    }
    if redis == Health::Down {
        degraded.push("redis");
    }
    if rabbitmq {
        degraded.push("rabbitmq");
    }
    if elasticsearch {
        degraded.push("elasticsearch");
    }
    if media {
        degraded.push("media");
    }
    let (status, word) =
        if reasons.is_empty() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "unready") };
    (status, NO_STORE, Json(Readiness { status: word, reasons, degraded })).into_response()
}

/// The pool hands out a connection only after the server said that it takes writes.
async fn primary_trouble(state: &AppState) -> Option<String> {
    if state.schema_is_checked() {
        return match timeout(CHECK_WITHIN, state.probe.acquire()).await {
            Ok(Ok(_)) => None,
            Ok(Err(_)) | Err(_) => Some("primary: no connection that can write".to_owned()),
        };
    }
    match timeout(CHECK_WITHIN, schema::check(&state.probe)).await {
        Ok(Ok(())) => {
            state.note_schema_checked();
            None
        }
        Ok(Err(error @ schema::SchemaError::TooOld { .. })) => Some(format!("schema: {error}")),
        Ok(Err(schema::SchemaError::Store(_))) | Err(_) => Some("primary: no connection that can write".to_owned()),
    }
}

async fn replica_is_away(state: &AppState) -> bool {
    timeout(CHECK_WITHIN, state.databases.lacks_replica()).await.unwrap_or(true)
}

/// Orders go on, and what they announce waits in the outbox.
async fn rabbitmq_is_away(state: &AppState) -> bool {
    let Some(broker) = &state.broker else { return false };
    !matches!(timeout(CHECK_WITHIN, state.pulse.feel(broker)).await, Ok(Ok(())))
}

async fn elasticsearch_is_away(state: &AppState) -> bool {
    timeout(CHECK_WITHIN, state.search.is_away()).await.unwrap_or(true)
}

async fn media_is_away(state: &AppState) -> bool {
    let Some(media) = &state.media else { return false };
    timeout(CHECK_WITHIN, media.is_away()).await.unwrap_or(true)
}

pub(crate) async fn version() -> Response {
    let version = Version { name: "app", version: env!("CARGO_PKG_VERSION"), schema: schema::version() };
    (NO_STORE, Json(version)).into_response()
}

pub(crate) fn metrics(state: &AppState, recorder: &PrometheusHandle) -> Response {
    state.databases.record_connections();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], recorder.render()).into_response()
}
