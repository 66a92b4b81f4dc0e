//! Looks before anything is touched: does this host carry this stack? One line each: ok, adapted or refused.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use provisioner_components::elasticsearch;
use provisioner_core::engine::{Condition, Host};
use provisioner_core::manifest::{Elasticsearch, Manifest};
use provisioner_core::observed::Observed;
use provisioner_core::stack::{Expose, Image, Resource, Stack};
use serde::Serialize;

use crate::context::Place;
use crate::machine::{Listeners, memory_maps_limit, open_files_limit};
use crate::table::{Table, Tone};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The images of the dev stack take 1.1 GiB, their build about as much again.
const DISK_FOR_IMAGES: u64 = 3 * GIB;
/// Volumes of a fresh stack, with write-ahead log on both database members.
const DISK_FOR_DATA: u64 = GIB / 2;
/// What the kernel, the engine and the desktop keep for themselves.
const MEMORY_RESERVED: u64 = 512 * MIB;
/// PostgreSQL and HAProxy together open far fewer; below this even a small pool runs dry.
const OPEN_FILES_MIN: u64 = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    pub(crate) subject: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Ok,
    /// It works, though not as asked.
    Adapted,
    Refused,
}

/// What was looked up on the machine, so that judging it is pure.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) host: Host,
    /// Ports of this machine that the stack wants and somebody holds.
    pub(crate) holders: BTreeMap<u16, String>,
    pub(crate) open_files: Option<u64>,
    /// How many parts of files one process may map into its memory.
    pub(crate) memory_maps: Option<u64>,
}

impl Facts {
    /// Reads what the engine's own answer does not hold.
    pub(crate) fn look(host: Host, stack: Option<&Stack>) -> Self {
        let mut holders = host.ports.clone();
        if host.is_local {
            let listeners = Listeners::of_this_machine();
            for (ip, port) in stack.into_iter().flat_map(wanted_ports) {
                if let (false, Some(holder)) = (holders.contains_key(&port), listeners.holder(ip, port)) {
                    holders.insert(port, holder);
                }
            }
        }
        let open_files = host.is_local.then(open_files_limit).flatten();
        let memory_maps = host.is_local.then(memory_maps_limit).flatten();
        Self { host, holders, open_files, memory_maps }
    }
}

fn wanted_ports(stack: &Stack) -> Vec<(IpAddr, u16)> {
    let ports = stack.workloads().flat_map(|workload| &workload.ports);
    ports.filter_map(|port| port.expose.address()).map(|address| (address.ip(), address.port())).collect()
}

/// The host alone, for `doctor` without a manifest.
pub(crate) fn judge_host(facts: &Facts) -> Vec<Line> {
    let mut lines = vec![engine(&facts.host), cores(&facts.host, None)];
    lines.push(ok("memory", human_bytes(facts.host.memory_bytes)));
    lines.extend(disk(&facts.host, DISK_FOR_IMAGES + DISK_FOR_DATA));
    lines.extend(open_files(facts, None));
    lines
}

/// The host for this very stack.
pub(crate) fn judge(facts: &Facts, manifest: &Manifest, stack: &Stack, observed: &Observed) -> Vec<Line> {
    let mut lines = vec![engine(&facts.host)];
    lines.push(memory(&facts.host, manifest, stack));
    lines.push(cores(&facts.host, Some(stack)));
    lines.extend(disk(&facts.host, disk_needed(stack, observed)));
    lines.extend(ports(facts, stack, observed));
    lines.extend(open_files(facts, Some(manifest)));
    lines.extend(memory_maps(facts, manifest));
    lines
}

/// A cluster has no one machine: the engine itself says what it carries.
pub(crate) fn judge_cluster(host: &Host, conditions: Vec<Condition>) -> Vec<Line> {
    let mut lines = vec![engine(host)];
    lines.extend(conditions.into_iter().map(|Condition { subject, verdict }| match verdict {
        Ok(found) => ok(subject, found),
        Err(reason) => refused(subject, reason),
    }));
    lines
}

pub(crate) fn place(place: &Place) -> Line {
    ok("cluster", place.to_string())
}

/// Whether a service that exists already takes connections from here.
pub(crate) fn external(component: &str, address: &str, reached: Result<(), String>, is_here: bool) -> Line {
    match reached {
        Ok(()) => ok("external", format!("{component} at {address} takes connections")),
        Err(error) if is_here => {
            let text =
                format!("{component} at {address} takes none: {error}; look at {component}.external and its network");
            refused("external", text)
        }
        Err(error) => {
            let text = format!("{component} at {address} is not reached from here ({error}); verify looks from inside");
            Line { subject: "external", verdict: Verdict::Adapted, text }
        }
    }
}

/// Why there is no engine to look at.
pub(crate) fn unreachable(error: &anyhow::Error) -> Line {
    refused("engine", format!("{error:#}"))
}

pub(crate) fn adapted(text: &str) -> Line {
    Line { subject: "manifest", verdict: Verdict::Adapted, text: text.to_owned() }
}

fn engine(host: &Host) -> Line {
    match &host.is_supported {
        Ok(()) => ok("engine", host.engine.clone()),
        Err(reason) => refused("engine", format!("{}: {reason}", host.engine)),
    }
}

fn memory(host: &Host, manifest: &Manifest, stack: &Stack) -> Line {
    let needed: u64 = stack.workloads().filter_map(|workload| workload.limits.memory_bytes).sum();
    let have = host.memory_bytes.saturating_sub(MEMORY_RESERVED);
    let (needed_text, have_text) = (human_bytes(needed), human_bytes(host.memory_bytes));
    if needed <= have {
        return ok("memory", format!("{needed_text} of {have_text}"));
    }
    let text = format!(
        "members may take {needed_text}, this host has {have_text}; {}",
        shrink(manifest, stack, needed - have)
    );
    refused("memory", text)
}

/// What to change in the manifest to save that much, the cheapest loss first.
fn shrink(manifest: &Manifest, stack: &Stack, excess: u64) -> String {
    let Manifest { postgres, app, .. } = manifest;
    let own = u32::from(postgres.external.is_none());
    let replicas = u64::from(own * postgres.replicas) * postgres.service.memory_bytes;
    let backends = u64::from(app.replicas.saturating_sub(1)) * app.memory_bytes;
    let search = own_search(manifest);
    let nodes = search.map_or(0, |search| u64::from(search.nodes.saturating_sub(1)) * search.service.memory_bytes);
    let solo = "run `solo` in its place, one of everything (manifests/solo.yaml): provisioner up --env solo";
    if excess <= backends {
        return "set app.replicas: 1".to_owned();
    }
    if excess <= backends + replicas + nodes {
        return solo.to_owned();
    }
    match stack.workloads().max_by_key(|workload| workload.limits.memory_bytes) {
        Some(largest) => {
            let asked = human_bytes(largest.limits.memory_bytes.unwrap_or_default());
            format!("lower {}.memory, which asks for {asked}, or {solo}", largest.component)
        }
        None => solo.to_owned(),
    }
}

/// Nodes of an external one are not on this host.
fn own_search(manifest: &Manifest) -> Option<&Elasticsearch> {
    manifest.elasticsearch.as_ref().filter(|search| search.external.is_none())
}

/// Engines refuse a member that asks for more cores than there are; together they may ask for more.
fn cores(host: &Host, stack: Option<&Stack>) -> Line {
    let too_many = stack
        .into_iter()
        .flat_map(Stack::workloads)
        .find(|workload| workload.limits.cpu_millis.is_some_and(|millis| millis > host.cpus.saturating_mul(1000)));
    match too_many {
        None => ok("cpus", host.cpus.to_string()),
        Some(workload) => {
            let asked = f64::from(workload.limits.cpu_millis.unwrap_or_default()) / 1000.0;
            let Host { cpus, .. } = host;
            let component = &workload.component;
            refused(
                "cpus",
                format!("{} asks for {asked}, this host has {cpus}; set {component}.cpus: {cpus}", workload.member),
            )
        }
    }
}

fn disk_needed(stack: &Stack, observed: &Observed) -> u64 {
    let is_missing = |image: &Image| !observed.images.contains(&image.reference());
    let images = stack.resources().any(|resource| matches!(resource, Resource::Image(image) if is_missing(image)));
    let data = observed.volumes.is_empty();
    u64::from(images) * DISK_FOR_IMAGES + u64::from(data) * DISK_FOR_DATA
}

fn disk(host: &Host, needed: u64) -> Option<Line> {
    let free = host.free_disk_bytes?;
    let (free_text, needed_text) = (human_bytes(free), human_bytes(needed));
    Some(if free >= needed {
        ok("disk", format!("{free_text} free"))
    } else {
        refused(
            "disk",
            format!("{free_text} free, images and data need {needed_text}; make room (docker system df shows where)"),
        )
    })
}

fn ports(facts: &Facts, stack: &Stack, observed: &Observed) -> Vec<Line> {
    let mut lines = Vec::new();
    for workload in stack.workloads() {
        let ours = observed.workload(&workload.member).map(|found| &found.published);
        for port in &workload.ports {
            let Expose::Address { ip, port: wanted } = port.expose else { continue };
            let is_ours = ours.is_some_and(|published| published.values().any(|address| address.port() == wanted));
            lines.push(match facts.holders.get(&wanted) {
                Some(holder) if !is_ours => {
                    let text =
                        format!("{ip}:{wanted} is held by {holder}; end it, or choose another one with --http-port");
                    refused("port", text)
                }
                _ => ok("port", format!("{ip}:{wanted} for {}", workload.member)),
            });
        }
    }
    lines
}

fn open_files(facts: &Facts, manifest: Option<&Manifest>) -> Option<Line> {
    let limit = facts.open_files?;
    if limit < OPEN_FILES_MIN {
        let text = format!("{limit} a process, expected at least {OPEN_FILES_MIN}; raise it with ulimit -Hn");
        return Some(refused("open files", text));
    }
    let wanted = elasticsearch::OPEN_FILES_MIN;
    let Some((manifest, search)) = manifest.and_then(|manifest| Some((manifest, own_search(manifest)?))) else {
        return Some(ok("open files", format!("{limit} a process")));
    };
    if limit >= wanted {
        return Some(ok("open files", format!("{limit} a process")));
    }
    let is_own = search.service.image.is_some();
    if elasticsearch::adapts(manifest.environment) && !is_own {
        let word = manifest.environment.word();
        let text = format!("{limit} a process; Elasticsearch wants {wanted} and is told so, as this is {word}");
        return Some(Line { subject: "open files", verdict: Verdict::Adapted, text });
    }
    let raise = "raise the hard limit of the engine's service (LimitNOFILE of docker.service) and of this login";
    Some(refused("open files", format!("{limit} a process, Elasticsearch expects at least {wanted}; {raise}")))
}

/// Only looked at where nodes map their files: a host's own setting is never changed from here.
fn memory_maps(facts: &Facts, manifest: &Manifest) -> Option<Line> {
    let (found, wanted) = (facts.memory_maps?, elasticsearch::MAPS_MIN);
    if !elasticsearch::maps_files(manifest) {
        return None;
    }
    Some(if found >= wanted {
        ok("memory maps", format!("vm.max_map_count is {found}"))
    } else {
        let unlock = format!(
            "sudo sysctl -w vm.max_map_count={wanted} (and a line in /etc/sysctl.d), \
             or elasticsearch.settings: {{node.store.allow_mmap: false}}"
        );
        refused("memory maps", format!("vm.max_map_count is {found}, expected at least {wanted}; {unlock}"))
    })
}

fn ok(subject: &'static str, text: String) -> Line {
    Line { subject, verdict: Verdict::Ok, text }
}

fn refused(subject: &'static str, text: String) -> Line {
    Line { subject, verdict: Verdict::Refused, text }
}

pub(crate) fn is_refused(lines: &[Line]) -> bool {
    lines.iter().any(|line| line.verdict == Verdict::Refused)
}

pub(crate) fn render(lines: &[Line], color: bool) -> String {
    let mut table = Table::default();
    for Line { subject, verdict, text } in lines {
        let tone = match verdict {
            Verdict::Ok => Tone::Good,
            Verdict::Adapted => Tone::Warn,
            Verdict::Refused => Tone::Bad,
        };
        table.row(vec![(verdict.to_string(), Some(tone)), ((*subject).to_owned(), None), (text.clone(), None)]);
    }
    table.render(color)
}

pub(crate) fn human_bytes(bytes: u64) -> String {
    // Tenths are enough for people, and integers do not round up what is not there.
    let tenths = |unit: u64| (bytes / (unit / 10).max(1)) as f64 / 10.0;
    match bytes {
        GIB.. => format!("{:.1} GiB", tenths(GIB)),
        MIB.. => format!("{} MiB", bytes / MIB),
        _ => format!("{} KiB", bytes.div_ceil(1 << 10)),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Adapted => "adapted",
            Self::Refused => "refused",
        })
    }
}

#[cfg(test)]
mod tests;
