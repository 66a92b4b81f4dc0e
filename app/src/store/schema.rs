//! Migrations: applied by `app migrate` alone; `app serve` only looks.

use std::time::{Duration, Instant};

use anyhow::Context;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};

use super::{StoreError, answered};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// DDL that waits for a lock makes everyone behind it wait too, so each try is short and there are several.
const LOCK_TIMEOUT: &str = "3s";
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
const LOCK_NOT_AVAILABLE: &str = "55P03";
const UNDEFINED_TABLE: &str = "42P01";

#[derive(Debug, thiserror::Error)]
pub(crate) enum SchemaError {
    #[error("found schema version {found}, expected {expected} or newer: run `app migrate` first")]
    TooOld { found: i64, expected: i64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(crate) fn version() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// A newer schema is fine: releases roll one by one and migrations only ever expand first.
pub(crate) async fn check(pool: &PgPool) -> Result<(), SchemaError> {
    let found = match answered(applied(pool)).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNDEFINED_TABLE) => 0,
        other => other.map_err(StoreError::from)?,
    };
    let expected = version();
    if found < expected { Err(SchemaError::TooOld { found, expected }) } else { Ok(()) }
}

async fn applied(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success").fetch_one(pool).await
}

pub(crate) async fn migrate(options: &PgConnectOptions) -> anyhow::Result<()> {
    let started = Instant::now();
    let options = options.clone().options([("lock_timeout", LOCK_TIMEOUT)]);
    let mut migrator = Migrator { migrations: MIGRATIONS.migrations.clone(), ..Migrator::DEFAULT };
    // Rolling back the application must not need rolling back the schema.
    migrator.set_ignore_missing(true);
    loop {
        let mut connection =
            PgConnection::connect_with(&options).await.context("connect to the primary to migrate it")?;
        let migrated = async {
            migrator.run(&mut connection).await?;
            finish_indexes(&mut connection).await.map_err(MigrateError::Execute)
        };
        match migrated.await {
            Ok(()) => break,
            Err(error) if waited_for_a_lock(&error) && started.elapsed() < GIVE_UP_AFTER => {
                tracing::warn!("try again: another session holds a lock that the migration needs");
            }
            Err(error) => return Err(error).context("apply the migrations"),
        }
    }
    tracing::info!(version = version(), took_ms = started.elapsed().as_secs_f64() * 1e3, "schema is up to date");
    Ok(())
}

/// CREATE INDEX CONCURRENTLY that was cut short leaves an index that is never used, and IF NOT EXISTS takes it for done.
async fn finish_indexes(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let invalid: Vec<(String, bool)> = sqlx::query_as(
        "SELECT indexrelid::regclass::text, relname LIKE '%\\_ccnew%' FROM pg_index JOIN pg_class ON oid = indexrelid \
         WHERE NOT indisvalid AND relnamespace = current_schema()::regnamespace AND relkind = 'i'",
    )
    .fetch_all(&mut *connection)
    .await?;
    for (index, is_of_a_rebuild) in invalid {
        tracing::warn!(index, "finish an index that was left half built");
        let finish = if is_of_a_rebuild { "DROP INDEX CONCURRENTLY IF EXISTS" } else { "REINDEX INDEX CONCURRENTLY" };
        sqlx::raw_sql(AssertSqlSafe(format!("{finish} {index}"))).execute(&mut *connection).await?;
    }
    Ok(())
}

fn waited_for_a_lock(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return false };
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some(LOCK_NOT_AVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was applied before this was a rule.
    const BEFORE_THE_RULE: i64 = 5;

    /// While an index is made otherwise, nobody writes to the table. `CONCURRENTLY` cannot be part of a transaction, and
    /// several statements sent at once are one.
    #[test]
    fn an_index_of_a_table_that_is_there_is_made_concurrently_and_alone() {
        let mut seen = 0;
        for migration in MIGRATIONS.iter().filter(|migration| migration.version > BEFORE_THE_RULE) {
            let faults = faults(migration.sql.as_str(), migration.no_tx);
            assert!(faults.is_empty(), "{} {}: {faults:?}", migration.version, migration.description);
            seen += usize::from(migration.no_tx);
        }
        assert!(seen >= 5, "{seen}");
        assert_eq!(faults("CREATE INDEX a ON orders (id);", false).len(), 1);
        assert_eq!(faults("CREATE UNIQUE INDEX a ON orders (id);", false).len(), 1);
        assert_eq!(faults("DROP INDEX a", false).len(), 1);
        assert_eq!(faults("CREATE INDEX CONCURRENTLY a ON orders (id)", false).len(), 1, "in a transaction");
        assert_eq!(faults("CREATE INDEX CONCURRENTLY a ON orders (id); SELECT 1", true).len(), 1, "not alone");
        assert!(faults("CREATE TABLE t (id int); CREATE INDEX a ON t (id)", false).is_empty());
        assert!(
            faults("-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a ON orders (id);\n", true).is_empty()
        );
    }

    fn faults(sql: &str, no_tx: bool) -> Vec<String> {
        let lines = sql.lines().filter(|line| !line.trim_start().starts_with("--")).collect::<Vec<_>>().join(" ");
        let statements: Vec<Vec<String>> = lines
            .split(';')
            .map(|statement| statement.split_whitespace().map(str::to_ascii_lowercase).collect())
            .filter(|words: &Vec<String>| !words.is_empty())
            .collect();
        let made: Vec<&str> = statements
            .iter()
            .filter(|words| words.starts_with(&["create".to_owned(), "table".to_owned()]))
            .filter_map(|words| words.get(2).map(String::as_str))
            .collect();
        let is_wrong = |words: &&Vec<String>| {
            let verb = words.iter().take(3).map(String::as_str).collect::<Vec<_>>();
            let is_of_index =
                matches!(verb[..], ["create", "index", ..] | ["create", "unique", "index"] | ["drop", "index", ..]);
            let table = words.iter().position(|word| word == "on").and_then(|at| words.get(at + 1));
            let is_new = table.is_some_and(|table| made.contains(&table.as_str()));
            let is_alone = words.iter().any(|word| word == "concurrently") && no_tx && statements.len() == 1;
            is_of_index && !is_new && !is_alone
        };
        statements.iter().filter(is_wrong).map(|words| words.join(" ")).collect()
    }
}

#[cfg(all(test, feature = "live-tests"))]
mod live {
    use super::*;
    use crate::{store::pools, testing::Database};

    /// What a CREATE INDEX CONCURRENTLY leaves that was cut short: an index that nobody uses. Uniqueness cuts it short here.
    #[tokio::test]
    async fn an_index_that_was_left_half_built_is_finished_by_the_next_migration() {
        let database = Database::create().await;
        let pool = pools::write_pool(database.options.clone(), 1);
        sqlx::raw_sql("CREATE TABLE many AS SELECT 1 AS same FROM generate_series(1, 2)").execute(&pool).await.unwrap();
        let cut_short = sqlx::raw_sql("CREATE UNIQUE INDEX CONCURRENTLY one ON many (same)").execute(&pool).await;
        assert!(cut_short.is_err(), "{cut_short:?}");
        let valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'one'::regclass";
        assert!(!sqlx::query_scalar::<_, bool>(valid).fetch_one(&pool).await.unwrap());
        sqlx::raw_sql("DELETE FROM many WHERE ctid = '(0,1)'").execute(&pool).await.unwrap();
        migrate(&database.options).await.unwrap();
        assert!(sqlx::query_scalar::<_, bool>(valid).fetch_one(&pool).await.unwrap());
    }
}
