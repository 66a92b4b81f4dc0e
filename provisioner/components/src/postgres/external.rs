//! Somebody's own PostgreSQL: its operator runs, copies and fails it over; here it is used and looked at.

use std::time::{Duration, Instant};

use provisioner_core::component::{Access, Variable};
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::manifest::{ExternalPostgres, Manifest};
use provisioner_core::stack::{External, Text, url_host};
use provisioner_core::wait::{self, Look};

use super::NAME;
use super::encryption::Encryption;
use super::sql::{Session, SqlError, Target};
use crate::certificates::AUTHORITY_FILE;
use crate::checks::nonce;
use crate::external;

/// The oldest release that the shop's statements are written for.
const VERSION_MIN: u64 = 15;
const DATABASE: &str = "database";
const READ_HOST: &str = "read_host";
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const REPLAY_LIMIT: Duration = Duration::from_secs(8);
/// insufficient_privilege
const DENIED: &str = "42501";

pub(super) fn of(manifest: &Manifest) -> Option<External> {
    let ExternalPostgres { server, read_host, database } = manifest.postgres.external.as_ref()?;
    let external = External::new(NAME, server).with(DATABASE, database);
    Some(match read_host {
        Some(host) => external.with(READ_HOST, host),
        None => external,
    })
}

pub(super) fn variables(external: &External) -> Vec<Variable> {
    let (inside, outside) = match external.ca {
        Some(_) => (format!("?sslmode=verify-full&sslrootcert={AUTHORITY_FILE}"), "?sslmode=require"),
        None => ("?sslmode=disable".to_owned(), "?sslmode=disable"),
    };
    let database = database(external);
    let variable = |name, host: &str| Variable {
        name,
        prefix: external.prefix("postgres"),
        host: url_host(host),
        port: external.port,
        member: None,
        suffix: format!("/{database}{inside}"),
        suffix_outside: Some(format!("/{database}{outside}")),
    };
    let reader = external.with.get(READ_HOST).map(|host| variable("DATABASE_REPLICA_URL", host));
    std::iter::once(variable("DATABASE_URL", &external.host)).chain(reader).collect()
}

fn database(external: &External) -> &str {
    external.with.get(DATABASE).map(String::as_str).unwrap_or_default()
}

/// The one account shapes the schema and uses it.
pub(super) fn url(external: &External) -> Option<Text> {
    variables(external).first().map(Variable::inside)
}

/// As the app logs in, from here.
pub(crate) async fn session(access: &Access<'_>, external: &External) -> Result<Session, Broken> {
    open(access, external, &external.host).await
}

async fn open(access: &Access<'_>, external: &External, host: &str) -> Result<Session, Broken> {
    let address = external::address(host, external.port).await?;
    let encryption = match external::trust(access, external).await.map_err(Broken::Unknown)? {
        Some(trust) => Encryption::On(trust),
        None => Encryption::Off,
    };
    let password = external::password(access, external).await.map_err(Broken::Unknown)?;
    let role = external.user.as_deref().unwrap_or_default();
    let (password, database) = (password.as_deref(), database(external));
    let target = Target { address, name: host, encryption: &encryption, role, password, database };
    let opened = Session::open(&target, CONNECT_LIMIT).await;
    opened.map_err(|error| Broken::Fail(format!("log in to {host}:{} as {role}: {error}", external.port)))
}

pub(super) async fn verify(access: &Access<'_>, external: &External) -> Vec<Finding> {
    let login = ("login", login(access, external));
    let (version, tls) = (version(access, external), encrypted(access, external));
    let mut findings = external::first_checks(access, external, login, version, tls).await;
    findings.push(check(NAME, "round-trip", Level::L2, round_trip(access, external)).await);
    if let Some(host) = external.with.get(READ_HOST) {
        let inside = external::reached_from_inside(access, host, external.port);
        findings.push(check(NAME, "read-host-reached-from-inside", Level::L1, inside).await);
        findings.push(check(NAME, "read-host-follows", Level::L2, follows(access, external, host)).await);
    }
    findings
}

fn failed(error: &SqlError) -> Broken {
    match error.code() {
        Some(DENIED) => Broken::Unknown(format!("the account may not: {error}")),
        _ => Broken::Fail(error.to_string()),
    }
}

async fn login(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let session = session(access, external).await?;
    let query = "SELECT format('%s in database %s', current_user, current_database())";
    let told = session.text(query, &[]).await.map_err(|error| failed(&error))?;
    Ok(format!("external, {}: {told}", external.address()))
}

async fn version(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let session = session(access, external).await?;
    let found = session.text("SELECT current_setting('server_version')", &[]).await.map_err(|error| failed(&error))?;
    external::at_least("PostgreSQL", &found, VERSION_MIN)
}

/// The session itself believed the certificate; the server tells what it agreed on, where nothing stands between.
async fn encrypted(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let session = session(access, external).await?;
    let query = "SELECT coalesce((SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl), '')";
    let version = session.text(query, &[]).await.map_err(|error| failed(&error))?;
    let behind = if version.is_empty() { "ended before the server itself".to_owned() } else { version };
    Ok(format!("certificate for {} by the manifest's ca_file; {behind}", external.host))
}

/// A table of this session alone: whatever else is in the database is not touched. A standby makes none.
async fn round_trip(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let session = session(access, external).await?;
    let nonce = nonce();
    // One transaction: a pool in between may give each to another session.
    let made = "BEGIN; CREATE TEMPORARY TABLE provisioner_probe (nonce text NOT NULL) ON COMMIT DROP";
    session.execute(made).await.map_err(|error| failed(&error))?;
    let query = "INSERT INTO pg_temp.provisioner_probe VALUES ($1) RETURNING nonce";
    session.row(query, &[&nonce]).await.map_err(|error| failed(&error))?;
    let found =
        session.text("SELECT nonce FROM pg_temp.provisioner_probe", &[]).await.map_err(|error| failed(&error))?;
    session.execute("COMMIT").await.map_err(|error| failed(&error))?;
    if found != nonce {
        return Err(Broken::fail(format!("read {found:?} from a table of its own, expected {nonce:?}")));
    }
    Ok("a row of a temporary table was written and read: it takes writes".to_owned())
}

/// What the primary has written by now is replayed there.
async fn follows(access: &Access<'_>, external: &External, host: &str) -> Result<String, Broken> {
    let (primary, reader) = (session(access, external).await?, open(access, external, host).await?);
    if !reader.flag("SELECT pg_is_in_recovery()").await.map_err(|error| failed(&error))? {
        return Ok(format!("{host} answers, and takes writes itself: readers go to a primary"));
    }
    let position = primary.text("SELECT pg_current_wal_lsn()::text", &[]).await.map_err(|error| failed(&error))?;
    let begin = Instant::now();
    let query = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)";
    let waited = wait::until(REPLAY_LIMIT, Duration::from_millis(50), || async {
        match reader.row(query, &[&position]).await.and_then(|row| Ok(row.try_get::<_, bool>(0)?)) {
            Ok(true) => Look::Done(()),
            Ok(false) => Look::Pending(format!("it has not replayed {position}")),
            Err(error) => Look::Broken(error),
        }
    });
    waited.await.map_err(|error| Broken::Fail(format!("{host}: {error}")))?;
    Ok(format!("{host} had replayed {position} of the primary after {} ms", begin.elapsed().as_millis()))
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::stack::Stack;

    use super::super::{Postgres, owner_url};
    use crate::route::Route;
    use crate::testing::external_manifest;

    #[test]
    fn programs_are_led_there_and_the_stack_has_no_member_and_no_route() {
        let manifest = external_manifest();
        let components: [&dyn Component; 2] = [&Postgres, &Route::default()];
        let stack = Stack::of(&manifest, components);
        assert_eq!(stack.workloads().count(), 0);
        let shown: Vec<String> = stack.resources().map(|resource| resource.id().to_string()).collect();
        assert_eq!(shown, ["secret postgres-ca", "secret postgres-password"]);
        let variables = Postgres.variables(&stack);
        let told: Vec<String> = variables.iter().map(|it| format!("{}={}", it.name, it.inside().masked())).collect();
        let login = "postgres://shop:@{secret:postgres-password.url}@";
        let tls = "?sslmode=verify-full&sslrootcert=/run/provisioner/ca.crt";
        assert_eq!(
            told,
            [
                format!("DATABASE_URL={login}db.example.com:5432/shop{tls}"),
                format!("DATABASE_REPLICA_URL={login}db-ro.example.com:5432/shop{tls}"),
            ]
        );
        assert_eq!(format!("DATABASE_URL={}", owner_url(&stack).masked()), told[0]);
        let outside = variables[0].outside(None);
        assert_eq!(outside.masked(), format!("{login}db.example.com:5432/shop?sslmode=require"));
    }
}
