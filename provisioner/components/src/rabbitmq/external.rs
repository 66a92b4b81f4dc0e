//! Somebody's own RabbitMQ: what the app needs is made in its virtual host where the management API is named, else it must
//! be there.

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use provisioner_core::component::{Access, Entrypoint, Variable};
use provisioner_core::finding::{Broken, Finding, Level, check};
use provisioner_core::manifest::{ExternalRabbitmq, Manifest};
use provisioner_core::secret::url_encoded;
use provisioner_core::stack::{External, url_host};
use serde::Deserialize;

use super::definitions::{self, Definitions, Policy};
use super::management::Management;
use super::{NAME, User, amqp, probe};
use crate::external;

/// Before it quorum queues have no delivery limit by default, and policies read otherwise.
const VERSION_MIN: u64 = 4;
const VHOST: &str = "vhost";
const MANAGEMENT_HOST: &str = "management_host";
const MANAGEMENT_PORT: &str = "management_port";
/// What should be there, as RabbitMQ's own definitions.
pub(super) const DEFINITIONS: &str = "definitions";
const LIMIT: Duration = Duration::from_secs(5);

pub(super) fn of(manifest: &Manifest) -> Option<External> {
    let section = manifest.rabbitmq.as_ref()?;
    let ExternalRabbitmq { server, vhost, management } = section.external.as_ref()?;
    let external =
        External::new(NAME, server).with(VHOST, vhost).with(DEFINITIONS, definitions::of_one_vhost(section)?);
    Some(match management {
        Some((host, port)) => external.with(MANAGEMENT_HOST, host).with(MANAGEMENT_PORT, port.to_string()),
        None => external,
    })
}

pub(super) fn vhost(external: &External) -> &str {
    external.with.get(VHOST).map_or("/", String::as_str)
}

pub(super) fn management(external: &External) -> Option<(&str, u16)> {
    Some((external.with.get(MANAGEMENT_HOST)?.as_str(), external.with.get(MANAGEMENT_PORT)?.parse().ok()?))
}

pub(super) fn variable(external: &External) -> Variable {
    Variable {
        name: "AMQP_URL",
        prefix: external.prefix(if external.ca.is_some() { "amqps" } else { "amqp" }),
        host: url_host(&external.host),
        port: external.port,
        member: None,
        suffix: format!("/{}", url_encoded(vhost(external))),
        suffix_outside: None,
    }
}

pub(super) fn entrypoint(external: &External) -> Option<Entrypoint> {
    let (host, port) = management(external)?;
    let scheme = if external.ca.is_some() { "https" } else { "http" };
    let page = Entrypoint::external(NAME, scheme, format!("{}:{port}", url_host(host)));
    Some(page.login(external.user.as_deref()?, external.password.as_deref()?))
}

pub(super) async fn verify(access: &Access<'_>, external: &External) -> Vec<Finding> {
    let login = ("login", login(access, external));
    let (version, tls) = (version(access), external::serves(access, external));
    let mut findings = external::first_checks(access, external, login, version, tls).await;
    findings.extend([
        check(NAME, "round-trip", Level::L2, permitted(probe::round_trip(access))).await,
        check(NAME, "unroutable", Level::L2, permitted(probe::unroutable(access))).await,
        check(NAME, "poison", Level::L2, permitted(probe::poison(access))).await,
        check(NAME, "retry-delay", Level::L2, permitted(probe::retry_delay(access))).await,
        check(NAME, "queues", Level::L3, queues(access)).await,
        check(NAME, "policies", Level::L3, policies(access, external)).await,
    ]);
    findings
}

/// What the account may not do is no fault of the broker.
async fn permitted(body: impl Future<Output = Result<String, Broken>>) -> Result<String, Broken> {
    body.await.map_err(|broken| match broken {
        Broken::Fail(reason) if reason.contains("ACCESS_REFUSED") || reason.contains("ACCESS-REFUSED") => {
            Broken::Unknown(format!("the account may not: {reason}"))
        }
        other => other,
    })
}

async fn login(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    let link = amqp::connect(access, User::App).await?;
    link.close().await;
    let (who, vhost) = (external.user.as_deref().unwrap_or_default(), vhost(external));
    Ok(format!("external, {}: AMQP 0-9-1 as {who} in {vhost}", external.address()))
}

async fn version(access: &Access<'_>) -> Result<String, Broken> {
    let greeting = amqp::greeting(access).await.map_err(Broken::Unknown)?;
    external::at_least("RabbitMQ", released(&greeting), VERSION_MIN)
}

/// Of the server's properties (AMQP 0-9-1, 4.2.5.9): a field is its name, `S`, the length in four bytes, and the text.
fn released(greeting: &str) -> &str {
    let tail = greeting.split_once("\u{7}versionS").map(|(_, tail)| tail).unwrap_or_default();
    let number = tail.trim_start_matches(|c: char| !c.is_ascii_digit());
    let end = number.find(|c: char| !(c.is_ascii_alphanumeric() || "._+-".contains(c))).unwrap_or(number.len());
    number.get(..end).unwrap_or_default()
}

async fn queues(access: &Access<'_>) -> Result<String, Broken> {
    let definitions = Definitions::of(access.stack).map_err(Broken::Unknown)?;
    match missing(access, &definitions).await?.as_slice() {
        [] => Ok(format!("{} queues and {} exchanges", definitions.queues.len(), definitions.exchanges.len())),
        missing => {
            Err(Broken::fail(format!("there is no {}; provisioner up says what makes them", missing.join(", "))))
        }
    }
}

/// Asked without making anything; a refusal ends the channel that asked.
pub(super) async fn missing(access: &Access<'_>, definitions: &Definitions) -> Result<Vec<String>, Broken> {
    let mut link = amqp::connect(access, User::App).await?;
    let mut missing = Vec::new();
    for queue in &definitions.queues {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let found = link.channel.queue_declare(queue.name.as_str().into(), options, FieldTable::default()).await;
        if let Err(error) = found {
            missing.push(absent("queue", &queue.name, &error)?);
            link.another_channel().await?;
        }
    }
    for exchange in &definitions.exchanges {
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let kind = lapin::ExchangeKind::Custom(exchange.kind.clone());
        let name = exchange.name.as_str().into();
        if let Err(error) = link.channel.exchange_declare(name, kind, options, FieldTable::default()).await {
            missing.push(absent("exchange", &exchange.name, &error)?);
            link.another_channel().await?;
        }
    }
    link.close().await;
    Ok(missing)
}

fn absent(what: &str, name: &str, error: &lapin::Error) -> Result<String, Broken> {
    match amqp::code(error) {
        Some(amqp::NOT_FOUND) => Ok(format!("{what} {name}")),
        _ => Err(Broken::Unknown(format!("ask for {what} {name}: {error}"))),
    }
}

#[derive(Deserialize)]
struct Applied {
    name: String,
    #[serde(default)]
    policy: Option<String>,
}

/// Operator policies are its operator's.
async fn policies(access: &Access<'_>, external: &External) -> Result<String, Broken> {
    if management(external).is_none() {
        let reason = "retries and dead letters are policies, which only a management API shows";
        return Err(Broken::unknown(format!("{reason}; name rabbitmq.external.management")));
    }
    let definitions = Definitions::of(access.stack).map_err(Broken::Unknown)?;
    let management = Management::of(access, LIMIT).await.map_err(Broken::Unknown)?;
    let vhost = url_encoded(vhost(external));
    let live: Vec<Policy> = management.read(&format!("/api/policies/{vhost}")).await?;
    for wanted in &definitions.policies {
        match live.iter().find(|policy| policy.name == wanted.name) {
            Some(policy) if policy == wanted => {}
            Some(policy) => {
                let (found, expected) = (&policy.definition, &wanted.definition);
                return Err(Broken::fail(format!("policy {}: {found}, expected {expected}", wanted.name)));
            }
            None => return Err(Broken::fail(format!("policy {} is missing", wanted.name))),
        }
    }
    let path = format!("/api/queues/{vhost}?disable_stats=true&enable_queue_totals=true");
    let applied: Vec<Applied> = management.read(&path).await?;
    let own: BTreeSet<&str> = definitions.queues.iter().map(|queue| queue.name.as_str()).collect();
    let other =
        applied.iter().find(|queue| own.contains(queue.name.as_str()) && queue.policy.as_ref() != Some(&queue.name));
    if let Some(Applied { name, policy }) = other {
        let policy = policy.as_deref().unwrap_or("none");
        return Err(Broken::fail(format!("queue {name} follows policy {policy}, expected its own")));
    }
    Ok(format!("{} policies in force", definitions.policies.len()))
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::stack::Stack;

    use super::super::Rabbitmq;
    use super::*;
    use crate::testing::external_manifest;

    #[test]
    fn programs_are_led_there_and_what_they_need_names_no_user() {
        let stack = Stack::of(&external_manifest(), [&Rabbitmq as &dyn Component]);
        assert_eq!(stack.workloads().count(), 0);
        let url = "amqps://shop:@{secret:rabbitmq-password.url}@mq.example.com:5671/shop";
        assert_eq!(Rabbitmq.variables(&stack)[0].inside().masked(), url);
        let page = Rabbitmq.entrypoints(&stack)[0].url(&stack, &provisioner_core::observed::Observed::default());
        assert_eq!(page.as_deref(), Some("https://mq.example.com:15671/"));
        let text = &stack.external(NAME).unwrap().with[DEFINITIONS];
        let wanted: serde_json::Value = serde_json::from_str(text).unwrap();
        let keys: Vec<&String> = wanted.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["bindings", "exchanges", "policies", "queues"]);
        assert!(!text.contains("vhost") && !text.contains("password"), "{text}");
        assert_eq!(Definitions::of(&stack).unwrap().queues[0].name, "q.custom");
    }

    #[test]
    fn the_release_is_read_from_the_greeting() {
        let greeting =
            "\u{0}\u{7}productS\u{0}\u{0}\u{0}\u{8}RabbitMQ\u{7}versionS\u{0}\u{0}\u{0}\u{5}4.0.5\u{0}\u{5}PLAIN";
        assert_eq!(released(greeting), "4.0.5");
        assert_eq!(released("PLAIN"), "");
    }
}
