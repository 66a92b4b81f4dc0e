//! How often somebody may try, counted in Redis for all backends together. NGINX limits requests of an address at large;
//! this is for what is worth guessing.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use redis::Cmd;
use sha2::{Digest, Sha256};

use crate::{redis_link::RedisLink, telemetry};

/// Counts within a window that begins with the first try, and says how long it still lasts once there were too many.
const SCRIPT: &str = "local tries = redis.call('INCR', KEYS[1]) \
    if tries == 1 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end \
    if tries > tonumber(ARGV[1]) then return redis.call('TTL', KEYS[1]) end \
    return 0";

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    pub(crate) tries: u32,
    pub(crate) seconds: u32,
}

/// Guesses at one account, from wherever they come.
pub(crate) const LOGIN_ACCOUNT: Limit = Limit { name: "login-account", tries: 10, seconds: 300 };
/// Guesses of one address at whatever account.
pub(crate) const LOGIN_ADDRESS: Limit = Limit { name: "login-address", tries: 30, seconds: 300 };
pub(crate) const REGISTER_ADDRESS: Limit = Limit { name: "register-address", tries: 20, seconds: 3600 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Within,
    /// For so many seconds more.
    Exceeded(u32),
    /// Redis does not answer.
    Unknown,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Exceeded(_) => "exceeded",
            Self::Unknown => "unknown",
        }
    }
}

pub(crate) struct Limits {
    link: Option<Arc<RedisLink>>,
}

impl Limits {
    pub(crate) fn new(link: Option<Arc<RedisLink>>) -> Self {
        Self { link }
    }

    /// Counts one try, before it is made: tries at the same time cannot pass each other by.
    pub(crate) async fn count(&self, limit: Limit, whose: &str) -> Verdict {
        let mut command = redis::cmd("EVAL");
        command.arg(SCRIPT).arg(1).arg(key(limit, whose)).arg(limit.tries).arg(limit.seconds);
        let left: Option<i64> = match &self.link {
            // Whatever the breaker says: logging in depends on the answer.
            Some(link) => link.send(&command).await,
            None => None,
        };
        let verdict = match left.map(u32::try_from) {
            None => Verdict::Unknown,
            Some(Ok(0) | Err(_)) => Verdict::Within,
            Some(Ok(seconds)) => Verdict::Exceeded(seconds),
        };
        metrics::counter!(telemetry::LIMITS, "limit" => limit.name, "result" => verdict.name()).increment(1);
        verdict
    }

    /// Whoever knew the password was not guessing.
    pub(crate) async fn forget(&self, limit: Limit, whose: &str) {
        if let Some(link) = &self.link {
            // A count that stays ends by itself.
            let _: Option<u64> = link.call(&Cmd::del(key(limit, whose))).await;
        }
    }
}

/// Of a fixed length whatever was sent, and without anybody's address in it.
fn key(limit: Limit, whose: &str) -> String {
    format!("rl:{}:{}", limit.name, URL_SAFE_NO_PAD.encode(Sha256::digest(whose.as_bytes())))
}
