//! What Redis runs with, held against its file and its users.

use std::collections::{BTreeMap, BTreeSet};

use provisioner_core::component::Access;
use provisioner_core::drift::{Comparison, Comparisons, Repair};
use redis::aio::MultiplexedConnection;
use sha2::{Digest, Sha256};

use super::client::connect;
use super::{CONFIGURATION, NAME, USERS, User, member};

/// What Redis answers in other words than its file has: a list of save points, an address list, sizes of clients.
const OTHER_WORDS: [&str; 3] = ["bind", "save", "client-output-buffer-limit"];

pub(super) async fn drift(access: &Access<'_>) -> Comparisons {
    if access.observed.workload(&member()).is_none() {
        return Vec::new();
    }
    let unknown = |reason| vec![Comparison::unknown(NAME, &member(), "settings", reason)];
    let mut connection = match connect(access, &member(), Some(User::Admin)).await {
        Ok(connection) => connection,
        Err(refusal) => return unknown(refusal.to_string()),
    };
    match compared(access, &mut connection).await {
        Ok(comparisons) => comparisons,
        Err(reason) => unknown(reason),
    }
}

async fn compared(access: &Access<'_>, connection: &mut MultiplexedConnection) -> Result<Comparisons, String> {
    let text = |path: &str| {
        let workload = access.stack.workload(&member())?;
        workload.files.iter().find(|file| file.path == path).map(|file| file.content.clone())
    };
    let failed = |error: redis::RedisError| error.to_string();
    let configuration = text(CONFIGURATION).ok_or("no redis.conf is declared")?;
    let found: BTreeMap<String, String> =
        redis::cmd("CONFIG").arg("GET").arg("*").query_async(connection).await.map_err(failed)?;
    let mut all: Comparisons = wanted(configuration.masked())
        .into_iter()
        .filter(|(name, _)| !OTHER_WORDS.contains(&name.as_str()))
        .map(|(name, value)| {
            let found = found.get(&name).cloned().unwrap_or_else(|| "unknown to Redis".to_owned());
            let value = if same_value(&value, &found) { found.clone() } else { value };
            Comparison::texts(NAME, &member(), format!("setting.{name}"), (value, found), Repair::Replace)
        })
        .collect();
    let users = text(USERS).ok_or("no users.acl is declared")?;
    let names = users.secrets().into_iter().map(str::to_owned).collect();
    let values = access.engine.secrets(&names).await.map_err(|error| error.to_string())?;
    let users = users.resolve(&values).map_err(|error| error.to_string())?;
    let listed: Vec<String> = redis::cmd("ACL").arg("LIST").query_async(connection).await.map_err(failed)?;
    all.extend(acl(&users, &listed));
    Ok(all)
}

/// Name to value; the last line of a name counts.
fn wanted(configuration: &str) -> BTreeMap<String, String> {
    let lines = configuration.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once(' '));
    pairs.map(|(name, value)| (name.to_lowercase(), value.trim().trim_matches('"').to_owned())).collect()
}

/// Redis answers sizes in bytes.
fn same_value(wanted: &str, found: &str) -> bool {
    wanted.eq_ignore_ascii_case(found) || bytes(wanted).is_some_and(|bytes| found.parse() == Ok(bytes))
}

/// As redis.conf writes them: `1k` is 1000 bytes, `1kb` is 1024.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let at = lower.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = lower.split_at(at);
    let factor: u64 = match unit {
        "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A user's rules with what is said by default left out, and passwords only as the hashes that Redis keeps.
fn rules(line: &str) -> (String, BTreeSet<String>) {
    let mut words = line.split_whitespace().skip(1);
    let name = words.next().unwrap_or_default().to_owned();
    let defaults = ["resetpass", "resetkeys", "resetchannels", "-@all", "sanitize-payload", "nopass"];
    let rules =
        words.filter(|word| !defaults.contains(word) || *word == "nopass").map(|word| match word.strip_prefix('>') {
            Some(password) => format!("#{}", hex(&Sha256::digest(password.as_bytes()))),
            None => word.to_owned(),
        });
    (name, rules.collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn acl(wanted: &str, listed: &[String]) -> Comparisons {
    let wanted: BTreeMap<String, BTreeSet<String>> =
        wanted.lines().filter(|line| line.starts_with("user ")).map(rules).collect();
    let found: BTreeMap<String, BTreeSet<String>> = listed.iter().map(|line| rules(line)).collect();
    let names: BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    let compared = names.into_iter().map(|name| {
        let (expected, seen) = match (wanted.get(name), found.get(name)) {
            (Some(_), None) => ("a user", "missing"),
            (None, Some(_)) => ("no user", "foreign"),
            (one, other) if one == other => ("as declared", "as declared"),
            // Which rule it is would show the hash of a password.
            _ => ("as declared", "other rules or another password"),
        };
        Comparison::texts(NAME, &member(), format!("user.{name}"), (expected, seen), Repair::Replace)
    });
    compared.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_same_in_either_form() {
        assert!(same_value("96mb", "100663296") && same_value("1k", "1000") && same_value("yes", "YES"));
        assert!(!same_value("96mb", "96") && !same_value("allkeys-lru", "noeviction"));
    }

    #[test]
    fn the_last_line_of_a_name_counts_and_comments_do_not() {
        let wanted = wanted("# port 1\nport 2\nport 3\nlogfile \"\"\n");
        assert_eq!(wanted, [("logfile", ""), ("port", "3")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn users_are_missing_foreign_or_different_and_no_password_is_shown() {
        let wanted = "user app on resetpass >secret ~k:* -@all +@read\nuser gone on >x\n";
        let hash = hex(&Sha256::digest(b"secret"));
        let same = format!("user app on sanitize-payload #{hash} ~k:* resetchannels -@all +@read");
        let reasons =
            |listed: &[String]| -> Vec<String> { acl(wanted, listed).iter().filter_map(Comparison::because).collect() };
        assert_eq!(
            reasons(&[
                same.clone(),
                "user gone on #2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 -@all".to_owned()
            ]),
            Vec::<String>::new()
        );
        assert_eq!(
            reasons(&[same.replace("+@read", "+@all"), "user eve on nopass".to_owned()]),
            [
                "user.app is other rules or another password, expected as declared",
                "user.eve is foreign, expected no user",
                "user.gone is missing, expected a user",
            ]
        );
    }
}
