//! `app worker QUEUE`: takes messages from one queue and does what they say.

mod consumer;
mod custom;
pub(crate) mod delivery;
mod email;
mod search;

use std::time::Duration;

use crate::{
    background::{Background, DATABASE},
    config::{self, Task},
    messaging::envelope::Envelope,
    store::StoreError,
    trust::Trust,
};

pub(crate) async fn run(config: config::Worker, trust: Trust) -> anyhow::Result<()> {
    match config.task {
        Task::Email(config) => {
            let mailer = |background: &Background| email::Notices::new(&config, background);
            start(&config.background, trust, &EMAIL, mailer).await
        }
        Task::Search(config) => {
            let indexer = |background: &Background| search::Indexing::new(&config, background);
            start(&config.background, trust, &SEARCH, indexer).await
        }
        Task::Custom(config) => {
            let provider = config.payment_provider;
            let tasks = |background: &Background| Ok(custom::Tasks::new(background.pool.clone(), provider));
            start(&config.background, trust, &CUSTOM, tasks).await
        }
    }
}

async fn start<H: Handler>(
    config: &config::Background,
    trust: Trust,
    feed: &'static Feed,
    handler: impl FnOnce(&Background) -> anyhow::Result<H>,
) -> anyhow::Result<()> {
    let name = format!("worker {}", feed.name);
    // Each job holds one connection; filling a search index holds another one for its lock.
    let background = Background::start(config, trust, &name, u32::from(feed.jobs) + 1).await?;
    let handler = handler(&background)?;
    consumer::run(background, feed, handler).await
}

/// Where messages come from and how many are taken together.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) name: &'static str,
    pub(crate) queue: &'static str,
    /// Unacknowledged messages at most. Small: all of them count as delivered once more when this process dies.
    pub(crate) prefetch: u16,
    /// Jobs at a time, each with a batch of its own.
    pub(crate) jobs: u16,
    pub(crate) batch: usize,
    /// How long the first message of a batch waits for others.
    pub(crate) linger: Duration,
}

const EMAIL: Feed = Feed { name: "email", queue: "q.email", prefetch: 4, jobs: 4, batch: 1, linger: Duration::ZERO };
const CUSTOM: Feed = Feed { name: "custom", queue: "q.custom", prefetch: 8, jobs: 8, batch: 1, linger: Duration::ZERO };
const SEARCH: Feed =
    Feed { name: "search", queue: "q.search", prefetch: 64, jobs: 1, batch: 64, linger: Duration::from_millis(50) };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    Done,
    /// It was done before; nothing happened now.
    Duplicate,
}

/// Errors are logged and travel with the message, so they must not hold what belongs to a customer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Trying again would not help: to the dead letters at once.
    #[error("{error}")]
    Permanent { reason: &'static str, error: String },
    /// This message, this time: it goes through the retry queues.
    #[error("{0}")]
    Transient(String),
    /// Nothing can be done for any message until a dependency is back, so the message is not to blame.
    #[error("{what}: {why}")]
    Away { what: &'static str, why: String },
}

impl Failure {
    pub(crate) fn unknown_topic(event: &Envelope) -> Self {
        Self::Permanent { reason: "unknown_topic", error: format!("found a message of type {:?}", event.topic) }
    }

    pub(crate) fn undecodable(error: &impl ToString) -> Self {
        Self::Permanent { reason: "undecodable", error: error.to_string() }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Unavailable(_) => Self::Away { what: DATABASE, why: error.to_string() },
            StoreError::Statement(inner) if blames_the_server(inner) => {
                Self::Away { what: DATABASE, why: error.to_string() }
            }
            StoreError::Contended(_)
            | StoreError::TooSlow(_)
            | StoreError::OutcomeUnknown(_)
            | StoreError::Statement(_) => Self::Transient(error.to_string()),
        }
    }
}

/// Logins, names, privileges and resources: no message can be handled until somebody mends them.
fn blames_the_server(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| ["28", "3D", "42", "53"].iter().any(|class| code.starts_with(class)))
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

pub(crate) trait Handler: Send + Sync + 'static {
    /// What it needs besides the database.
    const NEEDS: Option<&'static str>;

    /// Before the first message, and until it does not say `Away`.
    fn prepare(&self) -> impl Future<Output = Result<(), Failure>> + Send {
        std::future::ready(Ok(()))
    }

    /// All or none. After a failure that is not `Away`, each event of a larger batch is handled once more alone.
    fn handle(&self, events: &[Envelope]) -> impl Future<Output = Result<Handled, Failure>> + Send;
}
