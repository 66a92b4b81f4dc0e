//! Short sessions on single members, each bounded in time.

use std::net::SocketAddr;
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::failure::{Failure, chain};
use provisioner_core::name::Member;
use tokio_postgres::config::SslMode;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::encryption::Encryption;
use super::login::Login;

/// A statement of this program takes milliseconds; one that takes longer waits for something.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum SqlError {
    /// The server answered with an error of its own.
    #[error("{message} ({code})")]
    Server { code: String, message: String },
    #[error("{0}")]
    Connection(String),
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

impl SqlError {
    /// The SQLSTATE, where the server gave one.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } => Some(code),
            Self::Connection(_) | Self::TimedOut(_) => None,
        }
    }
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(server) = error.as_db_error() {
            return Self::Server { code: server.code().code().to_owned(), message: server.message().to_owned() };
        }
        Self::Connection(chain(&error))
    }
}

/// The timeline that a primary writes. Its control file still shows the former one until the first checkpoint after a
/// promotion.
pub(crate) const WRITING_TIMELINE: &str = "('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int";

/// Where and as whom to connect.
pub(crate) struct Target<'a> {
    pub(crate) address: SocketAddr,
    /// Whom the certificate must name.
    pub(crate) name: &'a str,
    pub(crate) encryption: &'a Encryption,
    pub(crate) role: &'a str,
    pub(crate) password: Option<&'a str>,
    pub(crate) database: &'a str,
}

pub(crate) struct Session {
    client: Client,
}

impl Session {
    pub(crate) async fn open(target: &Target<'_>, limit: Duration) -> Result<Self, SqlError> {
        let mut config = Config::new();
        config
            .host(target.name)
            .hostaddr(target.address.ip())
            .port(target.address.port())
            .user(target.role)
            .dbname(target.database)
            .application_name("provisioner")
            .connect_timeout(limit);
        if let Some(password) = target.password {
            config.password(password);
        }
        let connected = tokio::time::timeout(limit, connect(config, target.encryption)).await;
        Ok(Self { client: connected.map_err(|_| SqlError::TimedOut(limit))?? })
    }

    /// On one member, past any route.
    pub(crate) async fn on(
        access: &Access<'_>,
        member: &Member,
        login: Login,
        database: &str,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let doing = || format!("connect to {member} as {}", login.role());
        let password = access.secret(login.secret()).await?;
        let address = access.engine.address(member, super::PORT).await?;
        let encryption =
            Encryption::of(access).await.map_err(|reason| Failure::new(format!("{}: {reason}", doing())))?;
        let (name, role) = (member.as_str(), login.role());
        let target = Target { address, name, encryption: &encryption, role, password: Some(&password), database };
        Self::open(&target, limit).await.map_err(|error| Failure::because(doing(), error))
    }

    /// Statements one after the other, results dropped.
    pub(crate) async fn execute(&self, statements: &str) -> Result<(), SqlError> {
        bounded(self.client.batch_execute(statements)).await
    }

    /// What takes its time.
    pub(crate) async fn execute_within(&self, statements: &str, limit: Duration) -> Result<(), SqlError> {
        within(limit, self.client.batch_execute(statements)).await
    }

    pub(crate) async fn row(&self, query: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Row, SqlError> {
        bounded(self.client.query_one(query, values)).await
    }

    pub(crate) async fn rows(&self, query: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, SqlError> {
        bounded(self.client.query(query, values)).await
    }

    /// The first column of the one row, as text; NULL is empty.
    pub(crate) async fn text(&self, query: &str, values: &[&(dyn ToSql + Sync)]) -> Result<String, SqlError> {
        let row = self.row(query, values).await?;
        Ok(row.try_get::<_, Option<String>>(0)?.unwrap_or_default())
    }

    /// For a query whose time is measured: it is parsed beforehand.
    pub(crate) async fn prepare(&self, query: &str) -> Result<Statement, SqlError> {
        bounded(self.client.prepare(query)).await
    }

    pub(crate) async fn text_of(&self, statement: &Statement) -> Result<String, SqlError> {
        let row = bounded(self.client.query_one(statement, &[])).await?;
        Ok(row.try_get::<_, Option<String>>(0)?.unwrap_or_default())
    }

    pub(crate) async fn flag(&self, query: &str) -> Result<bool, SqlError> {
        Ok(self.row(query, &[]).await?.try_get(0)?)
    }
}

/// A connection ends by itself once its client is dropped.
async fn connect(mut config: Config, encryption: &Encryption) -> Result<Client, SqlError> {
    let Some((mode, trust)) = encryption.mode() else {
        let (client, connection) = config.ssl_mode(SslMode::Disable).connect(NoTls).await?;
        tokio::spawn(connection);
        return Ok(client);
    };
    let tls = MakeRustlsConnect::new(trust.client().map_err(SqlError::Connection)?);
    let (client, connection) = config.ssl_mode(mode).connect(tls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn bounded<T>(statement: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, SqlError> {
    within(STATEMENT_LIMIT, statement).await
}

async fn within<T>(
    limit: Duration,
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, SqlError> {
    Ok(tokio::time::timeout(limit, statement).await.map_err(|_| SqlError::TimedOut(limit))??)
}

/// Text between single quotes, for statements that take no parameters.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
