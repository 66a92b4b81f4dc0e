//! Image builds by the classic builder, which every engine since 20.10 has. The context is written while it is sent, so
//! that a large program of the operator's machine never lies in memory.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use bollard::models::BuildInfo;
use bollard::query_parameters::BuildImageOptions;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use provisioner_core::engine::{EngineError, Output};
use provisioner_core::lines::Lines;
use provisioner_core::stack::{ImageInput, Recipe};
use tokio::sync::mpsc;

use crate::archive::{header, relative};
use crate::connect::DockerEngine;
use crate::download::Downloads;

const CHUNK: usize = 64 * 1024;
/// Chunks that may wait for the engine: 256 KiB.
const CHUNKS_IN_FLIGHT: usize = 4;
const RECIPE: &str = "provisioner.recipe";

impl DockerEngine {
    pub(crate) async fn build(
        &self,
        recipe: &Recipe,
        reference: &str,
        base: &str,
        output: &dyn Output,
    ) -> Result<(), EngineError> {
        let operation = format!("build image {reference}");
        let needs_network = recipe.inputs.iter().any(|input| matches!(input, ImageInput::Download { .. }));
        if needs_network {
            let downloads = self.docker.downloads.as_ref();
            let no_folder = || EngineError::failed(operation.as_str(), "found no folder for downloads, expected one");
            downloads.ok_or_else(no_folder)?.fetch(recipe, output).await?;
        }
        let labels = [(RECIPE.to_owned(), recipe.id.0.clone())];
        let options = BuildImageOptions {
            dockerfile: "Dockerfile".to_owned(),
            t: Some(reference.to_owned()),
            buildargs: Some([("BASE".to_owned(), base.to_owned())].into()),
            labels: Some(labels.into()),
            rm: true,
            forcerm: true,
            ..BuildImageOptions::default()
        };
        let engine = self.docker.patient();
        let context = bollard::body_try_stream(context(recipe.clone(), self.docker.downloads.clone()));
        let mut answers = engine.build_image(options, None, Some(context));
        let mut lines = Lines::new(output);
        loop {
            let answer = answers.try_next().await.map_err(self.docker.failed(operation.as_str()));
            let (detail, end) = match answer {
                Ok(None) => return Ok(()),
                Ok(Some(BuildInfo { error_detail: Some(error), .. })) => (error.message.unwrap_or_default(), true),
                Ok(Some(BuildInfo { stream, status, .. })) => (stream.or(status).unwrap_or_default(), false),
                Err(error) => (error.to_string(), true),
            };
            if end {
                return Err(EngineError::failed(operation, format!("{detail}\n{}", lines.finish())));
            }
            lines.stdout(detail.as_bytes());
        }
    }
}

/// The build context as an archive, made on a thread of its own at the engine's pace.
fn context(recipe: Recipe, downloads: Option<Downloads>) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    tokio::task::spawn_blocking(move || {
        let mut sink = ChunkSink { sender: sender.clone(), buffer: Vec::with_capacity(CHUNK) };
        let written = write_context(&recipe, downloads.as_ref(), &mut sink).and_then(|()| sink.flush());
        if let Err(error) = written {
            // A receiver that is gone has seen its own error already.
            let _ = sender.blocking_send(Err(error));
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    })
}

fn write_context(recipe: &Recipe, downloads: Option<&Downloads>, sink: &mut ChunkSink) -> io::Result<()> {
    let mut builder = tar::Builder::new(sink);
    let dockerfile = recipe.dockerfile.as_bytes();
    builder.append_data(&mut header(0o644, (0, 0), dockerfile.len() as u64), "Dockerfile", dockerfile)?;
    for input in &recipe.inputs {
        match input {
            ImageInput::Inline { path, mode, content } => {
                let content = content.as_bytes();
                builder.append_data(&mut header(*mode, (0, 0), content.len() as u64), relative(path)?, content)?;
            }
            ImageInput::HostFile { path, mode, file, digest: _ } => append_file(&mut builder, path, *mode, file)?,
            ImageInput::Download { path, mode, sha256, .. } => {
                let downloads = downloads.ok_or_else(|| io::Error::other("no folder for downloads"))?;
                append_file(&mut builder, path, *mode, &downloads.file(sha256))?;
            }
        }
    }
    builder.finish()
}

fn append_file(builder: &mut tar::Builder<&mut ChunkSink>, path: &str, mode: u32, file: &Path) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    let source = fs::File::open(file).map_err(named)?;
    let size = source.metadata().map_err(named)?.len();
    let source = io::BufReader::with_capacity(CHUNK, source);
    builder.append_data(&mut header(mode, (0, 0), size), relative(path)?, source)
}

/// Hands what is written on in chunks; waits when the other side is slow.
struct ChunkSink {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for ChunkSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        let sent = self.sender.blocking_send(Ok(Bytes::from(chunk)));
        sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the engine stopped reading"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use futures_util::StreamExt;
    use provisioner_core::stack::{Fingerprint, ImageId};

    use super::*;
    use crate::archive::unpack;

    fn recipe(inputs: Vec<ImageInput>) -> Recipe {
        let id = |id: &str| ImageId(id.to_owned());
        Recipe { id: id("app"), base: id("base"), dockerfile: "FROM ${BASE}\n".to_owned(), inputs }
    }

    fn host_file(file: PathBuf) -> ImageInput {
        let digest = Fingerprint::of_bytes(b"");
        ImageInput::HostFile { path: "bin/app".to_owned(), mode: 0o755, file, digest }
    }

    #[tokio::test]
    async fn the_context_holds_the_dockerfile_and_every_input_in_bounded_chunks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![7; 1_000_000]).unwrap();
        let inline = ImageInput::Inline { path: "etc/app.conf".to_owned(), mode: 0o640, content: "a = 1\n".to_owned() };
        let chunks: Vec<_> = context(recipe(vec![inline, host_file(file.path().to_owned())]), None).collect().await;
        assert!(chunks.iter().all(|chunk| chunk.as_ref().unwrap().len() <= 2 * CHUNK));
        let archive: Vec<u8> = chunks.into_iter().flat_map(Result::unwrap).collect();
        let entries = unpack(&archive).unwrap();
        let seen: Vec<_> = entries.iter().map(|e| (e.path.as_str(), e.mode, e.content.len())).collect();
        assert_eq!(seen, [("Dockerfile", 0o644, 13), ("etc/app.conf", 0o640, 6), ("bin/app", 0o755, 1_000_000)]);
    }

    #[tokio::test]
    async fn a_missing_host_file_ends_the_context_in_an_error_that_names_it() {
        let chunks: Vec<_> = context(recipe(vec![host_file("/nowhere/app".into())]), None).collect().await;
        let error = chunks.last().unwrap().as_ref().unwrap_err().to_string();
        assert!(error.contains("/nowhere/app"), "{error}");
    }
}
