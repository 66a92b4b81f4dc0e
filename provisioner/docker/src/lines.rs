//! Output in chunks of any size, told on line by line, with the last lines kept for the report.

use std::collections::VecDeque;

use provisioner_core::engine::Output;

const TAIL_LINES: usize = 40;
/// A line that never ends is cut here, so that a program gone wild does not fill our memory.
const LINE_MAX: usize = 16 * 1024;

pub(crate) struct Lines<'a> {
    output: &'a dyn Output,
    /// Unfinished lines, one a stream.
    partial: [Vec<u8>; 2],
    tail: VecDeque<String>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(output: &'a dyn Output) -> Self {
        Self { output, partial: [Vec::new(), Vec::new()], tail: VecDeque::new() }
    }

    pub(crate) fn stdout(&mut self, chunk: &[u8]) {
        self.feed(0, chunk);
    }

    pub(crate) fn stderr(&mut self, chunk: &[u8]) {
        self.feed(1, chunk);
    }

    /// The last lines of both streams.
    pub(crate) fn finish(mut self) -> String {
        for stream in 0..self.partial.len() {
            if !self.partial[stream].is_empty() {
                self.end_line(stream);
            }
        }
        Vec::from(self.tail).join("\n")
    }

    fn feed(&mut self, stream: usize, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            let is_complete = piece.ends_with(b"\n");
            self.partial[stream].extend_from_slice(piece.strip_suffix(b"\n").unwrap_or(piece));
            if is_complete || self.partial[stream].len() >= LINE_MAX {
                self.end_line(stream);
            }
        }
    }

    fn end_line(&mut self, stream: usize) {
        let bytes = std::mem::take(&mut self.partial[stream]);
        let line = String::from_utf8_lossy(&bytes);
        let line = line.trim_end();
        self.output.line(line);
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

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
    fn only_the_last_lines_are_kept_and_a_line_without_end_is_cut() {
        let told = Told::default();
        let mut lines = Lines::new(&told);
        for nth in 0..100 {
            lines.stdout(format!("{nth}\n").as_bytes());
        }
        let tail = lines.finish();
        assert!(tail.starts_with("60\n") && tail.ends_with("\n99"), "{tail}");

        let mut lines = Lines::new(&told);
        for _ in 0..100 {
            lines.stdout(&[b'x'; 1024]);
        }
        assert!(lines.partial[0].len() < LINE_MAX);
    }
}
