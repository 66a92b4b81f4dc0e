//! Commands inside members, and what members print.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::io::AsyncReadExt as _;
use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use k8s_openapi::jiff::Timestamp;
use kube::api::{AttachParams, AttachedProcess, LogParams};
use provisioner_core::engine::{EngineError, Executed, Execution, InputStream, LogOptions, OutputChunk, OutputStream};
use provisioner_core::name::Member;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::connect::KubernetesEngine;
use crate::pods;

/// As much as is passed on at once.
const PIECE: usize = 64 * 1024;

impl KubernetesEngine {
    pub(crate) async fn execute(
        &self,
        member: &Member,
        argv: &[String],
        input: Option<InputStream>,
    ) -> Result<Execution, EngineError> {
        let pod = self.running_pod(member).await?;
        self.execute_in(member, &pod, argv, input).await
    }

    pub(crate) async fn execute_in(
        &self,
        member: &Member,
        pod: &Pod,
        argv: &[String],
        input: Option<InputStream>,
    ) -> Result<Execution, EngineError> {
        let operation = format!("exec `{}` in {member}", argv.first().map_or("", String::as_str));
        let params = AttachParams {
            container: pods::main_status(pod).map(|status| status.name.clone()),
            stdin: input.is_some(),
            stdout: true,
            stderr: true,
            tty: false,
            max_stdin_buf_size: Some(PIECE),
            max_stdout_buf_size: Some(PIECE),
            max_stderr_buf_size: Some(PIECE),
        };
        let node = pods::node(pod).unwrap_or_default();
        self.kubernetes.silence.check(node, &operation)?;
        let api = self.api::<Pod>();
        let started = api.exec(pods::name(&pod.metadata), argv, &params);
        let mut process = self.ask(operation.as_str(), started).await?;
        if let (Some(theirs), Some(ours)) = (process.stdin(), input) {
            // On a task of its own: a command that prints much before it reads would wait for us for ever.
            tokio::spawn(feed(theirs, ours));
        }
        let status = process.take_status();
        let (silence, node) = (Arc::clone(&self.kubernetes.silence), node.to_owned());
        let exit = Box::pin(async move {
            let status = match status {
                Some(status) => status.await,
                None => None,
            };
            exit_code(status, &operation).inspect_err(|error| {
                if is_undialed(&error.to_string()) {
                    silence.note(&node);
                }
            })
        });
        Ok(Execution { output: output(process), exit })
    }

    /// Runs a short command to its end.
    pub(crate) async fn shell(
        &self,
        member: &Member,
        pod: &Pod,
        argv: &[String],
        input: Option<Bytes>,
    ) -> Result<Executed, EngineError> {
        let input = input.map(|bytes| -> InputStream { Box::pin(stream::iter([Ok(bytes)])) });
        self.execute_in(member, pod, argv, input).await?.finish().await
    }

    pub(crate) async fn member_logs(&self, member: &Member, options: LogOptions) -> Result<OutputStream, EngineError> {
        self.controller(member).await?;
        let mut pods: Vec<Pod> = self.pods_of(member).await?;
        pods.sort_by_key(|pod| (!pods::is_up(pod), pods::is_leaving(pod)));
        let Some(pod) = pods.first() else {
            let detail = "it is down, and Kubernetes keeps no logs of a pod that is gone";
            return Err(EngineError::failed(format!("read the logs of {member}"), detail));
        };
        self.pod_logs(pods::name(&pod.metadata), options).await
    }

    /// Both streams come as one.
    pub(crate) async fn pod_logs(&self, pod: &str, options: LogOptions) -> Result<OutputStream, EngineError> {
        let since = options.since.map(|second| i64::try_from(second).unwrap_or(i64::MAX));
        let params = LogParams {
            container: Some(crate::render::MAIN.to_owned()),
            follow: options.follow,
            since_time: since.and_then(|second| Timestamp::from_second(second).ok()),
            tail_lines: options.tail.map(i64::from),
            timestamps: options.times,
            ..LogParams::default()
        };
        let operation = format!("read the logs of pod {pod}");
        let api = self.api::<Pod>();
        let lines = self.ask(operation.as_str(), api.log_stream(pod, &params)).await?;
        let pieces = stream::unfold(Some(Box::pin(lines)), move |lines| {
            let operation = operation.clone();
            async move {
                let mut lines = lines?;
                let mut piece = vec![0; PIECE];
                match lines.read(&mut piece).await {
                    Ok(0) => None,
                    Ok(length) => {
                        piece.truncate(length);
                        Some((Ok(OutputChunk::Stdout(piece.into())), Some(lines)))
                    }
                    Err(error) => Some((Err(EngineError::failed(operation, error)), None)),
                }
            }
        });
        Ok(Box::pin(pieces))
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

/// Both streams as they come. The process is kept until both have ended: dropped, it would be cut off.
fn output(mut process: AttachedProcess) -> OutputStream {
    let stdout = pieces(process.stdout(), OutputChunk::Stdout);
    let stderr = pieces(process.stderr(), OutputChunk::Stderr);
    let kept = stream::once(async move { drop(process) }).filter_map(|()| async { None });
    Box::pin(stream::select(stdout, stderr).chain(kept))
}

fn pieces(
    reader: Option<impl AsyncRead + Send + Unpin + 'static>,
    chunk: fn(Bytes) -> OutputChunk,
) -> impl Stream<Item = Result<OutputChunk, EngineError>> + Send {
    stream::unfold(reader, move |reader| async move {
        let mut reader = reader?;
        let mut piece = vec![0; PIECE];
        match reader.read(&mut piece).await {
            Ok(0) => None,
            Ok(length) => {
                piece.truncate(length);
                Some((Ok(chunk(piece.into())), Some(reader)))
            }
            Err(error) => Some((Err(EngineError::failed("read a command's output", error)), None)),
        }
    })
}

/// The API server's words for a node that it does not reach, once it has taken the command from us: its proxy's, and those of
/// Go's network package.
fn is_undialed(error: &str) -> bool {
    error.contains("error dialing backend") || error.contains("dial tcp ")
}

/// `command terminated with exit code 7`, as the server writes it.
fn exit_code(status: Option<Status>, operation: &str) -> Result<i64, EngineError> {
    let Some(status) = status else {
        return Err(EngineError::failed(operation, "the connection ended before the command did"));
    };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes
        .filter(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .find_map(|cause| cause.message.as_ref()?.parse().ok());
    code.ok_or_else(|| EngineError::failed(operation, status.message.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_exit_code_is_read_and_anything_else_is_an_error() {
        let read = |status| exit_code(Some(serde_json::from_value(status).unwrap()), "exec");
        assert_eq!(read(json!({"status": "Success"})).unwrap(), 0);
        let causes = json!([{"reason": "ExitCode", "message": "7"}]);
        assert_eq!(read(json!({"status": "Failure", "details": {"causes": causes}})).unwrap(), 7);
        let said = read(json!({"status": "Failure", "message": "executable not found"})).unwrap_err().to_string();
        assert_eq!(said, "exec: executable not found");
        assert!(exit_code(None, "exec").is_err());
    }

    #[test]
    fn a_node_that_is_down_is_told_from_a_command_that_cannot_run() {
        // Kubernetes 1.34, of a node without power and of a container without a shell.
        assert!(is_undialed(
            "exec `/bin/sh` in redis-1: error sending request: Post \"https://10.0.0.11:10250/exec/shop/redis-1-0/main?output=1\": \
             dial tcp 10.0.0.11:10250: connect: connection refused"
        ));
        assert!(!is_undialed(
            "exec `/bin/sh` in redis-1: exec failed: unable to start container process: no such file"
        ));
    }
}
