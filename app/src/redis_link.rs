//! The connection to Redis, which may vanish: every failure is `None`, and a dead Redis slows nobody down.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{
    Arg, Client, Cmd, FromRedisValue, RedisError,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::timeout;
use tracing::Instrument;

use crate::{breaker::Breaker, traces};

/// Redis answers in well under a millisecond; past this the way round it is the faster one.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

pub(crate) struct RedisLink {
    client: Client,
    connection: RwLock<Numbered>,
    breaker: Breaker,
}

/// The `number`th one: of many commands that fail with it the first one replaces it.
#[derive(Clone)]
struct Numbered {
    number: u64,
    manager: ConnectionManager,
    /// One that never did may still be connecting, and would begin anew.
    has_answered: Arc<AtomicBool>,
}

impl Numbered {
    fn new(number: u64, client: &Client) -> redis::RedisResult<Self> {
        Ok(Self { number, manager: manager(client)?, has_answered: Arc::default() })
    }
}

impl RedisLink {
    /// Connects to nothing yet.
    pub(crate) fn new(client: Client) -> redis::RedisResult<Self> {
        let connection = RwLock::new(Numbered::new(0, &client)?);
        Ok(Self { connection, client, breaker: Breaker::new(PAUSE_AFTER_FAILURE) })
    }

    pub(crate) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        if self.breaker.allows() { self.send(command).await } else { None }
    }

    /// Also while the breaker is open: for whoever asks how Redis is.
    pub(crate) async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let Numbered { number, mut manager, has_answered } =
            self.connection.read().unwrap_or_else(PoisonError::into_inner).clone();
        let name = match command.args_iter().next() {
            Some(Arg::Simple(name)) => std::str::from_utf8(name).unwrap_or_default(),
            _ => "",
        };
        let span = traces::call("redis", name);
        let answer = async {
            match command.query_async(&mut manager).await {
                // No command of the shop harms by being done twice.
                Err(error) if is_lost(&error) => command.query_async(&mut manager).await,
                answer => answer,
            }
        };
        match timeout(ANSWER_WITHIN, answer).instrument(span).await {
            Ok(Ok(value)) => {
                has_answered.store(true, Relaxed);
                self.breaker.close();
                return Some(value);
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "go round Redis");
                // A connection to a demoted Redis stays healthy for ever and refuses every write.
                if error.code() == Some("READONLY") {
                    self.replace(number);
                }
            }
            Err(_) => {
                tracing::warn!(within = ?ANSWER_WITHIN, "go round Redis: no answer");
                // One whose other end went without a word stays open for a quarter of an hour.
                if has_answered.load(Relaxed) {
                    self.replace(number);
                }
            }
        }
        self.breaker.trip();
        None
    }

    /// For those that only a new connection helps.
    fn replace(&self, number: u64) {
        let mut connection = self.connection.write().unwrap_or_else(PoisonError::into_inner);
        if connection.number == number
            && let Ok(fresh) = Numbered::new(number + 1, &self.client)
        {
            *connection = fresh;
        }
    }
}

/// The manager notices a lost connection by a command that fails, and connects anew for the one after it. Where that came to
/// nothing, because the name did not resolve for a moment, it tells so to the next one, however long ago it was.
fn is_lost(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_io_error()
}

fn manager(client: &Client) -> redis::RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(ANSWER_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN))
        .set_number_of_retries(1)
        .set_pipeline_buffer_size(512);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

#[cfg(test)]
mod tests {
    use std::io;

    use redis::{ErrorKind, ServerErrorKind};

    use super::*;

    #[test]
    fn a_connection_that_is_lost_or_could_not_be_made_is_told_from_an_answer() {
        for error in [
            io::Error::from(io::ErrorKind::ConnectionReset),
            io::Error::other("failed to lookup address information: Name does not resolve"),
        ] {
            assert!(is_lost(&error.into()));
        }
        let refused = ErrorKind::Server(ServerErrorKind::NoPerm);
        assert!(!is_lost(&(refused, "no permission").into()));
    }
}

#[cfg(test)]
#[cfg(feature = "live-tests")]
mod live {
    use std::time::Instant;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_connection_whose_other_end_went_without_a_word_is_replaced() {
        let mut url: url::Url = testing::setting("APP_TEST_REDIS_URL").parse().unwrap();
        let (address, cut) = testing::way(testing::place("APP_TEST_REDIS_URL", 6379)).await;
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(address.port())).unwrap();
        let link = RedisLink::new(Client::open(url.as_str()).unwrap()).unwrap();
        let ping = async || link.send::<String>(&redis::cmd("PING")).await;
        assert_eq!(ping().await.as_deref(), Some("PONG"));
        cut.notify_waiters();
        let begin = Instant::now();
        assert_eq!(ping().await, None, "nothing comes back");
        while ping().await.is_none() {
            assert!(begin.elapsed() < Duration::from_secs(10), "it asks a connection that is dead for ever");
        }
    }
}
