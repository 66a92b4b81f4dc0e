//! One session with a server, and what its answers are worth.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::Severity;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::journal::Outcome;
use crate::settings::{Place, Settings};

/// From the first packet until the first row could be sent. One that takes longer is given up, as clients do.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// How sessions are made.
pub(super) struct Connector {
    route: Place,
    config: Config,
    tls: Option<MakeRustlsConnect>,
    run: i64,
}

/// Which table a session writes.
#[derive(Clone, Copy)]
pub(super) enum Table {
    Entries,
    Members,
}

impl Table {
    fn insert(self) -> &'static str {
        match self {
            Self::Entries => "INSERT INTO ledger.entries (run, writer, number) VALUES ($1, $2, $3)",
            Self::Members => "INSERT INTO ledger.members (run, member, number) VALUES ($1, $2, $3)",
        }
    }
}

impl Connector {
    pub(super) fn new(settings: &Settings, run: u64) -> anyhow::Result<Self> {
        let mut config = Config::new();
        config.user(&settings.user).password(&settings.password).dbname(&settings.database);
        config.application_name("ledger");
        let tls = match &settings.authority {
            None => None,
            Some(path) => {
                let doing = || format!("trust {}", path.display());
                let mut roots = RootCertStore::empty();
                let certificate = CertificateDer::from_pem_file(path).map_err(|error| anyhow::anyhow!("{error}"));
                roots.add(certificate.with_context(doing)?).with_context(doing)?;
                let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
                let builder = builder.with_safe_default_protocol_versions().with_context(doing)?;
                Some(MakeRustlsConnect::new(builder.with_root_certificates(roots).with_no_client_auth()))
            }
        };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        Ok(Self { route: settings.route.clone(), config, tls, run: i64::try_from(run).context("read the wall clock")? })
    }

    pub(super) fn route(&self) -> &Place {
        &self.route
    }

    /// Until the statement is prepared, no row was sent.
    pub(super) async fn open(&self, place: &Place, table: Table) -> Result<Session, Unreachable> {
        let mut config = self.config.clone();
        config.host(&place.host).port(place.port);
        let opened = async {
            let warned = Arc::new(AtomicBool::new(false));
            let (client, driver) = match &self.tls {
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    (client, drive(connection, &warned))
                }
                Some(tls) => {
                    let (client, connection) = config.connect(tls.clone()).await?;
                    (client, drive(connection, &warned))
                }
            };
            let driver = Driver(driver);
            let insert = client.prepare(table.insert()).await?;
            Ok::<_, tokio_postgres::Error>(Session { client, insert, run: self.run, warned, _driver: driver })
        };
        match tokio::time::timeout(CONNECT_LIMIT, opened).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(_)) | Err(_) => Err(Unreachable),
        }
    }
}

/// No session; why makes no difference to a client.
#[derive(Debug)]
pub(super) struct Unreachable;

/// Lets go of the socket at once: nothing more is sent, least of all a request to cancel.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct Session {
    client: Client,
    insert: Statement,
    run: i64,
    /// The server has said something that nobody asked for. It comes before the answer that it belongs to, and the
    /// driver hands on in the order of arrival.
    warned: Arc<AtomicBool>,
    _driver: Driver,
}

impl Session {
    /// One row, committed by itself.
    pub(super) async fn insert(&self, who: u16, number: u64) -> Outcome {
        let (who, number) = (i32::from(who), i64::try_from(number).unwrap_or(i64::MAX));
        self.warned.store(false, Ordering::SeqCst);
        let values: [&(dyn ToSql + Sync); 3] = [&self.run, &who, &number];
        let answer = self.client.execute(&self.insert, &values).await;
        let warned = self.warned.load(Ordering::SeqCst);
        judge(answer.map_err(|error| error.as_db_error().and_then(|error| error.parsed_severity())), warned)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

/// What an answer is worth. A commit whose wait for the standby was cancelled is a success with a warning: it may be
/// lost. An ERROR is the server's word that the row was rolled back; a FATAL one, or a session that breaks, may follow a
/// commit whose answer was never sent.
fn judge(answer: Result<u64, Option<Severity>>, warned: bool) -> Outcome {
    match answer {
        Ok(1) if !warned => Outcome::Acked,
        Err(Some(Severity::Error)) if !warned => Outcome::Refused,
        Ok(_) | Err(_) => Outcome::Unknown,
    }
}

fn drive<S, T>(mut connection: Connection<S, T>, warned: &Arc<AtomicBool>) -> JoinHandle<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let warned = Arc::clone(warned);
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(_) = message {
                warned.store(true, Ordering::SeqCst);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_success_without_a_warning_is_an_acknowledgement() {
        assert_eq!(judge(Ok(1), false), Outcome::Acked);
        assert_eq!(judge(Ok(1), true), Outcome::Unknown);
    }

    #[test]
    fn only_an_error_of_the_statement_itself_is_a_refusal() {
        assert_eq!(judge(Err(Some(Severity::Error)), false), Outcome::Refused);
        assert_eq!(judge(Err(Some(Severity::Error)), true), Outcome::Unknown);
        assert_eq!(judge(Err(Some(Severity::Fatal)), false), Outcome::Unknown);
        assert_eq!(judge(Err(None), false), Outcome::Unknown);
    }
}
