//! What drills do to members that run programs.

use std::time::Duration;

use super::faults::{faults, has};
use super::process::{Failed, log_text, printed, shell};
use super::{Ground, Outcome, ensured, workload};
use crate::engine::{Engine, Power};
use crate::fault::Fault;
use crate::name::Member;
use crate::stack::Workload;
use crate::wait::{self, Look};

fn command(workload: &mut Workload, script: &str) {
    workload.command = ["/bin/sh", "-c", script].map(str::to_owned).into();
}

pub async fn a_killed_server_ends_by_the_signal_while_its_member_goes_on(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut described = workload(ground, "probe-1");
    command(
        &mut described,
        "trap 'exit 0' TERM; sleep 600 & echo started; wait $!; echo ended by $?; sleep 600 & wait $!",
    );
    ensured(ground, &described).await?;
    printed(&*engine, &described.member, "started").await?;
    assert_eq!(faults(&*engine)?.cannot(&described.member, Fault::HostKill).await?, None);
    faults(&*engine)?.inject(&described.member, Fault::HostKill).await?;
    printed(&*engine, &described.member, "ended by 137").await?;
    assert!(engine.observe().await?.is_running(&described.member));
    Ok(())
}

pub async fn a_server_that_is_the_first_process_cannot_be_killed_from_inside(ground: &dyn Ground) -> Outcome {
    let engine = ground.engine();
    let mut described = workload(ground, "probe-1");
    command(&mut described, "exec sleep 600");
    described.stop.grace_secs = 0;
    ensured(ground, &described).await?;
    let looked = wait::until(Duration::from_secs(10), Duration::from_millis(50), async || {
        match shell(&*engine, &described.member, "cat /proc/1/comm").await {
            Ok(seen) if seen.stdout == "sleep\n" => Look::Done(()),
            Ok(seen) => Look::Pending(format!("the first process is {:?}, expected sleep", seen.stdout)),
            Err(error) => Look::Broken(error),
        }
    });
    looked.await?;
    let why = faults(&*engine)?.cannot(&described.member, Fault::HostKill).await?;
    assert!(why.is_some_and(|why| why.contains("use kill")));
    assert!(faults(&*engine)?.inject(&described.member, Fault::HostKill).await.is_err());
    assert!(engine.observe().await?.is_running(&described.member));
    Ok(())
}

/// Another one goes on meanwhile, so that there was time for something to be done.
pub async fn a_frozen_member_does_nothing_until_it_is_healed(ground: &dyn Ground) -> Outcome {
    if !has(ground, Fault::Pause).await? {
        return Ok(());
    }
    let engine = ground.engine();
    let (mut described, mut other) = (workload(ground, "probe-1"), workload(ground, "probe-2"));
    for member in [&mut described, &mut other] {
        command(member, "trap 'exit 0' TERM; while :; do echo tick; sleep 0.05; done");
        ensured(ground, member).await?;
        printed(&*engine, &member.member, "tick").await?;
    }
    faults(&*engine)?.inject(&described.member, Fault::Pause).await?;
    let frozen = log_text(&*engine, &described.member, None).await?;
    let before = log_text(&*engine, &other.member, None).await?;
    printed(&*engine, &other.member, &format!("{}{}", before.0, "tick\n".repeat(4))).await?;
    assert_eq!(log_text(&*engine, &described.member, None).await?, frozen);
    faults(&*engine)?.heal(&described, Fault::Pause).await?;
    printed(&*engine, &described.member, &format!("{}tick", frozen.0)).await
}

/// Waits until `member` finds another one under these names at the address that the engine tells.
async fn found_by(engine: &dyn Engine, member: &Member, other: &Member, names: &[&str]) -> Result<(), Failed> {
    let expected = super::observed(engine, other).await?.internal_ip.ok_or("it has no address")?.to_string();
    for name in names {
        let seen = shell(engine, member, &format!("getent hosts {name}")).await?;
        assert_eq!(seen.stdout.split_whitespace().next(), Some(expected.as_str()), "{name}: {seen:?}");
    }
    Ok(())
}

async fn lost_by(engine: &dyn Engine, member: &Member, names: &[&str]) -> Result<(), Failed> {
    for name in names {
        let seen = shell(engine, member, &format!("timeout 5 getent hosts {name}")).await?;
        assert_ne!(seen.exit_code, 0, "{name} is still found: {seen:?}");
    }
    Ok(())
}

async fn pair(ground: &dyn Ground) -> Result<(Workload, Workload), Failed> {
    let mut first = workload(ground, "probe-1");
    first.names = vec!["probe-rw".to_owned()];
    let second = workload(ground, "probe-2");
    ensured(ground, &first).await?;
    ensured(ground, &second).await?;
    Ok((first, second))
}

pub async fn a_member_that_was_cut_off_runs_on_and_is_found_again_when_healed(ground: &dyn Ground) -> Outcome {
    if !has(ground, Fault::Partition).await? {
        return Ok(());
    }
    let engine = ground.engine();
    let (first, second) = pair(ground).await?;
    faults(&*engine)?.inject(&first.member, Fault::Partition).await?;
    lost_by(&*engine, &second.member, &["probe-1", "probe-rw"]).await?;
    lost_by(&*engine, &first.member, &["probe-2"]).await?;
    assert!(engine.observe().await?.is_running(&first.member));
    faults(&*engine)?.heal(&first, Fault::Partition).await?;
    found_by(&*engine, &second.member, &first.member, &["probe-1", "probe-rw"]).await?;
    found_by(&*engine, &first.member, &second.member, &["probe-2"]).await
}

pub async fn a_member_that_was_cut_off_and_killed_is_found_again_when_started(ground: &dyn Ground) -> Outcome {
    if !has(ground, Fault::Partition).await? {
        return Ok(());
    }
    let engine = ground.engine();
    let (first, second) = pair(ground).await?;
    faults(&*engine)?.inject(&first.member, Fault::Partition).await?;
    engine.set(&first.member, Power::Killed).await?;
    engine.stopped(&first.member).await?;
    engine.set(&first.member, Power::Running).await?;
    found_by(&*engine, &second.member, &first.member, &["probe-1", "probe-rw"]).await?;
    faults(&*engine)?.heal(&first, Fault::Partition).await?;
    found_by(&*engine, &second.member, &first.member, &["probe-1", "probe-rw"]).await
}
