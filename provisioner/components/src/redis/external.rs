//! Somebody's own Redis.

use provisioner_core::component::{Access, Variable};
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::manifest::{ExternalRedis, Manifest};
use provisioner_core::stack::{External, url_host};
use redis::{ErrorKind, RedisError, ServerErrorKind, cmd};

use super::NAME;
use super::client::{self, Refusal};
use crate::checks::nonce;
use crate::external;

/// The oldest release with every command that the shop sends.
const VERSION_MIN: u64 = 7;
pub(super) const DATABASE: &str = "database";

pub(super) fn of(manifest: &Manifest) -> Option<External> {
    let ExternalRedis { server, database } = manifest.redis.external.as_ref()?;
    Some(External::new(NAME, server).with(DATABASE, database.to_string()))
}

pub(super) fn scheme(external: &External) -> &'static str {
    if external.ca.is_some() { "rediss" } else { "redis" }
}

pub(super) fn variable(external: &External) -> Variable {
    Variable {
        name: "REDIS_URL",
        prefix: external.prefix(scheme(external)),
        host: url_host(&external.host),
        port: external.port,
        member: None,
        suffix: format!("/{}", database(external)),
        suffix_outside: None,
    }
}

pub(super) fn database(external: &External) -> &str {
    external.with.get(DATABASE).map_or("0", String::as_str)
}

pub(super) async fn verify(access: &Access<'_>, external: &External) -> Vec<Finding> {
    let ping = ("ping", ping(access, external));
    let (version, tls) = (version(access, external), external::serves(access, external));
    let mut findings = external::first_checks(access, external, ping, version, tls).await;
    findings.push(check(NAME, "round-trip", Level::L2, round_trip(access, external)).await);
    findings
}

async fn open(access: &Access<'_>, external: &External) -> Result<redis::aio::MultiplexedConnection, Broken> {
    client::external(access, external).await.map_err(|refusal| match refusal {
        Refusal::NotMade(reason) => Broken::Unknown(reason),
        Refusal::Redis(error) => Broken::fail(format!("log in to {}: {error}", external.address())),
    })
}

/// An account that may not do something is no fault of the server.
fn failed(error: RedisError) -> Broken {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoPerm) => Broken::Unknown(format!("the account may not: {error}")),
        _ => Broken::fail(error),
    }
}

async fn ping(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let mut connection = open(access, external).await?;
    let answer: String = cmd("PING").query_async(&mut connection).await.map_err(failed)?;
    let who = external.user.as_deref().unwrap_or("default");
    Ok(format!("external, {}: PING as {who}: {answer}", external.address()))
}

async fn version(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let mut connection = open(access, external).await?;
    let info: String = cmd("INFO").arg("server").query_async(&mut connection).await.map_err(failed)?;
    let found = info.lines().find_map(|line| line.trim_end().strip_prefix("redis_version:"));
    external::at_least("Redis", found.unwrap_or_default(), VERSION_MIN)
}

async fn round_trip(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let mut connection = open(access, external).await?;
    let nonce = nonce();
    let key = format!("probe:{nonce}");
    // The expiry cleans up after a check that was cut off.
    let _: () =
        cmd("SET").arg(&key).arg(&nonce).arg("EX").arg(30).query_async(&mut connection).await.map_err(failed)?;
    let found: Option<String> = cmd("GET").arg(&key).query_async(&mut connection).await.map_err(failed)?;
    let _: i64 = cmd("DEL").arg(&key).query_async(&mut connection).await.map_err(failed)?;
    match found {
        Some(value) if value == nonce => Ok(format!("{key} was set, read and removed")),
        found => Err(Broken::fail(format!("GET {key}: {found:?}, expected {nonce:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::stack::Stack;

    use super::super::Redis;
    use crate::testing::external_manifest;

    #[test]
    fn programs_are_led_there() {
        let stack = Stack::of(&external_manifest(), [&Redis as &dyn Component]);
        assert_eq!(stack.workloads().count(), 0);
        let url = "rediss://shop:@{secret:redis-password.url}@cache.example.com:6379/2";
        assert_eq!(Redis.variables(&stack)[0].inside().masked(), url);
    }
}
