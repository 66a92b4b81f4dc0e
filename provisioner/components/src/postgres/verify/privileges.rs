//! Roles can do no more than they must.

use provisioner_core::finding::Broken;

use super::{Scene, unknown};
use crate::postgres::login::{DATABASE, HOME, Login};

/// insufficient_privilege
const DENIED: &str = "42501";

pub(super) async fn app_cannot_change_schema(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    let session = scene.open(primary, Login::App, DATABASE).await?;
    let create = "BEGIN; CREATE TABLE public.provisioner_probe (id int); ROLLBACK";
    let created = session.execute(create).await;
    // A refusal leaves the transaction open.
    session.execute("ROLLBACK").await.map_err(|error| unknown(primary, error))?;
    match created {
        Err(error) if error.code() == Some(DENIED) => {}
        Err(error) => return Err(unknown(primary, error)),
        Ok(()) => return Err(Broken::Fail("app may CREATE TABLE in schema public".to_owned())),
    }
    // By the catalogue: a DROP that were allowed would lock a live table before it is rolled back.
    let query = "SELECT count(*), \
                 (SELECT count(*) FROM pg_class WHERE pg_has_role(relowner, 'USAGE')), \
                 (SELECT count(*) FROM pg_namespace WHERE has_schema_privilege(oid, 'CREATE') AND nspname !~ '^pg_') \
                 FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace";
    let row = session.row(query, &[]).await.map_err(|error| unknown(primary, error))?;
    let read = || Ok::<(i64, i64, i64), tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let (tables, owned, schemas) = read().map_err(|error| unknown(primary, error))?;
    if owned > 0 || schemas > 0 {
        return Err(Broken::Fail(format!(
            "app may drop {owned} relations and create in {schemas} schemas, expected 0"
        )));
    }
    Ok(format!("CREATE TABLE as app: {DENIED}; it may drop none of {tables} tables"))
}

pub(super) async fn monitor_cannot_read_rows(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    let session = scene.open(primary, Login::Monitor, HOME).await?;
    match session.rows("SELECT nonce FROM provisioner.marker", &[]).await {
        Err(error) if error.code() == Some(DENIED) => {}
        Err(error) => return Err(unknown(primary, error)),
        Ok(_) => return Err(Broken::Fail("monitor may read provisioner.marker".to_owned())),
    }
    let session = scene.open(primary, Login::Monitor, DATABASE).await?;
    let query = "SELECT count(*), count(*) FILTER (WHERE has_table_privilege(c.oid, 'SELECT')) \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'p', 'm', 'v') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";
    let row = session.row(query, &[]).await.map_err(|error| unknown(primary, error))?;
    let read = || Ok::<(i64, i64), tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?));
    let (tables, readable) = read().map_err(|error| unknown(primary, error))?;
    if readable > 0 {
        return Err(Broken::Fail(format!("monitor may read {readable} of {tables} tables of {DATABASE}, expected 0")));
    }
    Ok(format!("SELECT as monitor: {DENIED}; it may read none of {tables} tables of {DATABASE}"))
}

pub(super) async fn ledger_keeps_to_its_schema(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    let session = scene.open(primary, Login::Ledger, HOME).await?;
    match session.rows("SELECT nonce FROM provisioner.marker", &[]).await {
        Err(error) if error.code() == Some(DENIED) => {}
        Err(error) => return Err(unknown(primary, error)),
        Ok(_) => return Err(Broken::Fail("ledger may read provisioner.marker".to_owned())),
    }
    let query = "SELECT (SELECT count(*) FROM pg_class WHERE pg_has_role(relowner, 'USAGE') \
                 AND relnamespace <> 'ledger'::regnamespace AND relnamespace <> 'pg_toast'::regnamespace), \
                 (SELECT count(*) FROM pg_namespace \
                 WHERE nspname <> 'ledger' AND has_schema_privilege(oid, 'CREATE')), \
                 (SELECT count(*) FROM pg_database \
                 WHERE datallowconn AND datname <> current_database() AND has_database_privilege(oid, 'CONNECT'))";
    let row = session.row(query, &[]).await.map_err(|error| unknown(primary, error))?;
    let read = || Ok::<(i64, i64, i64), tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    let (owned, schemas, databases) = read().map_err(|error| unknown(primary, error))?;
    if owned > 0 || schemas > 0 || databases > 0 {
        return Err(Broken::Fail(format!(
            "ledger owns {owned} relations and may create in {schemas} schemas beside its own and enter {databases} \
             other databases, expected 0"
        )));
    }
    Ok(format!("SELECT outside its schema as ledger: {DENIED}; it owns and enters nothing else"))
}
