//! Pods that run to their end.

use std::time::Duration;

use futures_util::TryStreamExt;
use k8s_openapi::api::batch::v1::Job as Object;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use provisioner_core::cleanup::Cleanup;
use provisioner_core::engine::{EngineError, ImageReferences, JobOutcome, LogOptions, Output, OutputChunk};
use provisioner_core::lines::Lines;
use provisioner_core::stack::Job;

use crate::api::foreground;
use crate::awaiting::START_LIMIT;
use crate::connect::KubernetesEngine;
use crate::labels::{self, Labels, Names};
use crate::pods;
use crate::render;

impl KubernetesEngine {
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
        self.ensure_namespace().await?;
        let (entries, _) = self.resolve_files(&job.files, &job.secret_env).await?;
        let in_cluster = self.in_cluster(image).await?;
        let name = Names::job(&job.name);
        // Left by a run that was killed.
        self.remove_job(&name).await?;
        let (jobs, secrets, left): (Api<Object>, Api<Secret>, _) = (self.api(), self.api(), name.clone());
        let cleanup = Cleanup::unless_done(async move {
            let _ = jobs.delete(&left, &DeleteParams::background()).await;
            let _ = secrets.delete(&left, &DeleteParams::background()).await;
        });
        let mut objects = render::shared(&self.names, &job.component);
        let of = Labels::from([(labels::COMPONENT.to_owned(), job.component.clone())]);
        objects.push(render::files_secret(&self.names, &name, of, &entries, ("", &Default::default())));
        self.apply_all(&objects).await?;
        self.apply(&render::job(&self.names, &self.kubernetes.options, job, &in_cluster, START_LIMIT.as_secs()))
            .await?;

        let mut lines = Lines::new(output);
        let ended = self.run_to_end(&name, &operation, Duration::from_secs(job.timeout_secs), &mut lines).await;
        let tail = lines.finish();
        cleanup.done();
        self.remove_job(&name).await?;
        match ended {
            Ok(Some(exit_code)) => Ok(JobOutcome { exit_code: exit_code.into(), tail }),
            Ok(None) if tail.is_empty() => {
                Err(EngineError::TimedOut { operation, after: Duration::from_secs(job.timeout_secs) })
            }
            Ok(None) => {
                let detail = format!("no end after {} s; its last words:\n{tail}", job.timeout_secs);
                Err(EngineError::failed(operation, detail))
            }
            Err(error) => Err(error),
        }
    }

    /// Its exit code; `None`: it did not end in time, which counts from its start.
    async fn run_to_end(
        &self,
        name: &str,
        operation: &str,
        limit: Duration,
        lines: &mut Lines<'_>,
    ) -> Result<Option<i32>, EngineError> {
        let selector = format!("batch.kubernetes.io/job-name={name}");
        let pod = self.await_started(&selector, operation, name).await?;
        let ended = tokio::time::timeout(limit, async {
            let options = LogOptions { follow: true, ..LogOptions::default() };
            let mut logs = self.pod_logs(pods::name(&pod.metadata), options).await?;
            while let Some(OutputChunk::Stdout(bytes) | OutputChunk::Stderr(bytes)) = logs.try_next().await? {
                lines.stdout(&bytes);
            }
            self.await_ended(&selector, operation).await
        });
        ended.await.map_or(Ok(None), |ended| ended.map(Some))
    }

    /// With its pod, which may hold a volume that the next one needs.
    pub(crate) async fn remove_job(&self, name: &str) -> Result<(), EngineError> {
        self.delete_with::<Object>(name, foreground()).await?;
        self.await_gone::<Object>(name).await?;
        self.delete::<Secret>(name).await
    }
}
