//! One member's log, line by line.

use std::collections::VecDeque;

use futures_util::StreamExt;
use provisioner_core::engine::{EngineError, OutputChunk, OutputStream};
use provisioner_core::lines::{Channel, Cutter};
use provisioner_core::name::Member;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The longest form of a time: nine digits of a second and an offset.
const TIME_MAX: usize = 36;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// When it was printed; `None`: the rest of a line that was too long for one.
    pub(super) time: Option<Time>,
    pub(super) channel: Channel,
    pub(super) text: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Time {
    /// Nanoseconds since 1970.
    pub(super) nanos: i128,
    /// As the engine wrote it.
    pub(super) text: String,
}

pub(super) struct Source<'a> {
    member: &'a Member,
    stream: OutputStream,
    cutter: Cutter,
    ready: VecDeque<Line>,
    latest: i128,
    is_ended: bool,
}

impl Line {
    fn read(channel: Channel, bytes: &[u8]) -> Self {
        let end = bytes.iter().take(TIME_MAX).position(|byte| *byte == b' ');
        let time = end.and_then(|end| Time::read(&bytes[..end]));
        let text = match end {
            Some(end) if time.is_some() => &bytes[end + 1..],
            _ => bytes,
        };
        Self { time, channel, text: text.to_vec() }
    }
}

impl Time {
    fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
        Some(Self { nanos, text: text.to_owned() })
    }

    /// Since 1970.
    pub(super) fn second(&self) -> Option<u64> {
        u64::try_from(self.nanos / 1_000_000_000).ok()
    }
}

/// The lines that one chunk completes; at a stream's end, what is left of it.
pub(super) fn lines(cutter: &mut Cutter, chunk: Option<&OutputChunk>, mut tell: impl FnMut(Line)) {
    let line = |channel, bytes: &[u8]| tell(Line::read(channel, bytes));
    match chunk {
        Some(chunk) => cutter.cut(chunk, line),
        None => cutter.rest(line),
    }
}

impl<'a> Source<'a> {
    pub(super) fn new(member: &'a Member, stream: OutputStream) -> Self {
        let (cutter, ready) = (Cutter::default(), VecDeque::new());
        Self { member, stream, cutter, ready, latest: i128::MIN, is_ended: false }
    }

    pub(super) fn member(&self) -> &'a Member {
        self.member
    }

    /// Reads on until there is a line, or no more.
    pub(super) async fn fill(&mut self) -> Result<(), EngineError> {
        while self.ready.is_empty() && !self.is_ended {
            let chunk = self.stream.next().await.transpose()?;
            self.is_ended = chunk.is_none();
            lines(&mut self.cutter, chunk.as_ref(), |line| self.ready.push_back(line));
        }
        Ok(())
    }

    /// Of the next line; `None`: there is none. What has no time belongs to the line before.
    pub(super) fn time(&self) -> Option<i128> {
        let next = self.ready.front()?;
        Some(next.time.as_ref().map_or(self.latest, |time| time.nanos))
    }

    pub(super) fn next(&mut self) -> Option<Line> {
        let line = self.ready.pop_front()?;
        if let Some(time) = &line.time {
            self.latest = time.nanos;
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_time_before_it() {
        let line = Line::read(Channel::Stdout, b"2026-11-22T18:26:14.000000001Z a b");
        assert_eq!(line.text, b"a b");
        let time = line.time.unwrap();
        assert_eq!((time.nanos, time.second()), (1_795_371_974_000_000_001, Some(1_795_371_974)));
        assert_eq!(Line::read(Channel::Stdout, b"2026-11-22T18:26:14Z ").text, b"");
    }

    #[tokio::test]
    async fn no_more_than_one_chunk_is_held_of_a_log_without_end() {
        let chunk = OutputChunk::Stdout(bytes::Bytes::from_static(b"2026-11-22T18:26:14Z a\n2026-11-22T18:26:15Z b\n"));
        let endless = futures_util::stream::iter(std::iter::repeat_with(move || Ok(chunk.clone())));
        let member = Member::named("redis-1");
        let mut source = Source::new(&member, Box::pin(endless));
        for _ in 0..1000 {
            source.fill().await.unwrap();
            assert!(source.ready.len() <= 2);
            source.next().unwrap();
        }
    }

    #[test]
    fn what_has_no_time_is_kept_as_it_is() {
        for text in [&b"a b"[..], b"", b"2026-11-22T18:26:14Z", b"\xff\xfe x"] {
            assert_eq!(
                Line::read(Channel::Stderr, text),
                Line { time: None, channel: Channel::Stderr, text: text.into() }
            );
        }
    }
}
