//! The core's trait, verb by verb; each verb lives in its own module.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use provisioner_core::drift::{Actual, FoundFile};
use provisioner_core::engine::{
    Engine, EngineError, Execution, Host, ImageReferences, InputStream, JobOutcome, LogOptions, Output, OutputStream,
    Power, StopProof, Usage,
};
use provisioner_core::fault::Faults;
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::{Making, Observed};
use provisioner_core::record::Records;
use provisioner_core::stack::{File, Job, OnChange, Resource, ResourceId, Workload, secret_shell};

use crate::connect::DockerEngine;
use crate::container;

#[async_trait]
impl Engine for DockerEngine {
    fn stack(&self) -> &StackName {
        &self.names.stack
    }

    async fn observe(&self) -> Result<Observed, EngineError> {
        self.snapshot().await
    }

    fn making(&self, workload: &Workload, image: &str) -> Making {
        container::making(&self.names, workload, image)
    }

    async fn ensure(
        &self,
        resource: &Resource,
        images: &ImageReferences,
        output: &dyn Output,
    ) -> Result<(), EngineError> {
        match resource {
            Resource::Image(image) => self.ensure_image(image, images, output).await,
            Resource::Network => self.ensure_network().await,
            Resource::Secret(secret) => self.ensure_secret(secret).await,
            Resource::Volume(volume) => self.ensure_volume(volume).await,
            Resource::Workload(workload) => self.ensure_workload(workload, images).await,
        }
    }

    async fn remove(&self, id: &ResourceId) -> Result<(), EngineError> {
        match id {
            ResourceId::Image(image) => self.remove_image(image).await,
            ResourceId::Network => self.remove_network().await,
            ResourceId::Secret(name) => self.remove_secret(name).await,
            ResourceId::Volume(name) => self.remove_volume(name).await,
            ResourceId::Workload(member) => self.remove_workload(member).await,
        }
    }

    async fn set(&self, member: &Member, power: Power) -> Result<(), EngineError> {
        self.set_power(member, power).await
    }

    async fn stopped(&self, member: &Member) -> Result<StopProof, EngineError> {
        self.prove_stopped(member).await
    }

    async fn exec(&self, member: &Member, argv: &[String], stdin: Option<Bytes>) -> Result<Execution, EngineError> {
        let whole = |bytes| -> InputStream { Box::pin(futures_util::stream::iter([Ok(bytes)])) };
        self.execute(member, argv, stdin.map(whole)).await
    }

    async fn attach(
        &self,
        member: &Member,
        argv: &[String],
        input: Option<InputStream>,
    ) -> Result<Execution, EngineError> {
        self.execute(member, argv, input).await
    }

    fn in_environment(&self, workload: &Workload, argv: &[String]) -> Vec<String> {
        if workload.secret_env.is_empty() {
            return argv.to_vec();
        }
        secret_shell().into_iter().chain(argv.iter().cloned()).collect()
    }

    async fn inspect(&self, member: &Member, image: &str) -> Result<Actual, EngineError> {
        self.actual(member, image).await
    }

    async fn read_files(&self, member: &Member, paths: &[String]) -> Result<BTreeMap<String, FoundFile>, EngineError> {
        self.found_files(member, paths).await
    }

    async fn read_file(&self, member: &Member, path: &str) -> Result<Option<Vec<u8>>, EngineError> {
        self.file_content(member, path).await
    }

    async fn logs(&self, member: &Member, options: LogOptions) -> Result<OutputStream, EngineError> {
        self.member_logs(member, options).await
    }

    async fn put_files(&self, member: &Member, files: &[File], then: &OnChange) -> Result<(), EngineError> {
        self.replace_files(member, files, then).await
    }

    async fn run(&self, job: &Job, images: &ImageReferences, output: &dyn Output) -> Result<JobOutcome, EngineError> {
        self.run_job(job, images, output).await
    }

    async fn address(&self, member: &Member, port: u16) -> Result<SocketAddr, EngineError> {
        self.published(member, port).await
    }

    async fn secrets(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, String>, EngineError> {
        self.secret_values(names).await
    }

    fn records(&self) -> &dyn Records {
        self
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }

    async fn host(&self) -> Result<Host, EngineError> {
        self.describe_host().await
    }

    async fn usage(&self, members: &[Member]) -> BTreeMap<Member, Usage> {
        self.member_usage(members).await
    }

    async fn evidence(&self, since: u64) -> Result<BTreeMap<String, String>, EngineError> {
        self.tell(since).await
    }
}
