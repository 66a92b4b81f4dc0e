//! Whom Prometheus asks, and whether whoever is asked reaches the system that it tells about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use provisioner_core::wait::{self, Look, WaitError};
use serde::Deserialize;

use super::super::Program;
use super::super::targets::jobs;
use super::api::{Labels, Prometheus};

/// A target that just came up is asked within one interval, 15 s unless the manifest says otherwise.
pub(super) const NEXT_LOOK: Duration = Duration::from_secs(18);
const EVERY: Duration = Duration::from_millis(250);

/// What an exporter says while it reaches its system, by job: Prometheus is answered even while it does not.
const REACHES: [(&str, &str); 7] = [
    ("postgres", "pg_up"),
    ("redis", "redis_up"),
    ("nginx", "nginx_up"),
    ("elasticsearch", "elasticsearch_cluster_health_number_of_nodes > bool 0"),
    ("blackbox-http", "probe_success"),
    ("blackbox-media", "probe_success"),
    ("blackbox-tls", "probe_success"),
];

#[derive(Deserialize)]
struct Targets {
    #[serde(rename = "activeTargets")]
    active: Vec<Active>,
}

#[derive(Deserialize)]
struct Active {
    labels: Labels,
    health: String,
    #[serde(rename = "lastError")]
    last_error: String,
}

fn expected(access: &Access<'_>) -> BTreeSet<Labels> {
    let jobs = jobs(access.stack).into_iter();
    let labels = jobs.flat_map(|(job, targets)| {
        targets.into_iter().map(move |target| Labels { job: job.to_owned(), instance: target.instance })
    });
    labels.collect()
}

/// Exactly the stack's, and each of them answers.
pub(super) async fn up(access: &Access<'_>) -> Result<String, Broken> {
    let (prometheus, expected) = (Prometheus::of(access).await?, expected(access));
    settled(|| async {
        let found: Targets = prometheus.read("/api/v1/targets?state=active").await?;
        let mut wrong = differences(&expected, &found.active.iter().map(|active| active.labels.clone()).collect());
        let down = found.active.iter().filter(|active| active.health != "up");
        wrong.extend(down.map(|Active { labels, health, last_error }| {
            let why = if last_error.is_empty() { String::new() } else { format!(" ({last_error})") };
            format!("{} of {} is {health}{why}", labels.instance, labels.job)
        }));
        Ok(wrong)
    })
    .await?;
    let jobs: BTreeSet<&String> = expected.iter().map(|labels| &labels.job).collect();
    Ok(format!("{} of {} jobs, all up", expected.len(), jobs.len()))
}

fn differences(expected: &BTreeSet<Labels>, found: &BTreeSet<Labels>) -> Vec<String> {
    let named = |labels: &Labels| format!("{} of {}", labels.instance, labels.job);
    let missing = expected.difference(found).map(|labels| format!("{} is not asked", named(labels)));
    let surplus = found.difference(expected).map(|labels| format!("{} is asked, expected not", named(labels)));
    missing.chain(surplus).collect()
}

/// Every exporter reaches every member that it tells about.
pub(super) async fn reached(access: &Access<'_>) -> Result<String, Broken> {
    let (prometheus, jobs) = (Prometheus::of(access).await?, jobs(access.stack));
    let asked: Vec<_> = REACHES
        .iter()
        .filter_map(|(job, metric)| Some((*job, *metric, jobs.get(job)?)))
        .filter(|it| !it.2.is_empty())
        .collect();
    settled(|| async {
        let mut wrong = Vec::new();
        for (job, metric, targets) in &asked {
            let samples = prometheus.query(&selected(metric, job)).await?;
            let found: BTreeMap<&str, &str> =
                samples.iter().map(|sample| (sample.metric.instance.as_str(), sample.value())).collect();
            for target in *targets {
                match found.get(target.instance.as_str()) {
                    Some(&"1") => {}
                    Some(value) => wrong.push(format!("{metric} of {} is {value}, expected 1", target.instance)),
                    None => wrong.push(format!("nothing is known of {metric} of {}", target.instance)),
                }
            }
        }
        Ok(wrong)
    })
    .await?;
    let members: usize = asked.iter().map(|(_, _, targets)| targets.len()).sum();
    Ok(format!("{members} by {} kinds of exporter", asked.len()))
}

fn selected(metric: &str, job: &str) -> String {
    format!("({metric}) * on(instance, job) group_left() (up{{job=\"{job}\"}} == 1)")
}

#[derive(Deserialize)]
struct Alertmanagers {
    #[serde(rename = "activeAlertmanagers")]
    active: Vec<Discovered>,
}

#[derive(Deserialize)]
struct Discovered {
    url: String,
}

/// After a reload Prometheus looks for its Alertmanagers anew, some seconds later.
pub(super) async fn discovered(access: &Access<'_>) -> Result<String, Broken> {
    let prometheus = Prometheus::of(access).await?;
    let expected = format!("http://{}/api/v2/alerts", Program::Alertmanager.address());
    settled(|| async {
        let found: Alertmanagers = prometheus.read("/api/v1/alertmanagers").await?;
        let urls: Vec<&str> = found.active.iter().map(|found| found.url.as_str()).collect();
        Ok(if urls == [&expected] {
            Vec::new()
        } else {
            vec![format!("Prometheus tells {urls:?}, expected {expected}")]
        })
    })
    .await?;
    Ok(expected)
}

/// Waits until nothing is wrong any more, as long as one interval takes.
pub(super) async fn settled<F>(look: impl Fn() -> F) -> Result<(), Broken>
where
    F: Future<Output = Result<Vec<String>, Broken>>,
{
    let waited = wait::until(NEXT_LOOK, EVERY, || async {
        match look().await {
            Ok(wrong) if wrong.is_empty() => Look::Done(()),
            Ok(wrong) => Look::Pending(wrong.join("; ")),
            Err(Broken::Fail(why)) => Look::Broken(Given(why)),
            Err(Broken::Unknown(why)) => Look::Pending(why),
        }
    });
    waited.await.map_err(|error| match error {
        WaitError::Broken(Given(why)) => Broken::Fail(why),
        late @ WaitError::TimedOut { .. } => Broken::fail(late),
    })
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Given(String);
