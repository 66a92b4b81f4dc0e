//! The connection to Redis, which may vanish: every failure is `None`, and a dead Redis slows nobody down.

use std::{
    sync::{PoisonError, RwLock},
    time::Duration,
};

use redis::{
    Arg, Client, Cmd, FromRedisValue,
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
                // The manager notices a lost connection by a command that fails, and connects anew for the one after it; where
                // that did not succeed, it says so to the next one, however long ago it was. No command of the shop harms by
                // being done twice.
                Err(error) if error.is_unrecoverable_error() || error.is_io_error() => {
                    command.query_async(&mut connection).await
                }
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

fn manager(client: &Client) -> redis::RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(ANSWER_WITHIN))
        .set_response_timeout(Some(ANSWER_WITHIN))
        .set_number_of_retries(1)
        .set_pipeline_buffer_size(512);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

#[cfg(test)]
#[cfg(feature = "live-tests")]
mod tests {
    use tokio::{
        io::copy_bidirectional,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
    fn server() -> url::Url {
        std::env::var("APP_TEST_REDIS_URL").expect("set APP_TEST_REDIS_URL to run the live tests").parse().unwrap()
    }

    /// What the last attempt to connect came to is told to whoever comes next.
    #[tokio::test]
    async fn the_first_command_after_an_outage_is_answered() {
        let (target, mut url) = (server(), server());
        let place = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(place.port())).unwrap();
        let link = RedisLink::new(Client::open(url).unwrap()).unwrap();
        let ping = redis::cmd("PING");
        assert_eq!(link.send::<String>(&ping).await, None, "nobody listens there");
        let listener = TcpListener::bind(place).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let target = (target.host_str().unwrap().to_owned(), target.port().unwrap_or(6379));
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        assert_eq!(link.send::<String>(&ping).await.as_deref(), Some("PONG"));
    }
}
