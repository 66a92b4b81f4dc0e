//! The comparison itself: pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{Actual, Comparison, Comparisons, FoundFile, Repair, Verdict};
use crate::stack::{File, Fingerprint, Restart, Text, Workload};

const MIB: u64 = 1 << 20;

/// Aspect by aspect. A member that was stopped has its restart policy taken away on purpose.
pub fn workload(workload: &Workload, actual: &Actual, is_running: bool) -> Comparisons {
    let mut all = Vec::new();
    let mut compare = |what: &str, expected: String, found: String| {
        all.push(Comparison::texts(&workload.component, &workload.member, what, (expected, found), Repair::Replace));
    };
    let limits = &workload.limits;
    compare("memory", size(limits.memory_bytes), size(actual.memory_bytes));
    compare("cpu", cpus(limits.cpu_millis), cpus(actual.cpu_millis));
    if limits.shm_bytes.is_some() {
        compare("shm", size(limits.shm_bytes), size(actual.shm_bytes));
    }
    if is_running {
        compare("restart", restart(workload.restart).to_owned(), actual.restart.clone());
    }
    compare("stop.signal", workload.stop.signal.clone(), actual.stop_signal.clone());
    compare("stop.grace", seconds(Some(workload.stop.grace_secs)), seconds(actual.stop_grace_secs));
    let command = if workload.command.is_empty() { &actual.image_command } else { &workload.command };
    let (wanted, found) = commands(command, &actual.command);
    compare("command", wanted, found);
    let user = workload.user.map(|(user, group)| format!("{user}:{group}"));
    compare("user", named(user.unwrap_or_else(|| actual.image_user.clone())), named(actual.user.clone()));
    let reads = |reads: bool| if reads { "read from their file" } else { "not read" }.to_owned();
    compare("secret_env", reads(!workload.secret_env.is_empty()), reads(actual.reads_secret_env));
    let mounts = workload.mounts.iter().map(|mount| format!("{} at {}", mount.volume, mount.path));
    let found = actual.mounts.iter().map(|(path, volume)| format!("{volume} at {path}"));
    compare("mounts", listed(mounts), listed(found));
    let names = std::iter::once(workload.member.to_string()).chain(workload.names.iter().cloned());
    let found = actual.names.as_ref().map(|names| listed(names.iter().cloned()));
    compare("names", listed(names), found.unwrap_or_else(|| "not on the stack's network".to_owned()));
    compare("networks", "the stack's own".to_owned(), networks(&actual.other_networks));
    let exposed = workload.ports.iter().filter(|port| port.is_exposed());
    let ports = exposed.map(|port| published(port.port, port.expose.address()));
    let found = actual.ports.iter().map(|(port, public)| published(*port, *public));
    compare("ports", listed(ports), listed(found));
    variables(workload, actual, &mut compare);
    all.push(image(workload, actual));
    all
}

fn named(user: String) -> String {
    if user.is_empty() { "root".to_owned() } else { user }
}

/// Names, and whether a value differs; never a value, in which somebody may have put a secret by hand.
fn variables(workload: &Workload, actual: &Actual, compare: &mut impl FnMut(&str, String, String)) {
    for (name, value) in &workload.env {
        let found = match actual.env.get(name) {
            Some(found) if found == value => "as declared",
            Some(_) => "another value",
            None => "not set",
        };
        compare(&format!("env.{name}"), "as declared".to_owned(), found.to_owned());
    }
    for (name, value) in &actual.env {
        if !workload.env.contains_key(name) && actual.image_env.get(name) != Some(value) {
            compare(&format!("env.{name}"), "not set".to_owned(), "set".to_owned());
        }
    }
}

fn image(workload: &Workload, actual: &Actual) -> Comparison {
    let (component, member) = (&workload.component, &workload.member);
    match &actual.expected_image {
        Some(expected) => Comparison::texts(component, member, "image", (expected, &actual.image), Repair::Replace),
        None => Comparison::unknown(component, member, "image", "the engine no longer holds the image by its name"),
    }
}

/// `resolved` puts secrets in place.
pub(super) fn files(
    workload: &Workload,
    found: &BTreeMap<String, FoundFile>,
    resolved: impl Fn(&Text) -> Result<String, String>,
) -> Comparisons {
    let compared = workload.files.iter().map(|file| {
        let verdict = match (found.get(&file.path), resolved(&file.content)) {
            (None, _) => Verdict::Unknown { reason: "the engine says nothing about it".to_owned() },
            (_, Err(reason)) => Verdict::Unknown { reason },
            (Some(found), Ok(content)) => file_verdict(file, found, &content),
        };
        Comparison::of(&workload.component, Some(&workload.member), format!("files.{}", file.path), verdict)
    });
    compared.collect()
}

fn file_verdict(file: &File, found: &FoundFile, content: &str) -> Verdict {
    let (mut expected, mut seen) = (Vec::new(), Vec::new());
    match found {
        FoundFile::Absent => {
            expected.push("a file".to_owned());
            seen.push("absent".to_owned());
        }
        FoundFile::Other(what) => {
            expected.push("a file".to_owned());
            seen.push(what.clone());
        }
        FoundFile::File { content: digest, mode, owner } => {
            let wanted = Fingerprint::of_bytes(content.as_bytes());
            if *digest != wanted {
                // A digest of a file with secrets in it would be a way to test guesses.
                let is_open = file.content.secrets().is_empty();
                let say = |text: String, hidden: &str| if is_open { text } else { hidden.to_owned() };
                expected.push(say(format!("content {wanted}"), "content as declared"));
                seen.push(say(format!("content {digest}"), "other content"));
            }
            if *mode != file.mode {
                expected.push(format!("mode {:04o}", file.mode));
                seen.push(format!("mode {mode:04o}"));
            }
            if *owner != file.owner {
                expected.push(format!("owner {}:{}", file.owner.0, file.owner.1));
                seen.push(format!("owner {}:{}", owner.0, owner.1));
            }
        }
    }
    if expected.is_empty() {
        return Verdict::Same;
    }
    let repair = Repair::PutFile { path: file.path.clone() };
    Verdict::Differs { expected: expected.join(", "), found: seen.join(", "), repair }
}

fn restart(restart: Restart) -> &'static str {
    match restart {
        Restart::UnlessStopped => "unless_stopped",
        Restart::Never => "never",
    }
}

fn size(bytes: Option<u64>) -> String {
    match bytes {
        None => "unlimited".to_owned(),
        Some(bytes) if bytes % MIB == 0 => format!("{} MiB", bytes / MIB),
        Some(bytes) => format!("{bytes} bytes"),
    }
}

fn cpus(millis: Option<u32>) -> String {
    millis.map_or_else(|| "unlimited".to_owned(), |millis| format!("{}.{:03} cores", millis / 1000, millis % 1000))
}

fn seconds(seconds: Option<u32>) -> String {
    seconds.map_or_else(|| "the engine's default".to_owned(), |seconds| format!("{seconds} s"))
}

/// Where they part. What somebody wrote there by hand may be a password, so it is not shown.
fn commands(expected: &[String], found: &[String]) -> (String, String) {
    let same = expected.iter().zip(found).take_while(|(one, other)| one == other).count();
    if same == expected.len() && same == found.len() {
        return ("as declared".to_owned(), "as declared".to_owned());
    }
    let end = |words: &[String]| if words.len() == same { "no more words" } else { "another word" }.to_owned();
    (format!("{} words", expected.len()), format!("{} after word {same}", end(found)))
}

fn published(port: u16, public: Option<SocketAddr>) -> String {
    public.map_or_else(|| format!("{port} for checks"), |public| format!("{port} at {public}"))
}

fn networks(others: &[String]) -> String {
    if others.is_empty() { "the stack's own".to_owned() } else { format!("also {}", others.join(", ")) }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let items: BTreeSet<String> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.into_iter().collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Member;
    use crate::stack::{ImageId, Limits, OnChange, Stop};

    fn described() -> Workload {
        Workload {
            member: Member::named("redis-1"),
            component: "redis".to_owned(),
            image: ImageId("redis".to_owned()),
            command: vec!["redis-server".to_owned(), "/etc/redis.conf".to_owned()],
            env: BTreeMap::from([("LOG".to_owned(), "plain".to_owned())]),
            secret_env: BTreeMap::new(),
            files: vec![File {
                path: "/etc/redis.conf".to_owned(),
                mode: 0o400,
                owner: (999, 999),
                content: Text::new("port @{secret:port}\n"),
                on_change: OnChange::Restart,
            }],
            mounts: Vec::new(),
            names: Vec::new(),
            ports: Vec::new(),
            user: Some((999, 999)),
            scratch: Vec::new(),
            limits: Limits { memory_bytes: Some(128 << 20), ..Limits::default() },
            stop: Stop { signal: "SIGTERM".to_owned(), grace_secs: 30 },
            restart: Restart::UnlessStopped,
            probes: None,
            after: Vec::new(),
        }
    }

    fn running() -> Actual {
        Actual {
            image: "sha256:1".to_owned(),
            expected_image: Some("sha256:1".to_owned()),
            command: described().command,
            env: BTreeMap::from([("LOG", "plain"), ("PATH", "/bin")].map(|(k, v)| (k.to_owned(), v.to_owned()))),
            user: "999:999".to_owned(),
            image_env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
            memory_bytes: Some(128 << 20),
            restart: "unless_stopped".to_owned(),
            stop_signal: "SIGTERM".to_owned(),
            stop_grace_secs: Some(30),
            names: Some(vec!["redis-1".to_owned()]),
            ..Actual::default()
        }
    }

    fn reasons(comparisons: &[Comparison]) -> Vec<String> {
        comparisons.iter().filter_map(Comparison::because).collect()
    }

    #[test]
    fn a_member_as_it_was_asked_for_is_the_same_in_every_aspect() {
        let all = workload(&described(), &running(), true);
        assert!(all.iter().all(|one| one.verdict == Verdict::Same), "{all:#?}");
    }

    #[test]
    fn every_aspect_that_somebody_changed_is_named() {
        let mut actual = running();
        actual.memory_bytes = Some(64 << 20);
        actual.cpu_millis = Some(1500);
        actual.restart = "always".to_owned();
        actual.command.push("--appendonly no".to_owned());
        actual.user = String::new();
        actual.env.insert("LOG".to_owned(), "s3cret".to_owned());
        actual.env.insert("TOKEN".to_owned(), "s3cret".to_owned());
        actual.mounts.insert("/data".to_owned(), "bind /srv".to_owned());
        actual.names = None;
        actual.other_networks = vec!["bridge".to_owned()];
        actual.ports.insert(6379, Some("0.0.0.0:6379".parse().unwrap()));
        actual.image = "sha256:2".to_owned();
        let all = reasons(&workload(&described(), &actual, true)).join("\n");
        assert!(!all.contains("s3cret"), "{all}");
        insta::assert_snapshot!(all, @"
    memory is 64 MiB, expected 128 MiB
    cpu is 1.500 cores, expected unlimited
    restart is always, expected unless_stopped
    command is another word after word 2, expected 2 words
    user is root, expected 999:999
    mounts is bind /srv at /data, expected none
    names is not on the stack's network, expected redis-1
    networks is also bridge, expected the stack's own
    ports is 6379 at 0.0.0.0:6379, expected none
    env.LOG is another value, expected as declared
    env.TOKEN is set, expected not set
    image is sha256:2, expected sha256:1
    ");
    }

    #[test]
    fn a_stopped_member_may_have_lost_its_restart_policy_and_an_image_without_a_name_is_no_answer() {
        let actual = Actual { restart: "never".to_owned(), expected_image: None, ..running() };
        let all = workload(&described(), &actual, false);
        assert_eq!(reasons(&all), Vec::<String>::new());
        let unknown: Vec<&str> = all
            .iter()
            .filter(|one| matches!(one.verdict, Verdict::Unknown { .. }))
            .map(|one| one.what.as_str())
            .collect();
        assert_eq!(unknown, ["image"]);
    }

    #[test]
    fn a_file_is_its_content_its_mode_and_its_owner() {
        let content = Fingerprint::of_bytes(b"port 1\n");
        let path = "/etc/redis.conf".to_owned();
        let told = |found: FoundFile| {
            let all = files(&described(), &BTreeMap::from([(path.clone(), found)]), |text| {
                text.resolve(&BTreeMap::from([("port".to_owned(), "1".to_owned())])).map_err(|error| error.to_string())
            });
            reasons(&all)
        };
        let file = |content, mode, owner| FoundFile::File { content, mode, owner };
        assert_eq!(told(file(content.clone(), 0o400, (999, 999))), Vec::<String>::new());
        assert_eq!(
            told(file(content, 0o444, (0, 0))),
            ["files./etc/redis.conf is mode 0444, owner 0:0, expected mode 0400, owner 999:999"]
        );
        assert_eq!(
            told(file(Fingerprint::of_bytes(b"x"), 0o400, (999, 999))),
            ["files./etc/redis.conf is other content, expected content as declared"]
        );
        assert_eq!(told(FoundFile::Absent), ["files./etc/redis.conf is absent, expected a file"]);
    }

    #[test]
    fn a_file_that_nobody_could_read_is_no_answer() {
        let all = files(&described(), &BTreeMap::new(), |_| Err("no secret".to_owned()));
        assert!(matches!(all[0].verdict, Verdict::Unknown { .. }));
    }
}
