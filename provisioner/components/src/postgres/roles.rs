//! Roles, databases and privileges: `roles.sql`, `ledger.sql` and `database.sql` of `recipes/postgres`, plus
//! passwords.

use postgres_protocol::password::scram_sha_256;
use provisioner_core::component::Access;
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;
use provisioner_core::record::{self, RecordSet};
use provisioner_core::stack::Fingerprint;
use serde::{Deserialize, Serialize};

use super::login::{DATABASE, HOME, Login};
use super::run::CONNECT_LIMIT;
use super::sql::{Session, SqlError, literal};

const RECORD: &str = "postgres.roles";
const ROLES: &str = include_str!("../../recipes/postgres/roles.sql");
const LEDGER: &str = include_str!("../../recipes/postgres/ledger.sql");
const PRIVILEGES: &str = include_str!("../../recipes/postgres/database.sql");

#[derive(Serialize, Deserialize)]
struct Made {
    fingerprint: String,
}

/// Of what the roles should be, whoever is primary.
pub(super) fn fingerprint() -> String {
    Fingerprint::of(&(ROLES, LEDGER, PRIVILEGES)).as_str().to_owned()
}

/// Of what they were made to be; an unreadable record is as good as none, for making them again does no harm.
pub(super) fn recorded(records: &RecordSet) -> Option<String> {
    let made: Option<Made> = records.read(RECORD).ok()?;
    made.map(|made| made.fingerprint)
}

pub(super) async fn run(access: &Access<'_>, primary: &Member, fingerprint: &str) -> Result<(), Failure> {
    let failed = |error: SqlError| Failure::because(format!("make roles on {primary}"), error);
    let session = local_session(access, primary, HOME).await?;
    session.execute(ROLES).await.map_err(failed)?;
    session.execute(LEDGER).await.map_err(failed)?;
    for login in Login::ALL.into_iter().filter(|login| *login != Login::Superuser) {
        session.execute(&password(login, &access.secret(login.secret()).await?)).await.map_err(failed)?;
    }
    let query = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    let is_there: bool = session.row(query, &[&DATABASE]).await.and_then(|row| Ok(row.try_get(0)?)).map_err(failed)?;
    if !is_there {
        let create = format!("CREATE DATABASE {DATABASE} OWNER {}", Login::Owner.role());
        session.execute(&create).await.map_err(failed)?;
    }
    let session = local_session(access, primary, DATABASE).await?;
    session.execute(PRIVILEGES).await.map_err(failed)?;
    let write = record::update(access.engine.records(), RECORD, |_: Option<serde_json::Value>| {
        serde_json::to_value(Made { fingerprint: fingerprint.to_owned() }).ok()
    });
    Ok(write.await?)
}

/// Under `required` no replica may be there yet that a commit of ours could wait for.
async fn local_session(access: &Access<'_>, primary: &Member, database: &str) -> Result<Session, Failure> {
    let session = Session::on(access, primary, Login::Superuser, database, CONNECT_LIMIT).await?;
    let set = session.execute("SET synchronous_commit = local").await;
    set.map_err(|error| Failure::because(format!("prepare a session on {primary}"), error))?;
    Ok(session)
}

/// The verifier is computed here, so that no server log or statistic ever holds the password itself.
fn password(login: Login, password: &str) -> String {
    format!("ALTER ROLE {} PASSWORD {}", login.role(), literal(&scram_sha_256(password.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_never_holds_the_password() {
        let statement = password(Login::App, "hunter2");
        assert!(statement.starts_with("ALTER ROLE app PASSWORD 'SCRAM-SHA-256$4096:"), "{statement}");
        assert!(!statement.contains("hunter2"));
    }

    #[test]
    fn every_role_of_the_program_is_made() {
        for login in Login::ALL.into_iter().filter(|login| *login != Login::Superuser) {
            assert!(ROLES.contains(&format!("'{}'", login.role())), "{}", login.role());
        }
    }
}
