//! Output in chunks of any size, cut into lines.

use crate::engine::OutputChunk;

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

#[cfg(test)]
mod tests {
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
}
