//! `config`: the manifest with every default written out, or the files that a member gets.

use clap::{Args, Subcommand};
use provisioner_core::manifest::{App, AppChecks, AppSource, Manifest, Nginx, Postgres, Redis, Route, Service, Synchronous};
use provisioner_core::name::Member;
use provisioner_core::stack::Stack;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Call;
use super::exit::{Exit, Stop};
use crate::context::{Context, no_such_member};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show the files that a member gets, with secrets by name only
    Files {
        member: String,
        /// Only this file, as it is
        path: Option<String>,
    },
}

#[derive(Serialize)]
struct FileView<'a> {
    path: &'a str,
    mode: String,
    owner: String,
    content: &'a str,
}

pub(super) async fn config(call: &Call<'_>, arguments: &ConfigArgs) -> anyhow::Result<Exit> {
    let offline = Context::offline(call)?;
    match &arguments.what {
        None => {
            let value = written_out(&offline.manifest);
            let yaml = serde_yaml::to_string(&value)?;
            call.printer.data(&value, || yaml)?;
        }
        Some(What::Files { member, path }) => files(call, &offline.stack, member, path.as_deref())?,
    }
    Ok(Exit::Done)
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

/// The manifest in its own keys, so that what is printed can be given back as a file.
fn written_out(manifest: &Manifest) -> Value {
    let Manifest { name, environment, expose, nginx, route, postgres, redis, app } = manifest;
    let Nginx { service, http_port, rate_limit, burst, body_max_bytes } = nginx;
    let nginx = with_service(
        service,
        json!({
            "http_port": http_port, "rate_limit": rate_limit, "burst": burst, "body_max_bytes": body_max_bytes,
        }),
    );
    let Route { service, replicas } = route;
    let route = with_service(service, json!({"replicas": replicas}));
    let Postgres { service, replicas, synchronous, settings } = postgres;
    let synchronous = match synchronous {
        Synchronous::Off => "off",
        Synchronous::Preferred => "preferred",
        Synchronous::Required => "required",
    };
    let postgres =
        with_service(service, json!({"replicas": replicas, "synchronous": synchronous, "settings": settings}));
    let Redis { service, settings } = redis;
    let redis = with_service(service, json!({"settings": settings}));
    json!({
        "name": name, "environment": environment.word(), "expose": expose,
        "nginx": nginx, "route": route, "postgres": postgres, "redis": redis, "app": app_written_out(app),
    })
}

fn app_written_out(app: &App) -> Value {
    let App { source, memory_bytes, cpu_millis, replicas, serve, migrate, seed, port, health, env, checks } = app;
    let checks = match checks {
        AppChecks::Health => "health",
        AppChecks::Shop => "shop",
    };
    let mut value = json!({
        "memory": memory(*memory_bytes), "cpus": cores(*cpu_millis), "replicas": replicas, "serve": serve,
        "migrate": migrate, "seed": seed, "port": port, "health": health, "env": env, "checks": checks,
    });
    match source {
        AppSource::Binary { file, .. } => value["binary"] = json!(file),
        AppSource::Image(image) => value["image"] = json!(image),
    }
    value
}

fn with_service(service: &Service, own: Value) -> Value {
    let Service { image, memory_bytes, cpu_millis } = service;
    let mut map = Map::new();
    if let Some(image) = image {
        map.insert("image".to_owned(), json!(image));
    }
    map.insert("memory".to_owned(), json!(memory(*memory_bytes)));
    map.insert("cpus".to_owned(), json!(cores(*cpu_millis)));
    if let Value::Object(own) = own {
        map.extend(own);
    }
    Value::Object(map)
}

/// The largest unit that leaves nothing over.
fn memory(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20)] {
        if bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{}KiB", bytes >> 10)
}

fn cores(millis: u32) -> f64 {
    f64::from(millis) / 1000.0
}
