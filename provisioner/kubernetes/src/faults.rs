//! What drills do to members.

use async_trait::async_trait;
use provisioner_core::clock;
use provisioner_core::engine::{EngineError, Power};
use provisioner_core::fault::{Fault, Faults, Injected};
use provisioner_core::name::Member;
use provisioner_core::stack::Workload;

use crate::connect::KubernetesEngine;

/// The server is what the first process has started. Where that has started nothing it is the server itself, which the
/// kernel does not let anybody kill from inside.
const SERVER: &str = "cat /proc/1/task/1/children";

#[async_trait]
impl Faults for KubernetesEngine {
    async fn cannot(&self, member: &Member, fault: Fault) -> Result<Option<String>, EngineError> {
        let not_here = |what: &str| {
            Some(format!("Kubernetes has no way to {what}, and a restricted pod must not do it; use kill or host-kill"))
        };
        match fault {
            Fault::Kill => Ok(None),
            Fault::HostKill => {
                let pod = self.running_pod(member).await?;
                let found = self.shell(member, &pod, &shell(SERVER), None).await?;
                let is_alone = found.exit_code != 0 || found.stdout.trim().is_empty();
                Ok(is_alone.then(|| format!("the server of {member} is the member's first process: use kill")))
            }
            Fault::Pause => Ok(not_here("freeze a member")),
            Fault::Partition => Ok(not_here("cut a member off")),
            Fault::DiskFull => Ok(not_here("tell how far a member's volume may be filled")),
        }
    }

    async fn inject(&self, member: &Member, fault: Fault) -> Result<Injected, EngineError> {
        let at_unix_us = clock::unix_micros();
        let what = match fault {
            Fault::Kill => {
                self.set_power(member, Power::Killed).await?;
                format!("the pod of {member} was killed and its workload scaled to 0")
            }
            Fault::HostKill => {
                let pod = self.running_pod(member).await?;
                let killed = self.shell(member, &pod, &shell(&format!("kill -KILL $({SERVER})")), None).await?;
                if killed.exit_code != 0 {
                    return Err(EngineError::failed(format!("kill the server of {member}"), killed.stderr.trim()));
                }
                format!("the server's process in the pod of {member} was killed")
            }
            Fault::Pause | Fault::Partition | Fault::DiskFull => {
                let why = self.cannot(member, fault).await?.unwrap_or_default();
                return Err(EngineError::failed(format!("inject {fault} into {member}"), why));
            }
        };
        Ok(Injected { at_unix_us, what })
    }

    /// Nothing that can be done here outlasts its cause.
    async fn heal(&self, _workload: &Workload, _fault: Fault) -> Result<(), EngineError> {
        Ok(())
    }
}

fn shell(command: &str) -> [String; 3] {
    ["/bin/sh", "-c", command].map(str::to_owned)
}
