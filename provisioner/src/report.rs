//! What a run prints: data to stdout in the chosen format, everything else to stderr.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use serde::Serialize;
use serde_json::json;

use crate::cli::settings::{Format, ProgressMode, Settings};
use crate::table::Tone;

/// Version of the lines that `--progress json` prints; a minor step only adds.
pub(crate) const PROGRESS_SCHEMA: &str = "1.0";

#[derive(Clone)]
pub(crate) struct Printer {
    sinks: Arc<Mutex<Sinks>>,
    format: Format,
    notes: Notes,
    json_into: Option<Arc<std::path::PathBuf>>,
    color: bool,
}

struct Sinks {
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    /// Draws over stderr; lines must go above it.
    bars: Option<indicatif::MultiProgress>,
}

/// Whether somebody still takes what is printed; what streams without an end stops when nobody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    Listens,
    Gone,
}

/// How things beside the data reach stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notes {
    Text,
    Json,
    Quiet,
}

impl Printer {
    pub(crate) fn new(settings: &Settings, stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>) -> Self {
        let notes = match settings.progress {
            ProgressMode::Json => Notes::Json,
            ProgressMode::Quiet => Notes::Quiet,
            ProgressMode::Auto | ProgressMode::Tty | ProgressMode::Plain => Notes::Text,
        };
        let printer = Self {
            sinks: Arc::new(Mutex::new(Sinks { stdout, stderr, bars: None })),
            format: settings.format,
            notes,
            json_into: settings.json_into.clone().map(Arc::new),
            color: settings.color,
        };
        printer.event(&json!({"type": "version", "schema": PROGRESS_SCHEMA}));
        printer
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The result of a verb: for people as `human` says it, else `value`. `--json-into` gets it as JSON besides.
    pub(crate) fn data(&self, value: &impl Serialize, human: impl FnOnce() -> String) -> anyhow::Result<()> {
        self.frame(value, human).map(|_| ())
    }

    /// One of the results of a verb that goes on and on.
    pub(crate) fn frame(&self, value: &impl Serialize, human: impl FnOnce() -> String) -> anyhow::Result<Reader> {
        let json = || serde_json::to_string_pretty(value).map(|text| text + "\n");
        if let Some(file) = &self.json_into {
            write_private(file, json()?.as_bytes()).with_context(|| format!("write {}", file.display()))?;
        }
        let text = match self.format {
            Format::Human => human(),
            Format::Json => json()?,
            Format::Yaml => serde_yaml::to_string(value)?,
        };
        self.stdout(text.as_bytes())
    }

    /// Bytes for stdout as they are. A reader that went away (`| head`) is no error.
    pub(crate) fn stdout(&self, bytes: &[u8]) -> anyhow::Result<Reader> {
        let mut sinks = self.lock();
        let written = sinks.stdout.write_all(bytes).and_then(|()| sinks.stdout.flush());
        reader(written).context("write to stdout")
    }

    pub(crate) fn stderr(&self, bytes: &[u8]) -> anyhow::Result<Reader> {
        let mut sinks = self.lock();
        let written = sinks.stderr.write_all(bytes).and_then(|()| sinks.stderr.flush());
        reader(written).context("write to stderr")
    }

    /// A line for the person who watches.
    pub(crate) fn note(&self, line: &str) {
        match self.notes {
            Notes::Text => self.line(line),
            Notes::Json => self.event(&json!({"type": "note", "text": line})),
            Notes::Quiet => {}
        }
    }

    /// An error with its hints; shown however quiet the run is.
    pub(crate) fn error(&self, chain: &str, hints: &[String]) {
        if self.notes == Notes::Json {
            return self.event(&json!({"type": "error", "text": chain, "hints": hints}));
        }
        self.line(&format!("{} {chain}", self.paint(Tone::Bad, "error:")));
        for (nth, hint) in hints.iter().enumerate() {
            let gap = if nth == 0 { "\n" } else { "" };
            self.line(&format!("{gap}{} {hint}", self.paint(Tone::Hint, "hint:")));
        }
    }

    /// One line of `--progress json`; nothing in the other modes.
    pub(crate) fn event(&self, event: &serde_json::Value) {
        if self.notes == Notes::Json {
            self.line(&event.to_string());
        }
    }

    /// Programs read stderr: events instead of lines.
    pub(crate) fn is_for_programs(&self) -> bool {
        self.notes == Notes::Json
    }

    /// Lines are printed above these bars from now on; `None`: the bars are gone.
    pub(crate) fn over(&self, bars: Option<indicatif::MultiProgress>) {
        self.lock().bars = bars;
    }

    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if self.color { tone.paint(text) } else { text.to_owned() }
    }

    pub(crate) fn is_colored(&self) -> bool {
        self.color
    }

    /// Nobody can be told that telling failed, so the outcome of writing a line is dropped.
    fn line(&self, line: &str) {
        let mut guard = self.lock();
        let Sinks { stderr, bars, .. } = &mut *guard;
        let mut write = || {
            let _ = writeln!(stderr, "{line}").and_then(|()| stderr.flush());
        };
        match bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sinks> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reader(written: io::Result<()>) -> io::Result<Reader> {
    match written {
        Ok(()) => Ok(Reader::Listens),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error),
    }
}

/// `1 step`, `2 steps`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// What `env` writes holds passwords, so the file is its owner's alone.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    create_private(path)?.write_all(bytes)
}

/// An empty file that only its owner may read.
pub(crate) fn create_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}
