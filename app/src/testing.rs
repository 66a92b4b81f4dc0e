//! What live tests of the insides share: a database of their own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, sync::Arc};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Notify,
};
use url::Url;
use uuid::Uuid;

use crate::store::schema;

#[allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]
pub(crate) fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name} to run the live tests, see the README of app"))
}

/// Host and port of a server that a setting names.
pub(crate) fn place(name: &str, port: u16) -> String {
    let url: Url = setting(name).parse().unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(port))
}

/// Leads to a server; told to, it keeps the connections that there are and passes nothing on any more.
pub(crate) async fn way(server: String) -> (SocketAddr, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, cut) = (listener.local_addr().unwrap(), Arc::new(Notify::new()));
    let told = Arc::clone(&cut);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (mut far, told) = (TcpStream::connect(&server).await.unwrap(), Arc::clone(&told));
            tokio::spawn(async move {
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => {}
                    () = told.notified() => std::future::pending().await,
                }
            });
        }
    });
    (address, cut)
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
