//! How the stack does right now, as its Prometheus has it: for people who watch.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use provisioner_core::component::Access;
use serde_json::Value;

use super::Program;
use crate::http::Site;

const LIMIT: Duration = Duration::from_secs(2);

const REQUESTS: &str = r#"sum(rate(http_request_duration_seconds_count{job="app"}[1m]))"#;
const LATENCY: &str =
    r#"histogram_quantile(0.95, sum by (le) (rate(http_request_duration_seconds_bucket{job="app"}[1m])))"#;
const ERRORS: &str = r#"sum(rate(http_request_duration_seconds_count{job="app",status=~"5.."}[1m]))"#;
const CACHE_HITS: &str =
    r#"sum(rate(cache_requests_total{result=~"hit|stale"}[1m])) / sum(rate(cache_requests_total[1m]))"#;
const LAG: &str = r#"max by (instance) (pg_replication_lag_seconds and on (instance) pg_replication_is_replica == 1)"#;
const QUEUES: &str = r#"sum by (queue) (rabbitmq_detailed_queue_messages{queue!~".*probe.*"})"#;
const BROKERS: &str = r#"count(rabbitmq_build_info{job="rabbitmq"})"#;
const SEARCH: &str = r#"max by (color) (elasticsearch_cluster_health_status) == 1"#;
const SEARCH_NODES: &str = "max(elasticsearch_cluster_health_number_of_nodes)";
const ALERTS: &str = r#"ALERTS{alertstate="firing",alertname!="Watchdog"}"#;

/// What is not measured, or not yet, is `None` or absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vitals {
    pub requests_per_second: Option<f64>,
    /// Seconds within which 95 of 100 requests were answered.
    pub latency_p95: Option<f64>,
    /// Answers a second that began with 5.
    pub errors_per_second: Option<f64>,
    /// Part of the look-ups that the cache answered, 0 to 1.
    pub cache_hits: Option<f64>,
    /// Replica to the seconds that it is behind.
    pub lag: BTreeMap<String, f64>,
    /// Queue to the messages in it.
    pub queues: BTreeMap<String, f64>,
    pub brokers: Option<f64>,
    /// green, yellow or red.
    pub search: Option<String>,
    pub search_nodes: Option<f64>,
    /// Each with what it is about.
    pub alerts: Vec<Alert>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    pub severity: String,
    pub name: String,
    pub about: String,
}

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
struct Sample {
    labels: BTreeMap<String, String>,
    value: f64,
}

/// `None`: the stack has no monitoring.
pub async fn vitals(access: &Access<'_>) -> Option<Result<Vitals, String>> {
    access.stack.workload(&Program::Prometheus.member())?;
    Some(measured(access).await)
}

async fn measured(access: &Access<'_>) -> Result<Vitals, String> {
    let site = &Program::Prometheus.site(access, LIMIT).await?;
    let asked = [REQUESTS, LATENCY, ERRORS, CACHE_HITS, LAG, QUEUES, BROKERS, SEARCH, SEARCH_NODES, ALERTS];
    let answers = join_all(asked.map(|query| ask(site, query))).await;
    let answers: Vec<Vec<Sample>> = answers.into_iter().collect::<Result<_, _>>()?;
    let of = |query: &str| {
        let place = asked.iter().position(|asked| *asked == query);
        place.and_then(|place| answers.get(place)).map(Vec::as_slice).unwrap_or_default()
    };
    let one = |query: &str| of(query).first().map(|sample| sample.value);
    Ok(Vitals {
        requests_per_second: one(REQUESTS),
        latency_p95: one(LATENCY),
        errors_per_second: one(ERRORS),
        cache_hits: one(CACHE_HITS),
        lag: by(of(LAG), "instance"),
        queues: by(of(QUEUES), "queue"),
        brokers: one(BROKERS),
        search: of(SEARCH).first().and_then(|sample| sample.labels.get("color").cloned()),
        search_nodes: one(SEARCH_NODES),
        alerts: alerts(of(ALERTS)),
    })
}

async fn ask(site: &Site, query: &str) -> Result<Vec<Sample>, String> {
    let request = site.request(reqwest::Method::GET, "/api/v1/query").query(&[("query", query)]);
    let reply = crate::http::reply(request).await?;
    let body: Value = serde_json::from_slice(&reply.body).map_err(|error| format!("Prometheus: {error}"))?;
    if body["status"] != "success" {
        return Err(format!("Prometheus: {}: {}", reply.status, body["error"].as_str().unwrap_or("no reason given")));
    }
    let series = body["data"]["result"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(series.iter().filter_map(sample).collect())
}

/// A value that is no number yet, as of a rate without requests, is none.
fn sample(series: &Value) -> Option<Sample> {
    let value: f64 = series["value"][1].as_str()?.parse().ok()?;
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let labels = series["metric"].as_object()?.iter().filter_map(text).collect();
    value.is_finite().then_some(Sample { labels, value })
}

fn by(samples: &[Sample], label: &str) -> BTreeMap<String, f64> {
    samples.iter().filter_map(|sample| Some((sample.labels.get(label)?.clone(), sample.value))).collect()
}

fn alerts(samples: &[Sample]) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = samples
        .iter()
        .map(|Sample { labels, .. }| {
            let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
            let about = ["instance", "queue"].map(label).into_iter().filter(|text| !text.is_empty());
            Alert { severity: label("severity"), name: label("alertname"), about: about.collect::<Vec<_>>().join(" ") }
        })
        .collect();
    alerts.sort();
    alerts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rate_without_requests_is_no_value() {
        let series = |value: &str| json!({"metric": {"queue": "q.email"}, "value": [1_700_000_000.1, value]});
        assert_eq!(sample(&series("NaN")), None);
        let told: Vec<Sample> = [series("3")].iter().filter_map(sample).collect();
        assert_eq!(by(&told, "queue"), BTreeMap::from([("q.email".to_owned(), 3.0)]));
        assert_eq!(by(&told, "instance"), BTreeMap::new());
    }

    #[test]
    fn an_alert_says_what_it_is_about() {
        let labels = |pairs: &[(&str, &str)]| {
            let labels = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            Sample { labels, value: 1.0 }
        };
        let told = alerts(&[
            labels(&[("alertname", "QueueLong"), ("severity", "ticket"), ("queue", "q.email")]),
            labels(&[("alertname", "TargetDown"), ("severity", "page"), ("instance", "redis-1")]),
        ]);
        let lines: Vec<String> =
            told.iter().map(|alert| format!("{} {} {}", alert.severity, alert.name, alert.about)).collect();
        assert_eq!(lines, ["page TargetDown redis-1", "ticket QueueLong q.email"]);
    }
}
