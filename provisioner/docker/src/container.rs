//! What a container is to be, as the engine wants to hear it. Pure.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, Mount as EngineMount, MountType,
    MountVolumeOptions, NetworkingConfig, PortBinding, PortMap, RestartPolicy, RestartPolicyNameEnum,
};
use provisioner_core::observed::Making;
use provisioner_core::stack::{
    Fingerprint, Job, Limits, MissingSecret, Mount, Port, Restart, SECRET_ENV_FILE, SecretVersions, Text, Workload,
    secret_env_text, secret_shell,
};

use crate::archive::Entry;
use crate::labels::{self, Kind, Names};

/// What workloads and jobs have in common.
struct Process<'a> {
    image: &'a str,
    command: &'a [String],
    env: &'a BTreeMap<String, String>,
    secret_env: &'a BTreeMap<String, Text>,
    mounts: &'a [Mount],
    user: Option<(u32, u32)>,
    limits: &'a Limits,
}

pub(crate) fn workload(
    names: &Names,
    workload: &Workload,
    image: &str,
    versions: &SecretVersions,
) -> ContainerCreateBody {
    let mut labels = names.labels(Kind::Workload);
    let mut label = |key: &str, value: String| labels.insert(key.to_owned(), value);
    label(labels::COMPONENT, workload.component.clone());
    label(labels::MEMBER, workload.member.to_string());
    label(labels::SPEC, workload.spec_fingerprint(image).to_string());
    if let Some(process) = making(names, workload, image).process {
        label(labels::PROCESS, process.to_string());
    }
    label(labels::FILES, labels::write_files(&workload.file_fingerprints(versions)));
    label(labels::RESTART, restart_name(workload.restart).to_string());
    label(labels::NAMES, aliases(workload).join(" "));
    ContainerCreateBody { labels: Some(labels), ..unmarked(names, workload, image) }
}

/// A container is all there is of a member here.
pub(crate) fn making(names: &Names, workload: &Workload, image: &str) -> Making {
    // Its maps come in any order.
    let body = serde_json::to_value(unmarked(names, workload, image)).map(|mut body| {
        body.sort_all_objects();
        body
    });
    Making { process: body.ok().map(|body| Fingerprint::of(&body)), around: None }
}

fn unmarked(names: &Names, workload: &Workload, image: &str) -> ContainerCreateBody {
    let process = Process {
        image,
        command: &workload.command,
        env: &workload.env,
        secret_env: &workload.secret_env,
        mounts: &workload.mounts,
        user: workload.user,
        limits: &workload.limits,
    };
    let (exposed, bindings) = ports(&workload.ports);
    let body = process.body(names, aliases(workload));
    let host = HostConfig {
        port_bindings: Some(bindings),
        restart_policy: Some(restart_policy(workload.restart)),
        ..body.host_config.unwrap_or_default()
    };
    ContainerCreateBody {
        hostname: Some(workload.member.to_string()),
        exposed_ports: Some(exposed),
        stop_signal: Some(workload.stop.signal.clone()),
        stop_timeout: Some(workload.stop.grace_secs.into()),
        host_config: Some(host),
        ..body
    }
}

pub(crate) fn job(names: &Names, job: &Job, image: &str) -> ContainerCreateBody {
    let process = Process {
        image,
        command: &job.command,
        env: &job.env,
        secret_env: &job.secret_env,
        mounts: &job.mounts,
        user: job.user,
        limits: &job.limits,
    };
    let mut labels = names.labels(Kind::Job);
    labels.insert(labels::COMPONENT.to_owned(), job.component.clone());
    ContainerCreateBody { labels: Some(labels), ..process.body(names, Vec::new()) }
}

/// The names by which the others reach it.
pub(crate) fn aliases(workload: &Workload) -> Vec<String> {
    let member = workload.member.to_string();
    std::iter::once(member).chain(workload.names.iter().cloned()).collect()
}

impl Process<'_> {
    fn body(&self, names: &Names, aliases: Vec<String>) -> ContainerCreateBody {
        let endpoint = EndpointSettings { aliases: Some(aliases), ..EndpointSettings::default() };
        ContainerCreateBody {
            image: Some(self.image.to_owned()),
            user: self.user.map(|(user, group)| format!("{user}:{group}")),
            // A command is the whole command line, whatever entry point the image brings along.
            entrypoint: self.entrypoint(),
            env: Some(self.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            host_config: Some(HostConfig {
                network_mode: Some(names.network()),
                mounts: Some(self.mounts.iter().map(|mount| volume_mount(names, mount)).collect()),
                log_config: Some(bounded_logs()),
                // Nothing here needs a privilege, and nothing gets one by running another program. The root file system
                // stays writable: files could not be put in otherwise.
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                ..limits(self.limits)
            }),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(names.network(), endpoint)])),
            }),
            ..ContainerCreateBody::default()
        }
    }

    fn entrypoint(&self) -> Option<Vec<String>> {
        if self.secret_env.is_empty() {
            return (!self.command.is_empty()).then(|| self.command.to_vec());
        }
        Some(secret_shell().into_iter().chain(self.command.iter().cloned()).collect())
    }
}

/// The file from which the process's own shell reads its secret variables. Which user the image runs as is not known
/// here, so everybody inside the container may read it; outside it is as closed as the engine itself.
pub(crate) fn secret_env(
    variables: &BTreeMap<String, Text>,
    values: &BTreeMap<String, String>,
) -> Result<Option<Entry>, MissingSecret> {
    let text = secret_env_text(variables, values)?;
    let entry = |text: String| Entry {
        path: SECRET_ENV_FILE.to_owned(),
        mode: 0o444,
        owner: (0, 0),
        content: text.into_bytes(),
    };
    Ok(text.map(entry))
}

pub(crate) fn restart_policy(restart: Restart) -> RestartPolicy {
    RestartPolicy { name: Some(restart_name(restart)), maximum_retry_count: None }
}

fn restart_name(restart: Restart) -> RestartPolicyNameEnum {
    match restart {
        Restart::UnlessStopped => RestartPolicyNameEnum::UNLESS_STOPPED,
        Restart::Never => RestartPolicyNameEnum::NO,
    }
}

fn limits(limits: &Limits) -> HostConfig {
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let memory = limits.memory_bytes.map(bytes);
    HostConfig {
        memory,
        // Equal to the memory: no swap, so that a limit means what it says.
        memory_swap: memory,
        nano_cpus: limits.cpu_millis.map(|millis| i64::from(millis) * 1_000_000),
        shm_size: limits.shm_bytes.map(bytes),
        ..HostConfig::default()
    }
}

fn bounded_logs() -> HostConfigLogConfig {
    let pairs = [("max-size", "10m"), ("max-file", "3")];
    let config = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(config) }
}

fn volume_mount(names: &Names, mount: &Mount) -> EngineMount {
    // A volume that somebody removed is made anew by the mount; the labels keep it ours.
    let mut labels = names.labels(Kind::Volume);
    labels.insert(labels::VOLUME.to_owned(), mount.volume.clone());
    EngineMount {
        target: Some(mount.path.clone()),
        source: Some(names.volume(&mount.volume)),
        typ: Some(MountType::VOLUME),
        volume_options: Some(MountVolumeOptions { labels: Some(labels), ..MountVolumeOptions::default() }),
        ..EngineMount::default()
    }
}

fn ports(ports: &[Port]) -> (Vec<String>, PortMap) {
    let key = |port: &Port| format!("{}/tcp", port.port);
    // What members reach needs no word here: they share a network.
    let exposed = || ports.iter().filter(|port| port.is_exposed());
    let bindings = exposed().map(|port| {
        // An empty port lets the engine pick a free one.
        let picked = || ("127.0.0.1".to_owned(), String::new());
        let public = port.expose.address().map(|address| (address.ip().to_string(), address.port().to_string()));
        let (ip, public) = public.unwrap_or_else(picked);
        (key(port), Some(vec![PortBinding { host_ip: Some(ip), host_port: Some(public) }]))
    });
    (exposed().map(key).collect(), bindings.collect())
}

#[cfg(test)]
mod tests {
    use provisioner_core::name::StackName;
    use provisioner_core::stack::{Expose, Text};

    use super::*;

    fn command(argv: &[&str]) -> Vec<String> {
        argv.iter().map(|arg| (*arg).to_owned()).collect()
    }

    #[test]
    fn secret_variables_appear_in_no_description() {
        let variables = BTreeMap::from([("URL".to_owned(), Text::new(format!("a'b {}", Text::secret("pw"))))]);
        let process = Process {
            image: "i",
            command: &command(&["app", "serve"]),
            env: &BTreeMap::new(),
            secret_env: &variables,
            mounts: &[],
            user: None,
            limits: &Limits::default(),
        };
        let body = process.body(&Names { stack: StackName::new("dev").unwrap() }, Vec::new());
        assert_eq!(body.entrypoint.as_ref().unwrap()[3..], ["sh", "app", "serve"]);
        assert!(!format!("{body:?}").contains("URL"));
    }

    #[test]
    fn whoever_runs_gains_no_privilege() {
        let process = Process {
            image: "i",
            command: &[],
            env: &BTreeMap::new(),
            secret_env: &BTreeMap::new(),
            mounts: &[],
            user: Some((999, 33)),
            limits: &Limits::default(),
        };
        let body = process.body(&Names { stack: StackName::new("dev").unwrap() }, Vec::new());
        assert_eq!(body.user.as_deref(), Some("999:33"));
        let host = body.host_config.unwrap();
        assert_eq!((host.cap_drop.unwrap(), host.cap_add), (vec!["ALL".to_owned()], None));
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
    }

    #[test]
    fn a_memory_limit_leaves_no_swap() {
        let config = limits(&Limits { memory_bytes: Some(1 << 30), cpu_millis: Some(1500), shm_bytes: None });
        assert_eq!((config.memory, config.memory_swap), (Some(1 << 30), Some(1 << 30)));
        assert_eq!(config.nano_cpus, Some(1_500_000_000));
    }

    #[test]
    fn ports_for_checks_stay_on_loopback() {
        let port = |expose| Port::new("http", 80, expose);
        let binding = |port: &Port| ports(std::slice::from_ref(port)).1["80/tcp"].clone().unwrap().remove(0);
        let checks = binding(&port(Expose::Checks));
        assert_eq!((checks.host_ip.unwrap().as_str(), checks.host_port.unwrap().as_str()), ("127.0.0.1", ""));
        let fixed = binding(&port(Expose::Address { ip: "0.0.0.0".parse().unwrap(), port: 8080 }));
        assert_eq!((fixed.host_ip.unwrap().as_str(), fixed.host_port.unwrap().as_str()), ("0.0.0.0", "8080"));
    }
}
