//! Pods as a restricted namespace takes them: no root, no privilege, a read-only root.

use std::collections::BTreeMap;

use provisioner_core::name::Member;
use provisioner_core::stack::{File, Job, Limits, Mount, Restart, SECRET_ENV_FILE, Text, Workload, secret_shell};
use serde_json::{Map, Value, json};

use super::files::{PLACE, directories};
use crate::access::Options;
use crate::labels::{self, Kind, Names};

/// The container that is the member; what puts its files in place comes before it.
pub(crate) const MAIN: &str = "main";
const PLACER: &str = "files";
/// Written at the first start of a member that must stay down once it has ended. On disk, so that it outlives a node's
/// reboot, and gone with the pod.
const ONCE: &str = r#"if [ -e /.provisioner/once/started ]; then echo "it has ended; provisioner start starts it again" >&2; exit 78; fi; : >/.provisioner/once/started; exec "$@""#;
/// What stands before the command of a member that is not restarted.
pub(crate) const NEVER: [&str; 4] = ["/bin/sh", "-c", ONCE, "sh"];
/// Keeps a pod there while its volumes are looked at, and no longer than somebody may look.
const HELPER_COMMAND: [&str; 3] = ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep 300 & wait"];
/// What was left over from a run that was killed is removed by the cluster itself.
const KEPT_SECS: u64 = 300;
const SHM: &str = "/dev/shm";

/// What workloads and jobs have in common.
pub(super) struct Process<'a> {
    pub(super) image: &'a str,
    pub(super) command: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) secret_env: &'a BTreeMap<String, Text>,
    pub(super) files: &'a [File],
    pub(super) mounts: &'a [Mount],
    pub(super) user: Option<(u32, u32)>,
    pub(super) scratch: &'a [String],
    pub(super) limits: &'a Limits,
    pub(super) component: &'a str,
    /// The Secret that holds its files.
    pub(super) secret: String,
    pub(super) is_once: bool,
}

impl<'a> Process<'a> {
    pub(super) fn of_workload(workload: &'a Workload, image: &'a str) -> Self {
        Self {
            image,
            command: &workload.command,
            env: &workload.env,
            secret_env: &workload.secret_env,
            files: &workload.files,
            mounts: &workload.mounts,
            user: workload.user,
            scratch: &workload.scratch,
            limits: &workload.limits,
            component: &workload.component,
            secret: Names::files(&workload.member),
            is_once: workload.restart == Restart::Never,
        }
    }

    fn of_job(job: &'a Job, image: &'a str) -> Self {
        Self {
            image,
            command: &job.command,
            env: &job.env,
            secret_env: &job.secret_env,
            files: &job.files,
            mounts: &job.mounts,
            user: job.user,
            scratch: &job.scratch,
            limits: &job.limits,
            component: &job.component,
            secret: Names::job(&job.name),
            is_once: false,
        }
    }

    /// Directory to whether it is kept in memory.
    fn directories(&self) -> BTreeMap<String, bool> {
        let files = self.files.iter().map(|file| (file.path.as_str(), !file.content.secrets().is_empty()));
        let variables = (!self.secret_env.is_empty()).then_some((SECRET_ENV_FILE, true));
        directories(files.chain(variables), self.scratch, self.mounts)
    }

    fn command(&self) -> Vec<String> {
        let mut command = Vec::new();
        if self.is_once {
            command.extend(NEVER.map(str::to_owned));
        }
        if !self.secret_env.is_empty() {
            command.extend(secret_shell());
        }
        command.extend(self.command.iter().cloned());
        command
    }

    /// Volumes of the pod, and where the main container and the one before it see them.
    fn volumes(&self) -> (Vec<Value>, Vec<Value>, Vec<Value>) {
        let (mut volumes, mut main, mut placer) = (Vec::new(), Vec::new(), Vec::new());
        let at = |name: &str, path: &str| json!({"name": name, "mountPath": path});
        for (nth, (folder, is_memory)) in self.directories().iter().enumerate() {
            let name = format!("dir-{nth}");
            let empty = if *is_memory { json!({"medium": "Memory"}) } else { json!({}) };
            volumes.push(json!({"name": name, "emptyDir": empty}));
            main.push(at(&name, folder));
            placer.push(at(&name, &format!("/.provisioner/{nth}")));
        }
        for (nth, mount) in self.mounts.iter().enumerate() {
            let name = format!("volume-{nth}");
            volumes.push(json!({"name": name, "persistentVolumeClaim": {"claimName": mount.volume}}));
            main.push(at(&name, &mount.path));
            placer.push(at(&name, &mount.path));
        }
        if let Some(bytes) = self.limits.shm_bytes {
            volumes.push(json!({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": bytes.to_string()}}));
            main.push(at("shm", SHM));
        }
        if self.is_once {
            volumes.push(json!({"name": "once", "emptyDir": {}}));
            main.push(at("once", "/.provisioner/once"));
        }
        volumes.push(json!({"name": "files", "secret": {"secretName": self.secret, "defaultMode": 0o444}}));
        placer.push(json!({"name": "files", "mountPath": "/.provisioner/files", "readOnly": true}));
        (volumes, main, placer)
    }

    /// `main` is what only the main container has.
    pub(super) fn spec(&self, options: &Options, main: Map<String, Value>) -> Map<String, Value> {
        let (volumes, main_mounts, placer_mounts) = self.volumes();
        let env: Vec<Value> = self.env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let folders = self.directories().into_keys();
        let place = ["/bin/sh", "-c", PLACE, "sh"].map(str::to_owned).into_iter().chain(folders);
        let placer = json!({
            "name": PLACER,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "command": place.collect::<Vec<_>>(),
            "securityContext": contained(),
            "resources": resources(self.limits),
            "volumeMounts": placer_mounts,
        });
        let mut container = object(json!({
            "name": MAIN,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "securityContext": contained(),
            "resources": resources(self.limits),
            "volumeMounts": main_mounts,
        }));
        // What the image says stays unsaid: an empty list would be an owned field.
        let command = self.command();
        if !command.is_empty() {
            container.insert("command".to_owned(), json!(command));
        }
        if !env.is_empty() {
            container.insert("env".to_owned(), json!(env));
        }
        container.extend(main);
        let mut spec = object(json!({
            "serviceAccountName": self.component,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": confined(self.user),
            "initContainers": [placer],
            "containers": [container],
            "volumes": volumes,
        }));
        if !options.pull_secrets.is_empty() {
            let secrets: Vec<Value> = options.pull_secrets.iter().map(|name| json!({"name": name})).collect();
            spec.insert("imagePullSecrets".to_owned(), json!(secrets));
        }
        spec
    }
}

pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn contained() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
    })
}

fn confined(user: Option<(u32, u32)>) -> Value {
    let mut context = object(json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}));
    if let Some((user, group)) = user {
        context.insert("runAsUser".to_owned(), json!(user));
        context.insert("runAsGroup".to_owned(), json!(group));
        // Volumes and the Secret of files are the group's.
        context.insert("fsGroup".to_owned(), json!(group));
        context.insert("fsGroupChangePolicy".to_owned(), json!("OnRootMismatch"));
    }
    Value::Object(context)
}

/// Memory is asked for whole, since it cannot be taken back; of a core a tenth, since limits of all may exceed a node.
fn resources(limits: &Limits) -> Value {
    let (mut requests, mut most) = (Map::new(), Map::new());
    if let Some(bytes) = limits.memory_bytes {
        requests.insert("memory".to_owned(), json!(bytes.to_string()));
        most.insert("memory".to_owned(), json!(bytes.to_string()));
    }
    if let Some(millis) = limits.cpu_millis {
        requests.insert("cpu".to_owned(), json!(format!("{}m", (millis / 10).max(1))));
        most.insert("cpu".to_owned(), json!(cores(millis)));
    }
    json!({"requests": requests, "limits": most})
}

/// As the server writes it, so that nothing seems changed: `2000m` is `2`.
fn cores(millis: u32) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// On another node than the stack's pods with this label, where there is one. Not by force: a volume may bind a member to a node.
pub(super) fn apart(names: &Names, label: &str, value: &str) -> Value {
    let same = json!({labels::STACK: names.stack.as_str(), label: value});
    let term = json!({
        "weight": 100,
        "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": same}},
    });
    json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}})
}

/// A job with the pod that it runs. `start_secs` is what it may take until the pod runs.
pub(crate) fn job(names: &Names, options: &Options, job: &Job, image: &str, start_secs: u64) -> Value {
    let process = Process::of_job(job, image);
    let mut wanted = names.labels(Kind::Job);
    wanted.insert(labels::COMPONENT.to_owned(), job.component.clone());
    let mut spec = process.spec(options, Map::new());
    spec.insert("restartPolicy".to_owned(), json!("Never"));
    if !job.mounts.is_empty() {
        // Where a volume lies may be decided by the first pod that asks for it, and its member will have to be there too.
        spec.insert("affinity".to_owned(), apart(names, labels::COMPONENT, &job.component));
    }
    // Whoever ends a job ends it for good.
    spec.insert("terminationGracePeriodSeconds".to_owned(), json!(1));
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": Names::job(&job.name), "labels": wanted},
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": KEPT_SECS,
            "activeDeadlineSeconds": job.timeout_secs + start_secs,
            "template": {"metadata": {"labels": wanted}, "spec": spec},
        },
    })
}

/// A pod that sees the volumes of a member as the member does; `template` is the member's own pod.
pub(crate) fn helper(names: &Names, member: &Member, template: &Value) -> Value {
    let mut wanted = names.labels(Kind::Helper);
    wanted.insert(labels::MEMBER.to_owned(), member.to_string());
    let mut spec = object(template.clone());
    spec.remove("initContainers");
    spec.insert("restartPolicy".to_owned(), json!("Never"));
    spec.insert("activeDeadlineSeconds".to_owned(), json!(KEPT_SECS));
    spec.insert("terminationGracePeriodSeconds".to_owned(), json!(1));
    let containers = spec.get("containers").and_then(Value::as_array).cloned().unwrap_or_default();
    let main = containers.into_iter().map(|container| {
        let mut container = object(container);
        for key in ["lifecycle", "ports", "readinessProbe", "livenessProbe", "startupProbe", "args"] {
            container.remove(key);
        }
        container.insert("command".to_owned(), json!(HELPER_COMMAND));
        Value::Object(container)
    });
    let main: Vec<Value> = main.collect();
    spec.insert("containers".to_owned(), json!(main));
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": Names::helper(member), "labels": wanted}, "spec": spec})
}
