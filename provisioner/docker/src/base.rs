//! The Debian base image: pulled where a registry answers, else bootstrapped from Debian's packages by a child process
//! whose archive is streamed into the engine.

use std::io;
use std::process::Stdio;

use bollard::query_parameters::TagImageOptions;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use provisioner_core::engine::{EngineError, Output};
use provisioner_core::lines::Lines;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::connect::DockerEngine;
use crate::image::{import_options, split_tag};

const BOOTSTRAP: &str = "mmdebstrap";
const CHUNK: usize = 64 * 1024;

impl DockerEngine {
    pub(crate) async fn make_base(&self, reference: &str, suite: &str, output: &dyn Output) -> Result<(), EngineError> {
        let upstream = format!("debian:{suite}-slim");
        let no_registry = match self.pull(&upstream, output).await {
            Ok(()) => return self.tag(&upstream, reference).await,
            Err(error) => error,
        };
        output.line(&format!("{no_registry}; bootstrapping from Debian's packages instead"));
        self.bootstrap(reference, suite, output).await.map_err(|error| match error {
            Bootstrap::Missing => EngineError::failed(
                format!("make image {reference}"),
                format!(
                    "expected a registry that answers or the program {BOOTSTRAP}, found neither ({no_registry}); apt-get install {BOOTSTRAP} installs it"
                ),
            ),
            Bootstrap::Failed(error) => error,
        })
    }

    async fn tag(&self, image: &str, reference: &str) -> Result<(), EngineError> {
        let (repo, tag) = split_tag(reference);
        let options = TagImageOptions { repo: Some(repo.to_owned()), tag: Some(tag.to_owned()) };
        let tagged = self.docker.client.tag_image(image, Some(options)).await;
        tagged.map_err(self.docker.failed(format!("tag image {image} as {reference}")))
    }

    async fn bootstrap(&self, reference: &str, suite: &str, output: &dyn Output) -> Result<(), Bootstrap> {
        let operation = format!("bootstrap image {reference}");
        let spawned = Command::new(BOOTSTRAP)
            .args(["--variant=minbase", "--format=tar", suite, "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Bootstrap::Missing,
            _ => Bootstrap::Failed(EngineError::failed(operation.as_str(), error)),
        })?;
        let stderr = child.stderr.take();
        let (repo, tag) = split_tag(reference);
        let body = bollard::body_try_stream(archive(child));
        let answers = self.docker.patient().create_image(Some(import_options(repo, tag)), Some(body), None);
        let imported = self.follow(answers, &operation, output);
        let mut lines = Lines::new(output);
        let said = async {
            let mut buffer = BytesMut::with_capacity(CHUNK);
            if let Some(mut stderr) = stderr {
                // The child's end of the pipe is closed when it ends; until then its words are told as they come.
                while stderr.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                    lines.stderr(&buffer.split());
                }
            }
            lines.finish()
        };
        let (imported, said) = tokio::join!(imported, said);
        imported.map_err(|error| Bootstrap::Failed(EngineError::failed(error.to_string(), said)))
    }
}

enum Bootstrap {
    Missing,
    Failed(EngineError),
}

/// What the child writes, chunk by chunk. It ends well only if the child does, so that half an archive never becomes an
/// image.
fn archive(child: Child) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures_util::stream::try_unfold(child, |mut child| async move {
        let Some(stdout) = &mut child.stdout else { return Ok(None) };
        let mut chunk = BytesMut::with_capacity(CHUNK);
        if stdout.read_buf(&mut chunk).await? > 0 {
            return Ok(Some((chunk.freeze(), child)));
        }
        let status = child.wait().await?;
        if status.success() { Ok(None) } else { Err(io::Error::other(format!("{BOOTSTRAP} ended with {status}"))) }
    })
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[tokio::test]
    async fn an_archive_whose_maker_fails_ends_in_an_error() {
        let chunks: Vec<_> = archive(shell("printf half; exit 3")).collect().await;
        assert_eq!(chunks[0].as_ref().unwrap(), "half");
        assert!(chunks[1].as_ref().unwrap_err().to_string().contains("exit status: 3"));
    }

    #[tokio::test]
    async fn an_archive_whose_maker_succeeds_is_whole() {
        let chunks: Vec<_> = archive(shell("printf whole")).collect().await;
        assert_eq!(chunks.len(), 1);
    }
}
