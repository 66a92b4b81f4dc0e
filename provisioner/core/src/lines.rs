//! Output in chunks of any size, cut into lines.

use std::collections::VecDeque;

use crate::engine::{Output, OutputChunk};

/// A line that never ends is cut here, so that a program gone wild does not fill our memory.
const LINE_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

/// Holds what has come of a line so far, each channel for itself.
#[derive(Default)]
pub struct Cutter {
    open: [Vec<u8>; 2],
}

impl Cutter {
    /// Tells the lines that `chunk` completes, without their ends.
    pub fn cut(&mut self, chunk: &OutputChunk, line: impl FnMut(Channel, &[u8])) {
        match chunk {
            OutputChunk::Stdout(bytes) => self.feed(Channel::Stdout, bytes, line),
            OutputChunk::Stderr(bytes) => self.feed(Channel::Stderr, bytes, line),
        }
    }

    pub fn feed(&mut self, channel: Channel, bytes: &[u8], mut line: impl FnMut(Channel, &[u8])) {
        let open = &mut self.open[channel as usize];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(whole) if open.is_empty() => line(channel, without_return(whole)),
                Some(end) => {
                    open.extend_from_slice(end);
                    line(channel, without_return(open));
                    open.clear();
                }
                None => {
                    open.extend_from_slice(piece);
                    if open.len() >= LINE_MAX {
                        line(channel, open);
                        open.clear();
                    }
                }
            }
        }
    }

    /// Tells what was printed without an end of line.
    pub fn rest(&mut self, mut line: impl FnMut(Channel, &[u8])) {
        for channel in [Channel::Stdout, Channel::Stderr] {
            let open = std::mem::take(&mut self.open[channel as usize]);
            if !open.is_empty() {
                line(channel, without_return(&open));
            }
        }
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

const TAIL_LINES: usize = 40;

/// Chunks told on line by line, with the last lines kept for the report.
pub struct Lines<'a> {
    cutter: Cutter,
    tail: Tail<'a>,
}

struct Tail<'a> {
    output: &'a dyn Output,
    lines: VecDeque<String>,
}

impl<'a> Lines<'a> {
    pub fn new(output: &'a dyn Output) -> Self {
        Self { cutter: Cutter::default(), tail: Tail { output, lines: VecDeque::new() } }
    }

    pub fn stdout(&mut self, chunk: &[u8]) {
        self.cutter.feed(Channel::Stdout, chunk, |_, line| self.tail.line(line));
    }

    pub fn stderr(&mut self, chunk: &[u8]) {
        self.cutter.feed(Channel::Stderr, chunk, |_, line| self.tail.line(line));
    }

    /// The last lines of both streams.
    pub fn finish(mut self) -> String {
        self.cutter.rest(|_, line| self.tail.line(line));
        Vec::from(self.tail.lines).join("\n")
    }
}

impl Tail<'_> {
    fn line(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        self.output.line(line);
        if self.lines.len() == TAIL_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn told(chunks: &[(Channel, &[u8])]) -> Vec<(Channel, String)> {
        let (mut cutter, mut lines) = (Cutter::default(), Vec::new());
        let mut note = |channel, line: &[u8]| lines.push((channel, String::from_utf8_lossy(line).into_owned()));
        for (channel, bytes) in chunks {
            cutter.feed(*channel, bytes, &mut note);
        }
        cutter.rest(&mut note);
        lines
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_one_line_and_channels_do_not_mix() {
        use Channel::{Stderr, Stdout};
        let lines = told(&[(Stdout, b"a"), (Stderr, b"x"), (Stdout, b"b\r\n\nc\nd")]);
        let expected = [(Stdout, "ab"), (Stdout, ""), (Stdout, "c"), (Stdout, "d"), (Stderr, "x")];
        assert_eq!(lines, expected.map(|(channel, line)| (channel, line.to_owned())));
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut cutter = Cutter::default();
        let mut told = 0;
        for _ in 0..100 {
            cutter.feed(Channel::Stdout, &[b'x'; 1024], |_, line| told += line.len());
            assert!(cutter.open[0].len() < LINE_MAX);
        }
        assert_eq!(told, LINE_MAX);
    }

    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Output for Told {
        fn line(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
    }

    #[test]
    fn chunks_become_lines_and_streams_do_not_mix() {
        let told = Told::default();
        let mut lines = Lines::new(&told);
        lines.stdout(b"creating ta");
        lines.stderr(b"warning\n");
        lines.stdout(b"ble\r\n\nlast");
        assert_eq!(lines.finish(), "warning\ncreating table\n\nlast");
        assert_eq!(*told.0.lock().unwrap(), ["warning", "creating table", "", "last"]);
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let told = Told::default();
        let mut lines = Lines::new(&told);
        for nth in 0..100 {
            lines.stdout(format!("{nth}\n").as_bytes());
        }
        let tail = lines.finish();
        assert!(tail.starts_with("60\n") && tail.ends_with("\n99"), "{tail}");
    }
}
