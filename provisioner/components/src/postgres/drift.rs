//! Settings of running servers held against their rendered files.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use provisioner_core::component::{Access, Task};
use provisioner_core::drift::{Comparison, Comparisons, Repair, Verdict};
use provisioner_core::failure::Failure;
use provisioner_core::name::Member;

use super::declare::CONFIG;
use super::login::{HOME, Login};
use super::sql::{Session, SqlError};
use super::{NAME, tasks};

const LIMIT: Duration = Duration::from_secs(2);
/// What the provisioner itself keeps with ALTER SYSTEM.
const OWN: &str = "synchronous_standby_names";
/// Base backups bring it along, and servers that no backup made have it empty.
const CONNINFO: [&str; 2] = ["primary_conninfo", "primary_slot_name"];

/// A line of a configuration file, as `pg_file_settings` has it: the last of a name counts.
struct Line {
    file: String,
    name: String,
    error: Option<String>,
    /// The running value is this very text; tells for names of nobody's, which `pg_settings` does not have.
    is_in_force: bool,
}

pub(super) async fn drift(access: &Access<'_>) -> Comparisons {
    let members = access.stack.members(NAME).map(|workload| &workload.member);
    let standing = members.filter(|member| access.observed.workload(member).is_some());
    join_all(standing.map(|member| async move {
        match compared(access, member).await {
            Ok(comparisons) => comparisons,
            Err(failure) => vec![Comparison::unknown(NAME, member, "settings", failure.chain())],
        }
    }))
    .await
    .into_iter()
    .flatten()
    .collect()
}

async fn compared(access: &Access<'_>, member: &Member) -> Result<Comparisons, Failure> {
    let session = Session::on(access, member, Login::Superuser, HOME, LIMIT).await?;
    let failed = |error: SqlError| Failure::because(format!("read the settings of {member}"), error);
    let broken = |error: tokio_postgres::Error| Failure::because(format!("read the settings of {member}"), error);
    let mut lines = Vec::new();
    let query = "SELECT sourcefile, name, error, current_setting(name, true) IS NOT DISTINCT FROM setting \
                 FROM pg_file_settings WHERE name IS NOT NULL ORDER BY seqno";
    for row in session.rows(query, &[]).await.map_err(failed)? {
        let text = |column| row.try_get::<_, Option<String>>(column).map_err(broken);
        let file = text(0)?.unwrap_or_default();
        lines.push(Line {
            file,
            name: text(1)?.unwrap_or_default(),
            error: text(2)?,
            is_in_force: row.try_get(3).map_err(broken)?,
        });
    }
    // A line of the command line (`-c`) or of ALTER DATABASE is no line of a file, and counts more.
    let query = "SELECT name, source, sourcefile, pending_restart FROM pg_settings \
                 WHERE pending_restart OR source IN ('configuration file', 'command line', 'environment variable')";
    let mut running = BTreeMap::new();
    for row in session.rows(query, &[]).await.map_err(failed)? {
        let name: String = row.try_get(0).map_err(broken)?;
        let source: String = row.try_get(1).map_err(broken)?;
        let file: Option<String> = row.try_get(2).map_err(broken)?;
        let pending: bool = row.try_get(3).map_err(broken)?;
        running.insert(name, (file.unwrap_or(source), pending));
    }
    let mut all: Comparisons = by_hand(&lines).map(|name| foreign(member, name)).collect();
    all.extend(lines.iter().filter_map(|line| refused(member, line)));
    let pending = running.iter().filter(|(_, (_, pending))| *pending);
    all.extend(pending.map(|(name, _)| waiting(member, name)));
    let rendered = lines.iter().filter(|line| is_ours(&line.file) && line.error.is_none());
    for name in rendered.map(|line| &line.name).collect::<std::collections::BTreeSet<_>>() {
        let is_plain = !running.contains_key(name) && name.contains('.');
        if is_plain && lines.iter().rev().find(|line| line.name == *name).is_some_and(|line| line.is_in_force) {
            all.push(Comparison::of(NAME, Some(member), setting(name), Verdict::Same));
            continue;
        }
        let is_named = all.iter().any(|one| one.what == setting(name));
        let from = running.get(name).map(|(from, _)| from.as_str());
        if !is_named {
            all.push(source(member, name, from));
        }
    }
    Ok(all)
}

fn setting(name: &str) -> String {
    format!("setting.{name}")
}

fn is_ours(file: &str) -> bool {
    file.starts_with(CONFIG)
}

/// Of postgresql.auto.conf, what the provisioner did not write.
fn by_hand(lines: &[Line]) -> impl Iterator<Item = &str> {
    let foreign = lines.iter().filter(|line| line.file.ends_with("/postgresql.auto.conf"));
    foreign.map(|line| line.name.as_str()).filter(|name| *name != OWN && !CONNINFO.contains(name))
}

fn foreign(member: &Member, name: &str) -> Comparison {
    let repair = Repair::Run { task: Task::new(NAME, tasks::RESET).on(member) };
    let (expected, found) = ("as postgresql.conf says", "set by ALTER SYSTEM");
    Comparison::texts(NAME, member, setting(name), (expected, found), repair)
}

fn refused(member: &Member, line: &Line) -> Option<Comparison> {
    let error = line.error.as_ref().filter(|error| *error != "setting could not be applied")?;
    let found = format!("refused in {}: {error}", line.file);
    Some(Comparison::texts(NAME, member, setting(&line.name), ("applied".to_owned(), found), Repair::Replace))
}

fn waiting(member: &Member, name: &str) -> Comparison {
    Comparison::texts(NAME, member, setting(name), ("in force", "waiting for a restart"), Repair::Replace)
}

/// A value counts where its file says so and nothing outweighs it.
fn source(member: &Member, name: &str, from: Option<&str>) -> Comparison {
    let verdict = match from {
        Some(from) if is_ours(from) => Verdict::Same,
        from => Verdict::Differs {
            expected: format!("from {CONFIG}"),
            found: format!("from {}", from.unwrap_or("nowhere")),
            repair: Repair::Replace,
        },
    };
    Comparison::of(NAME, Some(member), setting(name), verdict)
}

/// Takes back what was set by hand. The names are read again: nothing that somebody wrote goes into a statement.
pub(super) async fn reset(access: &Access<'_>, member: &Member) -> Result<(), Failure> {
    let failed = |error: SqlError| Failure::because(format!("reset settings of {member}"), error);
    let session = Session::on(access, member, Login::Superuser, HOME, super::run::CONNECT_LIMIT).await?;
    let query = "SELECT quote_ident(name), name FROM pg_file_settings \
                 WHERE sourcefile LIKE '%/postgresql.auto.conf' AND name IS NOT NULL";
    for row in session.rows(query, &[]).await.map_err(failed)? {
        let column = |at| row.try_get::<_, String>(at).map_err(|error| failed(error.into()));
        let (quoted, name) = (column(0)?, column(1)?);
        if name != OWN && !CONNINFO.contains(&name.as_str()) {
            // A name with a dot is an identifier of two parts.
            let quoted = if quoted.contains('.') {
                name.split('.').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(".")
            } else {
                quoted
            };
            session.execute(&format!("ALTER SYSTEM RESET {quoted}")).await.map_err(failed)?;
        }
    }
    session.execute("SELECT pg_reload_conf()").await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(file: &str, name: &str) -> Line {
        Line { file: file.to_owned(), name: name.to_owned(), error: None, is_in_force: true }
    }

    #[test]
    fn only_what_the_provisioner_did_not_write_is_by_hand() {
        let auto = "/var/lib/postgresql/data/postgresql.auto.conf";
        let names = ["work_mem", OWN, "primary_conninfo"];
        let lines: Vec<Line> = names.iter().map(|name| line(auto, name)).chain([line("/etc/x.conf", "port")]).collect();
        assert_eq!(by_hand(&lines).collect::<Vec<_>>(), ["work_mem"]);
    }

    #[test]
    fn a_value_from_elsewhere_outweighs_the_file() {
        let member = Member::named("postgres-1");
        let ours = format!("{CONFIG}/postgresql.conf");
        assert_eq!(source(&member, "work_mem", Some(&ours)).because(), None);
        let told = source(&member, "work_mem", Some("command line")).because().unwrap();
        assert_eq!(told, "setting.work_mem is from command line, expected from /etc/postgresql");
    }
}
