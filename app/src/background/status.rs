//! What a background process can do right now, said in the log once per change and on /readyz whenever asked.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

const UNTRIED: &str = "not reached yet";
const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

#[derive(Clone, Debug, Default)]
pub(crate) struct Status(Arc<Mutex<BTreeMap<&'static str, String>>>);

impl Status {
    /// Not ready until each of these was reached.
    pub(crate) fn waiting_for(dependencies: &[&'static str]) -> Self {
        let missing = dependencies.iter().map(|name| (*name, UNTRIED.to_owned())).collect();
        Self(Arc::new(Mutex::new(missing)))
    }

    pub(crate) fn missing(&self, what: &'static str, why: &impl ToString) {
        let why = why.to_string();
        let before = self.lock().insert(what, why.clone());
        // The reason may change with every try; that it is missing is said once.
        if before.is_none_or(|before| before == UNTRIED) {
            tracing::warn!(what, why, "missing");
        }
    }

    pub(crate) fn found(&self, what: &'static str) {
        if self.lock().remove(what).is_some() {
            tracing::info!(what, "reached");
        }
    }

    fn reasons(&self) -> Vec<String> {
        self.lock().iter().map(|(what, why)| format!("{what}: {why}")).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readyz(&self) -> Response {
        let reasons = self.reasons();
        let (status, word) =
            if reasons.is_empty() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "unready") };
        (status, NO_STORE, Json(json!({ "status": word, "reasons": reasons }))).into_response()
    }

    pub(crate) fn routes(self, metrics: PrometheusHandle) -> Router {
        let livez = async || (NO_STORE, Json(json!({ "status": "alive" })));
        let scrape = async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render());
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(async move || self.readyz()))
            .route("/metrics", get(scrape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_nothing_is_missing() {
        let status = Status::waiting_for(&["broker"]);
        assert_eq!(status.reasons(), ["broker: not reached yet"]);
        status.missing("database", &"away");
        status.found("broker");
        assert_eq!((status.reasons(), status.readyz().status().as_u16()), (vec!["database: away".to_owned()], 503));
        status.found("database");
        assert_eq!((status.reasons().len(), status.readyz().status().as_u16()), (0, 200));
    }
}
