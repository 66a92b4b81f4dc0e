//! What drills do to members, as far as it can be observed.

use super::{Ground, Outcome, ensured, observed, volume, with_volume, workload};
use crate::engine::{Engine, EngineError, Quiet};
use crate::fault::{Fault, Faults};
use crate::observed::State;
use crate::stack::{Expose, Port, Workload};

pub(super) fn faults(engine: &dyn Engine) -> Result<&dyn Faults, &'static str> {
    engine.faults().ok_or("the engine cannot hurt its members")
}

/// Whether the engine has this fault; one that has not says why and changes nothing.
pub(super) async fn has(ground: &dyn Ground, fault: Fault) -> Result<bool, super::process::Failed> {
    if ground.abilities().faults.contains(&fault) {
        return Ok(true);
    }
    let described = workload(ground, "probe-1");
    ensured(ground, &described).await?;
    is_refused(&*ground.engine(), &described, fault).await?;
    Ok(false)
}

async fn is_refused(engine: &dyn Engine, described: &Workload, fault: Fault) -> Outcome {
    let before = observed(engine, &described.member).await?;
    let why = faults(engine)?.cannot(&described.member, fault).await?;
    let why = why.ok_or_else(|| format!("{fault} can be injected"))?;
    let refused = faults(engine)?.inject(&described.member, fault).await;
    let said = refused.err().ok_or_else(|| format!("{fault} was injected"))?.to_string();
    assert!(said.contains(&why), "{said}");
    faults(engine)?.heal(described, fault).await?;
    assert_eq!(observed(engine, &described.member).await?, before);
    Ok(())
}

pub async fn a_killed_member_stays_dead_whatever_its_restart_policy(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let described = workload(ground, "probe-1");
    let running = ensured(ground, &described).await?;
    assert_eq!(faults(&*engine)?.cannot(&described.member, Fault::Kill).await?, None);
    let injected = faults(&*engine)?.inject(&described.member, Fault::Kill).await?;
    assert!(injected.what.contains("probe-1"), "{injected:?}");
    faults(&*engine)?.heal(&described, Fault::Kill).await?;
    let found = observed(&*engine, &described.member).await?;
    assert_eq!((found.state, &found.instance), (State::Exited, &running.instance));
    engine.stopped(&described.member).await?;
    Ok(())
}

pub async fn a_frozen_member_is_the_same_instance_once_it_is_healed(ground: &dyn Ground) -> Outcome {
    if !has(ground, Fault::Pause).await? {
        return Ok(());
    }
    let engine = ground.engine();
    let described = workload(ground, "probe-1");
    let running = ensured(ground, &described).await?;
    faults(&*engine)?.inject(&described.member, Fault::Pause).await?;
    assert_eq!(observed(&*engine, &described.member).await?.state, State::Paused);
    let refused = engine.stopped(&described.member).await;
    assert!(refused.is_err(), "a frozen member may acknowledge what it had begun");
    for _ in 0..2 {
        faults(&*engine)?.heal(&described, Fault::Pause).await?;
        assert_eq!(observed(&*engine, &described.member).await?, running);
    }
    Ok(())
}

pub async fn a_member_that_was_cut_off_has_its_published_port_back_when_healed(ground: &dyn Ground) -> Outcome {
    if !has(ground, Fault::Partition).await? {
        return Ok(());
    }
    let engine = ground.engine();
    let mut described = workload(ground, "probe-1");
    described.ports = vec![Port::new("http", 8080, Expose::Checks)];
    let running = ensured(ground, &described).await?;
    faults(&*engine)?.inject(&described.member, Fault::Partition).await?;
    let cut = observed(&*engine, &described.member).await?;
    assert_eq!((cut.state, cut.internal_ip, &cut.instance), (State::Running, None, &running.instance));
    let gone = engine.address(&described.member, 8080).await;
    assert!(matches!(gone, Err(EngineError::NotFound { .. })), "{gone:?}");
    for _ in 0..2 {
        faults(&*engine)?.heal(&described, Fault::Partition).await?;
        let healed = observed(&*engine, &described.member).await?;
        let address = engine.address(&described.member, 8080).await?;
        assert!(healed.internal_ip.is_some() && address.ip().is_loopback(), "{healed:?}");
        assert_eq!((&healed.instance, healed.published.get(&8080)), (&running.instance, Some(&address)));
    }
    Ok(())
}

/// A volume without a limit of its own is everybody's disk.
pub async fn what_cannot_be_done_is_told_and_changes_nothing(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let described = with_volume(workload(ground, "probe-1"), "data");
    engine.ensure(&volume("data"), &super::images(ground).await?, &Quiet).await?;
    ensured(ground, &described).await?;
    is_refused(&*engine, &described, Fault::DiskFull).await
}
