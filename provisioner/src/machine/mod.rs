//! What the machine that runs this program says about itself. Where it does not say (no /proc), nothing is claimed.

mod listeners;

use std::fs;
use std::path::{Path, PathBuf};

use provisioner_core::lease::Holder;

use crate::cli::exit::{Exit, Stop};
use crate::cli::settings::Settings;
use provisioner_core::clock;

pub(crate) use listeners::Listeners;

/// This run as others see it while it holds a lock.
pub(crate) fn holder(settings: &Settings) -> Holder {
    let environment = &settings.environment;
    let pid = std::process::id();
    let since = clock::unix_seconds();
    Holder {
        // One process takes a stack's lock once at a time, so these two never name two acquisitions.
        id: format!("{pid:x}-{since:x}"),
        user: environment.get("USER").or(environment.get("LOGNAME")).unwrap_or("unknown").to_owned(),
        host: hostname(environment.get("HOSTNAME")),
        boot: boot_id(),
        pid,
        command: settings.command.clone(),
        since,
    }
}

/// The holder ran on this very machine, since its last boot, and is gone. A pid that another process has got since
/// reads as alive, and the lock then runs out by itself.
pub(crate) fn is_dead(holder: &Holder, us: &Holder) -> bool {
    let is_here = holder.host == us.host && holder.boot == us.boot && !us.boot.is_empty();
    is_here && Path::new("/proc/self").exists() && !Path::new(&format!("/proc/{}", holder.pid)).exists()
}

/// The program for inside the stack: beside this one where both were installed, else where cargo puts static binaries.
pub(crate) fn probe() -> Result<PathBuf, Stop> {
    let program = std::env::current_exe().and_then(fs::canonicalize).ok();
    let folder = program.as_deref().and_then(Path::parent);
    let installed = folder.map(|folder| folder.join("provisioner-probe"));
    let built = folder.and_then(|folder| {
        let (target, profile) = (folder.parent()?, folder.file_name()?);
        Some(target.join("x86_64-unknown-linux-musl").join(profile).join("probe"))
    });
    let places: Vec<PathBuf> = installed.into_iter().chain(built).collect();
    let found = places.iter().find(|place| place.is_file()).cloned();
    found.ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        let message = format!("the probe, which writes the ledger inside the stack, is not at {}", places.join(" or "));
        Stop::new(Exit::Preflight, message).hint("make build")
    })
}

/// Hard limit of open files of this process, which containers of a local engine often share.
pub(crate) fn open_files_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

/// Of the kernel, and so of every container on it.
pub(crate) fn memory_maps_limit() -> Option<u64> {
    fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

fn hostname(variable: Option<&str>) -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
    kernel.ok().or(variable.map(str::to_owned)).unwrap_or_else(|| "unknown".to_owned())
}

/// This boot and this namespace of pids: a holder in a container has the same boot and other pids. Empty where it does
/// not show.
fn boot_id() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let namespace = fs::read_link("/proc/self/ns/pid").ok();
    match (boot, namespace) {
        (Some(boot), Some(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(pid: u32, boot: &str) -> Holder {
        Holder {
            id: "1".to_owned(),
            user: "ada".to_owned(),
            host: "laptop".to_owned(),
            boot: boot.to_owned(),
            pid,
            command: "provisioner up".to_owned(),
            since: 0,
        }
    }

    #[test]
    fn only_a_process_of_this_boot_of_this_machine_is_called_dead() {
        let us = holder(std::process::id(), "today");
        assert!(!is_dead(&us, &us));
        // Above the kernel's largest pid, so nobody has it.
        let gone = holder(u32::MAX, "today");
        assert_eq!(is_dead(&gone, &us), Path::new("/proc/self").exists());
        assert!(!is_dead(&holder(u32::MAX, "yesterday"), &us));
        assert!(!is_dead(&Holder { host: "server".to_owned(), ..gone }, &us));
    }
}
