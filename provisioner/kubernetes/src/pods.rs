//! Pods as they stand: what one does, and why one does not come up.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::labels;
use crate::render::MAIN;

/// Reasons after which waiting is in vain, in the node's own words.
const IN_VAIN: [&str; 9] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "StartError",
    "ImageInspectError",
];

/// What became of a pod that should come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Up,
    /// Ended with this code; only a job's pod may.
    Ended(i32),
    Pending(String),
    /// No node takes it. That may pass: a volume is still being made, or the pod before it is still there.
    Unschedulable(String),
    /// The container whose last words explain it, if any, and the node's.
    Failed {
        container: Option<String>,
        why: String,
    },
}

pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

pub(crate) fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// What a pod that was told to go was given for it.
pub(crate) fn grace(pod: &Pod) -> Duration {
    let seconds = pod.metadata.deletion_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    Duration::from_secs(seconds.unwrap_or_default())
}

/// It is through: it holds on to nothing any more.
pub(crate) fn is_done(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(crate) fn main_status(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == MAIN).or(statuses.first())
}

fn main_state(pod: &Pod) -> Option<&ContainerState> {
    main_status(pod)?.state.as_ref()
}

/// The member's own process runs.
pub(crate) fn is_up(pod: &Pod) -> bool {
    main_state(pod).is_some_and(|state| state.running.is_some())
}

pub(crate) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// The node that was given the pod and has said nothing about it.
pub(crate) fn untaken_by(pod: &Pod) -> Option<&str> {
    let is_taken = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
    node(pod).filter(|_| !is_taken)
}

/// The member's own process ran and ended, and the node would start it again.
pub(crate) fn has_ended(pod: &Pod) -> bool {
    main_state(pod).is_some_and(|state| {
        let is_backing_off =
            state.waiting.as_ref().is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
        state.terminated.is_some() || is_backing_off
    })
}

pub(crate) fn instance(pod: &Pod) -> Option<&str> {
    labels::annotation(&pod.metadata, labels::INSTANCE)
}

/// The container that is the member: ours by its name, of a foreign pod the first one.
pub(crate) fn main_of(template: &PodTemplateSpec) -> Option<&k8s_openapi::api::core::v1::Container> {
    let containers = &template.spec.as_ref()?.containers;
    containers.iter().find(|container| container.name == MAIN).or(containers.first())
}

pub(crate) fn claims(spec: &k8s_openapi::api::core::v1::PodSpec) -> impl Iterator<Item = &str> {
    let volumes = spec.volumes.iter().flatten();
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

pub(crate) fn progress(pod: &Pod) -> Progress {
    if is_leaving(pod) {
        return Progress::Pending(format!("pod {} is on its way out", name(&pod.metadata)));
    }
    if let Some(why) = unschedulable(pod) {
        return Progress::Unschedulable(why);
    }
    let status = pod.status.clone().unwrap_or_default();
    let init = status.init_container_statuses.iter().flatten();
    for container in init {
        if let Some(failed) = trouble(container, true) {
            return failed;
        }
    }
    if let Some(main) = main_status(pod) {
        if let Some(failed) = trouble(main, false) {
            return failed;
        }
        let state = main.state.clone().unwrap_or_default();
        if state.running.is_some() {
            return Progress::Up;
        }
        if let Some(ended) = state.terminated {
            return Progress::Ended(ended.exit_code);
        }
    }
    if phase(pod) == "Failed" {
        let why = [status.reason, status.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        return Progress::Failed { container: None, why };
    }
    Progress::Pending(format!("pod {} is {}", name(&pod.metadata), waits_for(pod)))
}

fn waits_for(pod: &Pod) -> String {
    let init = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let mut all = init.chain(main_status(pod)).filter_map(|status| status.state.as_ref());
    let waiting = all.find_map(|state| state.waiting.as_ref()?.reason.clone());
    waiting.unwrap_or_else(|| phase(pod).to_owned())
}

fn unschedulable(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled")?;
    let is_refused = scheduled.status == "False" && scheduled.reason.as_deref() == Some("Unschedulable");
    is_refused.then(|| format!("Unschedulable: {}", scheduled.message.as_deref().unwrap_or_default()))
}

fn trouble(status: &ContainerStatus, is_init: bool) -> Option<Progress> {
    let state = status.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        let said = waiting.message.as_deref().unwrap_or_default();
        if IN_VAIN.contains(&reason) {
            return Some(Progress::Failed { container: None, why: format!("{reason}: {said}{}", remedy(said)) });
        }
        if reason == "CrashLoopBackOff" {
            return Some(ended_badly(status, format!("{reason}: {}", last_end(status))));
        }
    }
    let ended = state.terminated.as_ref().filter(|ended| is_init && ended.exit_code != 0)?;
    Some(ended_badly(status, format!("container {} ended with {}", status.name, ended.exit_code)))
}

/// What the node's words leave to be guessed.
fn remedy(said: &str) -> &'static str {
    let is_login = ["401 Unauthorized", "authorization failed", "no basic auth credentials"];
    if is_login.iter().any(|word| said.contains(word)) {
        "; the registry wants a login: kubernetes.pull_secret names a Secret that has one"
    } else {
        ""
    }
}

fn ended_badly(status: &ContainerStatus, why: String) -> Progress {
    Progress::Failed { container: Some(status.name.clone()), why }
}

fn last_end(status: &ContainerStatus) -> String {
    let ended = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    match ended {
        None => format!("container {} keeps ending", status.name),
        Some(ended) => {
            let reason = ended.reason.as_deref().unwrap_or("Error");
            format!("container {} ended with {} ({reason})", status.name, ended.exit_code)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "a-0"}, "status": status})).unwrap()
    }

    fn failed(status: &Value) -> String {
        match progress(&pod(status)) {
            Progress::Failed { why, .. } => why,
            other => panic!("{other:?}"),
        }
    }

    fn container(name: &str, state: &Value) -> Value {
        json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 1, "state": state,
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}})
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_told_in_the_nodes_words() {
        let state = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
        let status = json!({"phase": "Pending", "initContainerStatuses": [container("files", &state)]});
        assert_eq!(failed(&status), "ErrImagePull: not found");
        let state = json!({"waiting": {"reason": "ErrImagePull", "message": "status code: 401 Unauthorized"}});
        let status = json!({"phase": "Pending", "initContainerStatuses": [container("files", &state)]});
        assert!(failed(&status).ends_with(
            "401 Unauthorized; the registry wants a login: kubernetes.pull_secret names a Secret that has one"
        ));
    }

    #[test]
    fn a_crash_loop_names_container_and_code() {
        let state = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}});
        let status = json!({"phase": "Running", "containerStatuses": [container("main", &state)]});
        assert_eq!(failed(&status), "CrashLoopBackOff: container main ended with 1 (Error)");
        assert!(has_ended(&pod(&status)));
    }

    #[test]
    fn files_that_cannot_be_put_are_a_failure_at_once() {
        let state = json!({"terminated": {"exitCode": 2}});
        let status = json!({"phase": "Pending", "initContainerStatuses": [container("files", &state)]});
        assert_eq!(failed(&status), "container files ended with 2");
    }

    #[test]
    fn a_pod_without_a_node_may_still_get_one() {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/2 nodes are available: 2 Insufficient memory."});
        let said = progress(&pod(&json!({"phase": "Pending", "conditions": [condition]})));
        let why = "Unschedulable: 0/2 nodes are available: 2 Insufficient memory.".to_owned();
        assert_eq!(said, Progress::Unschedulable(why));
    }

    #[test]
    fn a_running_pod_is_up() {
        let status = json!({"phase": "Running", "containerStatuses": [container("main", &json!({"running": {}}))]});
        assert_eq!(progress(&pod(&status)), Progress::Up);
    }
}
