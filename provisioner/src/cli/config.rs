//! `config`: the manifest with every default written out, or the files that a member gets.

mod rbac;

use std::collections::BTreeSet;

use clap::{Args, Subcommand};
use provisioner_components::AUTHORITY;
use provisioner_core::manifest::SCHEMA;
use provisioner_core::name::Member;
use provisioner_core::secret;
use provisioner_core::stack::Stack;
use serde::Serialize;

use super::exit::{Exit, Stop};
use super::written::Written;
use super::{Call, reference};
use crate::context::{Context, no_such_member};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the certificate of the stack's own authority, for programs that shall trust what it signed
    Ca,
    /// Show the files that a member gets, with secrets by name only
    Files {
        member: String,
        /// Only this file, as it is
        path: Option<String>,
    },
    /// Print the least Role that suffices in the stack's namespace on Kubernetes, and what gives it to somebody
    Rbac,
    /// Print the schema of manifests, for editors
    Schema,
    /// Print the reference of all keys as a page
    Reference,
}

#[derive(Serialize)]
struct FileView<'a> {
    path: &'a str,
    mode: String,
    owner: String,
    content: &'a str,
}

pub(super) async fn config(call: &Call<'_>, arguments: &ConfigArgs) -> anyhow::Result<Exit> {
    match &arguments.what {
        Some(What::Ca) => authority(call).await?,
        None => {
            let offline = Context::offline(call)?;
            let value = Written::from(&offline.manifest);
            let yaml = serde_yaml::to_string(&value)?;
            call.printer.data(&value, || yaml)?;
        }
        Some(What::Rbac) => rbac::rbac(call)?,
        Some(What::Schema) => {
            call.printer.stdout(SCHEMA.as_bytes())?;
        }
        Some(What::Reference) => {
            call.printer.stdout(reference::page()?.as_bytes())?;
        }
        Some(What::Files { member, path }) => {
            files(call, &Context::offline(call)?.stack, member, path.as_deref())?;
        }
    }
    Ok(Exit::Done)
}

async fn authority(call: &Call<'_>) -> anyhow::Result<()> {
    let context = Context::to_look(call).await?;
    let values = context.engine.secrets(&BTreeSet::from([AUTHORITY.to_owned()])).await?;
    let Some(certificate) = values.get(AUTHORITY).and_then(|value| secret::part(value, "crt")) else {
        let message = format!(
            "stack {} has no authority of its own: it was never up, or nothing in it serves TLS",
            context.name()
        );
        return Err(Stop::new(Exit::Error, message).hint(call.settings.again("up")).into());
    };
    call.printer.data(&certificate, || certificate.clone())
}

fn files(call: &Call<'_>, stack: &Stack, member: &str, path: Option<&str>) -> anyhow::Result<()> {
    let found = stack.workload(&Member::named(member)).ok_or_else(|| no_such_member(stack, member))?;
    let all = found.files.as_slice();
    let views = all.iter().filter(|file| path.is_none_or(|path| file.path == path)).map(|file| FileView {
        path: &file.path,
        mode: format!("{:04o}", file.mode),
        owner: format!("{}:{}", file.owner.0, file.owner.1),
        content: file.content.masked(),
    });
    let views: Vec<FileView<'_>> = views.collect();
    if let (Some(path), true) = (path, views.is_empty()) {
        let paths: Vec<&str> = all.iter().map(|file| file.path.as_str()).collect();
        let stop = Stop::new(Exit::Usage, format!("{member} has no file {path}"));
        return Err(stop.hint(format!("files: {}", paths.join(", "))).into());
    }
    call.printer.data(&views, || match (path, views.as_slice()) {
        (Some(_), [only]) => only.content.to_owned(),
        _ => views.iter().map(FileView::human).collect(),
    })
}

impl FileView<'_> {
    fn human(&self) -> String {
        let Self { path, mode, owner, content } = self;
        let end = if content.ends_with('\n') { "" } else { "\n" };
        format!("==> {path} ({mode} {owner})\n{content}{end}\n")
    }
}
