//! An engine whose world is a value in memory. It keeps state exactly as the contract says and runs no programs: a
//! command answers with its own words, a job succeeds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;

use crate::engine::{
    Engine, EngineError, Execution, Host, ImageReferences, JobOutcome, LogOptions, Output, OutputChunk, OutputStream,
    Power, StopProof,
};
use crate::name::{Member, StackName};
use crate::observed::{Observed, ObservedWorkload, State};
use crate::record::{Record, RecordError, Records, Version};
use crate::stack::{Expose, File, Fingerprint, Job, OnChange, Resource, ResourceId, Workload};

pub struct MemoryEngine {
    stack: StackName,
    world: Mutex<World>,
}

#[derive(Default)]
struct World {
    observed: Observed,
    secrets: BTreeMap<String, String>,
    /// Contents of files by member and path, secrets resolved.
    files: BTreeMap<(Member, String), String>,
    versions: BTreeMap<String, Version>,
    instances: u64,
    /// Every call that changed something, in order: `ensure workload redis-1`.
    calls: Vec<String>,
    /// Calls that may still succeed; `None`: all.
    calls_left: Option<usize>,
    checks_fail: bool,
}

impl MemoryEngine {
    pub fn new(stack: StackName) -> Self {
        Self { stack, world: Mutex::new(World::default()) }
    }

    /// A world in which something has happened already.
    pub fn with(stack: StackName, observed: Observed) -> Self {
        let engine = Self::new(stack);
        engine.world().observed = observed;
        engine
    }

    /// Changes the world behind the provisioner's back, as a person at the engine's own command line would.
    pub fn tamper(&self, change: impl FnOnce(&mut Observed)) {
        change(&mut self.world().observed);
    }

    /// What was changed so far, and forgets it.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.world().calls)
    }

    /// Lets `calls` more changes succeed and every later one fail, as if the provisioner had been killed there.
    pub fn fail_after(&self, calls: Option<usize>) {
        self.world().calls_left = calls;
    }

    /// Makes every checker of changed files refuse them.
    pub fn refuse_files(&self, refuse: bool) {
        self.world().checks_fail = refuse;
    }

    pub fn file(&self, member: &Member, path: &str) -> Option<String> {
        self.world().files.get(&(member.clone(), path.to_owned())).cloned()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn changing(&self, call: String) -> Result<MutexGuard<'_, World>, EngineError> {
        let mut world = self.world();
        match &mut world.calls_left {
            Some(0) => return Err(EngineError::failed(call, "the engine is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        world.calls.push(call);
        Ok(world)
    }
}

impl World {
    fn workload(&mut self, member: &Member) -> Result<&mut ObservedWorkload, EngineError> {
        let found = self.observed.workloads.get_mut(member);
        found.ok_or_else(|| EngineError::NotFound { what: format!("member {member}") })
    }

    fn write_files(&mut self, member: &Member, files: &[File]) -> Result<(), EngineError> {
        for file in files {
            let content = file.content.resolve(&self.secrets)?;
            self.files.insert((member.clone(), file.path.clone()), content);
        }
        Ok(())
    }

    fn start(&mut self, workload: &Workload, images: &ImageReferences) -> Result<(), EngineError> {
        let image = images.get(&workload.image).cloned().unwrap_or_else(|| workload.image.0.clone());
        if !self.observed.images.contains(&image) {
            return Err(EngineError::NotFound { what: format!("image {image}") });
        }
        if let Some(mount) = workload.mounts.iter().find(|mount| !self.observed.volumes.contains(&mount.volume)) {
            return Err(EngineError::NotFound { what: format!("volume {}", mount.volume) });
        }
        for secret in workload.secret_env.values() {
            secret.resolve(&self.secrets)?;
        }
        let spec = workload.spec_fingerprint(&image);
        let standing = self.observed.workloads.get_mut(&workload.member);
        if let Some(found) = standing.filter(|found| found.spec.as_ref() == Some(&spec))
            && found.files == workload.file_fingerprints()
            && found.state != State::Created
        {
            found.state = State::Running;
            return Ok(());
        }
        self.write_files(&workload.member, &workload.files)?;
        self.instances += 1;
        let nth = self.instances;
        let published = workload.ports.iter().map(|port| {
            let address = match port.expose {
                Expose::Address { ip, port } => SocketAddr::new(ip, port),
                Expose::Checks => SocketAddr::from(([127, 0, 0, 1], 40_000 + u16::try_from(nth % 10_000).unwrap_or(0))),
            };
            (port.port, address)
        });
        let running = ObservedWorkload {
            instance: format!("instance-{nth}"),
            component: workload.component.clone(),
            spec: Some(workload.spec_fingerprint(&image)),
            image,
            state: State::Running,
            files: workload.file_fingerprints(),
            internal_ip: Some(
                [10, 0, u8::try_from(nth / 250 % 250).unwrap_or(0), u8::try_from(nth % 250).unwrap_or(0)].into(),
            ),
            published: published.collect(),
        };
        self.observed.workloads.insert(workload.member.clone(), running);
        Ok(())
    }
}

#[async_trait]
impl Engine for MemoryEngine {
    fn stack(&self) -> &StackName {
        &self.stack
    }

    async fn observe(&self) -> Result<Observed, EngineError> {
        Ok(self.world().observed.clone())
    }

    async fn ensure(
        &self,
        resource: &Resource,
        images: &ImageReferences,
        _output: &dyn Output,
    ) -> Result<(), EngineError> {
        let mut world = self.changing(format!("ensure {}", resource.id()))?;
        match resource {
            Resource::Image(image) => {
                world.observed.images.insert(image.reference());
            }
            Resource::Network => world.observed.network = true,
            Resource::Secret(secret) => {
                let value: String = std::iter::repeat_n('x', secret.length).collect();
                world.secrets.entry(secret.name.clone()).or_insert(value);
                world.observed.secrets.insert(secret.name.clone());
            }
            Resource::Volume(volume) => {
                world.observed.volumes.insert(volume.name.clone());
            }
            Resource::Workload(workload) => world.start(workload, images)?,
        }
        Ok(())
    }

    async fn remove(&self, id: &ResourceId) -> Result<(), EngineError> {
        let mut world = self.changing(format!("remove {id}"))?;
        match id {
            ResourceId::Image(image) => {
                let prefix = format!("provisioner/{}:", image.0);
                world.observed.images.retain(|reference| !reference.starts_with(&prefix));
            }
            ResourceId::Network => world.observed.network = false,
            ResourceId::Secret(name) => {
                world.secrets.remove(name);
                world.observed.secrets.remove(name);
            }
            ResourceId::Volume(name) => {
                world.observed.volumes.remove(name);
            }
            ResourceId::Workload(member) => {
                world.observed.workloads.remove(member);
                world.files.retain(|(owner, _), _| owner != member);
            }
        }
        Ok(())
    }

    async fn set(&self, member: &Member, power: Power) -> Result<(), EngineError> {
        let mut world = self.changing(format!("set {member} {power:?}"))?;
        world.workload(member)?.state = match power {
            Power::Running => State::Running,
            Power::Stopped | Power::Killed => State::Exited,
        };
        Ok(())
    }

    async fn stopped(&self, member: &Member) -> Result<StopProof, EngineError> {
        let mut world = self.world();
        let workload = world.workload(member)?;
        if workload.state != State::Exited {
            return Err(EngineError::failed(
                format!("prove {member} stopped"),
                format!("it is {}", workload.state.word()),
            ));
        }
        Ok(StopProof { instance: workload.instance.clone(), evidence: "exited".to_owned() })
    }

    async fn exec(&self, member: &Member, argv: &[String], _stdin: Option<Bytes>) -> Result<Execution, EngineError> {
        self.world().workload(member)?;
        let line = Bytes::from(format!("{}\n", argv.join(" ")));
        let output: OutputStream = Box::pin(stream::iter([Ok(OutputChunk::Stdout(line))]));
        Ok(Execution { output, exit: Box::pin(std::future::ready(Ok(0))) })
    }

    async fn logs(&self, member: &Member, _options: LogOptions) -> Result<OutputStream, EngineError> {
        let instance = self.world().workload(member)?.instance.clone();
        let line = Bytes::from(format!("{instance} started\n"));
        Ok(Box::pin(stream::iter([Ok(OutputChunk::Stdout(line))])))
    }

    async fn put_files(&self, member: &Member, files: &[File], then: &OnChange) -> Result<(), EngineError> {
        let mut world = self.changing(format!("put files into {member}"))?;
        world.workload(member)?;
        if world.checks_fail && matches!(then, OnChange::Reload { .. }) {
            return Err(EngineError::failed(format!("check the files of {member}"), "the checker refuses them"));
        }
        world.write_files(member, files)?;
        let fingerprints: Vec<(String, Fingerprint)> =
            files.iter().map(|file| (file.path.clone(), file.fingerprint())).collect();
        world.workload(member)?.files.extend(fingerprints);
        Ok(())
    }

    async fn run(&self, job: &Job, _images: &ImageReferences, _output: &dyn Output) -> Result<JobOutcome, EngineError> {
        let world = self.changing(format!("run job {}", job.name))?;
        for secret in job.secret_env.values() {
            secret.resolve(&world.secrets)?;
        }
        Ok(JobOutcome { exit_code: 0, tail: String::new() })
    }

    async fn address(&self, member: &Member, port: u16) -> Result<SocketAddr, EngineError> {
        let mut world = self.world();
        let address = world.workload(member)?.published.get(&port).copied();
        address.ok_or_else(|| EngineError::NotFound { what: format!("port {port} of {member}") })
    }

    async fn secrets(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, String>, EngineError> {
        let world = self.world();
        let known = world.secrets.iter().filter(|(name, _)| names.contains(*name));
        Ok(known.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn records(&self) -> &dyn Records {
        self
    }

    async fn host(&self) -> Result<Host, EngineError> {
        Ok(Host {
            engine: "memory".to_owned(),
            is_supported: Ok(()),
            cpus: 2,
            memory_bytes: 8 << 30,
            free_disk_bytes: Some(100 << 30),
            ports: BTreeMap::new(),
            is_local: false,
        })
    }
}

#[async_trait]
impl Records for MemoryEngine {
    async fn get(&self, key: &str) -> Result<Option<Record>, EngineError> {
        Ok(self.world().observed.records.0.get(key).cloned())
    }

    async fn put_if(&self, key: &str, expected: Version, value: Value) -> Result<Version, RecordError> {
        let mut world = self.changing(format!("record {key}"))?;
        let found = world.observed.records.version(key);
        if found != expected {
            return Err(RecordError::Conflict { key: key.to_owned(), expected, found });
        }
        // A version is never used twice, not even after the record was removed.
        let last = world.versions.entry(key.to_owned()).or_default();
        *last = found.max(*last) + 1;
        let version = *last;
        world.observed.records.0.insert(key.to_owned(), Record { version, value });
        Ok(version)
    }

    async fn remove_if(&self, key: &str, expected: Version) -> Result<(), RecordError> {
        let mut world = self.changing(format!("remove record {key}"))?;
        let found = world.observed.records.version(key);
        if found != expected {
            return Err(RecordError::Conflict { key: key.to_owned(), expected, found });
        }
        world.observed.records.0.remove(key);
        Ok(())
    }
}
