//! A directory with a manifest, an engine in memory, and command lines.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use provisioner::cli::settings::Environment;
use provisioner::engines::Engines;
use provisioner::interrupt::Interrupt;
use provisioner::streams::{Streams, Terminals};
use provisioner_core::component::Component;
use provisioner_core::engine::{Engine, EngineError};
use provisioner_core::engine::{ImageReferences, Output};
use provisioner_core::estate::{Estate, Leftover, Survey};
use provisioner_core::images::{Images, Pushed};
use provisioner_core::manifest::Kubernetes;
use provisioner_core::name::StackName;
use provisioner_core::stack::{Fingerprint, Image};
use provisioner_core::testing::memory::MemoryEngine;

use crate::console::Console;
use crate::player::{Player, Script};

pub(crate) struct World {
    pub(crate) engine: Arc<MemoryEngine>,
    pub(crate) script: Arc<Script>,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) interrupt: Interrupt,
    pub(crate) environment: Environment,
    pub(crate) terminals: Terminals,
    pub(crate) stdin: &'static str,
    /// Nothing answers where the engine should be.
    pub(crate) engine_is_gone: bool,
    /// The stack has a page with a login.
    pub(crate) has_console: bool,
    /// Whoever reads stdout goes away after so many writes.
    pub(crate) stdout_takes: Option<usize>,
    /// Other stacks of the same engine; every name that is not here is `engine`.
    pub(crate) stacks: BTreeMap<StackName, Arc<MemoryEngine>>,
    /// What stands on the engine besides stacks.
    pub(crate) survey: Survey,
    /// What was pushed, by the name that it was pushed as.
    pub(crate) registry: Arc<Mutex<BTreeMap<String, String>>>,
    /// What was removed of the survey.
    pub(crate) discarded: Arc<Mutex<Vec<Leftover>>>,
}

pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    command: String,
}

/// A manifest in which nothing is left to defaults that a snapshot would show.
pub(crate) const MANIFEST: &str = "\
name: dev
environment: dev
app:
  binary: ../app
";

impl World {
    pub(crate) fn new() -> Self {
        Self::of(MANIFEST)
    }

    pub(crate) fn of(manifest: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("manifests")).unwrap();
        std::fs::write(directory.path().join("app"), "a static binary").unwrap();
        let world = Self {
            engine: Arc::new(MemoryEngine::new(StackName::new("dev").unwrap())),
            script: Arc::default(),
            environment: Environment { directory: directory.path().to_path_buf(), ..Environment::default() },
            directory,
            interrupt: Interrupt::never(),
            terminals: Terminals::default(),
            stdin: "",
            engine_is_gone: false,
            has_console: false,
            stdout_takes: None,
            stacks: BTreeMap::new(),
            survey: Survey::default(),
            discarded: Arc::default(),
            registry: Arc::default(),
        };
        world.write(manifest);
        world
    }

    /// Another person at the same engine, with the same manifest.
    pub(crate) fn beside(other: &Self) -> Self {
        let engine = Arc::clone(&other.engine);
        Self { engine, script: Arc::clone(&other.script), ..Self::new() }
    }

    /// A stack that is up and as the manifest says.
    pub(crate) async fn up() -> Self {
        let world = Self::new();
        world.ok("up -e dev").await;
        world.engine.take_calls();
        world
    }

    pub(crate) fn write(&self, manifest: &str) {
        std::fs::write(self.manifest(), manifest).unwrap();
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.directory.path().join("manifests/dev.yaml")
    }

    pub(crate) async fn run(&self, command: &str) -> Ran {
        let arguments: Vec<&str> = command.split(' ').collect();
        self.run_words(&arguments).await
    }

    pub(crate) async fn run_words(&self, words: &[&str]) -> Ran {
        let (stdout, stderr) = (Captured::taking(self.stdout_takes), Captured::default());
        let streams = Streams {
            stdin: Box::new(self.stdin.as_bytes()),
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(stderr.clone()),
            terminals: self.terminals,
        };
        let arguments = ["provisioner"].iter().chain(words).map(Into::into);
        let exit = provisioner::run(arguments, self, &self.environment, streams, self.interrupt.clone()).await;
        Ran { code: exit.code(), stdout: stdout.text(), stderr: stderr.text(), command: words.join(" ") }
    }

    /// Runs and insists on success.
    pub(crate) async fn ok(&self, command: &str) -> Ran {
        let ran = self.run(command).await;
        assert_eq!(ran.code, 0, "{}", ran.shown());
        ran
    }

    pub(crate) async fn json(&self, command: &str) -> serde_json::Value {
        let ran = self.run(&format!("{command} -o json")).await;
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.shown()))
    }

    /// What a person sees, with what differs from run to run left out.
    pub(crate) async fn shown(&self, command: &str) -> String {
        let directory = self.directory.path().display().to_string();
        self.run(command).await.shown().replace(&directory, "[dir]")
    }
}

#[async_trait]
impl Engines for World {
    async fn open(
        &self,
        _environment: &Environment,
        stack: &StackName,
        _cluster: Option<&Kubernetes>,
    ) -> anyhow::Result<Arc<dyn Engine>> {
        if self.engine_is_gone {
            let address = "unix:///var/run/docker.sock".to_owned();
            return Err(
                EngineError::Unreachable { engine: "Docker", address, detail: "no such file".to_owned() }.into()
            );
        }
        Ok(Arc::<MemoryEngine>::clone(self.stacks.get(stack).unwrap_or(&self.engine)))
    }

    async fn estate(&self, _environment: &Environment) -> anyhow::Result<Arc<dyn Estate>> {
        let mut survey = self.survey.clone();
        survey.stacks.extend(self.stacks.keys().cloned());
        Ok(Arc::new(Surveyed { survey, discarded: Arc::clone(&self.discarded) }))
    }

    async fn images(&self, _environment: &Environment, _stack: &StackName) -> anyhow::Result<Arc<dyn Images>> {
        Ok(Arc::new(Registry(Arc::clone(&self.registry))))
    }

    fn components(&self) -> Vec<Box<dyn Component>> {
        let player =
            |component| -> Box<dyn Component> { Box::new(Player { component, script: Arc::clone(&self.script) }) };
        let mut components: Vec<Box<dyn Component>> = provisioner_components::all().into_iter().map(player).collect();
        if self.has_console {
            components.push(Box::new(Console));
        }
        components
    }
}

/// Takes every image, and has a layer of its own for each.
struct Registry(Arc<Mutex<BTreeMap<String, String>>>);

#[async_trait]
impl Images for Registry {
    async fn make(&self, _image: &Image, _images: &ImageReferences, output: &dyn Output) -> Result<(), EngineError> {
        output.line("a detail");
        Ok(())
    }

    async fn push(&self, reference: &str, target: &str, _output: &dyn Output) -> Result<Pushed, EngineError> {
        let before = self.0.lock().unwrap().insert(target.to_owned(), reference.to_owned());
        let layers = usize::from(before.as_deref() != Some(reference));
        Ok(Pushed { digest: format!("sha256:{}", Fingerprint::of_bytes(reference.as_bytes())), layers })
    }
}

struct Surveyed {
    survey: Survey,
    discarded: Arc<Mutex<Vec<Leftover>>>,
}

#[async_trait]
impl Estate for Surveyed {
    async fn survey(&self) -> Result<Survey, EngineError> {
        Ok(self.survey.clone())
    }

    async fn discard(&self, leftover: &Leftover) -> Result<(), EngineError> {
        self.discarded.lock().unwrap().push(leftover.clone());
        Ok(())
    }
}

impl Ran {
    pub(crate) fn shown(&self) -> String {
        let Self { code, stdout, stderr, command } = self;
        let part = |name: &str, text: &str| if text.is_empty() { String::new() } else { format!("--- {name}\n{text}") };
        format!("$ provisioner {command}\n{}{}--- exit {code}\n", part("stderr", stderr), part("stdout", stdout))
    }
}

#[derive(Clone, Default)]
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Writes that are taken still; `None`: all.
    left: Option<usize>,
}

impl Captured {
    fn taking(left: Option<usize>) -> Self {
        Self { left, ..Self::default() }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut self.left {
            Some(0) => return Err(std::io::ErrorKind::BrokenPipe.into()),
            Some(left) => *left -= 1,
            None => {}
        }
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Compares with the stored text; content hashes and ids of runs are left out because they tell nothing here.
macro_rules! snapshot {
    ($name:expr, $text:expr) => {{
        let text = $text;
        insta::with_settings!({
            filters => vec![
                (r"[0-9a-f]{16}", "[hash]"),
                (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ  \S+@\S+ ", "[when]  [who] "),
                (r"\(pid \d+, `([^`]*)`, for [^,]*, id [^)]*\)", "(pid [pid], `$1`, for [age], id [id])"),
            ],
            omit_expression => true,
        }, { insta::assert_snapshot!($name, text) });
    }};
}

pub(crate) use snapshot;
