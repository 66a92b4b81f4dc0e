//! Connections to Redis as its users have them, each attempt bounded to about a second.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::name::Member;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};

use super::{PORT, User};

const LIMIT: Duration = Duration::from_secs(1);

/// As `user`, or as a stranger without a password.
pub(super) async fn connect(
    access: &Access<'_>,
    member: &Member,
    user: Option<User>,
) -> Result<MultiplexedConnection, Refusal> {
    let address = access.engine.address(member, PORT).await.map_err(|error| Refusal::NotMade(error.to_string()))?;
    let login = match user {
        Some(user) => {
            let secret = access.secret(user.secret()).await.map_err(|failure| Refusal::NotMade(failure.chain()))?;
            // Passwords are letters and digits, so they need no quoting.
            format!("{}:{secret}@", user.name())
        }
        None => String::new(),
    };
    // The URL holds the password: whatever fails below must not repeat it, and redis's errors do not.
    let client = Client::open(format!("redis://{login}{address}/0"))?;
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(LIMIT)).set_response_timeout(Some(LIMIT));
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

pub(super) async fn ready(access: &Access<'_>, member: &Member) -> Result<(), String> {
    let mut connection = connect(access, member, Some(User::App)).await.map_err(|refusal| refusal.to_string())?;
    let answer: Result<String, RedisError> = redis::cmd("PING").query_async(&mut connection).await;
    match answer {
        Ok(_) => Ok(()),
        // LOADING: it reads its append-only file.
        Err(error) => Err(format!("PING: {error}")),
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Nothing was asked of Redis.
    #[error("{0}")]
    NotMade(String),
    #[error("connect to Redis: {0}")]
    Redis(#[from] RedisError),
}
