//! Around every request: its id, its time limit, its log line and its metric.

use std::time::{Duration, Instant};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::timeout;
use tracing::Instrument;
use uuid::Uuid;

use super::error::Problem;
use crate::{telemetry, traces};

/// More than the pool's and the statements' time-outs together, so that their errors, which say more, come first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

pub(crate) async fn observe(request: Request, next: Next) -> Response {
    observe_within(REQUEST_TIMEOUT, request, next).await
}

async fn observe_within(limit: Duration, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));

    // Of the highest level, so that also a log of nothing but errors says whose they are.
    let span = tracing::error_span!("request", request_id = %id);
    let trace = traces::request(method_label(&method), &route, &id, request.headers());
    let answer = timeout(limit, next.run(request)).instrument(trace.clone()).instrument(span.clone()).await;
    let mut response = answer.unwrap_or_else(|_| Problem::timed_out().into_response());

    let status = response.status().as_u16();
    let took = started.elapsed();
    traces::answered(&trace, status);
    // Not what was asked for: whoever knows the id of a guest's order may cancel it, and a query is the clients' data.
    let took_ms = took.as_secs_f64() * 1e3;
    span.in_scope(|| {
        if matches!(route.as_str(), "/livez" | "/readyz") {
            tracing::debug!(%method, route, status, took_ms, "answered");
        } else {
            tracing::info!(%method, route, status, took_ms, "answered");
        }
    });
    metrics::histogram!(telemetry::REQUEST_SECONDS, "method" => method_label(&method), "route" => route, "status" => status.to_string())
        .record(took.as_secs_f64());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// A client's id is kept if it is safe to print; it ties its log to ours.
pub(super) fn request_id(headers: &HeaderMap) -> String {
    let printable = |id: &&str| {
        (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(printable);
    given.map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

/// Clients may invent methods without end; a label may not.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware::from_fn};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn request_ids_are_taken_when_printable_and_made_otherwise() {
        let of = |value: &str| request_id(&HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_str(value).unwrap())]));
        assert_eq!(of("abc-1.2_X"), "abc-1.2_X");
        for bad in ["", "two words", "\"quoted\"", &"x".repeat(129)] {
            assert_eq!(of(bad).len(), 36, "{bad}");
        }
        assert_eq!(request_id(&HeaderMap::new()).len(), 36);
    }

    #[tokio::test]
    async fn what_takes_too_long_ends_with_a_problem_that_has_the_requests_id() {
        let limited = |request, next| observe_within(Duration::from_millis(50), request, next);
        let routes = Router::new().fallback(std::future::pending::<()>).layer(from_fn(limited));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let request = "GET /never HTTP/1.1\r\nHost: app\r\nX-Request-Id: slow-1\r\nConnection: close\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
        for line in ["x-request-id: slow-1", "content-type: application/problem+json"] {
            assert!(head.lines().any(|told| told == line), "{head}");
        }
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["code"], "timeout");
    }
}
