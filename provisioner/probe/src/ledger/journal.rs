//! The journal: one line for every row that was tried, made durable before it counts.
//!
//! ```text
//! ledger 1 1790000000123456 4 postgres-1,postgres-2    version, zero of the clock in µs since 1970, writers, members
//! a 0 17 8123456 612          acked: writer, number, µs since zero at which it began, µs until it was settled
//! r 0 18 8128456 90           refused: certainly not written
//! u 0 19 8133456 2000000      unknown: written or not
//! A 1 40 8123000 700          acked by the second member itself, past the route
//! U 0 41 8123000 700          unknown, asked of the first member itself
//! end 9000000                 nothing was left out
//! ```
//!
//! The zero of the clock names the run, too: it is in every row. Refusals by members are left out, for a replica refuses
//! twenty times a second.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::task::JoinHandle;

/// Lines of so much time share one fsync.
const GROUP: Duration = Duration::from_millis(10);

/// Monotonic; the wall clock is read once.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    zero: Instant,
    unix_us: u64,
}

impl Clock {
    #[allow(clippy::disallowed_methods, reason = "the one place of this program that reads the wall clock")]
    pub(super) fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { zero: Instant::now(), unix_us: micros(unix) }
    }

    /// What tells the rows of this run from those of others.
    pub(super) fn run(&self) -> u64 {
        self.unix_us
    }

    fn now(&self) -> u64 {
        micros(self.zero.elapsed())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Acked,
    Refused,
    Unknown,
}

/// Who tried it.
#[derive(Clone, Copy, Debug)]
pub(super) enum By {
    Writer(u16),
    /// A session of its own with this member, counted from 0.
    Member(u16),
}

#[derive(Debug)]
struct Line {
    by: By,
    number: u64,
    began: u64,
    took: u64,
    outcome: Outcome,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (letter, who) = match (self.by, self.outcome) {
            (By::Writer(writer), Outcome::Acked) => ('a', writer),
            (By::Writer(writer), Outcome::Refused) => ('r', writer),
            (By::Writer(writer), Outcome::Unknown) => ('u', writer),
            (By::Member(member), Outcome::Acked) => ('A', member),
            (By::Member(member), Outcome::Refused) => ('R', member),
            (By::Member(member), Outcome::Unknown) => ('U', member),
        };
        let Self { number, began, took, .. } = self;
        write!(f, "{letter} {who} {number} {began} {took}")
    }
}

/// What the writers' durable lines say.
#[derive(Default)]
pub(super) struct Tally {
    acked: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
}

impl Tally {
    fn add(&self, lines: &[Line]) {
        for line in lines.iter().filter(|line| matches!(line.by, By::Writer(_))) {
            let counter = match line.outcome {
                Outcome::Acked => &self.acked,
                Outcome::Refused => &self.refused,
                Outcome::Unknown => &self.unknown,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(f, "acked {} refused {} unknown {}", load(&self.acked), load(&self.refused), load(&self.unknown))
    }
}

/// Takes lines from everybody.
#[derive(Clone)]
pub(super) struct Journal {
    clock: Clock,
    lines: mpsc::Sender<Line>,
}

/// Resolves when the journal is complete, or cannot be written any more.
pub(super) type Written = JoinHandle<anyhow::Result<()>>;

impl Journal {
    pub(super) fn open(
        path: &Path,
        clock: Clock,
        writers: u16,
        members: &[&str],
        tally: &Arc<Tally>,
    ) -> anyhow::Result<(Self, Written)> {
        let doing = || format!("write {}", path.display());
        let mut file = File::create_new(path).with_context(doing)?;
        writeln!(file, "ledger 1 {} {writers} {}", clock.unix_us, members.join(",")).with_context(doing)?;
        file.sync_all().with_context(doing)?;
        let (sender, receiver) = mpsc::channel();
        let (tally, context) = (Arc::clone(tally), doing());
        let written = tokio::task::spawn_blocking(move || keep(&mut file, clock, &receiver, &tally).context(context));
        Ok((Self { clock, lines: sender }, written))
    }

    pub(super) fn now(&self) -> u64 {
        self.clock.now()
    }

    pub(super) fn note(&self, by: By, number: u64, began: u64, outcome: Outcome) {
        let took = self.now().saturating_sub(began);
        // Nobody receives only after the file could not be written, which ends the program.
        let _ = self.lines.send(Line { by, number, began, took, outcome });
    }
}

/// Until every sender is gone.
fn keep(file: &mut File, clock: Clock, lines: &mpsc::Receiver<Line>, tally: &Tally) -> std::io::Result<()> {
    let mut group = Vec::new();
    let mut text = String::new();
    while let Ok(first) = lines.recv() {
        group.push(first);
        let until = Instant::now() + GROUP;
        while let Ok(line) = lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            group.push(line);
        }
        for line in &group {
            text.push_str(&line.to_string());
            text.push('\n');
        }
        file.write_all(text.as_bytes())?;
        file.sync_data()?;
        tally.add(&group);
        group.clear();
        text.clear();
    }
    writeln!(file, "end {}", clock.now())?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_line_is_short_and_the_last_one_says_that_nothing_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let tally = Arc::new(Tally::default());
        let names = ["postgres-1", "postgres-2"];
        let (journal, written) = Journal::open(&path, Clock::start(), 4, &names, &tally).unwrap();
        for (by, outcome) in [
            (By::Writer(3), Outcome::Acked),
            (By::Writer(3), Outcome::Refused),
            (By::Writer(0), Outcome::Unknown),
            (By::Member(1), Outcome::Acked),
        ] {
            journal.note(by, 123_456, journal.now(), outcome);
        }
        drop(journal);
        written.await.unwrap().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("ledger 1 ") && lines[0].ends_with(" 4 postgres-1,postgres-2"), "{text}");
        assert!(lines[1].starts_with("a 3 123456 ") && lines[4].starts_with("A 1 123456 "), "{text}");
        assert!(lines[5].starts_with("end ") && text.ends_with('\n'), "{text}");
        assert!(lines[1..].iter().all(|line| line.len() < 60), "{text}");
        assert_eq!(tally.to_string(), "acked 1 refused 1 unknown 1");
    }

    /// A second run would mix two clocks.
    #[tokio::test]
    async fn a_journal_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(&path, "ledger").unwrap();
        assert!(Journal::open(&path, Clock::start(), 1, &["a"], &Arc::default()).is_err());
    }
}
