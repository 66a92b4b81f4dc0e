//! Members as they really run, by GET requests alone.

use std::collections::BTreeMap;

use futures_util::future::try_join;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, PodSpec, Service};
use provisioner_core::drift::Actual;
use provisioner_core::engine::EngineError;
use provisioner_core::name::Member;
use provisioner_core::stack::secret_shell;

use crate::connect::KubernetesEngine;
use crate::controllers::Controller;
use crate::labels::{self, Kind, Names};
use crate::pods;
use crate::quantity;
use crate::render::{NEVER, STOP};

/// What a node sends to a pod that has nothing else to say.
const SIGNAL: &str = "SIGTERM";

impl KubernetesEngine {
    pub(crate) async fn actual(&self, member: &Member, image: &str) -> Result<Actual, EngineError> {
        let selector = self.names.selector(Kind::Workload);
        let (found, services) = try_join(self.controller(member), self.list::<Service>(&selector)).await?;
        let expected_image = self.pushed().await?.0.remove(image);
        Ok(Actual { expected_image, ..described(&found, &services) })
    }
}

/// The member in the core's words.
fn described(found: &Controller, services: &[Service]) -> Actual {
    let spec = found.template.spec.clone().unwrap_or_default();
    let main = pods::main_of(&found.template).cloned().unwrap_or_default();
    let (command, is_once, reads_secret_env) = command(&main);
    let limit = |what: &str| main.resources.as_ref()?.limits.as_ref()?.get(what).cloned();
    Actual {
        image: main.image.clone().unwrap_or_default(),
        expected_image: None,
        command,
        reads_secret_env,
        user: user(&spec),
        // What an image brings along is known to the node alone, which takes no root.
        image_user: String::new(),
        env: main.env.iter().flatten().map(|one| (one.name.clone(), one.value.clone().unwrap_or_default())).collect(),
        image_command: Vec::new(),
        image_env: BTreeMap::new(),
        memory_bytes: limit("memory").and_then(|memory| quantity::whole(&memory)),
        cpu_millis: limit("cpu").and_then(|cpu| quantity::millis(&cpu)),
        shm_bytes: shm(&spec),
        restart: if is_once { "never" } else { "unless_stopped" }.to_owned(),
        stop_signal: stop_signal(&main),
        stop_grace_secs: stop_grace(found, &spec, leave_secs(&main)),
        mounts: mounts(found, &main),
        names: Some(names(found, services)),
        other_networks: Vec::new(),
        ports: ports(found, &main),
    }
}

/// The command line without what was put before it.
fn command(main: &Container) -> (Vec<String>, bool, bool) {
    let argv: Vec<String> = main.command.iter().chain(&main.args).flatten().cloned().collect();
    let without_once = argv.strip_prefix(NEVER.map(str::to_owned).as_slice());
    let rest = without_once.unwrap_or(&argv);
    let without_shell = rest.strip_prefix(secret_shell().as_slice());
    (without_shell.unwrap_or(rest).to_vec(), without_once.is_some(), without_shell.is_some())
}

/// Empty: what the image says.
fn user(spec: &PodSpec) -> String {
    let numbers =
        spec.security_context.as_ref().and_then(|context| Some((context.run_as_user?, context.run_as_group?)));
    numbers.map(|(user, group)| format!("{user}:{group}")).unwrap_or_default()
}

fn shm(spec: &PodSpec) -> Option<u64> {
    let volume = spec.volumes.iter().flatten().find(|volume| volume.name == "shm")?;
    quantity::whole(volume.empty_dir.as_ref()?.size_limit.as_ref()?)
}

fn before_stop(main: &Container) -> Option<&LifecycleHandler> {
    main.lifecycle.as_ref()?.pre_stop.as_ref()
}

/// Signal and seconds, as they were put before the node's own signal.
fn stop_words(main: &Container) -> Option<Vec<String>> {
    let argv = before_stop(main)?.exec.as_ref()?.command.as_ref()?;
    Some(argv.strip_prefix(STOP.map(str::to_owned).as_slice())?.to_vec())
}

fn stop_signal(main: &Container) -> String {
    stop_words(main).and_then(|words| words.first().cloned()).unwrap_or_else(|| SIGNAL.to_owned())
}

/// The part of the time to stop in which nothing happens yet.
fn leave_secs(main: &Container) -> u32 {
    let by_node = before_stop(main).and_then(|hook| u32::try_from(hook.sleep.as_ref()?.seconds).ok());
    let by_shell = stop_words(main).and_then(|words| words.get(1)?.parse().ok());
    by_node.or(by_shell).unwrap_or_default()
}

/// None at all is one second here; see the decision on this engine.
fn stop_grace(found: &Controller, spec: &PodSpec, leave_secs: u32) -> Option<u32> {
    let real = spec.termination_grace_period_seconds.and_then(|secs| u32::try_from(secs).ok());
    let asked = found.annotation(labels::GRACE).and_then(|secs| secs.parse::<u32>().ok());
    asked.filter(|asked| Some((*asked).max(1) + leave_secs) == real).or(real)
}

fn mounts(found: &Controller, main: &Container) -> BTreeMap<String, String> {
    let mut all = found.claims_by_path();
    let is_own = |name: &str| name.starts_with("dir-") || name.starts_with("volume-") || matches!(name, "shm" | "once");
    for mount in main.volume_mounts.iter().flatten().filter(|mount| !is_own(&mount.name)) {
        all.entry(mount.mount_path.clone()).or_insert_with(|| format!("volume {}", mount.name));
    }
    all
}

/// Its own name and others, as far as there are addresses that lead to it.
fn names(found: &Controller, services: &[Service]) -> Vec<String> {
    let carried = found.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let leads_here = |service: &&Service| {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| selector.iter().all(|(key, value)| carried.get(key) == Some(value)))
    };
    let public = Names::public(&found.member());
    let leading = services.iter().filter(leads_here).map(|service| pods::name(&service.metadata).to_owned());
    leading.filter(|name| *name != public).collect()
}

fn ports(found: &Controller, main: &Container) -> BTreeMap<u16, Option<std::net::SocketAddr>> {
    let noted = found.ports();
    let open = main.ports.iter().flatten().filter_map(|port| u16::try_from(port.container_port).ok());
    open.map(|port| (port, noted.get(&port).and_then(|public| public.parse().ok()))).collect()
}
