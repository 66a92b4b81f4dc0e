//! The connection to Redis, which may vanish: every failure is `None`, and a dead Redis slows nobody down.

use std::{
    sync::{PoisonError, RwLock},
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
    manager: RwLock<ConnectionManager>,
    breaker: Breaker,
}

impl RedisLink {
    /// Connects to nothing yet.
    pub(crate) fn new(client: Client) -> redis::RedisResult<Self> {
        Ok(Self { manager: RwLock::new(manager(&client)?), client, breaker: Breaker::new(PAUSE_AFTER_FAILURE) })
    }

    pub(crate) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        if self.breaker.allows() { self.send(command).await } else { None }
    }

    /// Also while the breaker is open: for whoever asks how Redis is.
    pub(crate) async fn send<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let mut connection = self.manager.read().unwrap_or_else(PoisonError::into_inner).clone();
        let name = match command.args_iter().next() {
            Some(Arg::Simple(name)) => std::str::from_utf8(name).unwrap_or_default(),
            _ => "",
        };
        let span = traces::call("redis", name);
        let answer = async {
            match command.query_async(&mut connection).await {
                // No command of the shop harms by being done twice.
                Err(error) if is_lost(&error) => command.query_async(&mut connection).await,
                answer => answer,
            }
        };
        match timeout(ANSWER_WITHIN, answer).instrument(span).await {
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
