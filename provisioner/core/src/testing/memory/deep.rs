//! Members as they really run, and what stands inside them.

use std::collections::BTreeMap;

use super::World;
use crate::drift::{Actual, FoundFile};
use crate::engine::EngineError;
use crate::name::Member;
use crate::stack::{Fingerprint, Restart, Workload};

pub(super) fn as_described(workload: &Workload, image: &str) -> Actual {
    let restart = match workload.restart {
        Restart::UnlessStopped => "unless_stopped",
        Restart::Never => "never",
    };
    let exposed = workload.ports.iter().filter(|port| port.is_exposed());
    let names = std::iter::once(workload.member.to_string()).chain(workload.names.iter().cloned());
    Actual {
        image: image.to_owned(),
        expected_image: None,
        command: workload.command.clone(),
        reads_secret_env: !workload.secret_env.is_empty(),
        env: workload.env.clone(),
        image_command: Vec::new(),
        image_env: BTreeMap::new(),
        user: workload.user.map(|(user, group)| format!("{user}:{group}")).unwrap_or_default(),
        image_user: String::new(),
        memory_bytes: workload.limits.memory_bytes,
        cpu_millis: workload.limits.cpu_millis,
        shm_bytes: workload.limits.shm_bytes,
        restart: restart.to_owned(),
        stop_signal: workload.stop.signal.clone(),
        stop_grace_secs: Some(workload.stop.grace_secs),
        mounts: workload.mounts.iter().map(|mount| (mount.path.clone(), mount.volume.clone())).collect(),
        names: Some(names.collect()),
        other_networks: Vec::new(),
        ports: exposed.map(|port| (port.port, port.expose.address())).collect(),
    }
}

fn told(world: &mut World, member: &Member) -> Result<(), EngineError> {
    world.workload(member)?;
    let refusal = || EngineError::failed(format!("inspect {member}"), "the engine withholds it");
    if world.withholds { Err(refusal()) } else { Ok(()) }
}

pub(super) fn inspect(world: &mut World, member: &Member, image: &str) -> Result<Actual, EngineError> {
    told(world, member)?;
    let mut actual = world.actual.get(member).cloned().unwrap_or_default();
    actual.expected_image = world.observed.images.contains(image).then(|| image.to_owned());
    Ok(actual)
}

pub(super) fn read_file(world: &mut World, member: &Member, path: &str) -> Result<Option<Vec<u8>>, EngineError> {
    told(world, member)?;
    let file = world.files.get(&(member.clone(), path.to_owned()));
    Ok(file.map(|file| file.content.as_bytes().to_vec()))
}

pub(super) fn read_files(
    world: &mut World,
    member: &Member,
    paths: &[String],
) -> Result<BTreeMap<String, FoundFile>, EngineError> {
    told(world, member)?;
    let found = paths.iter().map(|path| {
        let found = match world.files.get(&(member.clone(), path.clone())) {
            None => FoundFile::Absent,
            Some(file) => FoundFile::File {
                content: Fingerprint::of_bytes(file.content.as_bytes()),
                mode: file.mode,
                owner: file.owner,
            },
        };
        (path.clone(), found)
    });
    Ok(found.collect())
}
