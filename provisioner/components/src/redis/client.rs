//! Connections to Redis as its users have them, each attempt bounded.

use std::net::SocketAddr;
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::name::Member;
use provisioner_core::stack::External;
use redis::aio::MultiplexedConnection;
use redis::io::AsyncDNSResolver;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisFuture, TlsCertificates};

use super::{PORT, User, encryption, external};
use crate::certificates;

/// A healthy server took more than a second to let a check in while three stacks started on two cores.
const LIMIT: Duration = Duration::from_secs(5);
/// A look at whether it is ready comes again soon.
const READY_LIMIT: Duration = Duration::from_secs(1);

/// As `user`, or as a stranger without a password.
pub(super) async fn connect(
    access: &Access<'_>,
    member: &Member,
    user: Option<User>,
) -> Result<MultiplexedConnection, Refusal> {
    let address = access.engine.address(member, PORT).await.map_err(|error| Refusal::NotMade(error.to_string()))?;
    let login = match user {
        Some(user) => {
            let secret = access.secret(user.secret()).await.map_err(|failure| Refusal::NotMade(failure.chain()))?;
            // Passwords are letters and digits, so they need no quoting.
            format!("{}:{secret}@", user.name())
        }
        None => String::new(),
    };
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(LIMIT)).set_response_timeout(Some(LIMIT));
    // The URL holds the password: whatever fails below must not repeat it, and redis's errors do not.
    if !encryption::is_declared(access.stack) {
        let client = Client::open(format!("redis://{login}{address}/0"))?;
        return Ok(client.get_multiplexed_async_connection_with_config(&config).await?);
    }
    let authority = certificates::authority_certificate(access).await.map_err(Refusal::NotMade)?;
    // Another crate of the program may have chosen a provider already; any one will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trust = TlsCertificates { client_tls: None, root_cert: Some(authority.into_bytes()) };
    let client = Client::build_with_tls(format!("rediss://{login}{member}:{PORT}/0"), trust)?;
    let config = config.set_dns_resolver(Published(address));
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

/// To somebody's own server, as the app logs in.
pub(super) async fn external(access: &Access<'_>, external: &External) -> Result<MultiplexedConnection, Refusal> {
    let url = external::variable(external).inside();
    let names = url.secrets().into_iter().map(str::to_owned).collect();
    let values = access.engine.secrets(&names).await.map_err(|error| Refusal::NotMade(error.to_string()))?;
    let url = url.resolve(&values).map_err(|error| Refusal::NotMade(error.to_string()))?;
    let address = crate::external::reached(&external.host, external.port).await;
    let not_made = |error| Refusal::NotMade(format!("reach {} from here: {error}", external.address()));
    let address = address.map_err(not_made)?;
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(LIMIT)).set_response_timeout(Some(LIMIT));
    let config = config.set_dns_resolver(Published(address));
    let client = match &external.ca {
        None => Client::open(url)?,
        Some(secret) => {
            let authority = certificates::pem(access, secret).await.map_err(Refusal::NotMade)?;
            // Another crate of the program may have chosen a provider already; any one will do.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let trust = TlsCertificates { client_tls: None, root_cert: Some(authority.into_bytes()) };
            Client::build_with_tls(url, trust)?
        }
    };
    Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
}

/// Leads to the member from here, so that its certificate is held against its name.
struct Published(SocketAddr);

impl AsyncDNSResolver for Published {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _host: &'b str,
        _port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        let found: Box<dyn Iterator<Item = SocketAddr> + Send> = Box::new(std::iter::once(self.0));
        Box::pin(async { Ok(found) })
    }
}

pub(super) async fn ready(access: &Access<'_>, member: &Member) -> Result<(), String> {
    let looked = tokio::time::timeout(READY_LIMIT, pings(access, member)).await;
    looked.unwrap_or_else(|_| Err(format!("no answer within {} s", READY_LIMIT.as_secs())))
}

async fn pings(access: &Access<'_>, member: &Member) -> Result<(), String> {
    let mut connection = connect(access, member, Some(User::App)).await.map_err(|refusal| refusal.to_string())?;
    let answer: Result<String, RedisError> = redis::cmd("PING").query_async(&mut connection).await;
    match answer {
        Ok(_) => Ok(()),
        // LOADING: it reads its append-only file.
        Err(error) => Err(format!("PING: {error}")),
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Nothing was asked of Redis.
    #[error("{0}")]
    NotMade(String),
    #[error("connect to Redis: {0}")]
    Redis(#[from] RedisError),
}
