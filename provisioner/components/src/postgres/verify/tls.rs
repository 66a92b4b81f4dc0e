//! Nothing crosses the network in clear.

use std::time::Duration;

use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::name::Member;
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

use super::{CONNECT_LIMIT, Scene, listed, unknown};
use crate::certificates::{self, Trust};
use crate::postgres::encryption::{self, Encryption};
use crate::postgres::login::{DATABASE, HOME, Login};
use crate::postgres::sql::{Session, Target};
use crate::postgres::{NAME, PORT};
use crate::tls::{self, Handshake};

const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// By this protocol PostgreSQL 17 knows clients that begin with the handshake (PostgreSQL 17 docs, 53.2.11).
const ALPN: &[u8] = b"postgresql";
/// invalid_authorization_specification: no line of pg_hba.conf lets a session in that is not encrypted.
const NO_ENTRY: &str = "28000";

pub(super) async fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    if !encryption::is_declared(scene.access.stack) {
        return Vec::new();
    }
    let mut findings = vec![
        check(NAME, "tls", Level::L1, serves(scene)).await,
        check(NAME, "plaintext-refused", Level::L1, plaintext_refused(scene)).await,
    ];
    if scene.replicas().next().is_some() {
        findings.push(check(NAME, "replication-encrypted", Level::L3, replication_encrypted(scene)).await);
    }
    findings
}

async fn serves(scene: &Scene<'_>) -> Result<String, Broken> {
    let trust = &Trust::authority(scene.access).await.map_err(Broken::Unknown)?;
    let each = scene.each(scene.members.iter(), async |member: Member| {
        handshake(scene, &member, trust, &TLS12).await?;
        certificates::lasts(scene.access, &handshake(scene, &member, trust, &TLS13).await?)
    });
    Ok(format!("TLS 1.2 and 1.3 by its own name on {}", listed(&each.await?)))
}

async fn handshake(
    scene: &Scene<'_>,
    member: &Member,
    trust: &Trust,
    version: &'static SupportedProtocolVersion,
) -> Result<Handshake, Broken> {
    let address = scene.access.engine.address(member, PORT).await.map_err(Broken::unknown)?;
    let mut config = tls::client(trust, &[version]).map_err(Broken::unknown)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let handshake = tls::handshake(address, member.as_str(), config, HANDSHAKE_LIMIT).await;
    handshake.map_err(|error| Broken::Fail(format!("{:?} with {member}: {error}", version.version)))
}

async fn plaintext_refused(scene: &Scene<'_>) -> Result<String, Broken> {
    let each = scene.each(scene.members.iter(), async |member: Member| {
        for (login, database) in [(Login::App, DATABASE), (Login::Superuser, HOME)] {
            let address = scene.access.engine.address(&member, PORT).await.map_err(Broken::unknown)?;
            let (name, role, password) = (member.as_str(), login.role(), scene.password(login));
            let target = Target { address, name, encryption: &Encryption::Off, role, password, database };
            match Session::open(&target, CONNECT_LIMIT).await {
                Err(error) if error.code() == Some(NO_ENTRY) => {}
                Err(error) => return Err(unknown(&member, error)),
                Ok(_) => return Err(Broken::Fail(format!("{member} lets {role} in without TLS, expected {NO_ENTRY}"))),
            }
        }
        Ok(NO_ENTRY)
    });
    Ok(format!("app and postgres without TLS: {}", listed(&each.await?)))
}

async fn replication_encrypted(scene: &Scene<'_>) -> Result<String, Broken> {
    let primary = &scene.cluster.primary;
    let session = scene.open(primary, Login::Superuser, HOME).await?;
    let query = "SELECT replica.application_name, CASE WHEN tls.ssl THEN tls.version ELSE 'in clear' END \
                 FROM pg_stat_replication replica JOIN pg_stat_ssl tls USING (pid) ORDER BY 1";
    let rows = session.rows(query, &[]).await.map_err(|error| unknown(primary, error))?;
    let mut seen = Vec::new();
    for row in &rows {
        let read = || Ok::<(String, String), tokio_postgres::Error>((row.try_get(0)?, row.try_get(1)?));
        let (name, version) = read().map_err(|error| unknown(primary, error))?;
        seen.push((Member::named(name), version));
    }
    if let Some((replica, _)) = seen.iter().find(|(_, version)| version == "in clear") {
        return Err(Broken::Fail(format!("{replica} follows {primary} in clear, expected TLS")));
    }
    match seen.is_empty() {
        true => Err(Broken::Fail(format!("no replica follows {primary}"))),
        false => Ok(listed(&seen)),
    }
}
