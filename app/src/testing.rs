//! What live tests of the insides share: a database of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::store::schema;

#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name} to run the live tests, see the README of app"))
}

/// A database with the schema and nothing in it; it goes with the test.
pub(crate) struct Database {
    pub(crate) options: PgConnectOptions,
    name: String,
}

impl Database {
    pub(crate) async fn create() -> Self {
        let server: PgConnectOptions = setting("APP_TEST_DATABASE_URL").parse().unwrap();
        let name = format!("app_live_{}", Uuid::new_v4().simple());
        admin(&format!("CREATE DATABASE {name}")).await;
        let options = server.database(&name);
        schema::migrate(&options).await.unwrap();
        Self { options, name }
    }
}

impl Drop for Database {
    /// Drop is not async and may run while a test panics.
    fn drop(&mut self) {
        let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(admin(&drop));
        });
        assert!(thread.join().is_ok() || std::thread::panicking(), "the test left its database behind");
    }
}

async fn admin(sql: &str) {
    let mut connection = PgConnection::connect(&setting("APP_TEST_DATABASE_URL")).await.unwrap();
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}
