//! JSON logs on standard output and the Prometheus recorder.

use anyhow::Context;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::traces::Traces;

pub(crate) const REQUEST_SECONDS: &str = "http_request_duration_seconds";
pub(crate) const CACHE_REQUESTS: &str = "cache_requests_total";
pub(crate) const ORDERS: &str = "orders_total";
pub(crate) const LIMITS: &str = "limits_total";
pub(crate) const POOL_CONNECTIONS: &str = "db_pool_connections";
pub(crate) const POOL_WAIT: &str = "db_pool_wait_seconds";
pub(crate) const REPLICA_FALLBACKS: &str = "db_replica_fallbacks_total";
pub(crate) const SEARCHES: &str = "searches_total";
pub(crate) const OUTBOX_MESSAGES: &str = "outbox_messages_total";
pub(crate) const OUTBOX_OLDEST: &str = "outbox_oldest_unpublished_seconds";
pub(crate) const CLEANED_UP: &str = "cleaned_up_rows_total";
pub(crate) const WORKER_MESSAGES: &str = "worker_messages_total";
pub(crate) const JOB_SECONDS: &str = "worker_job_duration_seconds";

/// lapin logs a returned message in full, and messages hold what belongs to customers. Of the spans that a line is in it
/// shows the innermost, which is to be that with the request's id.
const NOT_LOGGED: [&str; 2] = ["lapin::returned_messages=off", "otel=off"];

pub(crate) fn logs(filter: &str, traces: &Traces) -> anyhow::Result<()> {
    let mut filter = EnvFilter::try_new(filter)
        .with_context(|| format!("parse the log filter {filter:?}: expected such as info or app=debug,warn"))?;
    for directive in NOT_LOGGED {
        filter = filter.add_directive(directive.parse().context("parse the built-in log filter")?);
    }
    let lines = fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false);
    tracing_subscriber::registry()
        .with(traces.layer())
        .with(lines.with_filter(filter))
        .try_init()
        .map_err(|error| anyhow::anyhow!("install the log subscriber: {error}"))
}

pub(crate) fn metrics() -> anyhow::Result<PrometheusHandle> {
    let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(REQUEST_SECONDS.to_owned()), &seconds)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(JOB_SECONDS.to_owned()), &seconds))
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(POOL_WAIT.to_owned()), &seconds))
        .and_then(PrometheusBuilder::install_recorder)
        .context("install the metrics recorder")?;
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "Time to answer a request, by method, route and status");
    describe_counter!(CACHE_REQUESTS, "Look-ups in Redis, by result: hit, stale, miss or error");
    describe_counter!(ORDERS, "Order requests, by outcome");
    describe_counter!(
        LIMITS,
        "Tries that were counted, by limit and result: within, exceeded or unknown without Redis"
    );
    describe_gauge!(POOL_CONNECTIONS, "Connections of a database pool, by state");
    describe_histogram!(POOL_WAIT, Unit::Seconds, "Time that the service waited for a connection, by pool");
    describe_counter!(REPLICA_FALLBACKS, "Reads that the primary answered because the replica could not");
    describe_counter!(OUTBOX_MESSAGES, "Events sent to the broker, by result: published, returned or nacked");
    describe_gauge!(OUTBOX_OLDEST, Unit::Seconds, "Age of the oldest event that is not published");
    describe_counter!(CLEANED_UP, "Rows that were of no use any more, by table");
    describe_counter!(WORKER_MESSAGES, "Messages taken from a queue, by what became of them");
    describe_histogram!(JOB_SECONDS, Unit::Seconds, "Time to deal with one batch of messages, waiting included");
    describe_counter!(SEARCHES, "Searches, by the system that answered");
    Ok(handle)
}
