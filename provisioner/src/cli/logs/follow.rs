//! A member's log as it comes, across the member's restarts.

use std::time::Duration;

use futures_util::StreamExt;
use provisioner_core::engine::{Engine, EngineError, LogOptions};
use provisioner_core::lines::Cutter;
use provisioner_core::name::Member;
use provisioner_core::observed::State;
use provisioner_core::wait;

use super::open;
use super::shown::Form;
use super::source::{Line, lines};
use crate::report::{Printer, Reader};

/// So often a member that does not run is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) struct Follower<'a> {
    engine: &'a dyn Engine,
    form: &'a Form<'a>,
    printer: &'a Printer,
    member: &'a Member,
    seen: Seen,
}

/// How far a log was shown. An engine can be asked for whole seconds only, so it tells some lines again.
struct Seen {
    /// Second since 1970 from which on nothing may be missed.
    second: u64,
    /// The last time that was shown, and how many lines had that very time.
    last: Option<(i128, usize)>,
    again: Again,
}

/// What of the lines up to the last time was told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    /// So many with the last time itself, and whether the line before this one was known.
    Until {
        equal: usize,
        was_known: bool,
    },
    Over,
}

impl Seen {
    fn new(second: u64) -> Self {
        Self { second, last: None, again: Again::Over }
    }

    /// The log is told again, from `second` on.
    fn rewind(&mut self) {
        self.again = Again::Until { equal: 0, was_known: false };
    }

    /// Notes the line; whether it was shown before.
    fn is_known(&mut self, line: &Line) -> bool {
        let Some(time) = &line.time else {
            return matches!(self.again, Again::Until { was_known: true, .. });
        };
        if let (Again::Until { equal, .. }, Some((last, shown))) = (self.again, self.last)
            && time.nanos <= last
        {
            let equal = equal + usize::from(time.nanos == last);
            let was_known = time.nanos < last || equal <= shown;
            self.again = Again::Until { equal, was_known };
            if was_known {
                return true;
            }
        } else {
            self.again = Again::Over;
        }
        self.last = match self.last {
            Some((last, shown)) if last == time.nanos => Some((last, shown + 1)),
            // Two channels of one member may be written down a little out of order.
            Some((last, shown)) if last > time.nanos => Some((last, shown)),
            _ => Some((time.nanos, 1)),
        };
        self.second = time.second().unwrap_or(0).max(self.second);
        false
    }
}

impl<'a> Follower<'a> {
    /// `now` is the second of the engine's clock at which following begins.
    pub(super) fn new(
        engine: &'a dyn Engine,
        form: &'a Form<'a>,
        printer: &'a Printer,
        member: &'a Member,
        now: u64,
    ) -> Self {
        Self { engine, form, printer, member, seen: Seen::new(now) }
    }

    /// Ends when nobody reads any more.
    pub(super) async fn follow(mut self, mut options: LogOptions) -> anyhow::Result<Reader> {
        loop {
            if self.attach(options).await? == Reader::Gone {
                return Ok(Reader::Gone);
            }
            self.until_it_runs().await?;
            options = LogOptions { tail: None, since: Some(self.seen.second), ..options };
            self.seen.rewind();
        }
    }

    /// Shows what comes until the member ends.
    async fn attach(&mut self, options: LogOptions) -> anyhow::Result<Reader> {
        let mut stream = match open(self.engine, self.member, options).await {
            Ok(stream) => stream,
            Err(EngineError::NotFound { .. }) => return Ok(Reader::Listens),
            Err(error) => return Err(error.into()),
        };
        let mut cutter = Cutter::default();
        loop {
            let chunk = match stream.next().await.transpose() {
                Ok(chunk) => chunk,
                Err(error) => {
                    // What it was cut off by shows when the member is looked at; the rest of the log is read again.
                    self.printer.note(&format!("{}: {error}", self.member));
                    None
                }
            };
            let mut reader = Ok(Reader::Listens);
            lines(&mut cutter, chunk.as_ref(), |line| {
                if matches!(reader, Ok(Reader::Listens)) && !self.seen.is_known(&line) {
                    reader = self.form.print(self.member, &line);
                }
            });
            if reader? == Reader::Gone {
                return Ok(Reader::Gone);
            }
            if chunk.is_none() {
                return Ok(Reader::Listens);
            }
            // A member that prints without a pause must not keep the others, or a wish to stop, from their turn.
            tokio::task::coop::consume_budget().await;
        }
    }

    async fn until_it_runs(&self) -> Result<(), EngineError> {
        let member = self.member;
        let mut told = false;
        loop {
            wait::pause(LOOK_EVERY).await;
            let observed = self.engine.observe().await?;
            match observed.workload(member).map(|found| found.state) {
                Some(State::Running | State::Restarting) => break,
                state if !told => {
                    let state = state.map_or("absent", State::word);
                    self.printer.note(&format!("{member} is {state}, waiting until it runs"));
                    told = true;
                }
                _ => {}
            }
        }
        self.printer.note(&format!("{member} runs, going on with its log"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use provisioner_core::lines::Channel;

    use super::super::source::Time;
    use super::*;

    fn line(nanos: Option<i128>) -> Line {
        let time = nanos.map(|nanos| Time { nanos, text: String::new() });
        Line { time, channel: Channel::Stdout, text: Vec::new() }
    }

    fn told(seen: &mut Seen, times: &[Option<i128>]) -> Vec<bool> {
        times.iter().map(|nanos| !seen.is_known(&line(*nanos))).collect()
    }

    #[test]
    fn what_is_told_again_is_shown_once() {
        let mut seen = Seen::new(0);
        let (a, b, c) = (Some(1_000_000_001), Some(1_000_000_002), Some(2_000_000_000));
        assert_eq!(told(&mut seen, &[a, None, b, b]), [true; 4]);
        assert_eq!(seen.second, 1);
        seen.rewind();
        // One more line of the very same time had not been told yet.
        assert_eq!(told(&mut seen, &[a, None, b, b, b, c, None]), [false, false, false, false, true, true, true]);
        assert_eq!(seen.second, 2);
        seen.rewind();
        assert_eq!(told(&mut seen, &[c, None, Some(3_000_000_000)]), [false, false, true]);
    }

    #[test]
    fn lines_that_are_a_little_out_of_order_are_shown() {
        let mut seen = Seen::new(0);
        assert_eq!(told(&mut seen, &[Some(5), Some(4), Some(6)]), [true; 3]);
    }
}
