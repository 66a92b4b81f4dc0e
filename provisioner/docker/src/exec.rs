//! Commands inside members, and what members print.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::LogsOptions;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use provisioner_core::engine::{EngineError, Execution, InputStream, LogOptions, OutputChunk, OutputStream};
use provisioner_core::name::Member;
use provisioner_core::wait::{self, Look};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::connect::{Docker, DockerEngine};
use crate::containers::reachable;

/// The engine notes the exit code a moment after the output's end.
const EXIT_LIMIT: Duration = Duration::from_secs(10);
const EXIT_EVERY: Duration = Duration::from_millis(20);

impl DockerEngine {
    pub(crate) async fn execute(
        &self,
        member: &Member,
        argv: &[String],
        input: Option<InputStream>,
    ) -> Result<Execution, EngineError> {
        let operation = format!("exec `{}` in {member}", argv.first().map_or("", String::as_str));
        let options = CreateExecOptions {
            attach_stdin: Some(input.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(argv.to_vec()),
            ..CreateExecOptions::default()
        };
        let client = &self.docker.client;
        let made = client.create_exec(&self.names.container(member), options).await;
        let id = made.map_err(self.docker.failed(operation.as_str()))?.id;
        let started = client.start_exec(&id, None::<StartExecOptions>).await;
        match started.map_err(self.docker.failed(operation.as_str()))? {
            StartExecResults::Attached { output, input: theirs } => {
                if let Some(ours) = input {
                    // On a task of its own: a command that prints much before it reads would wait for us for ever.
                    tokio::spawn(feed(theirs, ours));
                }
                let exit = Box::pin(exit_code(self.docker.clone(), id, operation.clone()));
                Ok(Execution { output: chunks(&self.docker, output, operation), exit })
            }
            StartExecResults::Detached => Err(EngineError::failed(operation, "the engine detached from it")),
        }
    }

    pub(crate) async fn member_logs(&self, member: &Member, options: LogOptions) -> Result<OutputStream, EngineError> {
        let name = self.names.container(member);
        self.inspect(&name).await?;
        Ok(self.container_logs(&name, options))
    }

    pub(crate) fn container_logs(&self, name: &str, options: LogOptions) -> OutputStream {
        let options = LogsOptions {
            follow: options.follow,
            stdout: true,
            stderr: true,
            since: options.since.map_or(0, |second| i32::try_from(second).unwrap_or(i32::MAX)),
            timestamps: options.times,
            tail: options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
            ..LogsOptions::default()
        };
        let logs = self.docker.client.logs(name, Some(options.clone()));
        let chunks = chunks(&self.docker, logs, format!("read the logs of {name}"));
        if options.timestamps { one_time_a_line(chunks) } else { chunks }
    }

    /// Where a member's port is reached from the operator's machine.
    pub(crate) async fn published(&self, member: &Member, port: u16) -> Result<SocketAddr, EngineError> {
        let found = self.inspect(&self.names.container(member)).await?;
        let missing = || EngineError::NotFound { what: format!("published port {port} of {member}") };
        let ports = found.network_settings.and_then(|settings| settings.ports).unwrap_or_default();
        let bindings = ports.get(&format!("{port}/tcp")).cloned().flatten().unwrap_or_default();
        let remote = self.docker.endpoint.remote_host().and_then(|host| host.parse().ok());
        let addresses = bindings.into_iter().filter_map(|binding| {
            let ip: IpAddr = binding.host_ip?.parse().ok()?;
            Some(SocketAddr::new(reachable(ip, remote), binding.host_port?.parse().ok()?))
        });
        addresses.min().ok_or_else(missing)
    }
}

/// Piece by piece, as it comes. A command may end without reading all of it; its exit code then says what that means.
async fn feed(mut command: impl AsyncWrite + Unpin, mut input: InputStream) {
    while let Some(Ok(piece)) = input.next().await {
        if command.write_all(&piece).await.is_err() || command.flush().await.is_err() {
            return;
        }
    }
    let _ = command.shutdown().await;
}

/// The engine keeps a long line in parts, each a chunk of its own, and puts the time before every one of them.
fn one_time_a_line(output: OutputStream) -> OutputStream {
    let mut is_open = [false; 2];
    Box::pin(output.map(move |chunk| {
        chunk.map(|chunk| match chunk {
            OutputChunk::Stdout(part) => OutputChunk::Stdout(rest_of_line(part, &mut is_open[0])),
            OutputChunk::Stderr(part) => OutputChunk::Stderr(rest_of_line(part, &mut is_open[1])),
        })
    }))
}

fn rest_of_line(mut part: Bytes, is_open: &mut bool) -> Bytes {
    let is_rest = std::mem::replace(is_open, !part.ends_with(b"\n"));
    match part.iter().position(|byte| *byte == b' ') {
        Some(end) if is_rest => part.split_off(end + 1),
        _ => part,
    }
}

async fn exit_code(docker: Docker, id: String, operation: String) -> Result<i64, EngineError> {
    let looked = wait::until(EXIT_LIMIT, EXIT_EVERY, || async {
        match docker.client.inspect_exec(&id).await.map_err(docker.failed(operation.as_str())) {
            Ok(found) => match (found.running, found.exit_code) {
                (Some(false), Some(code)) => Look::Done(code),
                _ => Look::Pending("it is still running".to_owned()),
            },
            Err(error) => Look::Broken(error),
        }
    });
    looked.await.map_err(|error| match error {
        wait::WaitError::Broken(error) => error,
        timed_out @ wait::WaitError::TimedOut { .. } => EngineError::failed(operation.as_str(), timed_out),
    })
}

fn chunks(
    docker: &Docker,
    output: impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send + 'static,
    operation: String,
) -> OutputStream {
    let docker = docker.clone();
    Box::pin(output.map(move |chunk| {
        Ok(match chunk.map_err(docker.failed(operation.as_str()))? {
            LogOutput::StdErr { message } => OutputChunk::Stderr(message),
            LogOutput::StdOut { message } | LogOutput::Console { message } | LogOutput::StdIn { message } => {
                OutputChunk::Stdout(message)
            }
        })
    }))
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    #[tokio::test]
    async fn a_line_in_parts_has_one_time() {
        let parts = ["T1 one\n", "T2 two,", "T3 and more,", "T4 and its end\n", "T5 three\n"];
        let parts = parts.map(|part| Ok(OutputChunk::Stdout(Bytes::from(part))));
        let told: Vec<OutputChunk> =
            one_time_a_line(Box::pin(futures_util::stream::iter(parts))).try_collect().await.unwrap();
        let expected = ["T1 one\n", "T2 two,", "and more,", "and its end\n", "T5 three\n"];
        assert_eq!(told, expected.map(|part| OutputChunk::Stdout(Bytes::from(part))));
    }
}
