//! Redis as a cache that may vanish: every failure is a miss.

use std::{
    sync::{Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::Context;
use redis::{
    Client, Cmd, FromRedisValue,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;

use crate::{breaker::Breaker, telemetry};

/// Redis answers in well under a millisecond; past this the replica is the faster way.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
const REMEMBER_GENERATION: Duration = Duration::from_secs(1);
const TTL_SECONDS: u64 = 30;
const TTL_JITTER_SECONDS: u64 = 10;
const GENERATION: &str = "products:version";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Absent,
    Up,
    Down,
}

pub(crate) struct Cache {
    link: Option<Link>,
}

struct Link {
    client: Client,
    manager: RwLock<ConnectionManager>,
    breaker: Breaker,
    generation: Mutex<Option<(u64, Instant)>>,
}

/// A key in the generation that was current before the databases were asked, so that an answer which took long
/// never lands in a newer generation.
#[derive(Debug)]
pub(crate) struct Slot(String);

impl Cache {
    pub(crate) fn new(client: Option<Client>) -> anyhow::Result<Self> {
        let link = client.map(Link::new).transpose().context("prepare the connection to Redis")?;
        Ok(Self { link })
    }

    pub(crate) async fn slot(&self, name: &str) -> Option<Slot> {
        let generation = self.link.as_ref()?.generation().await?;
        Some(Slot(format!("products:v{generation}:{name}")))
    }

    pub(crate) async fn get(&self, slot: &Slot) -> Option<Vec<u8>> {
        let found: Option<Option<Vec<u8>>> = self.link.as_ref()?.call(&Cmd::get(&slot.0)).await;
        let result = match &found {
            Some(Some(_)) => "hit",
            Some(None) => "miss",
            None => "error",
        };
        metrics::counter!(telemetry::CACHE_REQUESTS, "result" => result).increment(1);
        found.flatten()
    }

    /// The spread keeps entries that were filled together from expiring together.
    pub(crate) async fn put(&self, slot: &Slot, body: &[u8]) {
        let Some(link) = &self.link else { return };
        let seconds = TTL_SECONDS + rand::random_range(0..=TTL_JITTER_SECONDS);
        let _: Option<()> = link.call(&Cmd::set_ex(&slot.0, body, seconds)).await;
    }

    /// Leaves every entry behind. What a lagging replica writes into the new generation lives for one TTL.
    pub(crate) async fn invalidate(&self) {
        let Some(link) = &self.link else { return };
        if let Some(generation) = link.call(&Cmd::incr(GENERATION, 1)).await {
            link.remember(generation);
        }
    }

    pub(crate) async fn health(&self) -> Health {
        let Some(link) = &self.link else { return Health::Absent };
        match link.send::<String>(&redis::cmd("PING")).await {
            Some(_) => Health::Up,
            None => Health::Down,
        }
    }
}

impl Link {
    fn new(client: Client) -> redis::RedisResult<Self> {
        Ok(Self {
            manager: RwLock::new(manager(&client)?),
            client,
            breaker: Breaker::new(PAUSE_AFTER_FAILURE),
            generation: Mutex::new(None),
        })
    }

    /// Asked at most once a second: one round trip per read instead of two.
    async fn generation(&self) -> Option<u64> {
        let remembered = *self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((generation, at)) = remembered
            && at.elapsed() < REMEMBER_GENERATION
        {
            return Some(generation);
        }
        let found: Option<u64> = self.call(&Cmd::get(GENERATION)).await?;
        // INCR makes a missing counter 1, so generation 0 is the one before the first invalidation.
        let generation = found.unwrap_or(0);
        self.remember(generation);
        Some(generation)
    }

    fn remember(&self, generation: u64) {
        *self.generation.lock().unwrap_or_else(PoisonError::into_inner) = Some((generation, Instant::now()));
    }

    async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        if self.breaker.allows() { self.send(command).await } else { None }
    }

    async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let mut connection = self.manager.read().unwrap_or_else(PoisonError::into_inner).clone();
        match timeout(ANSWER_WITHIN, command.query_async(&mut connection)).await {
            Ok(Ok(value)) => {
                self.breaker.close();
                return Some(value);
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "go round Redis");
                if error.code() == Some("READONLY") {
                    self.reconnect();
                }
            }
            Err(_) => tracing::warn!(within = ?ANSWER_WITHIN, "go round Redis: no answer"),
        }
        self.breaker.trip();
        None
    }

    /// A connection to a demoted Redis stays healthy for ever and refuses every write: only a new one helps.
    fn reconnect(&self) {
        if let Ok(fresh) = manager(&self.client) {
            *self.manager.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }
}

fn manager(client: &Client) -> redis::RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(ANSWER_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN))
        .set_number_of_retries(1)
        .set_pipeline_buffer_size(512);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}
