//! `status`: members, roles, states and addresses, as the engine and the records tell them, and what they use.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use provisioner_core::engine::Usage;
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::{Observed, State};
use provisioner_core::{clock, wait};
use serde::Serialize;

use super::Call;
use super::exit::Exit;
use super::external::{self, ExternalView};
use super::open::{self, Address};
use super::settings::parse_duration;
use crate::context::Context;
use crate::preflight::human_bytes;
use crate::report::Reader;
use crate::table::{Table, Tone};

/// To the upper left corner of an empty screen (ECMA-48, 8.3.21 and 8.3.39).
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Do not ask for memory, processors and disk, which takes the engine up to three seconds
    #[arg(long)]
    no_usage: bool,

    /// Show it again and again, by default every 2s, until somebody interrupts
    #[arg(short, long, value_name = "EVERY", num_args = 0..=1, require_equals = true, default_missing_value = "2s",
        value_parser = parse_duration)]
    watch: Option<Duration>,
}

impl StatusArgs {
    pub(super) fn is_endless(&self) -> bool {
        self.watch.is_some()
    }
}

#[derive(Serialize)]
pub(super) struct Status {
    stack: StackName,
    pub(super) members: Vec<MemberStatus>,
    /// Sums of what is known; a limit counts where the use does.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Usage>,
    /// What the stack uses without having members of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external: Vec<ExternalView>,
    entrypoints: Vec<Address>,
}

#[derive(Serialize)]
pub(super) struct MemberStatus {
    pub(super) component: String,
    pub(super) member: Member,
    pub(super) role: Option<String>,
    pub(super) state: String,
    pub(super) image: String,
    /// Name of a port to where it is reached from the operator's machine.
    pub(super) addresses: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Usage>,
}

pub(super) async fn status(call: &Call<'_>, arguments: &StatusArgs) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    let Some(every) = arguments.watch else {
        let status = Status::now(&context, arguments).await?;
        call.printer.data(&status, || status.human(call.printer.is_colored()))?;
        return Ok(Exit::Done);
    };
    loop {
        let status = Status::now(&context, arguments).await?;
        let shown = call.printer.frame(&status, || {
            let clear = if call.settings.stdout_is_terminal { CLEAR } else { "" };
            let at = clock::human_time(clock::unix_seconds());
            format!("{clear}stack {} at {at}\n\n{}\n", context.name(), status.human(call.printer.is_colored()))
        })?;
        if shown == Reader::Gone {
            return Ok(Exit::Done);
        }
        wait::pause(every).await;
    }
}

impl Status {
    async fn now(context: &Context, arguments: &StatusArgs) -> anyhow::Result<Self> {
        let mut status = Self::of(context, &context.snapshot().await?);
        if !arguments.no_usage {
            status.measure(context).await;
        }
        Ok(status)
    }

    pub(super) fn of(context: &Context, observed: &Observed) -> Self {
        let declared = context.stack.workloads().map(|workload| &workload.member);
        let names: BTreeSet<&Member> = declared.chain(observed.workloads.keys()).collect();
        let place = |status: &MemberStatus| {
            context.components.iter().position(|component| component.name() == status.component).unwrap_or(usize::MAX)
        };
        let mut members: Vec<MemberStatus> = names.into_iter().map(|name| member(context, observed, name)).collect();
        members.sort_by_key(place);
        let (entrypoints, external) = (open::addresses(context, observed), external::views(&context.stack));
        Self { stack: context.name().clone(), external, entrypoints, members, total: None }
    }

    pub(super) async fn measure(&mut self, context: &Context) {
        let names: Vec<Member> = self.members.iter().map(|status| status.member.clone()).collect();
        let mut usages = context.engine.usage(&names).await;
        for status in &mut self.members {
            status.usage = Some(usages.remove(&status.member).unwrap_or_default());
        }
        self.total = Some(total(&self.members.iter().filter_map(|status| status.usage).collect::<Vec<_>>()));
    }

    fn human(&self, color: bool) -> String {
        let mut header = vec!["MEMBER", "ROLE", "STATE"];
        if self.total.is_some() {
            header.extend(["MEMORY", "CPU", "DISK"]);
        }
        header.extend(["ADDRESSES", "IMAGE"]);
        let mut table = Table::with_header(&header);
        for status in &self.members {
            let MemberStatus { member, role, state, image, addresses, usage, .. } = status;
            let tone = if status.is_running() { Tone::Good } else { Tone::Bad };
            let addresses: Vec<String> = addresses.iter().map(|(name, address)| format!("{name}={address}")).collect();
            let mut row = vec![
                (member.to_string(), None),
                (role.clone().unwrap_or_else(|| "-".to_owned()), None),
                (state.clone(), Some(tone)),
            ];
            row.extend(usage.iter().flat_map(|usage| cells(usage, memory_tone(usage))));
            row.extend([(addresses.join(" "), None), (image.clone(), None)]);
            table.row(row);
        }
        if let Some(total) = &self.total {
            let running = self.members.iter().filter(|status| status.is_running()).count();
            let mut row =
                vec![("total".to_owned(), None), ("-".to_owned(), None), (format!("{running} running"), None)];
            row.extend(cells(total, None));
            table.row(row);
        }
        let mut text = table.render(color);
        if !self.external.is_empty() {
            text.push('\n');
            text.extend(self.external.iter().map(ExternalView::human));
        }
        let known: Vec<String> = self
            .entrypoints
            .iter()
            .filter_map(|Address { name, url }| Some(format!("{name}: {}\n", url.as_ref()?)))
            .collect();
        if !known.is_empty() {
            text.push('\n');
        }
        text + &known.concat()
    }
}

impl MemberStatus {
    pub(super) fn is_running(&self) -> bool {
        self.state == State::Running.word()
    }
}

fn member(context: &Context, observed: &Observed, name: &Member) -> MemberStatus {
    let wanted = context.stack.workload(name);
    let found = observed.workload(name);
    let component = wanted.map(|workload| workload.component.clone()).or(found.map(|found| found.component.clone()));
    let component = component.unwrap_or_default();
    let role = context.component(&component).and_then(|component| component.role(name, observed));
    let wanted_image = wanted.and_then(|workload| context.images.get(&workload.image).cloned());
    let port_name = |port: u16| {
        let known = wanted.and_then(|workload| workload.ports.iter().find(|known| known.port == port));
        known.map_or_else(|| port.to_string(), |known| known.name.clone())
    };
    let reached = found.into_iter().flat_map(|found| found.addresses());
    MemberStatus {
        component,
        member: name.clone(),
        role,
        state: found.map_or("absent", |found| found.state.word()).to_owned(),
        image: found.map(|found| found.image.clone()).or(wanted_image).unwrap_or_default(),
        addresses: reached.map(|(port, address)| (port_name(port), address)).collect(),
        usage: None,
    }
}

fn total(usages: &[Usage]) -> Usage {
    let bytes = |of: fn(&Usage) -> Option<u64>| usages.iter().filter_map(of).reduce(u64::saturating_add);
    Usage {
        memory_bytes: bytes(|usage| usage.memory_bytes),
        memory_limit_bytes: bytes(|usage| usage.memory_bytes.and(usage.memory_limit_bytes)),
        cpu_percent: usages.iter().filter_map(|usage| usage.cpu_percent).reduce(|sum, next| sum + next),
        disk_bytes: bytes(|usage| usage.disk_bytes),
    }
}

/// From nine tenths of its limit on, a member is close to being killed.
pub(super) fn memory_tone(usage: &Usage) -> Option<Tone> {
    let (used, limit) = usage.memory_bytes.zip(usage.memory_limit_bytes)?;
    (used >= limit - limit / 10).then_some(Tone::Warn)
}

fn cells(usage: &Usage, memory_tone: Option<Tone>) -> [(String, Option<Tone>); 3] {
    let [memory, cpu, disk] = shown_usage(usage);
    [(memory, memory_tone), (cpu, None), (disk, None)]
}

/// Memory of its limit, processor, disk.
pub(super) fn shown_usage(usage: &Usage) -> [String; 3] {
    let none = || "-".to_owned();
    let memory = match (usage.memory_bytes, usage.memory_limit_bytes) {
        (Some(used), Some(limit)) => format!("{} / {}", human_bytes(used), human_bytes(limit)),
        (Some(used), None) => human_bytes(used),
        (None, _) => none(),
    };
    let cpu = usage.cpu_percent.map_or_else(none, |percent| format!("{percent:.1}%"));
    let disk = usage.disk_bytes.map_or_else(none, human_bytes);
    [memory, cpu, disk]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_added() {
        let known = Usage { memory_bytes: Some(1), memory_limit_bytes: Some(4), ..Usage::default() };
        let stopped = Usage { memory_limit_bytes: Some(8), disk_bytes: Some(2), ..Usage::default() };
        let expected = Usage { disk_bytes: Some(2), ..known };
        assert_eq!(total(&[known, stopped]), expected);
        assert_eq!(total(&[]), Usage::default());
    }
}
