//! An engine whose world is a value in memory. It keeps state exactly as the contract says and runs no programs: a
//! command answers with its own words, a job succeeds.

mod deep;
mod faults;
mod logs;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;
use tokio::sync::watch;

use crate::drift::{Actual, FoundFile};
use crate::engine::{
    Engine, EngineError, Execution, Host, ImageReferences, JobOutcome, LogOptions, Output, OutputChunk, OutputStream,
    Power, StopProof, Usage,
};
use crate::fault::Faults;
use crate::lines::Channel;
use crate::name::{Member, StackName};
use crate::observed::{Making, Network, Observed, ObservedSecret, ObservedWorkload, State};
use crate::record::{Record, RecordError, Records, Version};
use crate::secret;
use crate::stack::{File, Fingerprint, Job, OnChange, Resource, ResourceId, Secret, SecretSource, Workload};

pub use logs::EPOCH;

pub struct MemoryEngine {
    stack: StackName,
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    observed: Observed,
    secrets: BTreeMap<String, String>,
    /// Contents of files by member and path, secrets resolved.
    files: BTreeMap<(Member, String), Inside>,
    /// Members as they run, whatever their labels say.
    actual: BTreeMap<Member, Actual>,
    /// Pairs that somebody else keeps.
    kept: BTreeMap<String, String>,
    /// How members are made from now on.
    making: Making,
    /// The engine keeps to itself what members are.
    withholds: bool,
    versions: BTreeMap<String, Version>,
    instances: u64,
    /// Every call that changed something, in order: `ensure workload redis-1`.
    calls: Vec<String>,
    /// Calls that may still succeed; `None`: all.
    calls_left: Option<usize>,
    checks_fail: bool,
    log: logs::Log,
    /// Addresses of the members that are cut off, which they have again once that is healed.
    cut: BTreeMap<Member, (Option<IpAddr>, BTreeMap<u16, SocketAddr>)>,
    /// How often somebody asked what members use.
    usages: usize,
    /// Told whenever something may have changed, for who follows.
    changed: watch::Sender<()>,
}

/// A file inside a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    pub content: String,
    pub mode: u32,
    pub owner: (u32, u32),
}

impl MemoryEngine {
    pub fn new(stack: StackName) -> Self {
        Self { stack, world: Arc::default() }
    }

    /// A world in which something has happened already.
    pub fn with(stack: StackName, observed: Observed) -> Self {
        let engine = Self::new(stack);
        engine.world().observed = observed;
        engine
    }

    /// Changes the world behind the provisioner's back, as a person at the engine's own command line would.
    pub fn tamper(&self, change: impl FnOnce(&mut Observed)) {
        let mut world = self.world();
        change(&mut world.observed);
        world.changed.send_replace(());
    }

    /// Has a member print a line.
    pub fn print(&self, member: &Member, channel: Channel, line: &str) {
        let mut world = self.world();
        world.log.print(member, channel, line);
        world.changed.send_replace(());
    }

    /// How often somebody asked what members use.
    pub fn usages(&self) -> usize {
        self.world().usages
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
        self.world().files.get(&(member.clone(), path.to_owned())).map(|file| file.content.clone())
    }

    /// Changes a member as a person at the engine's own command line would: its labels stay.
    pub fn alter(&self, member: &Member, change: impl FnOnce(&mut Actual)) {
        change(self.world().actual.entry(member.clone()).or_default());
    }

    /// Changes a file inside a member; `None` removes it.
    pub fn edit(&self, member: &Member, path: &str, file: Option<Inside>) {
        let key = (member.clone(), path.to_owned());
        let mut world = self.world();
        match file {
            Some(file) => world.files.insert(key, file),
            None => world.files.remove(&key),
        };
    }

    /// Has somebody else keep a pair of key and certificate.
    pub fn keep_pair(&self, name: &str, pair: String) {
        self.world().kept.insert(name.to_owned(), pair);
    }

    /// Makes members otherwise from now on, as another version of the engine would.
    pub fn make_otherwise(&self, making: Making) {
        self.world().making = making;
    }

    /// Makes the engine refuse to tell what members really are.
    pub fn withhold(&self, withhold: bool) {
        self.world().withholds = withhold;
    }

    fn world(&self) -> MutexGuard<'_, World> {
        locked(&self.world)
    }

    fn changing(&self, call: String) -> Result<MutexGuard<'_, World>, EngineError> {
        let mut world = self.world();
        match &mut world.calls_left {
            Some(0) => return Err(EngineError::failed(call, "the engine is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        world.calls.push(call);
        world.changed.send_replace(());
        Ok(world)
    }
}

fn locked(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl World {
    fn workload(&mut self, member: &Member) -> Result<&mut ObservedWorkload, EngineError> {
        let found = self.observed.workloads.get_mut(member);
        found.ok_or_else(|| EngineError::NotFound { what: format!("member {member}") })
    }

    fn write_files(&mut self, member: &Member, files: &[File]) -> Result<(), EngineError> {
        for file in files {
            let content = file.content.resolve(&self.secrets)?;
            let inside = Inside { content, mode: file.mode, owner: file.owner };
            self.files.insert((member.clone(), file.path.clone()), inside);
        }
        Ok(())
    }

    fn make(&mut self, secret: &Secret) -> Result<(), EngineError> {
        let issuer = secret.issuer().and_then(|name| Some((name, self.observed.secrets.get(name)?.note.clone())));
        if let Some(found) = self.observed.secrets.get(&secret.name).filter(|found| found.is_readable)
            && found.note.due(secret, issuer.as_ref().map(|(_, note)| note), self.observed.at).is_none()
        {
            return Ok(());
        }
        self.instances += 1;
        let signer = issuer
            .as_ref()
            .and_then(|(name, note)| Some(secret::Issuer { value: self.secrets.get(*name)?, version: &note.version }));
        let version = self.instances.to_string();
        let kept = secret.kept().and_then(|name| self.kept.get(name).cloned());
        let made = secret::make(secret, signer, kept, version, self.observed.at);
        let made = made.map_err(|error| EngineError::failed(format!("ensure secret {}", secret.name), error))?;
        let mut value = made.value;
        if matches!(secret.source, SecretSource::Password { .. }) {
            value = "x".repeat(value.len());
        }
        self.secrets.insert(secret.name.clone(), value);
        self.observed.secrets.insert(secret.name.clone(), ObservedSecret { is_readable: true, note: made.note });
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
        let versions = self.observed.secret_versions();
        let standing = self.observed.workloads.get_mut(&workload.member);
        if let Some(found) = standing.filter(|found| found.spec.as_ref() == Some(&spec))
            && found.files == workload.file_fingerprints(&versions)
            && found.state != State::Created
            && found.making.has_process_of(&self.making)
        {
            found.making.around = self.making.around.clone();
            found.state = State::Running;
            return Ok(());
        }
        self.write_files(&workload.member, &workload.files)?;
        self.log.forget(&workload.member);
        self.instances += 1;
        let nth = self.instances;
        let picked = SocketAddr::from(([127, 0, 0, 1], 40_000 + u16::try_from(nth % 10_000).unwrap_or(0)));
        let exposed = workload.ports.iter().filter(|port| port.is_exposed());
        let published = exposed.map(|port| (port.port, port.expose.address().unwrap_or(picked)));
        let running = ObservedWorkload {
            instance: format!("instance-{nth}"),
            component: workload.component.clone(),
            spec: Some(workload.spec_fingerprint(&image)),
            image,
            state: State::Running,
            files: workload.file_fingerprints(&versions),
            internal_ip: Some(
                [10, 0, u8::try_from(nth / 250 % 250).unwrap_or(0), u8::try_from(nth % 250).unwrap_or(0)].into(),
            ),
            published: published.collect(),
            public: None,
            making: self.making.clone(),
        };
        self.actual.insert(workload.member.clone(), deep::as_described(workload, &running.image));
        self.log.print(&workload.member, Channel::Stdout, format!("{} started", running.instance));
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

    fn making(&self, _workload: &Workload, _image: &str) -> Making {
        self.world().making.clone()
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
            Resource::Network => world.observed.network = Network::Present,
            Resource::Secret(secret) => world.make(secret)?,
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
            ResourceId::Network => world.observed.network = Network::Absent,
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
                world.log.forget(member);
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

    async fn inspect(&self, member: &Member, image: &str) -> Result<Actual, EngineError> {
        deep::inspect(&mut self.world(), member, image)
    }

    async fn read_files(&self, member: &Member, paths: &[String]) -> Result<BTreeMap<String, FoundFile>, EngineError> {
        deep::read_files(&mut self.world(), member, paths)
    }

    async fn read_file(&self, member: &Member, path: &str) -> Result<Option<Vec<u8>>, EngineError> {
        deep::read_file(&mut self.world(), member, path)
    }

    async fn logs(&self, member: &Member, options: LogOptions) -> Result<OutputStream, EngineError> {
        logs::open(&self.world, member, options)
    }

    async fn put_files(&self, member: &Member, files: &[File], then: &OnChange) -> Result<(), EngineError> {
        let mut world = self.changing(format!("put files into {member}"))?;
        world.workload(member)?;
        if world.checks_fail && matches!(then, OnChange::Reload { .. }) {
            return Err(EngineError::failed(format!("check the files of {member}"), "the checker refuses them"));
        }
        world.write_files(member, files)?;
        let versions = world.observed.secret_versions();
        let fingerprints: Vec<(String, Fingerprint)> =
            files.iter().map(|file| (file.path.clone(), file.fingerprint(&versions))).collect();
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

    async fn kept_pair(&self, name: &str) -> Result<Option<String>, EngineError> {
        Ok(self.world().kept.get(name).cloned())
    }

    fn records(&self) -> &dyn Records {
        self
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
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

    /// The same for every member that runs; a volume holds 10 MiB.
    async fn usage(&self, members: &[Member]) -> BTreeMap<Member, Usage> {
        let mut world = self.world();
        world.usages += 1;
        let known = members.iter().filter_map(|member| Some((member, world.observed.workload(member)?)));
        let usage = |member: &Member, found: &ObservedWorkload| {
            let is_running = found.state == State::Running;
            let prefix = format!("{member}-");
            let volumes = world.observed.volumes.iter().filter(|volume| volume.starts_with(&prefix)).count() as u64;
            Usage {
                memory_bytes: is_running.then_some(48 << 20),
                memory_limit_bytes: is_running.then_some(128 << 20),
                cpu_percent: is_running.then_some(2.5),
                disk_bytes: (volumes > 0).then_some(volumes * (10 << 20)),
            }
        };
        known.map(|(member, found)| (member.clone(), usage(member, found))).collect()
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
