//! What can be done to members that run no programs.

use async_trait::async_trait;

use super::{EPOCH, MemoryEngine};
use crate::engine::EngineError;
use crate::fault::{Fault, Faults, Injected};
use crate::name::Member;
use crate::observed::State;
use crate::stack::Workload;

#[async_trait]
impl Faults for MemoryEngine {
    async fn cannot(&self, member: &Member, fault: Fault) -> Result<Option<String>, EngineError> {
        self.world().workload(member)?;
        Ok(match fault {
            Fault::Kill | Fault::Pause | Fault::Partition => None,
            Fault::HostKill => Some(format!("no program runs in {member}")),
            Fault::DiskFull => Some(format!("the volumes of {member} have no limit")),
        })
    }

    async fn inject(&self, member: &Member, fault: Fault) -> Result<Injected, EngineError> {
        if let Some(reason) = self.cannot(member, fault).await? {
            return Err(EngineError::failed(format!("inject {fault} into {member}"), reason));
        }
        let mut world = self.changing(format!("inject {fault} into {member}"))?;
        let found = world.workload(member)?;
        match fault {
            Fault::Pause => found.state = State::Paused,
            Fault::Partition => {
                let cut = (found.internal_ip.take(), std::mem::take(&mut found.published));
                world.cut.entry(member.clone()).or_insert(cut);
            }
            Fault::Kill | Fault::HostKill | Fault::DiskFull => found.state = State::Exited,
        }
        Ok(Injected { at_unix_us: EPOCH * 1_000_000, what: format!("{fault} was injected into {member}") })
    }

    async fn heal(&self, workload: &Workload, fault: Fault) -> Result<(), EngineError> {
        let member = &workload.member;
        let mut world = self.changing(format!("heal {member} of {fault}"))?;
        let cut = if fault == Fault::Partition { world.cut.remove(member) } else { None };
        let found = world.workload(member)?;
        if fault == Fault::Pause && found.state == State::Paused {
            found.state = State::Running;
        }
        if let Some((internal_ip, published)) = cut {
            (found.internal_ip, found.published) = (internal_ip, published);
        }
        Ok(())
    }
}
