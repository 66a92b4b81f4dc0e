//! The core's trait, verb by verb; each verb lives in its own module.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use provisioner_core::drift::{Actual, FoundFile};
use provisioner_core::engine::{
    Engine, EngineError, Execution, Host, ImageReferences, JobOutcome, LogOptions, Output, OutputStream, Power,
    StopProof,
};
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::Observed;
use provisioner_core::record::{Record, RecordError, Records, Version};
use provisioner_core::stack::{File, Job, OnChange, Resource, ResourceId};
use serde_json::Value;

use crate::connect::KubernetesEngine;

fn not_yet<T>(what: &str) -> Result<T, EngineError> {
    Err(EngineError::failed(what, "the engine on Kubernetes cannot do it yet"))
}

#[async_trait]
impl Engine for KubernetesEngine {
    fn stack(&self) -> &StackName {
        &self.names.stack
    }
    async fn observe(&self) -> Result<Observed, EngineError> {
        not_yet("observe")
    }
    async fn ensure(&self, r: &Resource, _: &ImageReferences, _: &dyn Output) -> Result<(), EngineError> {
        not_yet(&format!("ensure {}", r.id()))
    }
    async fn remove(&self, id: &ResourceId) -> Result<(), EngineError> {
        not_yet(&format!("remove {id}"))
    }
    async fn set(&self, member: &Member, _: Power) -> Result<(), EngineError> {
        not_yet(&format!("set {member}"))
    }
    async fn stopped(&self, member: &Member) -> Result<StopProof, EngineError> {
        not_yet(&format!("prove {member} stopped"))
    }
    async fn exec(&self, member: &Member, _: &[String], _: Option<Bytes>) -> Result<Execution, EngineError> {
        not_yet(&format!("exec in {member}"))
    }
    async fn inspect(&self, member: &Member, _: &str) -> Result<Actual, EngineError> {
        not_yet(&format!("inspect {member}"))
    }
    async fn read_files(&self, member: &Member, _: &[String]) -> Result<BTreeMap<String, FoundFile>, EngineError> {
        not_yet(&format!("read files of {member}"))
    }
    async fn read_file(&self, member: &Member, _: &str) -> Result<Option<Vec<u8>>, EngineError> {
        not_yet(&format!("read a file of {member}"))
    }
    async fn logs(&self, member: &Member, _: LogOptions) -> Result<OutputStream, EngineError> {
        not_yet(&format!("read the logs of {member}"))
    }
    async fn put_files(&self, member: &Member, _: &[File], _: &OnChange) -> Result<(), EngineError> {
        not_yet(&format!("put files into {member}"))
    }
    async fn run(&self, job: &Job, _: &ImageReferences, _: &dyn Output) -> Result<JobOutcome, EngineError> {
        not_yet(&format!("run job {}", job.name))
    }
    async fn address(&self, member: &Member, _: u16) -> Result<SocketAddr, EngineError> {
        not_yet(&format!("reach {member}"))
    }
    async fn secrets(&self, _: &BTreeSet<String>) -> Result<BTreeMap<String, String>, EngineError> {
        not_yet("read secrets")
    }
    fn records(&self) -> &dyn Records {
        self
    }
    async fn host(&self) -> Result<Host, EngineError> {
        not_yet("describe the cluster")
    }
}

#[async_trait]
impl Records for KubernetesEngine {
    async fn get(&self, _: &str) -> Result<Option<Record>, EngineError> {
        not_yet("read a record")
    }
    async fn put_if(&self, _: &str, _: Version, _: Value) -> Result<Version, RecordError> {
        Ok(not_yet("write a record")?)
    }
    async fn remove_if(&self, _: &str, _: Version) -> Result<(), RecordError> {
        Ok(not_yet("remove a record")?)
    }
}
