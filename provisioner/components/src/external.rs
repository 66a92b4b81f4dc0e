//! What services that exist already have in common: the way to them from here and from inside the stack, and whom they
//! are believed by.

use std::net::SocketAddr;
use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::stack::External;
use tokio::net::TcpStream;

use crate::certificates::{self, Trust};
use crate::tls;

const LIMIT: Duration = Duration::from_secs(5);
/// Bash's own way to a port: hardly an image has a program for it.
const KNOCK: &str = r#"exec 3<>"/dev/tcp/$0/$1""#;
/// `timeout` ends what it started.
const TIMED_OUT: i64 = 124;

/// An address of this name that takes connections from here.
pub async fn reached(host: &str, port: u16) -> Result<SocketAddr, String> {
    let connected = async {
        let found: Vec<SocketAddr> =
            tokio::net::lookup_host((host, port)).await.map_err(|error| error.to_string())?.collect();
        let mut last = "its name has no address".to_owned();
        for address in found {
            match TcpStream::connect(address).await {
                Ok(_) => return Ok(address),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    };
    let connected = tokio::time::timeout(LIMIT, connected).await;
    connected.unwrap_or_else(|_| Err(format!("no answer within {} s", LIMIT.as_secs())))
}

/// For a check, which cannot be made where nothing is reached.
pub(crate) async fn address(host: &str, port: u16) -> Result<SocketAddr, Broken> {
    reached(host, port).await.map_err(|error| Broken::Unknown(format!("reach {host}:{port} from here: {error}")))
}

/// `None`: the connection is in clear.
pub(crate) async fn trust(access: &Access<'_>, external: &External) -> Result<Option<Trust>, String> {
    match &external.ca {
        Some(secret) => Ok(Some(Trust::signers(access, secret).await?)),
        None => Ok(None),
    }
}

pub(crate) async fn password(access: &Access<'_>, external: &External) -> Result<Option<String>, String> {
    match &external.password {
        Some(secret) => Ok(Some(access.secret(secret).await.map_err(|failure| failure.chain())?)),
        None => Ok(None),
    }
}

/// What counts is the way from a member: this machine may have another one, or none.
pub(crate) async fn reached_from_inside(access: &Access<'_>, host: &str, port: u16) -> Result<String, Broken> {
    let is_running = |member: &_| access.observed.is_running(member);
    let members = access.stack.workloads().map(|workload| &workload.member);
    // Of the app where there is one: it is who goes there.
    let app = access.stack.members(crate::app::NAME).map(|workload| &workload.member);
    let member = app.chain(members).find(|member| is_running(member));
    let member = member.ok_or_else(|| Broken::unknown("no member runs that could be asked from"))?;
    let (host_word, port_word, limit) = (host.to_owned(), port.to_string(), LIMIT.as_secs().to_string());
    let argv =
        ["timeout".to_owned(), limit, "bash".to_owned(), "-c".to_owned(), KNOCK.to_owned(), host_word, port_word];
    let started = access.engine.exec(member, &argv, None).await.map_err(Broken::unknown)?;
    let ran = started.finish().await.map_err(Broken::unknown)?;
    let said = ran.stderr.lines().next_back().unwrap_or_default().trim();
    match ran.exit_code {
        0 => Ok(format!("{host}:{port} from {member}")),
        1 => Err(Broken::fail(format!("reach {host}:{port} from {member}: {said}"))),
        TIMED_OUT => Err(Broken::fail(format!("reach {host}:{port} from {member}: no answer within {LIMIT:?}"))),
        code => Err(Broken::unknown(format!("look from {member}: bash ended with {code}: {said}"))),
    }
}

/// What every one of them is asked first: the way from inside, the login, the release, and encryption where it is declared.
pub(crate) async fn first_checks(
    access: &Access<'_>,
    external: &External,
    (name, login): (&str, impl Future<Output = Result<String, Broken>>),
    version: impl Future<Output = Result<String, Broken>>,
    tls: impl Future<Output = Result<String, Broken>>,
) -> Vec<Finding> {
    let component = &external.component;
    let inside = reached_from_inside(access, &external.host, external.port);
    let mut findings = vec![
        check(component, "reached-from-inside", Level::L1, inside).await,
        check(component, name, Level::L1, login).await,
        check(component, "version", Level::L1, version).await,
    ];
    if external.ca.is_some() {
        findings.push(check(component, "tls", Level::L1, tls).await);
    }
    findings
}

/// A server that begins with the handshake: believed, and for how long still.
pub(crate) async fn serves(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let External { host, port, .. } = external;
    let trust = trust(access, external).await.map_err(Broken::Unknown)?;
    let trust = trust.ok_or_else(|| Broken::unknown("it is declared to be in clear"))?;
    let address = address(host, *port).await?;
    let config = trust.client().map_err(Broken::Unknown)?;
    let handshake = tls::handshake(address, host, config, LIMIT).await;
    let shown = handshake.map_err(|error| Broken::fail(format!("TLS with {host}:{port}: {error}")))?;
    Ok(format!("TLS as {host} by the manifest's ca_file, {}", certificates::lasts(access, &shown)?))
}

/// `found` begins with the number of the release.
pub(crate) fn at_least(what: &str, found: &str, wanted: u64) -> Result<String, Broken> {
    let major = found.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse::<u64>().ok());
    match major {
        Some(major) if major >= wanted => Ok(format!("{what} {found}")),
        Some(_) => Err(Broken::fail(format!("{what} {found}, expected {wanted} or later"))),
        None => Err(Broken::unknown(format!("{what} says {found:?} of its version"))),
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::observed::Observed;
    use provisioner_core::plan::{Policy, plan};
    use provisioner_core::stack::{Resource, Stack};

    use super::*;
    use crate::testing::{external_manifest, settled};

    fn stack(components: &[Box<dyn Component>]) -> Stack {
        Stack::of(&external_manifest(), components.iter().map(AsRef::as_ref)).and([Resource::Network])
    }

    /// Without the hashes of images, which are nobody's business here.
    fn plan_of(observed: &Observed) -> String {
        let components = crate::all();
        let text = plan(&stack(&components), observed, &components, &Policy::default()).unwrap().to_string();
        let words = text.split(' ').map(|word| {
            let is_hash = |text: &str| text.len() == 16 && text.chars().all(|c| c.is_ascii_hexdigit());
            match word.rsplit_once([':', '=']) {
                Some((name, hash)) if is_hash(hash.trim_end_matches(',')) => format!("{name}:HASH"),
                _ => word.to_owned(),
            }
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_stack_on_external_services_makes_none_of_them() {
        insta::assert_snapshot!("plan.external", plan_of(&Observed::default()));
    }

    /// What is noted of a stack that had members of its own is no reason to touch a service that somebody else runs.
    #[test]
    fn a_queue_that_is_gone_is_made_again_and_nothing_else() {
        let components = crate::all();
        let mut observed = settled(&stack(&components));
        let facts = [("queues".to_owned(), "q.custom,q.email".to_owned())].into();
        observed.facts.insert("rabbitmq".to_owned(), facts);
        let plan = plan_of(&observed);
        assert!(plan.contains("rabbitmq.define") && plan.contains("the external broker has no queue q."), "{plan}");
        assert!(!plan.contains("postgres.") && !plan.contains("route."), "{plan}");
    }

    #[test]
    fn a_release_is_told_by_its_first_number() {
        assert_eq!(at_least("PostgreSQL", "17.6 (Debian 17.6-1)", 15).unwrap(), "PostgreSQL 17.6 (Debian 17.6-1)");
        assert_eq!(at_least("Redis", "6.2.1", 7).unwrap_err(), Broken::fail("Redis 6.2.1, expected 7 or later"));
        assert!(matches!(at_least("Redis", "", 7), Err(Broken::Unknown(_))));
    }

    #[tokio::test]
    async fn where_nobody_listens_nothing_is_reached() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(reached("127.0.0.1", address.port()).await, Ok(address));
        drop(listener);
        assert!(reached("127.0.0.1", address.port()).await.unwrap_err().contains("refused"));
    }
}
