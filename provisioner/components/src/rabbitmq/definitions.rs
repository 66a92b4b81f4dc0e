//! Users, policies, exchanges, queues and bindings: RabbitMQ's own definitions, imported over its management API, which
//! changes what differs and leaves what is there. What was imported is noted in the broker itself, so that the note is
//! lost with the data and only then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use minijinja::context;
use provisioner_core::component::{Access, Dependency, Planned, Situation, Task, Tasks};
use provisioner_core::failure::Failure;
use provisioner_core::finding::Broken;
use provisioner_core::manifest::Rabbitmq as Section;
use provisioner_core::observed::Observed;
use provisioner_core::plan::Withheld;
use provisioner_core::record;
use provisioner_core::secret::url_encoded;
use provisioner_core::stack::{External, Fingerprint, ResourceId, Stack, Text};
use provisioner_core::wait::{self, Look};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::management::Management;
use super::{NAME, User, VHOST, amqp, external, member};
use crate::template::render;

pub(crate) const DEFINE: &str = "define";
pub(super) const PATH: &str = "/run/provisioner/definitions.json";
/// For when the broker cannot be asked what it knows.
const RECORD: &str = "rabbitmq.definitions";
const FINGERPRINT: &str = "fingerprint";
/// The broker's own note, a global parameter of this name; and the fact that it is read into.
const NOTE: &str = "provisioner";
/// What is read where the broker has another password for its administrator.
const LOCKED_OUT: &str = "locked-out";
/// Fact: queues of work that the broker has.
const QUEUES: &str = "queues";
/// Queues of work and everything that belongs to them.
const PREFIX: &str = "q.";
/// The checks' own queue beside the manifest's.
const PROBE: &str = "probe";
/// How long a message waits on each rung; the first is for the checks alone.
const LADDER: [(&str, u64); 5] = [("1s", 1_000), ("5s", 5_000), ("30s", 30_000), ("5m", 300_000), ("30m", 1_800_000)];
const FACTS_LIMIT: Duration = Duration::from_secs(1);
const IMPORT_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    fingerprint: String,
}

/// What is wanted, as every task and check reads it from the stack.
#[derive(Debug, Deserialize)]
pub(super) struct Definitions {
    pub(super) queues: Vec<Queue>,
    pub(super) exchanges: Vec<Exchange>,
    bindings: Vec<Binding>,
    pub(super) policies: Vec<Policy>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Queue {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Exchange {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Binding {
    source: String,
    destination: String,
    routing_key: String,
    /// How the API names it among others of the same pair.
    #[serde(default)]
    properties_key: String,
}

#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) definition: Value,
}

/// The text with markers for passwords.
pub(super) fn rendered(section: &Section) -> String {
    let mut topics = section.queues.clone();
    topics.insert(PROBE.to_owned(), vec![format!("{PROBE}.#")]);
    let names: Vec<String> = section.queues.keys().cloned().collect();
    let ladder = LADDER.map(|(name, millis)| context! { name, millis });
    let context = context! {
        app_password => Text::secret(User::App.secret()),
        probe_password => Text::secret(User::Probe.secret()),
        monitor_password => Text::secret(User::Monitor.secret()),
        queues => names,
        topics,
        ladder,
    };
    // Without `json` in the name: the template engine would quote the values itself.
    render("definitions.j2", include_str!("../../recipes/rabbitmq/definitions.json.j2"), context)
}

/// The same for a virtual host that somebody else has made, with its users: what the app needs in it.
pub(super) fn of_one_vhost(section: &Section) -> Option<String> {
    let whole: Value = serde_json::from_str(&rendered(section)).ok()?;
    let mut kept = serde_json::Map::new();
    for kind in ["exchanges", "queues", "bindings", "policies"] {
        let mut entries = whole.get(kind)?.as_array()?.clone();
        for entry in &mut entries {
            entry.as_object_mut()?.remove("vhost");
        }
        kept.insert(kind.to_owned(), Value::Array(entries));
    }
    Some(Value::Object(kept).to_string())
}

fn text(stack: &Stack) -> Option<Text> {
    if let Some(external) = stack.external(NAME) {
        return external.with.get(external::DEFINITIONS).map(Text::new);
    }
    let files = &stack.workload(&member())?.files;
    files.iter().find(|file| file.path == PATH).map(|file| file.content.clone())
}

impl Definitions {
    pub(super) fn of(stack: &Stack) -> Result<Self, String> {
        let text = text(stack).ok_or_else(|| format!("{} has no file {PATH}", member()))?;
        serde_json::from_str(text.masked()).map_err(|error| format!("read {PATH}: {error}"))
    }
}

/// Everything that is wanted, with markers for passwords.
pub(super) fn wanted(stack: &Stack) -> Result<Value, String> {
    let text = text(stack).ok_or_else(|| format!("{} has no file {PATH}", member()))?;
    serde_json::from_str(text.masked()).map_err(|error| format!("read {PATH}: {error}"))
}

/// Stands for the definitions with the passwords that they hold.
fn fingerprint(text: &Text, stack: &Stack, observed: &Observed) -> String {
    let versions = observed.secret_versions();
    let external = stack.external(NAME);
    // The administrator's is no part of them, and the task sees to it all the same.
    let login = external.map_or(Some(User::Admin.secret()), |external| external.password.as_deref());
    let names = text.secrets().into_iter().chain(login).chain(external.map(|external| external.host.as_str()));
    let used: BTreeMap<&str, Option<&String>> = names.map(|name| (name, versions.get(name))).collect();
    Fingerprint::of(&(text.masked(), used)).to_string()
}

/// What the broker says that it has; nothing where it does not answer.
pub(super) async fn facts(access: &Access<'_>) -> BTreeMap<String, String> {
    if access.stack.external(NAME).is_some() {
        return external_facts(access).await.unwrap_or_default();
    }
    if access.stack.workload(&member()).is_none() || !access.observed.is_running(&member()) {
        return BTreeMap::new();
    }
    asked(access).await.unwrap_or_default()
}

/// Nothing of ours is noted in somebody else's broker: its queues themselves are looked at.
async fn external_facts(access: &Access<'_>) -> Result<BTreeMap<String, String>, Broken> {
    let management = Management::of(access, FACTS_LIMIT).await.map_err(Broken::Unknown)?;
    let path = format!("/api/queues/{}?disable_stats=true&enable_queue_totals=true&columns=name", vhost(access.stack));
    let queues: Vec<Queue> = management.read(&path).await?;
    let names: Vec<String> = queues.into_iter().map(|queue| queue.name).collect();
    Ok(BTreeMap::from([(QUEUES.to_owned(), names.join(","))]))
}

/// As paths of the API have it.
fn vhost(stack: &Stack) -> String {
    url_encoded(stack.external(NAME).map_or(VHOST, external::vhost))
}

async fn asked(access: &Access<'_>) -> Result<BTreeMap<String, String>, String> {
    let management = Management::published(access, FACTS_LIMIT).await?;
    let path = format!("/api/global-parameters/{NOTE}");
    let reply = management.send(Method::GET, &path, None).await?;
    let note = match reply.status {
        200 => {
            let answer: Value = reply.json().map_err(|_| "not JSON".to_owned())?;
            answer["value"][FINGERPRINT].as_str().unwrap_or_default().to_owned()
        }
        404 => String::new(),
        401 => LOCKED_OUT.to_owned(),
        status => return Err(format!("GET {path}: {status}")),
    };
    let mut facts = BTreeMap::from([(NOTE.to_owned(), note)]);
    let path = format!("/api/queues/{VHOST}?disable_stats=true&enable_queue_totals=true&columns=name");
    if let Ok(queues) = management.read::<Vec<Queue>>(&path).await {
        let names: Vec<String> = queues.into_iter().map(|queue| queue.name).collect();
        facts.insert(QUEUES.to_owned(), names.join(","));
    }
    Ok(facts)
}

pub(super) fn tasks(situation: &Situation<'_>) -> Tasks {
    let Situation { stack, observed, .. } = situation;
    let Some(text) = text(stack) else { return Tasks::default() };
    let wanted = fingerprint(&text, stack, observed);
    if let Some(external) = stack.external(NAME) {
        let secrets = external.password.iter().chain(&external.ca).cloned().map(ResourceId::Secret);
        let planned = Planned {
            because: external_because(&wanted, situation),
            task: Task::new(NAME, DEFINE).with(FINGERPRINT, wanted),
            after: secrets.map(Dependency::Resource).collect(),
            before: Vec::new(),
        };
        return Tasks { tasks: vec![planned], ..Tasks::default() };
    }
    let planned = Planned {
        because: because(&wanted, situation),
        task: Task::new(NAME, DEFINE).on(&member()).with(FINGERPRINT, wanted),
        after: vec![Dependency::workload(&member()), Dependency::Ready(member())],
        before: Vec::new(),
    };
    Tasks { tasks: vec![planned], withheld: retired(situation), ..Tasks::default() }
}

fn external_because(wanted: &str, situation: &Situation<'_>) -> Option<String> {
    let Situation { stack, observed, .. } = situation;
    if let (Some(found), Ok(definitions)) = (observed.fact(NAME, QUEUES), Definitions::of(stack)) {
        let found: BTreeSet<&str> = found.split(',').collect();
        let mut queues = definitions.queues.iter().map(|queue| queue.name.as_str());
        if let Some(missing) = queues.find(|name| !found.contains(name)) {
            return Some(format!("the external broker has no queue {missing}"));
        }
    }
    match observed.records.read::<Note>(RECORD) {
        Ok(Some(note)) if note.fingerprint == wanted => None,
        Ok(Some(_)) => Some("the broker, its login or what the app needs of it changed".to_owned()),
        Ok(None) | Err(_) => Some("no record says that the external broker has what the app needs".to_owned()),
    }
}

fn because(wanted: &str, situation: &Situation<'_>) -> Option<String> {
    let Situation { observed, changing, .. } = situation;
    const DIFFERENT: &str = "users, queues, policies or a password changed";
    if let Some(found) = observed.fact(NAME, NOTE) {
        return match found {
            "" => Some("the broker has no users and queues yet".to_owned()),
            LOCKED_OUT => Some("the broker has another password for its administrator".to_owned()),
            found => (found != wanted).then(|| DIFFERENT.to_owned()),
        };
    }
    // It may come up with an empty volume, whatever a record says.
    if changing.contains(&member()) {
        return Some("the broker is started, and nobody could ask it before".to_owned());
    }
    match observed.records.read::<Note>(RECORD) {
        Ok(Some(note)) if note.fingerprint == wanted => None,
        Ok(Some(_)) => Some(DIFFERENT.to_owned()),
        Ok(None) | Err(_) => Some("no record says that users and queues are made".to_owned()),
    }
}

/// Queues that the manifest no longer names. What lies in them may still be wanted.
fn retired(situation: &Situation<'_>) -> Vec<Withheld> {
    let Ok(definitions) = Definitions::of(situation.stack) else { return Vec::new() };
    let wanted: BTreeSet<&str> = definitions.queues.iter().map(|queue| queue.name.as_str()).collect();
    let found = situation.observed.fact(NAME, QUEUES).unwrap_or_default().split(',');
    let retired = found.filter(|name| name.starts_with(PREFIX) && !wanted.contains(name));
    let withheld = retired.map(|name| Withheld {
        what: format!("remove queue {name}"),
        reason: "the manifest no longer names it, and messages in it would be lost".to_owned(),
        unlock: format!("provisioner exec {} -- rabbitmqctl delete_queue --vhost {VHOST} {name}", member()),
        blocks: false,
    });
    withheld.collect()
}

pub(super) async fn run(task: &Task, access: &Access<'_>) -> Result<(), Failure> {
    if task.name != DEFINE {
        return Err(Failure::new(format!("run {task}: component {NAME} has no such task")));
    }
    if let Some(external) = access.stack.external(NAME) {
        return run_external(task, access, external).await;
    }
    let fail =
        |what: String| Failure::new(format!("run {task}: {what}")).hint(format!("provisioner logs {}", member()));
    let text = text(access.stack).ok_or_else(|| fail(format!("{} has no file {PATH}", member())))?;
    // Before the passwords are read: one that is replaced meanwhile makes another version, and another run.
    let fingerprint = fingerprint(&text, access.stack, &access.engine.observe().await?);
    let names = text.secrets().into_iter().map(str::to_owned).collect();
    let resolved = text.resolve(&access.engine.secrets(&names).await?).map_err(|error| fail(error.to_string()))?;
    // The parser's own message could repeat what it read.
    let wanted: Value = serde_json::from_str(&resolved).map_err(|_| fail("the definitions are not JSON".to_owned()))?;

    let management = Management::of(access, IMPORT_LIMIT).await.map_err(fail)?;
    logged_in(&management, access).await.map_err(fail)?;
    management.apply(Method::POST, "/api/definitions", Some(&wanted)).await.map_err(fail)?;
    unbind(&management, access).await.map_err(fail)?;
    // The last thing before the note: what it stands for is proven.
    let link = amqp::connect(access, User::App).await.map_err(|error| fail(format!("log in as app: {error}")))?;
    link.close().await;
    let note = json!({ "value": Note { fingerprint: fingerprint.clone() } });
    let path = format!("/api/global-parameters/{NOTE}");
    management.apply(Method::PUT, &path, Some(&note)).await.map_err(fail)?;
    record::update(access.engine.records(), RECORD, |_: Option<Note>| Some(Note { fingerprint: fingerprint.clone() }))
        .await?;
    Ok(())
}

/// Made where the management API is named; else looked for, and what is missing is named.
async fn run_external(task: &Task, access: &Access<'_>, external: &External) -> Result<(), Failure> {
    let fail = |what: String| Failure::new(format!("run {task}: {}: {what}", external.address()));
    let text = text(access.stack).ok_or_else(|| fail("nothing says what it should have".to_owned()))?;
    let fingerprint = fingerprint(&text, access.stack, &access.engine.observe().await?);
    let definitions = Definitions::of(access.stack).map_err(fail)?;
    if external::management(external).is_some() {
        let wanted: Value =
            serde_json::from_str(text.masked()).map_err(|_| fail("the definitions are not JSON".to_owned()))?;
        let management = Management::of(access, IMPORT_LIMIT).await.map_err(fail)?;
        let path = format!("/api/definitions/{}", vhost(access.stack));
        management.apply(Method::POST, &path, Some(&wanted)).await.map_err(fail)?;
        unbind(&management, access).await.map_err(fail)?;
    }
    let missing = external::missing(access, &definitions).await.map_err(|broken| match broken {
        Broken::Fail(reason) | Broken::Unknown(reason) => fail(reason),
    })?;
    if !missing.is_empty() {
        let failure = fail(format!("there is no {}", missing.join(", ")));
        return Err(failure.hint("have its operator make them, or name rabbitmq.external.management, which makes them"));
    }
    record::update(access.engine.records(), RECORD, |_: Option<Note>| Some(Note { fingerprint: fingerprint.clone() }))
        .await?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoLogin(String);

/// Waits until the API answers to the administrator. Where the secret was lost and made again, the broker still has the
/// old password, and is told the new one from inside.
async fn logged_in(management: &Management, access: &Access<'_>) -> Result<(), String> {
    let mut is_told = false;
    let waited = wait::until(IMPORT_LIMIT, Duration::from_millis(150), || {
        let tell = std::mem::replace(&mut is_told, true);
        async move {
            match management.send(Method::GET, "/api/whoami", None).await {
                Ok(reply) if reply.status == 200 => Look::Done(()),
                Ok(reply) if reply.status == 401 && !tell => match tell_password(access).await {
                    Ok(()) => Look::Pending("the administrator's password was told anew".to_owned()),
                    Err(error) => Look::Broken(NoLogin(error)),
                },
                Ok(reply) => Look::Pending(format!("GET /api/whoami: {}, expected 200", reply.status)),
                Err(error) => Look::Pending(error),
            }
        }
    });
    waited.await.map_err(|error| format!("log in as {}: {error}", User::Admin.name()))
}

async fn tell_password(access: &Access<'_>) -> Result<(), String> {
    let secret = access.secret(User::Admin.secret()).await.map_err(|failure| failure.chain())?;
    // On standard input, which no list of processes shows.
    let argv = ["rabbitmqctl", "change_password", User::Admin.name()].map(str::to_owned);
    let started = access.engine.exec(&member(), &argv, Some(Bytes::from(format!("{secret}\n")))).await;
    let ran = started.map_err(|error| error.to_string())?.finish().await.map_err(|error| error.to_string())?;
    match ran.exit_code {
        0 => Ok(()),
        code => Err(format!("{} ended with {code}: {}", argv.join(" "), ran.stderr.trim())),
    }
}

/// An import only adds: a topic that no longer leads to a queue is taken away here. Only bindings of `events` are, and
/// only those of queues of work.
async fn unbind(management: &Management, access: &Access<'_>) -> Result<(), String> {
    const SOURCE: &str = "events";
    let Definitions { bindings: wanted, queues, .. } = Definitions::of(access.stack)?;
    let vhost = vhost(access.stack);
    let path = format!("/api/exchanges/{vhost}/{SOURCE}/bindings/source");
    let found: Vec<Binding> = management.read(&path).await.map_err(|broken| format!("{broken:?}"))?;
    let is_wanted = |found: &Binding| {
        wanted.iter().any(|binding| {
            (&binding.source, &binding.destination, &binding.routing_key)
                == (&found.source, &found.destination, &found.routing_key)
        })
    };
    // Of an external broker only those of the manifest's queues: others are somebody else's.
    let is_external = access.stack.external(NAME).is_some();
    let is_own = |found: &Binding| match is_external {
        true => queues.iter().any(|queue| queue.name == found.destination),
        false => found.destination.starts_with(PREFIX),
    };
    for binding in found.iter().filter(|found| is_own(found) && !is_wanted(found)) {
        let Binding { destination, properties_key, .. } = binding;
        let path = format!("/api/bindings/{vhost}/e/{SOURCE}/q/{destination}/{properties_key}");
        management.apply(Method::DELETE, &path, None).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use provisioner_core::component::Component;
    use provisioner_core::manifest::{Manifest, parse};
    use provisioner_core::record::Record;

    use super::super::Rabbitmq;
    use super::*;

    fn manifest() -> Manifest {
        parse(b"name: dev\nrabbitmq: {}\napp:\n  binary: target/app\n").unwrap()
    }

    fn stack(manifest: &Manifest) -> Stack {
        Stack::new(manifest.name.clone(), Rabbitmq.declare(manifest))
    }

    fn wanted(stack: &Stack, observed: &Observed) -> String {
        fingerprint(&text(stack).unwrap(), stack, observed)
    }

    fn told(note: &str, queues: &str) -> Observed {
        let facts = [(NOTE, note), (QUEUES, queues)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        Observed { facts: BTreeMap::from([(NAME.to_owned(), facts.into())]), ..Observed::default() }
    }

    fn reason(observed: &Observed, changing: &[&str]) -> Option<String> {
        let changing = changing.iter().map(|name| provisioner_core::name::Member::named(*name)).collect();
        let stack = stack(&manifest());
        let tasks = tasks(&Situation { stack: &stack, observed, changing: &changing });
        tasks.tasks.into_iter().next().unwrap().because
    }

    #[test]
    fn what_is_wanted_is_known_without_a_password() {
        let stack = stack(&manifest());
        let definitions = Definitions::of(&stack).unwrap();
        let names: Vec<&str> = definitions.queues.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names.len(), 14);
        assert!(["q.email", "q.dead.email", "q.probe", "q.retry.30m", "unrouted"].iter().all(|it| names.contains(it)));
        insta::assert_snapshot!("definitions.json", text(&stack).unwrap().masked());
    }

    #[test]
    fn the_broker_says_what_it_has() {
        let wanted = wanted(&stack(&manifest()), &Observed::default());
        assert_eq!(reason(&told(&wanted, ""), &["rabbitmq-1"]), None);
        assert_eq!(reason(&told("", ""), &[]).unwrap(), "the broker has no users and queues yet");
        assert!(reason(&told(LOCKED_OUT, ""), &[]).unwrap().contains("another password"));
        assert_eq!(reason(&told("other", ""), &[]).unwrap(), "users, queues, policies or a password changed");
    }

    #[test]
    fn a_broker_that_could_not_be_asked_is_defined_when_it_starts_and_else_the_record_counts() {
        let mut observed = Observed::default();
        assert!(reason(&observed, &["rabbitmq-1"]).unwrap().starts_with("the broker is started"));
        assert!(reason(&observed, &[]).unwrap().starts_with("no record says"));
        let note = json!(Note { fingerprint: wanted(&stack(&manifest()), &observed) });
        observed.records.0.insert(RECORD.to_owned(), Record { version: 1, value: note });
        assert_eq!(reason(&observed, &[]), None);
        assert!(reason(&observed, &["rabbitmq-1"]).is_some());
    }

    #[test]
    fn another_password_is_another_definition() {
        use crate::testing::made;
        let stack = stack(&manifest());
        let mut observed = Observed::default();
        let before = wanted(&stack, &observed);
        let secret = provisioner_core::stack::Secret::password(User::App.secret(), 24);
        observed.secrets.insert(secret.name.clone(), made(&secret));
        assert_ne!(wanted(&stack, &observed), before);
    }

    #[test]
    fn a_queue_that_is_no_longer_named_stays_and_is_told_about() {
        let (manifest, changing) = (manifest(), BTreeSet::new());
        let stack = stack(&manifest);
        let observed = told("", "q.email,q.report,probe.own,unrouted");
        let tasks = tasks(&Situation { stack: &stack, observed: &observed, changing: &changing });
        let withheld: Vec<&str> = tasks.withheld.iter().map(|withheld| withheld.what.as_str()).collect();
        assert_eq!(withheld, ["remove queue q.report"]);
        assert!(!tasks.withheld[0].blocks);
    }
}
