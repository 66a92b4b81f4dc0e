//! What members print: who follows sees it as it is printed, until the member ends.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;

use super::{World, locked};
use crate::engine::{EngineError, LogOptions, OutputChunk, OutputStream};
use crate::lines::Channel;
use crate::name::Member;
use crate::observed::State;

/// 2026-01-01; the nth line of the whole engine is printed n seconds later.
pub const EPOCH: u64 = 1_767_225_600;

#[derive(Default)]
pub(super) struct Log {
    lines: Vec<Line>,
    printed: u64,
}

#[derive(Clone)]
struct Line {
    member: Member,
    /// Seconds since [`EPOCH`].
    at: u64,
    channel: Channel,
    text: String,
}

impl Log {
    pub(super) fn print(&mut self, member: &Member, channel: Channel, text: impl Into<String>) {
        self.printed += 1;
        self.lines.push(Line { member: member.clone(), at: self.printed, channel, text: text.into() });
    }

    /// A removed member takes what it printed with it.
    pub(super) fn forget(&mut self, member: &Member) {
        self.lines.retain(|line| line.member != *member);
    }

    fn of(&self, member: &Member, options: LogOptions) -> Vec<Line> {
        let since = options.since.unwrap_or(0);
        let mut lines: Vec<Line> =
            self.lines.iter().filter(|line| line.member == *member && EPOCH + line.at >= since).cloned().collect();
        if let Some(tail) = options.tail {
            let skipped = lines.len().saturating_sub(usize::try_from(tail).unwrap_or(usize::MAX));
            lines.drain(..skipped);
        }
        lines
    }

    fn after(&self, member: &Member, at: u64) -> Vec<Line> {
        self.lines.iter().filter(|line| line.member == *member && line.at > at).cloned().collect()
    }
}

impl Line {
    fn chunk(&self, options: LogOptions) -> OutputChunk {
        let Self { at, text, .. } = self;
        let time = format!("2026-01-01T{:02}:{:02}:{:02}.000000000Z ", at / 3600, at / 60 % 60, at % 60);
        let line = Bytes::from(format!("{}{text}\n", if options.times { time.as_str() } else { "" }));
        match self.channel {
            Channel::Stdout => OutputChunk::Stdout(line),
            Channel::Stderr => OutputChunk::Stderr(line),
        }
    }
}

pub(super) fn open(
    world: &Arc<Mutex<World>>,
    member: &Member,
    options: LogOptions,
) -> Result<OutputStream, EngineError> {
    let (lines, instance, last, changed) = {
        let mut world = locked(world);
        let instance = world.workload(member)?.instance.clone();
        (world.log.of(member, options), instance, world.log.printed, world.changed.subscribe())
    };
    let history = stream::iter(lines.into_iter().map(move |line| Ok(line.chunk(options))));
    if !options.follow {
        return Ok(Box::pin(history));
    }
    let (world, member) = (Arc::clone(world), member.clone());
    let coming = stream::unfold((last, changed), move |(last, mut changed)| {
        let (world, member, instance) = (Arc::clone(&world), member.clone(), instance.clone());
        async move {
            loop {
                let (next, is_running) = {
                    let world = locked(&world);
                    let found = world.observed.workload(&member);
                    let is_running =
                        found.is_some_and(|found| found.instance == instance && found.state == State::Running);
                    (world.log.after(&member, last).into_iter().next(), is_running)
                };
                match next {
                    Some(line) => return Some((Ok(line.chunk(options)), (line.at, changed))),
                    None if !is_running => return None,
                    // The engine lives as long as this stream holds its world, so somebody can still change it.
                    None => changed.changed().await.ok()?,
                }
            }
        }
    });
    Ok(Box::pin(futures_util::StreamExt::chain(history, coming)))
}
