//! Routes. NGINX is in front: TLS, compression, static files and rate limits are its work.

mod catalogue;
mod error;
mod health;
mod observe;
mod orders;
mod products;
mod search;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn,
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::catch_panic::CatchPanicLayer;

use crate::state::Shared;
use error::Problem;

const BODY_LIMIT: usize = 64 * 1024;

pub(crate) fn public(state: Shared) -> Router {
    Router::new()
        .route("/api/v1/products", get(products::list))
        .route("/api/v1/products/{sku}", get(products::by_sku))
        .route("/api/v1/categories", get(catalogue::categories))
        .route("/api/v1/brands", get(catalogue::brands))
        .route("/api/v1/search", get(search::search))
        .route("/api/v1/orders", post(orders::place))
        .route("/api/v1/orders/{id}", get(orders::by_id))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/version", get(health::version))
        .fallback(async || Problem::not_found("no such route"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(CatchPanicLayer::custom(error::after_panic))
        .layer(from_fn(observe::observe))
        .with_state(state)
}

pub(crate) fn private(state: Shared, metrics: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(async move || health::metrics(&state, &metrics)))
}
