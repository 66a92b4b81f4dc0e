//! The provisioner as people run it, the engine as it really is, and what is kept of a failure.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use serde_json::Value;

pub(crate) type Scenario = (&'static str, fn());

/// A stack that scenarios work on, by the flags that choose it.
pub(crate) struct Stack {
    pub(crate) name: String,
    manifest: PathBuf,
}

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Stacks that were begun, to be taken down at the end and told about when something fails.
static BEGUN: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());

/// A scenario that fails while it holds the list leaves it as good as it was.
fn begun() -> MutexGuard<'static, Vec<(String, PathBuf)>> {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

impl Stack {
    /// The stack of `manifests/dev.yaml` under another name, stood up once for all scenarios that use it.
    pub(crate) fn dev() -> Self {
        let stack = Self { name: "sc-dev".into(), manifest: root().join("manifests/dev.yaml") };
        if stack.begin() {
            stack.ok(&["up", "--no-verify"]);
        }
        stack
    }

    /// A stack of its own, not stood up yet. `change` edits the text of the dev manifest without the systems that take
    /// long to start: broker, search, mail and the workers on them; and without what watches them.
    pub(crate) fn of(name: &str, change: impl FnOnce(String) -> String) -> Self {
        let dev = std::fs::read_to_string(root().join("manifests/dev.yaml")).unwrap();
        let stack = Self { name: name.into(), manifest: root().join(format!("manifests/.{name}.yaml")) };
        stack.rewrite(change(without(&dev, &["rabbitmq", "elasticsearch", "mail", "monitoring", "workers"])));
        stack.begin();
        stack
    }

    /// A stack on a cluster, not stood up yet, and whether this is the first that is heard of it.
    pub(crate) fn on_cluster(name: &str, manifest: String, kubeconfig: &str) -> (Self, bool) {
        let stack = Self { name: name.into(), manifest: root().join(format!("manifests/.{name}.yaml")) };
        stack.rewrite(manifest);
        std::fs::write(stack.kubeconfig(), kubeconfig).unwrap();
        let is_first = stack.is_first();
        (stack, is_first)
    }

    /// The same stack with other wishes.
    pub(crate) fn changed(&self, change: impl FnOnce(String) -> String) -> Self {
        let text = std::fs::read_to_string(&self.manifest).unwrap();
        let manifest = root().join(format!("manifests/.{}-changed.yaml", self.name));
        let stack = Self { name: self.name.clone(), manifest };
        stack.rewrite(change(text));
        stack
    }

    pub(crate) fn rewrite(&self, text: String) {
        std::fs::write(&self.manifest, text).unwrap();
    }

    /// Removes what a killed run left under this name. True the first time.
    fn begin(&self) -> bool {
        let is_first = self.is_first();
        if is_first {
            self.ok(&["down", "--volumes", "--yes"]);
        }
        is_first
    }

    fn is_first(&self) -> bool {
        let mut begun = begun();
        let is_known = begun.iter().any(|(name, _)| *name == self.name);
        if !is_known {
            begun.push((self.name.clone(), self.manifest.clone()));
        }
        !is_known
    }

    /// There for a stack on a cluster.
    fn kubeconfig(&self) -> PathBuf {
        root().join(format!("target/{}.kubeconfig", self.name))
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_provisioner"));
        let (verb, rest) = arguments.split_first().unwrap();
        command.arg(verb).arg("--file").arg(&self.manifest).args(["--name", &self.name]);
        if self.kubeconfig().exists() {
            // The manifest's namespace is that of the stack that it names.
            command.args(["--namespace", &self.name]).env("KUBECONFIG", self.kubeconfig());
        }
        command.args(rest).current_dir(root()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// Runs and insists on success.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments);
        let Ran { code, stdout, stderr } = ran;
        assert!(code == 0, "provisioner {} ended with {code}\n{stderr}\n{}", arguments.join(" "), told(&stdout));
        stdout
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let words: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.ok(&words)).unwrap()
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Every check passes.
    pub(crate) fn verify(&self) {
        self.ok(&["verify"]);
    }

    pub(crate) fn plan(&self) -> String {
        self.ok(&["plan"])
    }

    /// `http://127.0.0.1:PORT` of NGINX.
    pub(crate) fn http(&self) -> String {
        let status = self.json(&["status"]);
        let entrypoints = status["entrypoints"].as_array().unwrap();
        let http = entrypoints.iter().find(|entrypoint| entrypoint["name"] == "http").unwrap();
        http["url"].as_str().unwrap().trim_end_matches('/').to_owned()
    }

    /// The engine's own ids of the members' containers, as the engine tells them.
    pub(crate) fn containers(&self) -> BTreeMap<String, String> {
        let label = format!("label=provisioner.stack={}", self.name);
        let kind = "label=provisioner.kind=workload";
        let listed =
            docker(&["ps", "-a", "--no-trunc", "--filter", kind, "--filter", &label, "--format", "{{.Names}} {{.ID}}"]);
        listed.lines().map(|line| line.split_once(' ').map(|(name, id)| (name.into(), id.into())).unwrap()).collect()
    }

    /// Everything of the engine that carries this stack's name.
    pub(crate) fn traces(&self) -> Vec<String> {
        let filter = format!("name={}", self.name);
        let mut traces = Vec::new();
        for listing in [["ps", "-a"], ["volume", "ls"], ["network", "ls"]] {
            let format = if listing[0] == "ps" { "{{.Names}}" } else { "{{.Name}}" };
            let listed = docker(&[listing[0], listing[1], "--filter", &filter, "--format", format]);
            traces.extend(listed.lines().map(str::to_owned));
        }
        traces
    }
}

/// What was printed; of findings those that did not pass, for a hundred good ones hide them.
fn told(stdout: &str) -> String {
    match serde_json::from_str::<Vec<Value>>(stdout) {
        Ok(all) => all.iter().filter(|one| one["verdict"] != "pass").map(|one| format!("{one}\n")).collect(),
        Err(_) => stdout.to_owned(),
    }
}

/// A manifest's text without these sections.
pub(crate) fn without(manifest: &str, sections: &[&str]) -> String {
    let mut is_left_out = false;
    let kept = manifest.split_inclusive('\n').filter(|line| {
        if let Some((key, _)) = line.split_once(':').filter(|(key, _)| !key.starts_with([' ', '#'])) {
            is_left_out = sections.contains(&key);
        }
        !is_left_out
    });
    kept.collect()
}

/// The engine's own command line, as a person uses it behind the provisioner's back.
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().expect("run docker");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {}: {stderr}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Looks until `look` is satisfied.
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(begin.elapsed() < limit, "not within {} s: {what}", limit.as_secs());
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// A fenced member, whoever starts it.
pub(crate) fn refuses_to_start(container: &str) {
    docker(&["start", container]);
    eventually("it refuses to start", Duration::from_secs(10), || {
        let ended = docker(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", container]);
        (ended.trim() == "exited 78").then_some(())
    });
}

/// Runs a scenario and keeps what tells why it failed.
pub(crate) fn guarded(name: &str, body: fn()) -> Result<(), Failed> {
    let begin = Instant::now();
    let result = catch_unwind(AssertUnwindSafe(body));
    eprintln!("{name}: {:.1} s", begin.elapsed().as_secs_f64());
    result.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let message = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
        keep_artifacts(name, &message);
        Failed::from(message)
    })
}

fn keep_artifacts(scenario: &str, message: &str) {
    let folder = root().join("artifacts").join(scenario);
    let _ = std::fs::create_dir_all(&folder);
    let _ = std::fs::write(folder.join("failure.txt"), message);
    for (name, manifest) in begun().iter() {
        let stack = Stack { name: name.clone(), manifest: manifest.clone() };
        for arguments in [&["status"][..], &["plan"], &["logs", "--tail", "2000"]] {
            let Ran { stdout, stderr, .. } = stack.run(arguments);
            let _ = std::fs::write(folder.join(format!("{name}-{}.txt", arguments[0])), stdout + &stderr);
        }
    }
    let _ = std::fs::write(folder.join("containers.txt"), docker(&["ps", "-a", "--no-trunc"]));
    eprintln!("artifacts of {scenario}: {}", folder.display());
}

pub(crate) fn take_everything_down() {
    let is_kept = std::env::vars().any(|(name, value)| name == "KEEP_FAILED" && value == "1");
    for (name, manifest) in begun().drain(..) {
        if !is_kept {
            let stack = Stack { name: name.clone(), manifest };
            stack.run(&["down", "--volumes", "--yes"]);
        }
        let _ = std::fs::remove_file(root().join(format!("target/{name}.kubeconfig")));
        for suffix in ["", "-changed"] {
            let _ = std::fs::remove_file(root().join(format!("manifests/.{name}{suffix}.yaml")));
        }
    }
}
