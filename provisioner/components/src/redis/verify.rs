//! Proof that Redis works and that its users can do no more than they must.

use std::collections::HashMap;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::stack::Workload;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, cmd};

use super::client::{Refusal, connect};
use super::{CONFIGURATION, NAME, User, encryption, member};
use crate::checks::{self, nonce};

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    let Some(workload) = access.stack.workload(&member()) else { return Vec::new() };
    let mut findings = vec![
        check(NAME, "process", Level::L0, async { checks::process(access, &member()) }).await,
        check(NAME, "ping", Level::L1, ping(access)).await,
        check(NAME, "strangers-refused", Level::L1, strangers_refused(access)).await,
        check(NAME, "round-trip", Level::L2, round_trip(access)).await,
        check(NAME, "app-limited", Level::L2, app_limited(access)).await,
        check(NAME, "persistence", Level::L2, persistence(access)).await,
        check(NAME, "memory-limit", Level::L2, memory_limit(access, workload)).await,
    ];
    if encryption::is_declared(access.stack) {
        findings.push(check(NAME, "tls", Level::L1, encryption::serves(access)).await);
        findings.push(check(NAME, "plaintext-refused", Level::L1, encryption::plaintext_refused(access)).await);
    }
    findings
}

async fn ping(access: &Access<'_>) -> Result<String, Broken> {
    let mut connection = open(access, User::App).await?;
    let answer: String = ask(&mut connection, &cmd("PING")).await?;
    Ok(format!("PING as app: {answer}"))
}

async fn strangers_refused(access: &Access<'_>) -> Result<String, Broken> {
    let error = match connect(access, &member(), None).await {
        Ok(mut connection) => match cmd("PING").query_async::<String>(&mut connection).await {
            Ok(answer) => return Err(Broken::fail(format!("PING without a password: {answer}, expected NOAUTH"))),
            Err(error) => error,
        },
        Err(Refusal::Redis(error)) => error,
        Err(Refusal::NotMade(reason)) => return Err(Broken::Unknown(reason)),
    };
    match error.code() {
        Some("NOAUTH") => Ok("PING without a password: NOAUTH".to_owned()),
        _ => Err(Broken::Unknown(format!("PING without a password: {error}, expected NOAUTH"))),
    }
}

async fn round_trip(access: &Access<'_>) -> Result<String, Broken> {
    let mut connection = open(access, User::App).await?;
    let nonce = nonce();
    let key = format!("probe:{nonce}");
    // The expiry cleans up after a check that was cut off.
    let _: () = ask(&mut connection, cmd("SET").arg(&key).arg(&nonce).arg("EX").arg(30)).await?;
    let found: Option<String> = ask(&mut connection, cmd("GET").arg(&key)).await?;
    let _: i64 = ask(&mut connection, cmd("DEL").arg(&key)).await?;
    match found {
        Some(value) if value == nonce => Ok(format!("{key} was set, read and removed")),
        found => Err(Broken::fail(format!("GET {key}: {found:?}, expected {nonce:?}"))),
    }
}

async fn app_limited(access: &Access<'_>) -> Result<String, Broken> {
    let mut connection = open(access, User::App).await?;
    let refused = [
        ("KEYS *", cmd("KEYS").arg("probe:*").to_owned()),
        ("CONFIG GET", cmd("CONFIG").arg("GET").arg("maxmemory").to_owned()),
        ("a foreign key", cmd("GET").arg("foreign:key").to_owned()),
    ];
    for (what, command) in refused {
        denied(&mut connection, what, &command).await?;
    }
    dry_run(access, "FLUSHALL").await?;
    Ok("KEYS, CONFIG, FLUSHALL and a foreign key: NOPERM for app".to_owned())
}

async fn denied(connection: &mut MultiplexedConnection, what: &str, command: &Cmd) -> Result<(), Broken> {
    match command.query_async::<redis::Value>(connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) || error.code() == Some("NOPERM") => {
            Ok(())
        }
        Err(error) => Err(Broken::Unknown(format!("{what} as app: {error}, expected NOPERM"))),
        Ok(_) => Err(Broken::fail(format!("{what} as app was answered, expected NOPERM"))),
    }
}

/// A check must not be able to lose data, even where the rule that it checks is broken.
async fn dry_run(access: &Access<'_>, command: &str) -> Result<(), Broken> {
    let mut admin = open(access, User::Admin).await?;
    let answer: String = ask(&mut admin, cmd("ACL").arg("DRYRUN").arg(User::App.name()).arg(command)).await?;
    match answer.as_str() {
        "OK" => Err(Broken::fail(format!("{command} is allowed to app, expected NOPERM"))),
        _ => Ok(()),
    }
}

async fn persistence(access: &Access<'_>) -> Result<String, Broken> {
    let mut admin = open(access, User::Admin).await?;
    let info: String = ask(&mut admin, cmd("INFO").arg("persistence")).await?;
    let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
    for (name, expected) in [("aof_enabled", "1"), ("aof_last_write_status", "ok"), ("aof_last_bgrewrite_status", "ok")]
    {
        match fields.get(name) {
            Some(found) if *found == expected => {}
            Some(found) => return Err(Broken::fail(format!("{name}: {found}, expected {expected}"))),
            None => return Err(Broken::Unknown(format!("INFO persistence has no {name}"))),
        }
    }
    Ok("append-only file on, last write ok".to_owned())
}

async fn memory_limit(access: &Access<'_>, workload: &Workload) -> Result<String, Broken> {
    let expected = configured(workload, "maxmemory").ok_or_else(|| Broken::unknown("redis.conf has no maxmemory"))?;
    let mut admin = open(access, User::Admin).await?;
    let found: HashMap<String, String> = ask(&mut admin, cmd("CONFIG").arg("GET").arg("maxmemory")).await?;
    let found = found.get("maxmemory").map(String::as_str).unwrap_or_default();
    if bytes(found) == bytes(expected) {
        Ok(format!("maxmemory {found}"))
    } else {
        Err(Broken::fail(format!("maxmemory {found}, expected {expected}")))
    }
}

/// The last line of that name counts, as for Redis.
fn configured<'a>(workload: &'a Workload, name: &str) -> Option<&'a str> {
    let file = workload.files.iter().find(|file| file.path == CONFIGURATION)?;
    let lines = file.content.masked().lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    lines.filter(|(found, _)| *found == name).map(|(_, value)| value.trim()).next_back()
}

/// `64mb` as Redis reads it; `None` where it would refuse.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

async fn open(access: &Access<'_>, user: User) -> Result<MultiplexedConnection, Broken> {
    connect(access, &member(), Some(user)).await.map_err(|refusal| match refusal {
        Refusal::NotMade(reason) => Broken::Unknown(reason),
        Refusal::Redis(error) => Broken::fail(format!("connect as {}: {error}", user.name())),
    })
}

async fn ask<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<T, Broken> {
    command.query_async(connection).await.map_err(|error: RedisError| Broken::fail(error))
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::stack::Stack;

    use super::*;
    use crate::testing::manifest;

    #[test]
    fn sizes_are_read_as_redis_reads_them() {
        let read = ["100", "1k", "1kb", "2MB", "1g", "x", "1tb"].map(bytes);
        assert_eq!(read, [Some(100), Some(1_000), Some(1_024), Some(2 << 20), Some(1_000_000_000), None, None]);
    }

    #[test]
    fn the_manifests_own_line_is_what_is_expected() {
        let mut manifest = manifest();
        manifest.redis.settings.insert("maxmemory".to_owned(), "32mb".to_owned());
        let stack = Stack::new(manifest.name.clone(), super::super::Redis.declare(&manifest));
        assert_eq!(configured(stack.workload(&member()).unwrap(), "maxmemory"), Some("32mb"));
    }
}
