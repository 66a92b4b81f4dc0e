//! Routes. NGINX is in front: TLS, compression, static files and rate limits are its work.

mod accounts;
mod admin;
mod caller;
mod cart;
mod catalogue;
mod doors;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod health;
mod history;
mod input;
mod observe;
mod openapi;
mod orders;
mod page;
mod products;
mod recent;
mod search;
mod suggest;
mod tokens;
mod webhooks;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn,
    routing::{delete, get, post, put},
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
        .route("/api/v1/search/suggest", get(suggest::suggest))
        .route("/api/v1/auth/register", post(accounts::register))
        .route("/api/v1/auth/login", post(accounts::login))
        .route("/api/v1/auth/logout", post(accounts::logout))
        .route("/api/v1/auth/password", post(accounts::change_password))
        .route("/api/v1/me", get(accounts::me).patch(accounts::rename))
        .route("/api/v1/me/tokens", get(tokens::list).post(tokens::make))
        .route("/api/v1/me/tokens/{id}", delete(tokens::remove))
        .route("/api/v1/cart", get(cart::show).put(cart::replace).delete(cart::clear))
        .route("/api/v1/cart/items/{sku}", get(cart::show_line).put(cart::set_line).delete(cart::remove_line))
        .route("/api/v1/orders", get(history::list).post(orders::place))
        .route("/api/v1/orders/{id}", get(orders::by_id))
        .route("/api/v1/orders/{id}/cancel", post(orders::cancel))
        .route("/api/v1/webhooks/{provider}", post(webhooks::receive))
        .merge(admin_routes())
        .route("/openapi.json", get(openapi::document))
        .route("/docs", get(openapi::page))
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

fn admin_routes() -> Router<Shared> {
    use admin::{analytics, dead_letters, media, orders, products, records, stock, users};
    Router::new()
        .route("/api/v1/admin/products", get(products::list).post(products::create))
        .route(
            "/api/v1/admin/products/{sku}",
            get(products::read).put(products::replace).patch(products::patch).delete(products::deactivate),
        )
        .route("/api/v1/admin/products/{sku}/media", get(media::list))
        .route(
            "/api/v1/admin/products/{sku}/media/{position}",
            put(media::put).delete(media::remove).layer(DefaultBodyLimit::max(media::SIZE_MAX)),
        )
        .route("/api/v1/admin/inventory/{sku}/movements", get(stock::list).post(stock::apply))
        .route("/api/v1/admin/orders", get(orders::list))
        .route("/api/v1/admin/orders/{id}", get(orders::read))
        .route("/api/v1/admin/orders/{id}/status", post(orders::set_status))
        .route("/api/v1/admin/users", get(users::list))
        .route("/api/v1/admin/users/{id}", get(users::read).patch(users::change))
        .route("/api/v1/admin/outbox", get(records::outbox))
        .route("/api/v1/admin/audit", get(records::audit))
        .route("/api/v1/admin/dead-letters", get(dead_letters::queues))
        .route("/api/v1/admin/dead-letters/{queue}", get(dead_letters::list))
        .route("/api/v1/admin/dead-letters/{queue}/replay", post(dead_letters::replay))
        .route("/api/v1/admin/dead-letters/{queue}/drop", post(dead_letters::discard))
        .route("/api/v1/admin/analytics/sales", get(analytics::sales))
        .route("/api/v1/admin/analytics/top-products", get(analytics::top_products))
        .route("/api/v1/admin/analytics/low-stock", get(analytics::low_stock))
}

pub(crate) fn private(state: Shared, metrics: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(async move || health::metrics(&state, &metrics)))
}
