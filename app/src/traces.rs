//! OpenTelemetry: where a request, and every message that follows from it, spent its time.
//!
//! Spans of [`TARGET`] are for traces alone. Where no endpoint is given nobody listens to that target, and a span costs the
//! look at one flag. Statements of SQL are events of the span that they are in; what is bound to them is not shown.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::http::HeaderMap;
use clap::Args;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{SpanContext, TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    propagation::TraceContextPropagator,
    runtime,
    trace::{SdkTracerProvider, SpanData, SpanExporter, span_processor_with_async_runtime::BatchSpanProcessor},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::Targets, registry::LookupSpan};
use url::Url;

use crate::{messaging::envelope::Envelope, trust::Trust};

pub(crate) const TARGET: &str = "otel";
const STATEMENTS: &str = "sqlx::query";
const TRACEPARENT: &str = "traceparent";
const EXPORT_WITHIN: Duration = Duration::from_secs(3);
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// Collector of OpenTelemetry traces, by OTLP over HTTP: `http://collector:4318`; without it there are none
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true)]
    otlp_endpoint: Option<Url>,
    /// What the traces of this process are filed under
    #[arg(long, env = "OTEL_SERVICE_NAME", default_value = "app", global = true)]
    otlp_service: String,
}

/// Whoever collects, or nobody.
#[derive(Debug, Default)]
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// Needs the runtime. How many traces are kept is for the library's own variables to say, such as
    /// `OTEL_TRACES_SAMPLER=parentbased_traceidratio` with `OTEL_TRACES_SAMPLER_ARG=0.1`.
    pub(crate) fn start(settings: &Settings, trust: &Trust) -> anyhow::Result<Self> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(Self::default()) };
        let tls = rustls::ClientConfig::clone(&*trust.tls()?);
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).timeout(EXPORT_WITHIN).build();
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(client.context("make the client of the collector of traces")?)
            .with_endpoint(format!("{}/v1/traces", endpoint.as_str().trim_end_matches('/')))
            .build()
            .context("prepare the export of traces")?;
        let exporter = Complaining { exporter, complained: Mutex::default() };
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder().with_service_name(settings.otlp_service.clone()).build())
            .with_span_processor(BatchSpanProcessor::builder(exporter, runtime::Tokio).build())
            .build();
        Ok(Self(Some(provider)))
    }

    pub(crate) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer = self.0.as_ref()?.tracer("app");
        let spans = Targets::new().with_target(TARGET, tracing::Level::DEBUG);
        Some(
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_location(false)
                .with_threads(false)
                .with_filter(spans.with_target(STATEMENTS, tracing::Level::DEBUG)),
        )
    }

    /// What is not sent yet; not from within the runtime, which sends it.
    pub(crate) fn finish(self) {
        let Some(provider) = self.0 else { return };
        if let Err(error) = provider.shutdown_with_timeout(FLUSH_WITHIN) {
            tracing::warn!(%error, "the last traces are lost");
        }
    }
}

/// An exporter whose failures are told once a minute: requests do not depend on it, and neither should the log.
#[derive(Debug)]
struct Complaining<E> {
    exporter: E,
    complained: Mutex<Option<Instant>>,
}

impl<E> Complaining<E> {
    fn complain(&self, error: &OTelSdkError, lost: usize) {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            *last = Some(Instant::now());
            tracing::warn!(%error, lost, "traces are lost: the collector did not take them");
        }
    }
}

impl<E: SpanExporter> SpanExporter for Complaining<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let exported = self.exporter.export(batch).await;
        if let Err(error) = &exported {
            self.complain(error, count);
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// A request from outside, as part of the trace that its sender began.
pub(crate) fn request(method: &str, route: &str, request_id: &str, headers: &HeaderMap) -> Span {
    let span = tracing::debug_span!(
        target: TARGET,
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = route,
        http.response.status_code = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
        request_id,
    );
    go_on(&span, headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()));
    span
}

pub(crate) fn answered(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// A message on its way to the broker, as part of the trace of the request that caused it.
pub(crate) fn publish(topic: &str, message_id: &str, traceparent: Option<&str>) -> Span {
    let span = tracing::debug_span!(
        target: TARGET,
        "publish",
        otel.name = %format_args!("publish {topic}"),
        otel.kind = "producer",
        messaging.system = "rabbitmq",
        messaging.destination.name = topic,
        messaging.message.id = message_id,
    );
    go_on(&span, traceparent);
    span
}

/// What a worker does about messages. One belongs to the trace that it came with; a batch is a trace of its own that names
/// them all.
pub(crate) fn process(queue: &str, events: &[Envelope]) -> Span {
    let span = tracing::debug_span!(
        target: TARGET,
        "process",
        otel.name = %format_args!("process {queue}"),
        otel.kind = "consumer",
        messaging.system = "rabbitmq",
        messaging.destination.name = queue,
        messaging.batch.message_count = events.len(),
        request_id = tracing::field::Empty,
    );
    if let [event] = events {
        span.record("request_id", event.request_id.as_deref());
        go_on(&span, event.traceparent.as_deref());
    } else if !span.is_disabled() {
        for event in events {
            if let Some(origin) = event.traceparent.as_deref().and_then(span_context) {
                span.add_link_with_attributes(
                    origin,
                    vec![KeyValue::new("messaging.message.id", event.id.to_string())],
                );
            }
        }
    }
    span
}

/// Something that another system does for us.
pub(crate) fn call(system: &'static str, operation: &str) -> Span {
    tracing::debug_span!(
        target: TARGET,
        "call",
        otel.name = %format_args!("{system} {operation}"),
        otel.kind = "client",
        db.system.name = system,
        db.operation.name = operation,
    )
}

/// The span that we are in, as others are told of it.
pub(crate) fn traceparent() -> Option<String> {
    traceparent_of(&Span::current())
}

pub(crate) fn traceparent_of(span: &Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let context = span.span_context();
    let flags = context.trace_flags().to_u8();
    context.is_valid().then(|| format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
}

/// What is read of a traceparent is written as it was sent, but for what later versions may add.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz(sent: &str) {
    let Some(origin) = span_context(sent) else { return };
    let read = format!("{}-{}", origin.trace_id(), origin.span_id());
    assert!(origin.is_remote() && sent.contains(&read), "{sent:?}: {read}");
}

fn go_on(span: &Span, traceparent: Option<&str>) {
    if span.is_disabled() {
        return;
    }
    if let Some(origin) = traceparent.and_then(span_context) {
        // It fails only where nobody listens.
        let _ = span.set_parent(Context::new().with_remote_span_context(origin));
    }
}

/// What is no traceparent is none; the trace then begins here.
fn span_context(traceparent: &str) -> Option<SpanContext> {
    // The library takes any number for an id, however short, and a sign before it.
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let parts: Vec<&str> = traceparent.splitn(5, '-').take(4).collect();
    if !parts.iter().map(|part| part.len()).eq([2, 32, 16, 2]) || !parts.iter().all(|part| is_hex(part)) {
        return None;
    }
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Header(traceparent));
    let origin = context.span().span_context().clone();
    origin.is_valid().then_some(origin)
}

struct Header<'a>(&'a str);

impl Extractor for Header<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT).then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_anything_else_is_none() {
        let origin = span_context(ORIGIN).unwrap();
        assert_eq!(origin.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(origin.is_sampled() && origin.is_remote());
        for bad in [
            "",
            "00",
            "00-0-0-01",
            "00-1-2-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "x\n\u{0}",
            &"0-".repeat(9000),
        ] {
            assert!(span_context(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn where_nobody_listens_there_is_no_trace() {
        let span = request("GET", "/livez", "1", &HeaderMap::new());
        assert!(span.is_disabled());
        assert_eq!((traceparent_of(&span), traceparent()), (None, None));
    }
}
