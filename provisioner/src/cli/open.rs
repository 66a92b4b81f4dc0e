//! `open`: where people reach the stack's pages, with their logins. Shows secrets, because that is what it is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use provisioner_core::component::{At, Entrypoint};
use provisioner_core::observed::{Observed, State};
use serde::Serialize;

use super::Call;
use super::exit::{Exit, Stop};
use super::settings::{Environment, Format};
use crate::context::Context;
use crate::table::{Table, Tone};

#[derive(Debug, Args)]
pub(super) struct OpenArgs {
    /// What to open, such as http or rabbitmq; none: a table of all
    #[arg(value_name = "NAME")]
    page: Option<String>,

    /// Never start a browser [default: one is started where stdout is a terminal of a desktop]
    #[arg(long, conflicts_with = "browser")]
    print: bool,

    /// Start a browser in any case
    #[arg(long, requires = "page")]
    browser: bool,
}

/// An entrypoint as `status` and `up` tell it.
#[derive(Debug, Serialize)]
pub(super) struct Address {
    pub(super) name: &'static str,
    /// `None`: only the engine knows its port, and the member does not run.
    pub(super) url: Option<String>,
}

#[derive(Serialize)]
struct Door {
    #[serde(flatten)]
    address: Address,
    member: String,
    state: &'static str,
    login: Option<Credentials>,
    /// The address ends with this process.
    #[serde(skip)]
    is_forwarded: bool,
}

#[derive(Serialize)]
struct Credentials {
    user: String,
    /// `None`: the engine does not hold it yet.
    password: Option<String>,
}

/// In place of a state: the stack has no member there.
const EXTERNAL: &str = "external";

/// How long a program that hands an address on to the browser may take; it may also be the browser itself.
const OPENER_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn open(call: &Call<'_>, arguments: &OpenArgs) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    let observed = context.snapshot().await?;
    let mut entrypoints = entrypoints(&context);
    if let Some(name) = &arguments.page {
        entrypoints = vec![named(call, &context, &observed, entrypoints, name)?];
    }
    let passwords = passwords(&context, &entrypoints).await?;
    let mut doors: Vec<Door> =
        entrypoints.iter().map(|entrypoint| door(&context, &observed, &passwords, entrypoint)).collect();
    if let (Some(_), [entrypoint], [door]) = (&arguments.page, entrypoints.as_slice(), doors.as_mut_slice()) {
        forward(&observed, entrypoint, door);
    }
    let (Some(_), [door]) = (&arguments.page, doors.as_slice()) else {
        call.printer.data(&doors, || table(&doors, call.printer.is_colored()))?;
        return Ok(Exit::Done);
    };
    call.printer.data(door, || human(door))?;
    if let Some(url) = &door.address.url {
        start_browser(call, arguments, url).await?;
    }
    if door.is_forwarded {
        call.printer.note("forwarded until you press Ctrl-C");
        std::future::pending::<()>().await;
    }
    Ok(Exit::Done)
}

/// Of all components, in the order in which people read a stack.
pub(super) fn entrypoints(context: &Context) -> Vec<Entrypoint> {
    context.components.iter().flat_map(|component| component.entrypoints(&context.stack)).collect()
}

pub(super) fn addresses(context: &Context, observed: &Observed) -> Vec<Address> {
    let address = |entrypoint: &Entrypoint| address(context, observed, entrypoint);
    entrypoints(context).iter().map(address).collect()
}

fn address(context: &Context, observed: &Observed, entrypoint: &Entrypoint) -> Address {
    Address { name: entrypoint.name, url: entrypoint.url(&context.stack, observed) }
}

/// The one of that name, if its member runs.
fn named(
    call: &Call<'_>,
    context: &Context,
    observed: &Observed,
    entrypoints: Vec<Entrypoint>,
    name: &str,
) -> Result<Entrypoint, Stop> {
    let names = entrypoints.iter().map(|entrypoint| entrypoint.name).collect::<Vec<_>>().join(", ");
    let Some(entrypoint) = entrypoints.into_iter().find(|entrypoint| entrypoint.name == name) else {
        let stop = Stop::new(Exit::Usage, format!("stack {} has nothing named {name} to open", context.name()));
        return Err(stop.hint(format!("there is: {names}")));
    };
    // It is not of this stack: whether it answers, verify says.
    let Some(member) = entrypoint.member() else { return Ok(entrypoint) };
    if observed.is_running(member) {
        return Ok(entrypoint);
    }
    let (state, next) = match observed.workload(member).map(|found| found.state) {
        None => ("absent", "up".to_owned()),
        Some(state) => (state.word(), format!("start {member}")),
    };
    let message = format!("open {name}: {member} is {state}, expected running");
    Err(Stop::new(Exit::Error, message).hint(call.settings.again(&next)))
}

async fn passwords(context: &Context, entrypoints: &[Entrypoint]) -> anyhow::Result<BTreeMap<String, String>> {
    let logins = entrypoints.iter().filter_map(|entrypoint| entrypoint.login.as_ref());
    let names: BTreeSet<String> = logins.map(|login| login.secret.clone()).collect();
    if names.is_empty() { Ok(BTreeMap::new()) } else { Ok(context.engine.secrets(&names).await?) }
}

fn door(context: &Context, observed: &Observed, passwords: &BTreeMap<String, String>, entrypoint: &Entrypoint) -> Door {
    let login = entrypoint
        .login
        .as_ref()
        .map(|login| Credentials { user: login.user.clone(), password: passwords.get(&login.secret).cloned() });
    let (member, state) = match entrypoint.member() {
        Some(member) => (member.as_str(), observed.workload(member).map_or("absent", |found| found.state.word())),
        None => (entrypoint.name, EXTERNAL),
    };
    Door {
        address: address(context, observed, entrypoint),
        member: member.to_owned(),
        state,
        login,
        is_forwarded: false,
    }
}

/// What has no address of its own has one for as long as this process runs.
fn forward(observed: &Observed, entrypoint: &Entrypoint, door: &mut Door) {
    let At::Member { member, port } = &entrypoint.at else { return };
    let forwarded = || observed.workload(member)?.published.get(port);
    if door.address.url.is_none()
        && let Some(address) = forwarded()
    {
        door.address.url = Some(format!("{}://{address}/", entrypoint.scheme));
        door.is_forwarded = true;
    }
}

fn human(door: &Door) -> String {
    let mut text = format!("{}\n", door.address.url.as_deref().unwrap_or("-"));
    if let Some(Credentials { user, password }) = &door.login {
        text.push_str(&format!("  user      {user}\n  password  {}\n", password.as_deref().unwrap_or("-")));
    }
    text
}

fn table(doors: &[Door], color: bool) -> String {
    let mut table = Table::with_header(&["NAME", "MEMBER", "STATE", "URL", "USER", "PASSWORD"]);
    for Door { address: Address { name, url }, member, state, login, .. } in doors {
        let tone = match *state {
            EXTERNAL => None,
            state if state == State::Running.word() => Some(Tone::Good),
            _ => Some(Tone::Bad),
        };
        let or_none = |text: Option<&str>| text.unwrap_or("-").to_owned();
        table.row(vec![
            ((*name).to_owned(), None),
            (member.clone(), None),
            ((*state).to_owned(), tone),
            (or_none(url.as_deref()), None),
            (or_none(login.as_ref().map(|login| login.user.as_str())), None),
            (or_none(login.as_ref().and_then(|login| login.password.as_deref())), None),
        ]);
    }
    table.render(color)
}

/// The address alone is handed on, never a login: other users of the machine see a program's arguments.
async fn start_browser(call: &Call<'_>, arguments: &OpenArgs, url: &str) -> Result<(), Stop> {
    let settings = call.settings;
    let is_looked_at = settings.stdout_is_terminal && settings.format == Format::Human;
    let is_wanted = arguments.browser || is_looked_at && has_desktop(&settings.environment);
    if arguments.print || !is_wanted {
        return Ok(());
    }
    let failed = match opener(&settings.environment) {
        Some(program) => match run(&program, url).await {
            Ok(()) => return Ok(()),
            Err(detail) => format!("start a browser with {}: {detail}", program.display()),
        },
        None => format!("start a browser: there is no program {OPENER} in PATH"),
    };
    if arguments.browser {
        return Err(Stop::new(Exit::Error, failed).hint("open the address yourself, or leave --browser out"));
    }
    call.printer.note(&failed);
    Ok(())
}

const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };

fn has_desktop(environment: &Environment) -> bool {
    cfg!(target_os = "macos") || ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| environment.get(name).is_some())
}

fn opener(environment: &Environment) -> Option<PathBuf> {
    let folders = environment.get("PATH")?.split(':').filter(|folder| folder.starts_with('/'));
    folders.map(|folder| Path::new(folder).join(OPENER)).find(|program| program.is_file())
}

async fn run(program: &Path, url: &str) -> Result<(), String> {
    let mut command = tokio::process::Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C in this terminal is not meant for the browser.
    #[cfg(unix)]
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    match tokio::time::timeout(OPENER_LIMIT, child.wait()).await {
        Ok(Ok(status)) if !status.success() => Err(format!("it ended with {status}")),
        Ok(Err(error)) => Err(error.to_string()),
        // Still running: it is the browser itself.
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}
