//! Output in chunks of any size, told on line by line, with the last lines kept for the report.

use std::collections::VecDeque;

use provisioner_core::engine::Output;
use provisioner_core::lines::{Channel, Cutter};

const TAIL_LINES: usize = 40;

pub(crate) struct Lines<'a> {
    cutter: Cutter,
    tail: Tail<'a>,
}

struct Tail<'a> {
    output: &'a dyn Output,
    lines: VecDeque<String>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(output: &'a dyn Output) -> Self {
        Self { cutter: Cutter::default(), tail: Tail { output, lines: VecDeque::new() } }
    }

    pub(crate) fn stdout(&mut self, chunk: &[u8]) {
        self.cutter.feed(Channel::Stdout, chunk, |_, line| self.tail.line(line));
    }

    pub(crate) fn stderr(&mut self, chunk: &[u8]) {
        self.cutter.feed(Channel::Stderr, chunk, |_, line| self.tail.line(line));
    }

    /// The last lines of both streams.
    pub(crate) fn finish(mut self) -> String {
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
