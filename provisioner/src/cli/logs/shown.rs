//! How a line of a log looks.

use std::borrow::Cow;
use std::collections::BTreeMap;

use provisioner_core::lines::Channel;
use provisioner_core::name::Member;
use serde_json::json;

use super::source::Line;
use crate::cli::settings::Format;
use crate::report::{Printer, Reader};

/// Cyan, green, yellow, blue, magenta, then the bright ones; red stays for what failed.
const COLORS: [u8; 10] = [36, 32, 33, 34, 35, 96, 92, 93, 94, 95];

pub(super) struct Form<'a> {
    printer: &'a Printer,
    /// What goes before a member's lines.
    prefixes: BTreeMap<&'a Member, String>,
}

impl<'a> Form<'a> {
    /// A member has the colour of its place among `all`, whichever are shown.
    pub(super) fn new(printer: &'a Printer, shown: &'a [Member], all: &[&Member], with_prefix: bool) -> Self {
        let width = shown.iter().map(|member| member.as_str().len()).max().unwrap_or(0);
        let prefix = |member: &Member| {
            let name = format!("{:width$} |", member.as_str());
            let place = all.iter().position(|known| *known == member).unwrap_or(all.len());
            let color = COLORS[place % COLORS.len()];
            if printer.is_colored() { format!("\x1b[{color}m{name}\x1b[0m ") } else { format!("{name} ") }
        };
        let is_wanted = with_prefix && shown.len() > 1;
        let prefixes = shown.iter().filter(|_| is_wanted).map(|member| (member, prefix(member))).collect();
        Self { printer, prefixes }
    }

    pub(super) fn print(&self, member: &Member, line: &Line) -> anyhow::Result<Reader> {
        let text = || String::from_utf8_lossy(&line.text);
        let stream = match line.channel {
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
        };
        let at = line.time.as_ref().map(|time| time.text.as_str());
        let shown = match self.printer.format() {
            Format::Json => {
                format!("{}\n", json!({"member": member, "stream": stream, "at": at, "line": text()})).into_bytes()
            }
            // Documents of one YAML stream.
            Format::Yaml => {
                let (at, line) = (json!(at), json!(text()));
                format!("---\nmember: {member}\nstream: {stream}\nat: {at}\nline: {line}\n").into_bytes()
            }
            Format::Human => {
                let prefix = self.prefixes.get(member).map_or(Cow::Borrowed(""), Cow::from);
                [prefix.as_bytes(), &line.text, b"\n"].concat()
            }
        };
        self.printer.stdout(&shown)
    }
}
