//! What drills do to members.

use async_trait::async_trait;
use bollard::models::{ContainerCreateBody, ContainerInspectResponse, HostConfig};
use bollard::query_parameters::KillContainerOptions;
use provisioner_core::clock;
use provisioner_core::engine::{EngineError, Executed, Quiet};
use provisioner_core::fault::{Fault, Faults, Injected};
use provisioner_core::lines::Lines;
use provisioner_core::name::Member;
use provisioner_core::stack::Workload;

use crate::connect::DockerEngine;
use crate::labels::Kind;

/// The server is what the first process has started. Where that has started nothing it is the server itself, which the
/// kernel does not let anybody kill from inside.
const SERVER: &str = "cat /proc/1/task/1/children";
/// A volume that can grow further than this is not filled: that takes long, and may be everybody's disk.
const FULL_MAX_KB: u64 = 1 << 20;
/// A file system keeps a little back for its own bookkeeping and frees it later.
const LEFT_MAX_KB: u64 = 512;
const FILLER: &str = ".provisioner-drill-filler";

#[async_trait]
impl Faults for DockerEngine {
    async fn cannot(&self, member: &Member, fault: Fault) -> Result<Option<String>, EngineError> {
        match fault {
            Fault::Kill | Fault::Pause | Fault::Partition => Ok(None),
            Fault::HostKill => {
                let found = self.shell(member, SERVER).await?;
                let is_alone = found.exit_code != 0 || found.stdout.trim().is_empty();
                Ok(is_alone.then(|| format!("the server of {member} is the member's first process: use kill")))
            }
            Fault::DiskFull => Ok(self.limited_volume(member).await?.err()),
        }
    }

    async fn inject(&self, member: &Member, fault: Fault) -> Result<Injected, EngineError> {
        let name = self.names.container(member);
        let at_unix_us = clock::unix_micros();
        let client = &self.docker.client;
        let what = match fault {
            Fault::Kill => {
                let options = KillContainerOptions { signal: "SIGKILL".to_owned() };
                let killed = client.kill_container(&name, Some(options)).await;
                killed.map_err(self.docker.failed(format!("kill {member}")))?;
                format!("container {name} was killed")
            }
            Fault::Pause => {
                client.pause_container(&name).await.map_err(self.docker.failed(format!("pause {member}")))?;
                format!("container {name} was frozen")
            }
            Fault::Partition => {
                self.cut_off(&name).await?;
                format!("container {name} was cut off network {}", self.names.network())
            }
            Fault::HostKill => {
                let killed = self.shell(member, &format!("kill -KILL $({SERVER})")).await?;
                if killed.exit_code != 0 {
                    return Err(EngineError::failed(format!("kill the server of {member}"), killed.stderr.trim()));
                }
                format!("the server's process in {name} was killed")
            }
            Fault::DiskFull => {
                let operation = || format!("fill the disk of {member}");
                let volume = self.limited_volume(member).await?.map_err(|why| EngineError::failed(operation(), why))?;
                let filler = format!("{volume}/{FILLER}");
                // Each ends with the error that is wanted; what a file system kept back is free once the file is on disk.
                let fill = format!("for i in 1 2 3 4 5; do cat /dev/zero >> '{filler}'; sync '{filler}'; done");
                self.shell(member, &fill).await?;
                let (_, left) = self.disk(member, &volume).await?;
                if left > LEFT_MAX_KB {
                    let detail = format!("{volume} has {left} KiB left, expected {LEFT_MAX_KB} KiB at most");
                    return Err(EngineError::failed(operation(), detail));
                }
                format!("{volume} of {name} was filled")
            }
        };
        Ok(Injected { at_unix_us, what })
    }

    async fn heal(&self, workload: &Workload, fault: Fault) -> Result<(), EngineError> {
        let member = &workload.member;
        let name = self.names.container(member);
        match fault {
            Fault::Kill | Fault::HostKill => Ok(()),
            Fault::DiskFull => {
                let found = self.inspect(&name).await?;
                let fillers = volumes(&found).into_iter().map(|volume| format!("{volume}/{FILLER}"));
                let argv: Vec<String> = ["rm", "-f"].map(str::to_owned).into_iter().chain(fillers).collect();
                let operation = format!("empty the disk of {member}");
                let code = if found.state.as_ref().and_then(|state| state.running) == Some(true) {
                    self.execute(member, &argv, None).await?.finish().await?.exit_code
                } else {
                    self.beside(&name, &found, argv, &operation).await?
                };
                if code == 0 { Ok(()) } else { Err(EngineError::failed(operation, format!("`rm` ended with {code}"))) }
            }
            Fault::Pause => {
                let is_paused = self.inspect(&name).await?.state.and_then(|state| state.paused);
                if is_paused != Some(true) {
                    return Ok(());
                }
                let unpaused = self.docker.client.unpause_container(&name).await;
                unpaused.map_err(self.docker.failed(format!("unpause {member}")))
            }
            Fault::Partition => {
                let found = self.inspect(&name).await?;
                self.join(&name, &found).await
            }
        }
    }
}

impl DockerEngine {
    async fn shell(&self, member: &Member, command: &str) -> Result<Executed, EngineError> {
        let argv = ["/bin/sh", "-c", command].map(str::to_owned);
        self.execute(member, &argv, None).await?.finish().await
    }

    /// Runs a program on the volumes of a member that is down, in a container of its own.
    async fn beside(
        &self,
        member: &str,
        found: &ContainerInspectResponse,
        argv: Vec<String>,
        operation: &str,
    ) -> Result<i64, EngineError> {
        let host_config = Some(HostConfig {
            volumes_from: Some(vec![member.to_owned()]),
            network_mode: Some("none".to_owned()),
            ..HostConfig::default()
        });
        let body = ContainerCreateBody {
            image: found.image.clone(),
            labels: Some(self.names.labels(Kind::Job)),
            user: Some("0".to_owned()),
            entrypoint: Some(argv),
            cmd: Some(Vec::new()),
            host_config,
            ..ContainerCreateBody::default()
        };
        let name = self.names.job("heal");
        // Left by a run that was killed.
        self.remove_container(&name).await?;
        self.create_container(&name, body).await?;
        let ended = self.run_to_end(&name, operation, &mut Lines::new(&Quiet)).await;
        self.remove_container(&name).await?;
        ended
    }

    /// Where the member has a volume that can be filled without touching anybody else, or why it has none.
    async fn limited_volume(&self, member: &Member) -> Result<Result<String, String>, EngineError> {
        let found = self.inspect(&self.names.container(member)).await?;
        let memory = found.host_config.as_ref().and_then(|host| host.memory).unwrap_or_default();
        let paths = volumes(&found);
        if paths.is_empty() {
            return Ok(Err(format!("{member} has no volume")));
        }
        let mut why = Vec::new();
        for path in paths {
            let (size, _) = self.disk(member, &path).await?;
            if size > FULL_MAX_KB || self.disk(member, "/").await?.0 == size {
                let gib = |kilobytes: u64| kilobytes.div_ceil(1 << 20);
                why.push(format!(
                    "{path} of {member} is part of a disk of {} GiB, expected a volume of its own of {} GiB at most",
                    gib(size),
                    gib(FULL_MAX_KB)
                ));
            } else if memory > 0 && size * 1024 >= memory.unsigned_abs() && self.is_memory(member, &path).await? {
                // What fills a volume in memory counts as the member's: it would be killed, not full.
                why.push(format!("{path} of {member} has {size} KiB, expected less than the memory that it may use"));
            } else {
                return Ok(Ok(path));
            }
        }
        Ok(Err(why.join("; ")))
    }

    async fn is_memory(&self, member: &Member, path: &str) -> Result<bool, EngineError> {
        let told = self.shell(member, &format!("stat -f -c %T '{path}'")).await?;
        Ok(matches!(told.stdout.trim(), "tmpfs" | "ramfs"))
    }

    /// Size and room of the file system at `path`, in KiB.
    async fn disk(&self, member: &Member, path: &str) -> Result<(u64, u64), EngineError> {
        let told = self.shell(member, &format!("df -P -k '{path}'")).await?;
        let numbers = told.stdout.lines().nth(1).and_then(|line| {
            let mut words = line.split_whitespace().skip(1);
            Some((words.next()?.parse().ok()?, words.nth(1)?.parse().ok()?))
        });
        let detail = || format!("`df` says {:?}", format!("{}{}", told.stdout, told.stderr));
        numbers.ok_or_else(|| EngineError::failed(format!("look at the disk of {member}"), detail()))
    }
}

fn volumes(found: &ContainerInspectResponse) -> Vec<String> {
    found.mounts.iter().flatten().filter_map(|mount| mount.destination.clone()).collect()
}
