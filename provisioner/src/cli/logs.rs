//! `logs`: what members print, one after the other or all together as it comes.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, Args, value_parser};
use futures_util::StreamExt;
use futures_util::stream::select_all;
use provisioner_core::engine::{EngineError, LogOptions, OutputChunk, OutputStream};
use provisioner_core::name::Member;
use serde_json::json;

use super::Call;
use super::exit::Exit;
use super::settings::Format;
use crate::context::Context;
use crate::report::Reader;

/// `-f` means "follow" here, as in every other tool that shows logs, so the manifest's flag keeps its long form only.
#[derive(Debug, Args)]
#[command(arg = file_without_short())]
pub(super) struct LogsArgs {
    /// Members or whole components; none: all
    #[arg(value_name = "MEMBER|COMPONENT")]
    what: Vec<String>,

    /// Go on with what comes
    #[arg(short = 'f', long)]
    follow: bool,

    /// Only the last lines of each member
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
}

fn file_without_short() -> Arg {
    // The same id as the global flag, which therefore is not given to this verb and yet receives the value.
    Arg::new("file")
        .long("file")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("Manifest by its path")
        .help_heading("Global options")
}

/// Members are asked side by side, but no member may hold up the others.
const OPEN_LIMIT: Duration = Duration::from_secs(20);

/// Cuts a member's stream into lines, each stream of the member for itself.
#[derive(Default)]
struct Lines {
    open: [Vec<u8>; 2],
}

pub(super) async fn logs(call: &Call<'_>, arguments: &LogsArgs) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    let observed = context.snapshot().await?;
    let mut members = context.members(&arguments.what, &observed)?;
    if arguments.what.is_empty() {
        members.retain(|member| observed.workloads.contains_key(member));
    }
    let options = LogOptions { follow: arguments.follow, tail: arguments.tail };
    let width = members.iter().map(|member| member.as_str().len()).max().unwrap_or(0);
    let mut streams = Vec::new();
    for member in &members {
        let opened = tokio::time::timeout(OPEN_LIMIT, context.engine.logs(member, options)).await;
        let stream = opened.map_err(|_| EngineError::TimedOut {
            operation: format!("read the log of {member}"),
            after: OPEN_LIMIT,
        })??;
        streams.push((member, stream));
    }
    let is_alone = members.len() == 1;
    let print = |member: &Member, is_error: bool, line: &[u8]| {
        let text = String::from_utf8_lossy(line);
        let stream = if is_error { "stderr" } else { "stdout" };
        let shown = match call.printer.format() {
            Format::Json => format!("{}\n", json!({"member": member, "stream": stream, "line": text})),
            // Documents of one YAML stream.
            Format::Yaml => format!("---\nmember: {member}\nstream: {stream}\nline: {}\n", json!(text)),
            Format::Human if is_alone => format!("{text}\n"),
            Format::Human => format!("{:width$} | {text}\n", member.as_str()),
        };
        call.printer.stdout(shown.as_bytes())
    };
    if arguments.follow {
        let tagged = streams.into_iter().map(|(member, stream)| {
            let mut lines = Lines::default();
            stream.map(move |chunk| (member, chunk.map(|chunk| lines.cut(&chunk)))).boxed()
        });
        let mut together = select_all(tagged);
        while let Some((member, lines)) = together.next().await {
            for (is_error, line) in lines? {
                if print(member, is_error, &line)? == Reader::Gone {
                    return Ok(Exit::Done);
                }
            }
        }
    } else {
        for (member, stream) in streams {
            for (is_error, line) in all_lines(stream).await? {
                print(member, is_error, &line)?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn all_lines(mut stream: OutputStream) -> Result<Vec<(bool, Vec<u8>)>, EngineError> {
    let mut cutter = Lines::default();
    let mut lines = Vec::new();
    while let Some(chunk) = stream.next().await {
        lines.extend(cutter.cut(&chunk?));
    }
    lines.extend(cutter.rest());
    Ok(lines)
}

impl Lines {
    /// The lines that `chunk` completes, and whether they went to stderr.
    fn cut(&mut self, chunk: &OutputChunk) -> Vec<(bool, Vec<u8>)> {
        let (is_error, bytes) = match chunk {
            OutputChunk::Stdout(bytes) => (false, bytes),
            OutputChunk::Stderr(bytes) => (true, bytes),
        };
        let open = &mut self.open[usize::from(is_error)];
        open.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = open.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = open.drain(..=end).collect();
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            lines.push((is_error, line));
        }
        lines
    }

    /// What was printed without an end of line.
    fn rest(self) -> impl Iterator<Item = (bool, Vec<u8>)> {
        let [stdout, stderr] = self.open;
        [(false, stdout), (true, stderr)].into_iter().filter(|(_, line)| !line.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_line_that_comes_in_pieces_is_one_line() {
        let mut lines = Lines::default();
        assert!(lines.cut(&OutputChunk::Stdout(Bytes::from("a"))).is_empty());
        assert!(lines.cut(&OutputChunk::Stderr(Bytes::from("x"))).is_empty());
        let cut = lines.cut(&OutputChunk::Stdout(Bytes::from("b\r\nc\nd")));
        assert_eq!(cut, [(false, b"ab".to_vec()), (false, b"c".to_vec())]);
        assert_eq!(lines.rest().collect::<Vec<_>>(), [(false, b"d".to_vec()), (true, b"x".to_vec())]);
    }
}
