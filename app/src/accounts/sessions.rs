//! Sessions in Redis under the digest of what the client holds. Without Redis nobody is logged in by a cookie; tokens work
//! on, and whoever was logged in still is when it is back.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use redis::Cmd;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::secret::Secret;
use crate::redis_link::RedisLink;

/// Two weeks without a visit end a session.
pub(crate) const IDLE_SECONDS: u64 = 14 * 24 * 3600;

pub(crate) struct Sessions {
    link: Option<Arc<RedisLink>>,
}

#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct Session {
    pub(crate) user: Uuid,
    /// The user's number of that kind when it began.
    pub(crate) epoch: i32,
    /// What a page of ours sends along with every change; a foreign page does not know it.
    pub(crate) csrf: String,
}

impl Session {
    /// By digest, so that a better guess does not take longer.
    pub(crate) fn is_csrf_token(&self, sent: &[u8]) -> bool {
        Sha256::digest(sent) == Sha256::digest(self.csrf.as_bytes())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("Redis, which keeps the sessions, does not answer")]
pub(crate) struct SessionsAway;

impl Sessions {
    pub(crate) fn new(link: Option<Arc<RedisLink>>) -> Self {
        Self { link }
    }

    /// Always under a new secret: one that a client brings along is never taken over.
    pub(crate) async fn begin(&self, user: Uuid, epoch: i32) -> Result<(Secret, Session), SessionsAway> {
        let secret = Secret::new();
        let session = Session { user, epoch, csrf: Secret::new().expose().to_owned() };
        let text = serde_json::to_string(&session).map_err(|_| SessionsAway)?;
        self.call::<()>(&Cmd::set_ex(key(&secret), text, IDLE_SECONDS)).await?;
        Ok((secret, session))
    }

    /// A visit begins the two weeks anew.
    pub(crate) async fn find(&self, secret: &Secret) -> Result<Option<Session>, SessionsAway> {
        let found: Option<String> = self.call(&Cmd::get_ex(key(secret), redis::Expiry::EX(IDLE_SECONDS))).await?;
        Ok(found.and_then(|text| serde_json::from_str(&text).ok()))
    }

    pub(crate) async fn end(&self, secret: &Secret) -> Result<(), SessionsAway> {
        self.call::<()>(&Cmd::del(key(secret))).await
    }

    /// Whatever the breaker says: it opens for a second after one slow answer, and there is no way round for sessions.
    async fn call<T: redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, SessionsAway> {
        self.link.as_ref().ok_or(SessionsAway)?.send(command).await.ok_or(SessionsAway)
    }
}

fn key(secret: &Secret) -> String {
    format!("sess:{}", URL_SAFE_NO_PAD.encode(secret.digest()))
}
