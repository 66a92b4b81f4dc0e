//! `init`: a commented manifest for a new project, from flags or from answers.

mod answers;

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use minijinja::{UndefinedBehavior, context};
use provisioner_core::manifest::{Environment, parse};
use serde_json::json;

use super::Call;
use super::exit::{Exit, Stop};
use super::settings::{ManifestSource, manifests_directory};

const TEMPLATE: &str = include_str!("manifest.yaml.j2");
const NAMED: &str = "dev";

#[derive(Clone, Debug, Args)]
pub(super) struct InitArgs {
    /// A static Linux binary with the commands `serve`, `migrate` and `seed`, such as the shop of this repository
    #[arg(long, value_name = "FILE", conflicts_with = "app_image")]
    app_binary: Option<String>,

    /// Any image
    #[arg(long, value_name = "IMAGE", requires = "serve")]
    app_image: Option<String>,

    /// Command line by which the image serves, such as "gunicorn shop.wsgi -b 0.0.0.0:8000"
    #[arg(long, value_name = "COMMAND", requires = "app_image", value_parser = words)]
    serve: Option<Words>,

    /// Command line that brings the database to the image's release
    #[arg(long, value_name = "COMMAND", requires = "app_image", value_parser = words)]
    migrate: Option<Words>,

    /// Port on which the image serves
    #[arg(long, default_value_t = 8000, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// Path that answers 200 when the app can serve
    #[arg(long, value_name = "PATH", default_value = "/")]
    health: String,

    /// Systems that the stack shall not have
    #[arg(long, value_name = "SYSTEM", value_enum, value_delimiter = ',')]
    without: Vec<Optional>,

    /// Replace a manifest that is there
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Optional {
    Rabbitmq,
    Elasticsearch,
    Mail,
    Monitoring,
    Tls,
}

/// A command line taken apart as a shell would.
#[derive(Clone, Debug)]
struct Words(Vec<String>);

fn words(text: &str) -> Result<Words, String> {
    match shlex::split(text) {
        Some(words) if !words.is_empty() => Ok(Words(words)),
        Some(_) => Err("it is empty, expected a command".to_owned()),
        None => Err("a quote is not closed".to_owned()),
    }
}

pub(super) async fn init(call: &Call<'_>, arguments: &InitArgs) -> anyhow::Result<Exit> {
    let path = target(call);
    if path.exists() && !arguments.force {
        let message = format!("init: {} is there already", path.display());
        return Err(Stop::new(Exit::Refused, message)
            .hint("replace it with --force, or name another with --env")
            .into());
    }
    let (name, arguments) = answers::complete(call, arguments).await?;
    let text = render(call, &path, &name, &arguments)?;
    // Flags may hold what no manifest takes: then nothing is written.
    parse(text.as_bytes()).with_context(|| format!("make manifest {}", path.display()))?;
    write(&path, &text).with_context(|| format!("write {}", path.display()))?;
    let again = |verb: &str| match &call.settings.manifest {
        ManifestSource::Nowhere => format!("provisioner {verb} --env {NAMED}"),
        _ => call.settings.again(verb),
    };
    call.printer.data(&json!({"manifest": path}), || {
        let mut text = format!("{} is written: read it, it explains itself\n", path.display());
        for (verb, what) in [("doctor", "does it fit this machine?"), ("plan", "what would be done"), ("up", "do it")] {
            text.push_str(&format!("  next     {} ({what})\n", again(verb)));
        }
        text
    })?;
    Ok(Exit::Done)
}

/// Where every other verb will look for it.
fn target(call: &Call<'_>) -> PathBuf {
    let settings = call.settings;
    let name = match &settings.manifest {
        ManifestSource::File(path) => return path.clone(),
        ManifestSource::Named(name) => name.as_str(),
        ManifestSource::Nowhere => NAMED,
    };
    let directory = manifests_directory(&settings.directory).unwrap_or_else(|| settings.directory.join("manifests"));
    directory.join(format!("{name}.yaml"))
}

fn render(call: &Call<'_>, path: &Path, name: &str, arguments: &InitArgs) -> anyhow::Result<String> {
    let file = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let known = Environment::ALL.iter().find(|(word, _)| *word == file).map(|(word, _)| *word);
    let has = |system: Optional| !arguments.without.contains(&system);
    // What JSON quotes, YAML reads as the same text.
    let quoted = |text: &String| json!(text).to_string();
    let list = |words: &Option<Words>| words.as_ref().map(|Words(words)| json!(words).to_string());
    let mut environment = minijinja::Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let rendered = environment.render_named_str(
        "manifest.yaml.j2",
        TEMPLATE,
        context! {
            file,
            name,
            environment => known.unwrap_or(NAMED),
            rabbitmq => has(Optional::Rabbitmq),
            elasticsearch => has(Optional::Elasticsearch),
            mail => has(Optional::Mail),
            monitoring => has(Optional::Monitoring),
            tls => has(Optional::Tls),
            app => context! {
                binary => arguments.app_binary.as_ref().map(|file| quoted(&beside(call, path, file))),
                image => arguments.app_image.as_ref().map(quoted),
                serve => list(&arguments.serve),
                migrate => list(&arguments.migrate),
                port => arguments.port,
                health => quoted(&arguments.health),
            },
        },
    )?;
    Ok(rendered + "\n")
}

/// A path that was given here as the manifest has to name it.
fn beside(call: &Call<'_>, manifest: &Path, file: &str) -> String {
    let file = call.settings.directory.join(file);
    let directory = manifest.parent().unwrap_or(Path::new("."));
    pathdiff::diff_paths(&file, directory).unwrap_or(file).display().to_string()
}

/// In place as a whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let fresh = path.with_extension("yaml.new");
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&fresh) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            OpenOptions::new().write(true).truncate(true).open(&fresh)?
        }
        other => other?,
    };
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(fresh, path)
}
