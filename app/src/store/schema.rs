//! Migrations: applied by `app migrate` alone; `app serve` only looks.

use std::time::{Duration, Instant};

use anyhow::Context;
use sqlx::{
    AssertSqlSafe, Connection, PgConnection, PgPool,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};

use super::StoreError;

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
    let found = match applied(pool).await {
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
