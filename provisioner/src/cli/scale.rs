//! `scale`: another number of replicas, in the manifest first and then in the stack.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use provisioner_components::postgres::Cluster;
use provisioner_core::manifest::{Manifest, parse};

use super::Call;
use super::exit::{Exit, Stop};
use super::manifests::{self, Program};
use super::up::{self, UpArgs};
use crate::context::Context;

const COMPONENT: &str = "postgres";

#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// What is scaled: postgres
    component: String,

    /// Replicas beside the one primary
    #[arg(long, value_name = "NUMBER")]
    replicas: u32,

    /// Say what would be done and why; writes nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn scale(call: &Call<'_>, arguments: &ScaleArgs) -> anyhow::Result<Exit> {
    if arguments.component != COMPONENT {
        let message = format!("scale: found {:?}, expected {COMPONENT}", arguments.component);
        let stop = Stop::new(Exit::Usage, message);
        return Err(stop.hint("other numbers are changed in the manifest, then: provisioner up").into());
    }
    let (path, bytes) = manifests::written(call.settings)?;
    if parse(&bytes).is_ok_and(|manifest| manifest.postgres.external.is_some()) {
        let stop = Stop::new(Exit::Refused, "scale: postgres is external: its operator scales it");
        return Err(stop.into());
    }
    let text = edited(&path, &bytes, arguments.replicas)?;
    let manifest = manifests::understand(call.settings, Program::Needed, &path, text.as_bytes())?;
    let context = call.cut(Context::to_plan_for(call, manifest)).await??;
    refuse_without_primary(call, &context).await?;
    let up = UpArgs::of(&[COMPONENT, "route"], arguments.dry_run);
    up::bring_up(call, &context, &up, || put(&path, &text)).await
}

/// Members go from the last one on, and the primary may be any of them.
async fn refuse_without_primary(call: &Call<'_>, context: &Context) -> anyhow::Result<()> {
    let observed = call.cut(context.engine.observe()).await??;
    let Some(Cluster { primary, .. }) = Cluster::read(&observed.records)? else { return Ok(()) };
    if context.stack.workload(&primary).is_some() {
        return Ok(());
    }
    let stop = Stop::new(Exit::Refused, format!("scale: {primary} would go, and it is the primary"));
    Err(stop.hint(call.settings.again("switchover --to postgres-1")).into())
}

/// The manifest's text with another number, everything else as people wrote it. That it says just this is seen by
/// reading it again.
fn edited(path: &Path, bytes: &[u8], replicas: u32) -> anyhow::Result<String> {
    let reading = || format!("read manifest {}", path.display());
    let before = parse(bytes).with_context(reading)?;
    let text = std::str::from_utf8(bytes).with_context(reading)?;
    let after = replaced(text, replicas);
    let wanted = Manifest { postgres: with_replicas(&before, replicas), ..before.clone() };
    let found = after.as_deref().map(|after| parse(after.as_bytes()));
    match (found, after) {
        (Some(Ok(found)), Some(after)) if found == wanted => Ok(after),
        // What the manifest refuses is refused here, in its own words.
        (Some(Err(invalid)), _) => Err(invalid).with_context(|| format!("scale postgres to {replicas} replicas")),
        _ => {
            let message =
                format!("change postgres.replicas in {}: it is not written on a line of its own", path.display());
            let stop = Stop::new(Exit::Manifest, message);
            Err(stop.hint(format!("write {replicas} there by hand, then: provisioner up")).into())
        }
    }
}

fn with_replicas(manifest: &Manifest, replicas: u32) -> provisioner_core::manifest::Postgres {
    provisioner_core::manifest::Postgres { replicas, ..manifest.postgres.clone() }
}

/// `None` where the section has no form that can be edited by the line.
fn replaced(text: &str, replicas: u32) -> Option<String> {
    let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    let begin = lines.iter().position(|line| line.split('#').next().unwrap_or_default().trim_end() == "postgres:")?;
    let inside = |line: &&String| is_blank(line) || line.starts_with(' ');
    let length = lines.iter().skip(begin + 1).take_while(inside).count();
    let section = begin + 1..begin + 1 + length;
    let first = lines.get(section.clone())?.iter().find(|line| !is_blank(line))?;
    let indent = first.len() - first.trim_start().len();
    let key = format!("{}replicas:", " ".repeat(indent));
    let at = section.clone().find(|at| lines.get(*at).is_some_and(|line| line.starts_with(&key)));
    match at {
        Some(at) => {
            let line = lines.get_mut(at)?;
            let rest = line.strip_prefix(&key)?;
            let value = rest.trim_start();
            let space = rest.get(..rest.len() - value.len())?;
            let tail = value.trim_start_matches(|c: char| c.is_ascii_digit());
            *line = format!("{key}{space}{replicas}{tail}");
        }
        None => lines.insert(section.start, format!("{key} {replicas}\n")),
    }
    Some(lines.concat())
}

/// Whole or not at all, whatever ends this program.
fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    let writing = || format!("write manifest {}", path.display());
    // A link stays one: what it leads to is replaced.
    let path = path.canonicalize().with_context(writing)?;
    let new = path.with_extension("yaml.new");
    std::fs::write(&new, text).with_context(writing)?;
    std::fs::set_permissions(&new, std::fs::metadata(&path).with_context(writing)?.permissions())
        .with_context(writing)?;
    std::fs::rename(&new, &path).with_context(writing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_changes_and_every_comment_stays() {
        let text = "a: 1\npostgres:  # the database\n  # how many\n  replicas: 1   # beside the primary\n  tls: true\nredis:\n  replicas: 9\n";
        let expected = text.replace("replicas: 1 ", "replicas: 3 ");
        assert_eq!(replaced(text, 3), Some(expected));
    }

    #[test]
    fn a_number_that_was_left_to_its_default_is_written_down() {
        let text = "postgres:\n    tls: true\napp: {}\n";
        assert_eq!(replaced(text, 2).as_deref(), Some("postgres:\n    replicas: 2\n    tls: true\napp: {}\n"));
    }

    #[test]
    fn a_section_on_one_line_is_left_alone() {
        assert_eq!(replaced("postgres: {replicas: 1}\n", 2), None);
        assert_eq!(replaced("app: {}\n", 2), None);
    }
}
