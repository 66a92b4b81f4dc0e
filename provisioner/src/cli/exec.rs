//! `exec`: a command inside a member, with its environment, its streams and its exit code.

use std::sync::Arc;

use clap::Args;
use futures_util::StreamExt;
use provisioner_core::engine::{Engine, Execution, InputStream, OutputChunk};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Call;
use super::exit::{Exit, Stop};
use crate::context::Context;
use crate::report::Reader;

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Member to run it in
    member: String,

    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "ARGV")]
    argv: Vec<String>,
}

/// What a shell says of a program that SIGPIPE ended.
const ENDED_BY_PIPE: i64 = 128 + 13;

pub(super) async fn exec(call: &Call<'_>, arguments: &ExecArgs) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    let observed = context.snapshot().await?;
    let member = context.member(&arguments.member, &observed)?;
    if !observed.is_running(&member) {
        let state = observed.workload(&member).map_or("absent", |workload| workload.state.word());
        let message = format!("run a command in {member}: it is {state}, expected running");
        return Err(Stop::new(Exit::Error, message).hint(call.settings.again("up")).into());
    }
    let engine: Arc<dyn Engine> = Arc::clone(&context.engine);
    // What is typed at a terminal belongs to the shell: there is no terminal on the other side.
    let input = match call.stdin.lock().await.take() {
        Some(stdin) if !call.settings.stdin_is_terminal => Some(stream(stdin)),
        _ => None,
    };
    let argv = match context.stack.workload(&member) {
        Some(workload) => engine.in_environment(workload, &arguments.argv),
        None => arguments.argv.clone(),
    };
    let Execution { mut output, exit } = engine.attach(&member, &argv, input).await?;
    while let Some(chunk) = output.next().await {
        let reader = match chunk? {
            OutputChunk::Stdout(bytes) => call.printer.stdout(&bytes)?,
            OutputChunk::Stderr(bytes) => call.printer.stderr(&bytes)?,
        };
        if reader == Reader::Gone {
            return Ok(Exit::of_command(ENDED_BY_PIPE));
        }
    }
    Ok(Exit::of_command(exit.await?))
}

/// Reads as the other side takes it, never ahead by more than a piece.
fn stream(stdin: Box<dyn AsyncRead + Send + Unpin>) -> InputStream {
    const PIECE: usize = 32 * 1024;
    Box::pin(futures_util::stream::try_unfold(stdin, |mut stdin| async move {
        let mut piece = bytes::BytesMut::with_capacity(PIECE);
        let read = stdin.read_buf(&mut piece).await?;
        Ok((read > 0).then(|| (piece.freeze(), stdin)))
    }))
}
