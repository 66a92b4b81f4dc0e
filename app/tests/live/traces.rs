//! One trace and one id from the request to the mail, in what a collector is sent and in everybody's log.

use std::sync::{Arc, Mutex};

use axum::{Router, body::Bytes, extract::State, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    backstage::Bench,
    search,
    shop::{Shop, eventually, fresh_key, setting},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

type Spans = Arc<Mutex<Vec<Span>>>;

/// Takes traces by OTLP over HTTP, as a collector does.
async fn collector() -> (String, Spans) {
    let spans = Spans::default();
    let take = async |State(spans): State<Spans>, body: Bytes| {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        spans.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
    };
    let routes = Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, spans)
}

fn settings(url: &str) -> [(&str, &str); 2] {
    [("OTEL_EXPORTER_OTLP_ENDPOINT", url), ("OTEL_BSP_SCHEDULE_DELAY", "100")]
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn named(spans: &Spans, name: &str) -> Span {
    eventually(&format!("a span {name}"), async || {
        spans.lock().unwrap().iter().find(|span| span.name == name && hex(&span.trace_id) == TRACE).cloned()
    })
    .await
}

async fn order(shop: &Shop, request_id: &str) {
    let body = json!({ "email": "ada@example.org", "items": [{ "sku": shop.skus(1).await[0], "qty": 1 }] });
    let request = shop.http.post(format!("{}/api/v1/orders", shop.base)).json(&body);
    let request = request.header("idempotency-key", fresh_key()).header("x-request-id", request_id);
    let answer = request.header("traceparent", format!("00-{TRACE}-{CALLER}-01")).send().await.unwrap();
    assert_eq!(answer.status(), 201);
}

#[tokio::test]
async fn an_order_its_message_and_its_mail_are_one_trace_with_the_callers_at_its_head() {
    let (url, spans) = collector().await;
    let shop = Shop::open_with(&settings(&url)).await;
    let bench = Bench::beside(&shop).await;
    let _relay = bench.start_with(&["relay"], &settings(&url)).await;
    let _worker = bench.start_with(&["worker", "email"], &settings(&url)).await;
    order(&shop, "one-id").await;

    let request = named(&spans, "POST /api/v1/orders").await;
    assert_eq!((hex(&request.parent_span_id).as_str(), request.kind()), (CALLER, SpanKind::Server));
    let transaction = named(&spans, "postgresql order").await;
    assert_eq!(transaction.parent_span_id, request.span_id);
    assert_eq!(transaction.events.len(), 2, "statements are events: {:?}", transaction.events);
    assert!(!format!("{transaction:?}").contains("ada@example.org"), "what is bound to a statement is not shown");
    let publish = named(&spans, "publish email.send_order_confirmation").await;
    assert_eq!((&publish.parent_span_id, publish.kind()), (&transaction.span_id, SpanKind::Producer));
    let process = named(&spans, "process q.email").await;
    assert_eq!((&process.parent_span_id, process.kind()), (&publish.span_id, SpanKind::Consumer));
}

/// A batch is a trace of its own, so what it did about the order's products is found by a link.
#[tokio::test]
async fn the_stock_that_an_order_takes_is_in_its_trace_as_far_as_the_search_index() {
    let (url, spans) = collector().await;
    let _turn = search::turn().await;
    let shop = Shop::open_with(&settings(&url)).await;
    let bench = Bench::beside(&shop).await;
    let elasticsearch = setting("APP_TEST_ELASTICSEARCH_URL");
    let [endpoint, delay] = settings(&url);
    let _relay = bench.start_with(&["relay"], &[endpoint, delay]).await;
    let of_worker = [endpoint, delay, ("ELASTICSEARCH_URL", elasticsearch.as_str())];
    let _worker = bench.start_with(&["worker", "search"], &of_worker).await;
    order(&shop, "one-id").await;

    let transaction = named(&spans, "postgresql order").await;
    let publish = named(&spans, "publish search.index_product").await;
    assert_eq!(publish.parent_span_id, transaction.span_id);
    eventually("a batch that links to the order", async || {
        let spans = spans.lock().unwrap();
        let is_of_it = |span: &&Span| {
            let mut traces = span.links.iter().map(|link| &link.trace_id).chain([&span.trace_id]);
            span.name == "process q.search" && traces.any(|trace| hex(trace) == TRACE)
        };
        spans.iter().find(is_of_it).map(drop)
    })
    .await;
}

#[tokio::test]
async fn one_request_id_is_in_the_log_of_the_shop_and_of_the_worker() {
    let shop = Shop::open().await;
    let bench = Bench::beside(&shop).await;
    let _relay = bench.start(&["relay"]).await;
    let worker = bench.start(&["worker", "email"]).await;
    order(&shop, "one-id").await;
    eventually("the worker has logged the id", async || {
        let log = worker.log.lock().unwrap();
        log.iter().find(|line| line.contains("message is done") && line.contains(r#""request_id":"one-id""#)).map(drop)
    })
    .await;
    assert!(shop.log.lock().unwrap().iter().any(|line| line.contains(r#""request_id":"one-id""#)));
}

#[tokio::test]
async fn without_its_collector_the_shop_sells_and_complains_once() {
    let shop = Shop::open_with(&settings("http://127.0.0.1:1")).await;
    for _ in 0..3 {
        order(&shop, "lonely").await;
    }
    let complaints = || shop.log.lock().unwrap().iter().filter(|line| line.contains("traces are lost")).count();
    eventually("it complains", async || (complaints() > 0).then_some(())).await;
    for _ in 0..3 {
        order(&shop, "lonely").await;
    }
    shop.eventually_ready(200).await;
    assert_eq!(complaints(), 1);
}
