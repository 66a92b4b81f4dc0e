//! Containers that run to their end.

use std::time::Duration;

use bollard::errors::Error;
use bollard::query_parameters::{RemoveContainerOptions, StartContainerOptions, WaitContainerOptions};
use futures_util::{StreamExt, TryStreamExt};
use provisioner_core::cleanup::Cleanup;
use provisioner_core::engine::{EngineError, ImageReferences, JobOutcome, LogOptions, Output, OutputChunk};
use provisioner_core::lines::Lines;
use provisioner_core::stack::Job;

use crate::connect::DockerEngine;
use crate::container;

impl DockerEngine {
    pub(crate) async fn run_job(
        &self,
        job: &Job,
        images: &ImageReferences,
        output: &dyn Output,
    ) -> Result<JobOutcome, EngineError> {
        let operation = format!("run job {}", job.name);
        let image = images.get(&job.image).ok_or_else(|| {
            EngineError::failed(operation.as_str(), format!("image {} has no reference", job.image.0))
        })?;
        if !job.secret_env.is_empty() && job.command.is_empty() {
            return Err(EngineError::failed(operation, "secret variables need a command, found none"));
        }
        let (entries, _) = self.resolve_files(&job.files, &job.secret_env).await?;

        let name = self.names.job(&job.name);
        // Left by a run that was killed.
        self.remove_container(&name).await?;
        let (docker, container) = (self.docker.clone(), name.clone());
        let cleanup = Cleanup::unless_done(async move {
            let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
            let _ = docker.client.remove_container(&container, Some(options)).await;
        });
        self.create_container(&name, container::job(&self.names, job, image)).await?;
        self.put_archive(&name, &entries).await?;
        let limit = Duration::from_secs(job.timeout_secs);
        let mut lines = Lines::new(output);
        let ended = tokio::time::timeout(limit, self.run_to_end(&name, &operation, &mut lines)).await;
        let tail = lines.finish();
        cleanup.done();
        self.remove_container(&name).await?;
        match ended {
            Ok(exit_code) => Ok(JobOutcome { exit_code: exit_code?, tail }),
            Err(_) if tail.is_empty() => Err(EngineError::TimedOut { operation, after: limit }),
            Err(_) => {
                let detail = format!("no end after {} s; its last words:\n{tail}", limit.as_secs());
                Err(EngineError::failed(operation, detail))
            }
        }
    }

    pub(crate) async fn run_to_end(
        &self,
        name: &str,
        operation: &str,
        lines: &mut Lines<'_>,
    ) -> Result<i64, EngineError> {
        let client = &self.docker.client;
        let started = client.start_container(name, None::<StartContainerOptions>).await;
        started.map_err(self.docker.failed(operation))?;
        let mut logs = self.container_logs(name, LogOptions { follow: true, ..LogOptions::default() });
        while let Some(chunk) = logs.try_next().await? {
            match chunk {
                OutputChunk::Stdout(bytes) => lines.stdout(&bytes),
                OutputChunk::Stderr(bytes) => lines.stderr(&bytes),
            }
        }
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        match client.wait_container(name, Some(options)).next().await {
            Some(Ok(ended)) => Ok(ended.status_code),
            // bollard reports every code but 0 as an error.
            Some(Err(Error::DockerContainerWaitError { code, .. })) => Ok(code),
            Some(Err(error)) => Err(self.docker.failed(operation)(error)),
            None => Err(EngineError::failed(operation, "the engine does not say how it ended")),
        }
    }
}
