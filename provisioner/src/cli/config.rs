//! `config`: the manifest with every default written out, or the files that a member gets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use clap::{Args, Subcommand};
use provisioner_core::manifest::{App, AppChecks, AppSource, Manifest, Service, Synchronous};
use provisioner_core::name::{Member, StackName};
use provisioner_core::stack::Stack;
use serde::Serialize;

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
            let value = Written::from(&offline.manifest);
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
#[derive(Serialize)]
struct Written<'a> {
    name: &'a StackName,
    environment: &'static str,
    expose: IpAddr,
    nginx: WrittenNginx<'a>,
    route: WrittenRoute<'a>,
    postgres: WrittenPostgres<'a>,
    redis: WrittenRedis<'a>,
    app: WrittenApp<'a>,
}

#[derive(Serialize)]
struct WrittenService<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    memory: String,
    cpus: f64,
}

#[derive(Serialize)]
struct WrittenNginx<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    http_port: u16,
    rate_limit: u32,
    burst: u32,
    body_max_bytes: u64,
}

#[derive(Serialize)]
struct WrittenRoute<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    replicas: u32,
}

#[derive(Serialize)]
struct WrittenPostgres<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    replicas: u32,
    synchronous: &'static str,
    settings: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct WrittenRedis<'a> {
    #[serde(flatten)]
    service: WrittenService<'a>,
    settings: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct WrittenApp<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    binary: Option<&'a Path>,
    #[serde(flatten)]
    service: WrittenService<'a>,
    replicas: u32,
    serve: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    migrate: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<&'a [String]>,
    port: u16,
    health: &'a str,
    env: &'a BTreeMap<String, String>,
    checks: &'static str,
}

impl<'a> From<&'a Manifest> for Written<'a> {
    fn from(manifest: &'a Manifest) -> Self {
        let Manifest { name, environment, expose, nginx, route, postgres, redis, app } = manifest;
        Self {
            name,
            environment: environment.word(),
            expose: *expose,
            nginx: WrittenNginx {
                service: (&nginx.service).into(),
                http_port: nginx.http_port,
                rate_limit: nginx.rate_limit,
                burst: nginx.burst,
                body_max_bytes: nginx.body_max_bytes,
            },
            route: WrittenRoute { service: (&route.service).into(), replicas: route.replicas },
            postgres: WrittenPostgres {
                service: (&postgres.service).into(),
                replicas: postgres.replicas,
                synchronous: match postgres.synchronous {
                    Synchronous::Off => "off",
                    Synchronous::Preferred => "preferred",
                    Synchronous::Required => "required",
                },
                settings: &postgres.settings,
            },
            redis: WrittenRedis { service: (&redis.service).into(), settings: &redis.settings },
            app: app.into(),
        }
    }
}

impl<'a> From<&'a App> for WrittenApp<'a> {
    fn from(app: &'a App) -> Self {
        let (binary, image) = match &app.source {
            AppSource::Binary { file, .. } => (Some(file.as_path()), None),
            AppSource::Image(image) => (None, Some(image.as_str())),
        };
        Self {
            binary,
            service: WrittenService { image, memory: memory(app.memory_bytes), cpus: cores(app.cpu_millis) },
            replicas: app.replicas,
            serve: &app.serve,
            migrate: app.migrate.as_deref(),
            seed: app.seed.as_deref(),
            port: app.port,
            health: &app.health,
            env: &app.env,
            checks: match app.checks {
                AppChecks::Health => "health",
                AppChecks::Shop => "shop",
            },
        }
    }
}

impl<'a> From<&'a Service> for WrittenService<'a> {
    fn from(Service { image, memory_bytes, cpu_millis }: &'a Service) -> Self {
        Self { image: image.as_deref(), memory: memory(*memory_bytes), cpus: cores(*cpu_millis) }
    }
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
