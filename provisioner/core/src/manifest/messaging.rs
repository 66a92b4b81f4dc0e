//! The sections of what works behind the requests: the broker, mail, the workers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::read::Table;
use super::sections::{count, flag, is_host, keeper, path, port, unread};
use super::{HostFiles, Mail, MailLogin, MailSecurity, MailServer, Rabbitmq, Worker, WorkerHealth, bounds, external};

const MIB: u64 = 1 << 20;
const SECURITY: [(&str, MailSecurity); 3] =
    [("off", MailSecurity::None), ("starttls", MailSecurity::StartTls), ("tls", MailSecurity::Tls)];
const NAME: &str = "names of lower-case letters, digits and hyphens";
/// What the shop's workers take from, each by its own topics.
const QUEUES: [&str; 3] = ["custom", "email", "search"];

pub(super) fn rabbitmq(mut table: Table<'_>) -> Rabbitmq {
    let rabbitmq = Rabbitmq {
        external: external::rabbitmq(&mut table),
        service: keeper(&mut table, 384, 1000),
        tls: flag(&mut table, "tls"),
        queues: queues(&mut table),
        settings: table.settings("settings", is_rabbitmq_setting, ["true", "false"]).into_iter().collect(),
    };
    table.finish();
    rabbitmq
}

fn queues(table: &mut Table<'_>) -> BTreeMap<String, Vec<String>> {
    if !table.has("queues") {
        return QUEUES.map(|name| (name.to_owned(), vec![format!("{name}.#")])).into();
    }
    let entries = table.entries("queues", NAME, is_name);
    // Notes something that is no mapping.
    let _ = table.section("queues");
    let mut queues = BTreeMap::new();
    for (name, topics) in entries {
        let read = topics.as_array().and_then(|list| {
            let is_topic = |topic: &&str| {
                !topic.is_empty()
                    && topic.len() < 200
                    && topic.chars().all(|c| c.is_ascii_alphanumeric() || "._-#*".contains(c))
            };
            list.iter().map(|topic| topic.as_str().filter(is_topic).map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        match read.filter(|topics| !topics.is_empty()) {
            Some(topics) if name != "probe" => {
                queues.insert(name, topics);
            }
            Some(_) => table.problem("queues.probe", "this name".to_owned(), "another name: the checks use it"),
            None => {
                let found = super::read::describe(&topics);
                table.problem(&format!("queues.{name}"), found, "a list of topics such as [email.#]");
            }
        }
    }
    queues
}

pub(super) fn mail(mut table: Table<'_>) -> Option<Mail> {
    let is_address = |text: &&str| {
        let parts = text.split_once('@');
        parts.is_some_and(|(user, host)| {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
            !user.is_empty() && user.chars().all(is_plain) && is_host(host)
        })
    };
    let from = table.value("from", "an address such as shop@example.com", |value| {
        value.as_str().filter(is_address).map(str::to_owned)
    });
    let from = from.unwrap_or_else(|| "shop@example.com".to_owned());
    let server = if table.has("host") { smtp(&mut table) } else { Some(MailServer::Sink(keeper(&mut table, 64, 500))) };
    table.finish();
    Some(Mail { from, server: server? })
}

fn smtp(table: &mut Table<'_>) -> Option<MailServer> {
    let host = table.value("host", "the name of a mail server such as smtp.example.com", |value| {
        value.as_str().filter(|text| is_host(text)).map(str::to_owned)
    });
    let security = table.choice("security", &SECURITY).unwrap_or(MailSecurity::StartTls);
    let standard = match security {
        MailSecurity::None => 25,
        MailSecurity::StartTls => 587,
        MailSecurity::Tls => 465,
    };
    let port = port(table, "port").unwrap_or(standard);
    let user = table.text("user", "the name to log in with");
    let password = table.text("password_file", "the path of a file that holds the password");
    let login = match (user, password) {
        (Some(user), Some(file)) => {
            let password = HostFiles { files: vec![PathBuf::from(file)], digest: unread() };
            Some(MailLogin { user, password })
        }
        (None, None) => None,
        (user, _) => {
            let missing = if user.is_some() { "password_file" } else { "user" };
            table.problem(missing, "nothing".to_owned(), "both user and password_file, or neither");
            None
        }
    };
    if login.is_some() && security == MailSecurity::None {
        table.problem("security", "off with a login".to_owned(), "starttls or tls: a password is never sent in clear");
    }
    Some(MailServer::Smtp { host: host?, port, security, login })
}

/// The shop's own programs need no command: a worker called `search` is `app worker search`.
pub(super) fn workers(table: &mut Table<'_>, is_shop: bool) -> BTreeMap<String, Worker> {
    let names: Vec<String> = table.entries("workers", NAME, is_name).into_iter().map(|(name, _)| name).collect();
    let mut section = table.section("workers");
    let mut workers = BTreeMap::new();
    for name in names {
        if let Some(worker) = worker(section.named_section(&name), &name, is_shop) {
            workers.insert(name, worker);
        }
    }
    workers
}

fn worker(mut table: Table<'_>, name: &str, is_shop: bool) -> Option<Worker> {
    let shop = || {
        let words: &[&str] = if name == "relay" { &["relay"] } else { &["worker", name] };
        let words = std::iter::once("/usr/local/bin/app").chain(words.iter().copied());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let is_own = table.has("command");
    let command = table.words("command").or_else(|| (is_shop && !is_own).then(shop));
    if command.is_none() && !is_own {
        table.problem("command", "nothing".to_owned(), "the command that works, such as [celery, -A, shop, worker]");
    }
    let health = if table.has("health") {
        let mut health = table.section("health");
        let (port, path) = (port(&mut health, "port").unwrap_or(9000), path(&mut health, "path"));
        health.finish();
        Some(WorkerHealth { port, path: path.unwrap_or_else(|| "/readyz".to_owned()) })
    } else {
        (is_shop && !is_own).then(|| WorkerHealth { port: 9000, path: "/readyz".to_owned() })
    };
    let worker = Worker {
        command: command.clone().unwrap_or_default(),
        replicas: count(&mut table, "replicas", 1, 50).unwrap_or(1),
        memory_bytes: table.value("memory", bounds::MEMORY, bounds::memory).unwrap_or(64 * MIB),
        cpu_millis: table.value("cpus", bounds::CPUS, bounds::cpus).unwrap_or(500),
        health,
    };
    table.finish();
    command.map(|_| worker)
}

fn is_name(name: &str) -> bool {
    name.len() <= 24
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// What the provisioner decides itself.
const RABBITMQ_RESERVED: [&str; 12] = [
    "anonymous_login_user",
    "auth_",
    "cluster_",
    "default_",
    "definitions.",
    "listeners.",
    "load_definitions",
    "loopback_users",
    "management.",
    "prometheus.",
    "ssl_options.",
    "vm_memory_high_watermark.",
];

fn is_rabbitmq_setting(name: &str) -> bool {
    !RABBITMQ_RESERVED.iter().any(|reserved| name.starts_with(reserved))
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.')
}
