//! The consumer behind every worker.
//!
//! A message is acknowledged only when its effect is committed or a copy of it is confirmed elsewhere:
//!
//! - done: acknowledged;
//! - transient failure: a copy goes to the next retry queue, four times, then to the dead letters;
//! - permanent failure: a copy goes to the dead letters at once, with the reason;
//! - a dependency is away: the message is held and tried again with growing pauses. The prefetch limit then fills, which
//!   stops the flow without a word to the broker. Before the broker would lose patience with the consumer, or when this
//!   process must stop, the message is parked: a copy with the same attempt number goes through the shortest retry queue.
//!   An outage therefore uses up neither attempts nor the queue's delivery limit.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use lapin::message::Delivery;
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tracing::{Instrument, Span, field};

use super::{
    Failure, Feed, Handled, Handler,
    delivery::{self, Destination},
};
use crate::{
    background::{BROKER, Background, DATABASE, Status, reconnecting},
    messaging::{
        broker::{BrokerError, Link},
        envelope::Envelope,
        ladder::{self, Step},
    },
    process::Stop,
    telemetry, traces,
};

const CONSUMER: &str = "consumer";
/// RabbitMQ closes the channel of a consumer that keeps a message for 30 minutes.
const HOLD_AT_MOST: Duration = Duration::from_secs(15 * 60);
/// Before a message goes back because nothing else could be done with it.
const BEFORE_GIVING_BACK: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("consume at the broker: the broker ended it, as it does when a queue is deleted or moves")]
    Cancelled,
    #[error("consume: {0}")]
    Stream(#[source] lapin::Error),
    /// The message stays unacknowledged and comes back until the queue's delivery limit.
    #[error("finish a job: {0}")]
    Panicked(#[source] tokio::task::JoinError),
}

pub(crate) async fn run<H: Handler>(background: Background, feed: &'static Feed, handler: H) -> anyhow::Result<()> {
    let Background { broker, status, mut stop, shutdown, .. } = background;
    let crew = Arc::new(Crew { feed, handler, status, stop: stop.clone() });
    crew.prepare().await;
    let mut backoff = reconnecting();
    while !stop.is_asked() {
        let ended = match broker.connect().await {
            Ok(link) => session(&crew, link, &mut stop, shutdown, || backoff.reset()).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            let what = if matches!(error, SessionError::Panicked(_)) { CONSUMER } else { BROKER };
            crew.status.missing(what, &error);
            stop.pause(backoff.pause()).await;
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// From the first delivery to the end of the connection.
async fn session<H: Handler>(
    crew: &Arc<Crew<H>>,
    link: Link,
    stop: &mut Stop,
    shutdown: Duration,
    mut started: impl FnMut(),
) -> Result<(), SessionError> {
    let feed = crew.feed;
    let link = Arc::new(link);
    let mut consumer = link.consume(feed.queue, feed.prefetch).await?;
    crew.status.found(BROKER);
    crew.status.found(CONSUMER);
    started();
    let mut jobs = JoinSet::new();
    let mut batch: Vec<Delivery> = Vec::new();
    let mut full_at = Instant::now();
    let ended = loop {
        let room = jobs.len() < usize::from(feed.jobs);
        tokio::select! {
            biased;
            () = stop.asked() => break Ok(()),
            Some(job) = jobs.join_next() => match job {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Err(SessionError::Broker(error)),
                Err(error) => break Err(SessionError::Panicked(error)),
            },
            next = consumer.next(), if batch.len() < feed.batch => match next {
                Some(Ok(delivery)) => {
                    if batch.is_empty() {
                        full_at = Instant::now() + feed.linger;
                    }
                    if batch.len() + 1 == feed.batch {
                        full_at = Instant::now();
                    }
                    batch.push(delivery);
                }
                Some(Err(error)) => break Err(SessionError::Stream(error)),
                None => break Err(SessionError::Cancelled),
            },
            () = sleep_until(full_at.into()), if room && !batch.is_empty() => {
                let (crew, link) = (Arc::clone(crew), Arc::clone(&link));
                let batch = std::mem::take(&mut batch);
                jobs.spawn(async move { crew.work(&link, batch).await });
            }
        }
    };
    if let Err(error) = ended {
        // What is under way ends by itself and finds out at its acknowledgement; the inbox sees to the second delivery.
        jobs.detach_all();
        link.close().await;
        return Err(error);
    }
    finish(&link, jobs, shutdown).await;
    Ok(())
}

async fn finish(link: &Arc<Link>, mut jobs: JoinSet<Result<(), BrokerError>>, shutdown: Duration) {
    if let Err(error) = link.stop_consuming().await {
        tracing::warn!(%error, "stop without the broker's consent");
    }
    let under_way = jobs.len();
    let all = async { while jobs.join_next().await.is_some() {} };
    if timeout(shutdown, all).await.is_err() {
        tracing::warn!(
            seconds = shutdown.as_secs(),
            unfinished = jobs.len(),
            "stop with jobs still under way: the shutdown time is over, their messages will be delivered again"
        );
        return;
    }
    tracing::debug!(under_way, "jobs are finished");
    link.close().await;
}

/// The request that a message came from is on every line about it; a batch has many.
fn log_span(events: &[Envelope]) -> Span {
    let span = tracing::error_span!("message", request_id = field::Empty);
    if let [Envelope { request_id: Some(id), .. }] = events {
        span.record("request_id", id);
    }
    span
}

struct Crew<H> {
    feed: &'static Feed,
    handler: H,
    status: Status,
    stop: Stop,
}

struct Job {
    delivery: Delivery,
    event: Envelope,
}

impl<H: Handler> Crew<H> {
    /// No message is taken from the queue for a dependency that was never there.
    async fn prepare(&self) {
        let (mut backoff, mut stop) = (reconnecting(), self.stop.clone());
        while !stop.is_asked() {
            match self.handler.prepare().await {
                Err(Failure::Away { what, why }) => self.status.missing(what, &why),
                Err(error) => {
                    tracing::warn!(%error, "not prepared: the first message will try again");
                    break;
                }
                Ok(()) => {
                    self.reached_all();
                    break;
                }
            }
            stop.pause(backoff.pause()).await;
        }
    }

    fn reached_all(&self) {
        self.status.found(DATABASE);
        if let Some(what) = H::NEEDS {
            self.status.found(what);
        }
    }

    async fn work(&self, link: &Link, batch: Vec<Delivery>) -> Result<(), BrokerError> {
        let started = Instant::now();
        let mut jobs = Vec::with_capacity(batch.len());
        let mut events = Vec::with_capacity(batch.len());
        for delivery in batch {
            match Envelope::decode(&delivery.data) {
                Ok(event) => {
                    events.push(event.clone());
                    jobs.push(Job { delivery, event });
                }
                Err(error) => self.settle(link, &delivery, None, Err(Failure::undecodable(&error))).await?,
            }
        }
        match self.patiently(link, &events).await {
            Ok(handled) => {
                for job in &jobs {
                    self.settle(link, &job.delivery, Some(&job.event), Ok(handled)).await?;
                }
            }
            Err(Failure::Away { what, why }) => {
                for job in &jobs {
                    let failure = Failure::Away { what, why: why.clone() };
                    self.settle(link, &job.delivery, Some(&job.event), Err(failure)).await?;
                }
            }
            Err(failure) if jobs.len() == 1 => {
                self.settle(link, &jobs[0].delivery, Some(&jobs[0].event), Err(failure)).await?;
            }
            // One of them is the culprit.
            Err(_) => {
                for job in &jobs {
                    let handled = self.patiently(link, std::slice::from_ref(&job.event)).await;
                    self.settle(link, &job.delivery, Some(&job.event), handled).await?;
                }
            }
        }
        metrics::histogram!(telemetry::JOB_SECONDS, "queue" => self.feed.queue).record(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Gives `Away` back only when waiting for the dependency has to end.
    async fn patiently(&self, link: &Link, events: &[Envelope]) -> Result<Handled, Failure> {
        if events.is_empty() {
            return Ok(Handled::Duplicate);
        }
        let (started, mut backoff, mut stop) = (Instant::now(), reconnecting(), self.stop.clone());
        loop {
            let trace = traces::process(self.feed.queue, events);
            match self.handler.handle(events).instrument(trace).instrument(log_span(events)).await {
                Err(Failure::Away { what, why }) => {
                    self.status.missing(what, &why);
                    if stop.is_asked() || !link.is_open() || started.elapsed() > HOLD_AT_MOST {
                        return Err(Failure::Away { what, why });
                    }
                }
                handled => {
                    self.reached_all();
                    return handled;
                }
            }
            stop.pause(backoff.pause()).await;
        }
    }

    async fn settle(
        &self,
        link: &Link,
        delivery: &Delivery,
        event: Option<&Envelope>,
        handled: Result<Handled, Failure>,
    ) -> Result<(), BrokerError> {
        let span = log_span(event.map(std::slice::from_ref).unwrap_or_default());
        self.dispose(link, delivery, handled).instrument(span).await
    }

    async fn dispose(
        &self,
        link: &Link,
        delivery: &Delivery,
        handled: Result<Handled, Failure>,
    ) -> Result<(), BrokerError> {
        let attempt = delivery::attempt(delivery);
        let message_id = delivery.properties.message_id().as_ref().map_or("none", |id| id.as_str());
        let failure = match handled {
            Ok(handled) => {
                delivery::acknowledge(delivery).await?;
                tracing::info!(queue = self.feed.queue, message_id, attempt, ?handled, "message is done");
                self.count(if handled == Handled::Done { "done" } else { "duplicate" });
                return Ok(());
            }
            Err(failure) => failure,
        };
        let error = failure.to_string();
        let (result, to) = match &failure {
            Failure::Away { .. } => ("parked", Destination::Retry { exchange: ladder::PARKING, attempt }),
            Failure::Permanent { reason, error } => ("dead", Destination::Dead { reason, error }),
            Failure::Transient(error) => match ladder::after_failure_of(attempt) {
                Step::Retry { exchange, attempt } => ("retried", Destination::Retry { exchange, attempt }),
                Step::GiveUp => ("dead", Destination::Dead { reason: "attempts_exhausted", error }),
            },
        };
        tracing::warn!(queue = self.feed.queue, message_id, attempt, error, result, "message is not done");
        if delivery::copy(link, delivery, self.feed.queue, &to).await? {
            delivery::acknowledge(delivery).await?;
            self.count(result);
        } else {
            self.stop.clone().pause(BEFORE_GIVING_BACK).await;
            delivery::give_back(delivery).await?;
            self.count("given_back");
        }
        Ok(())
    }

    fn count(&self, result: &'static str) {
        metrics::counter!(telemetry::WORKER_MESSAGES, "queue" => self.feed.queue, "result" => result).increment(1);
    }
}
