//! `bundle`: everything that somebody who helps needs to see, in one archive and without secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use provisioner_core::clock;
use serde_json::{Value, json};

use super::exit::Exit;
use super::status::Status;
use super::written::Written;
use super::{Call, doctor, verify};
use crate::context::Context;
use crate::evidence::Evidence;
use crate::preflight;
use crate::report::create_private;

const HOUR: u64 = 3600;

#[derive(Debug, Args)]
pub(super) struct BundleArgs {
    /// Write the archive here instead of provisioner-STACK-SECONDS.tar.gz in this directory
    #[arg(long, value_name = "FILE")]
    into: Option<PathBuf>,

    /// So many of the newest lines of each member's log
    #[arg(long, value_name = "LINES", default_value_t = 2000)]
    tail: u32,

    /// Make no checks, which needs up to a minute on a stack that does not answer
    #[arg(long)]
    no_verify: bool,
}

pub(super) async fn bundle(call: &Call<'_>, arguments: &BundleArgs) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    let at = clock::unix_seconds();
    let name = format!("provisioner-{}-{at}", context.name());
    let path = match &arguments.into {
        Some(file) => call.settings.directory.join(file),
        None => call.settings.directory.join(format!("{name}.tar.gz")),
    };
    let written = || format!("write {}", path.display());
    // Found out before a minute was spent on looking.
    let mut file = create_private(&path).with_context(written)?;
    let mut evidence = Evidence::gather(&context, at.saturating_sub(HOUR), Some(arguments.tail)).await?;
    evidence.add_json("versions.json", &versions(&context).await)?;
    evidence.add_json("manifest.json", &manifest(&context)?)?;
    evidence.add_or_miss("doctor.txt", preflight(&context).await);
    evidence.add_or_miss("status.json", status(&context).await);
    if !arguments.no_verify {
        call.printer.note("making the checks of verify");
        let observed = context.observe().await?;
        evidence.add_json("findings.json", &verify::findings(&context, &observed, &BTreeSet::new()).await)?;
    }
    let files = evidence.finish();
    file.write_all(&archive(&name, &files, at)?).and_then(|()| file.sync_all()).with_context(written)?;
    let names: Vec<&String> = files.keys().collect();
    call.printer.data(&json!({"bundle": path, "files": names}), || human(&path, &files))?;
    Ok(Exit::Done)
}

async fn versions(context: &Context) -> Value {
    let host = context.engine.host().await;
    let engine = host.map_or_else(
        |error| json!({"error": error.to_string()}),
        |host| json!({"engine": host.engine, "cpus": host.cpus, "memory_bytes": host.memory_bytes}),
    );
    json!({
        "provisioner": env!("CARGO_PKG_VERSION"),
        "host": {"os": std::env::consts::OS, "arch": std::env::consts::ARCH},
        "engine": engine,
    })
}

/// What a person wrote for the app may be a secret, so only its names are told.
fn manifest(context: &Context) -> anyhow::Result<Value> {
    let mut manifest = serde_json::to_value(Written::from(&context.manifest))?;
    for value in manifest["app"]["env"].as_object_mut().into_iter().flat_map(|env| env.values_mut()) {
        *value = json!("[left out]");
    }
    Ok(manifest)
}

async fn preflight(context: &Context) -> anyhow::Result<String> {
    let observed = context.snapshot().await?;
    Ok(preflight::render(&doctor::lines(context, &observed).await?, false))
}

async fn status(context: &Context) -> anyhow::Result<String> {
    let mut status = Status::of(context, &context.snapshot().await?);
    status.measure(context).await;
    Ok(serde_json::to_string_pretty(&status)? + "\n")
}

fn archive(folder: &str, files: &BTreeMap<String, String>, at: u64) -> std::io::Result<Vec<u8>> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o600);
        header.set_mtime(at);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
    }
    builder.into_inner()?.finish()
}

fn human(path: &Path, files: &BTreeMap<String, String>) -> String {
    let mut text = format!("{}\n", path.display());
    for (name, content) in files {
        text.push_str(&format!("  {name} ({})\n", preflight::human_bytes(content.len() as u64)));
    }
    text.push_str("values of the stack's secrets are replaced by their names; read what your own app logs before you pass it on\n");
    text
}
