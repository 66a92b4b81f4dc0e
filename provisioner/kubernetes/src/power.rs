//! Starting, stopping, killing, and the proof that a member is down.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use provisioner_core::engine::{EngineError, Power, StopProof};
use provisioner_core::name::Member;
use provisioner_core::observed::State;
use serde_json::json;

use crate::connect::KubernetesEngine;
use crate::controllers::Controller;
use crate::labels::MANAGER;
use crate::pods;
use crate::workload::grace_secs;

/// What a kill leaves a process: less is a deletion by force, after which nobody knows whether it still runs.
const KILL_GRACE_SECS: u32 = 1;
/// A node that says nothing for so long may be dead or cut off.
const UNANSWERED_LIMIT: Duration = Duration::from_millis(1500);
/// One that has left every stream unanswered for longer than that already: with what follows it had more time than any other.
const SUSPECT_LIMIT: Duration = Duration::from_millis(200);
/// After that: one that is only slow has ended a pod with its grace by then.
const UNCONFIRMED_LIMIT: Duration = Duration::from_millis(700);
/// All that run in the container but its first process, which only the node can kill.
const KILL_ALL: [&str; 3] = ["/bin/sh", "-c", "kill -KILL -1"];

/// What a node said to a kill.
enum Heard {
    Answer,
    Nothing,
    /// It has just left another command unanswered.
    NotAsked,
}

impl KubernetesEngine {
    pub(crate) async fn set_power(&self, member: &Member, power: Power) -> Result<(), EngineError> {
        let found = self.controller(member).await?;
        let selector = self.names.member_selector(member);
        match power {
            Power::Running => {
                let pods = self.pods_of(member).await?;
                if found.replicas > 0 && found.state(pods.iter()) == State::Exited {
                    // It ended and must not come back by itself; a new pod may.
                    for pod in &pods {
                        self.delete::<Pod>(pods::name(&pod.metadata)).await?;
                    }
                }
                self.scale(member, found.is_stateful, 1).await?;
                self.await_running(member, &found.instance()).await.map(|_| ())
            }
            Power::Stopped => {
                self.scale(member, found.is_stateful, 0).await?;
                self.await_no_pods(&selector, &format!("stop {member}"), grace_secs(&found)).await
            }
            Power::Killed => {
                let pods = self.pods_of(member).await?;
                self.scale(member, found.is_stateful, 0).await?;
                let mut silent = Vec::new();
                let mut are_asked = true;
                for pod in &pods {
                    match self.kill(member, pod).await? {
                        Heard::Answer => {}
                        Heard::Nothing => silent.extend(pods::node(pod)),
                        Heard::NotAsked => are_asked = false,
                    }
                }
                let operation = format!("kill {member}");
                if !are_asked {
                    return Err(EngineError::failed(operation, "its node left the last command unanswered"));
                }
                if silent.is_empty() {
                    return self.await_no_pods(&selector, &operation, KILL_GRACE_SECS.into()).await;
                }
                let gone = self.await_no_pods_for(UNCONFIRMED_LIMIT, &selector, &operation).await;
                gone.map_err(|_| {
                    silent.iter().for_each(|node| self.kubernetes.silence.note(node));
                    EngineError::failed(operation, format!("node {} does not answer", silent.join(", ")))
                })
            }
        }
    }

    /// Deletes the pod too, which takes it out of the services whether its node answers or not.
    async fn kill(&self, member: &Member, pod: &Pod) -> Result<Heard, EngineError> {
        let name = pods::name(&pod.metadata);
        let params = DeleteParams { grace_period_seconds: Some(KILL_GRACE_SECS), ..DeleteParams::default() };
        self.delete_with::<Pod>(name, params).await?;
        if !pods::is_up(pod) {
            return Ok(Heard::Answer);
        }
        let node = pods::node(pod).unwrap_or_default();
        if self.kubernetes.silence.is_silent(node) {
            return Ok(Heard::NotAsked);
        }
        // Before it can do anything about the node's signal. It may be gone already, and its shell kills itself.
        let argv = KILL_ALL.map(str::to_owned);
        let killed = async {
            if let Ok(execution) = self.execute_in(member, pod, &argv, None).await {
                let _ = execution.finish().await;
            }
        };
        let limit = if self.kubernetes.silence.is_suspect(node) { SUSPECT_LIMIT } else { UNANSWERED_LIMIT };
        let is_over = tokio::time::timeout(limit, killed).await.is_ok();
        Ok(if is_over && !self.kubernetes.silence.is_silent(node) { Heard::Answer } else { Heard::Nothing })
    }

    /// The number of pods has a manager entry of its own, so that power and description do not stand in each other's way.
    pub(crate) async fn scale(&self, member: &Member, is_stateful: bool, replicas: i32) -> Result<(), EngineError> {
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let (name, operation) = (member.as_str(), format!("scale {member} to {replicas}"));
        if is_stateful {
            self.ask(operation, self.api::<StatefulSet>().patch(name, &params, &patch)).await.map(|_| ())
        } else {
            self.ask(operation, self.api::<Deployment>().patch(name, &params, &patch)).await.map(|_| ())
        }
    }

    /// Scaled to none, which the controller has seen; no pod, so no process; its volumes in nobody's hands.
    pub(crate) async fn prove_stopped(&self, member: &Member) -> Result<StopProof, EngineError> {
        let operation = format!("prove {member} stopped");
        let failed = |detail: String| Err(EngineError::failed(operation.as_str(), detail));
        let standing = self.standing(member).await?;
        let all = self.list::<Pod>("").await?;
        let Some(found) = standing.into_iter().next() else {
            return match user_of(&all, |claim| claim.starts_with(&format!("{member}-"))) {
                Some(user) => failed(user),
                None => Ok(StopProof { instance: "none".to_owned(), evidence: format!("no member {member} exists") }),
            };
        };
        let own: Vec<&Pod> = found.pods(&self.names, &all).collect();
        let state = found.state(own.iter().copied());
        if state != State::Exited {
            return failed(format!("it is {}", state.word()));
        }
        if found.replicas > 0 {
            // Ended by itself: its pod is still there and could be started by the node.
            self.set_power(member, Power::Stopped).await?;
        }
        let found = self.controller(member).await?;
        self.proof(member, &found, &operation).await
    }

    async fn proof(&self, member: &Member, found: &Controller, operation: &str) -> Result<StopProof, EngineError> {
        let failed = |detail: String| Err(EngineError::failed(operation, detail));
        if found.replicas != 0 {
            return failed("it was started again just now".to_owned());
        }
        let generation = found.meta.generation.unwrap_or_default();
        if found.observed_generation < generation || found.pods_counted != 0 {
            let seen = (found.observed_generation, found.pods_counted);
            return failed(format!(
                "its controller has seen generation {} of {generation} and counts {} pods",
                seen.0, seen.1
            ));
        }
        let all = self.list::<Pod>("").await?;
        if let Some(pod) = found.pods(&self.names, &all).next() {
            let node = pods::node(pod).unwrap_or("no node");
            return failed(format!("pod {} on {node} is still there", pods::name(&pod.metadata)));
        }
        let claims: Vec<&str> = found.template.spec.iter().flat_map(pods::claims).collect();
        if let Some(user) = user_of(&all, |claim| claims.contains(&claim)) {
            return failed(user);
        }
        let kind = if found.is_stateful { "statefulset" } else { "deployment" };
        let evidence = format!(
            "{kind} {member} has 0 replicas at generation {generation}, which its controller has seen; no pod of it exists, none uses its claims"
        );
        Ok(StopProof { instance: found.instance(), evidence })
    }
}

fn user_of(pods: &[Pod], is_its: impl Fn(&str) -> bool) -> Option<String> {
    pods.iter().filter(|pod| !pods::is_done(pod)).find_map(|pod| {
        let claim = pod.spec.iter().flat_map(pods::claims).find(|claim| is_its(claim))?;
        Some(format!("claim {claim} is in use by pod {}", pods::name(&pod.metadata)))
    })
}
