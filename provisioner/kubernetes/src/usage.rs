//! What members use, as their own control groups tell it: a cluster need not have a metrics server.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use provisioner_core::engine::Usage;
use provisioner_core::name::Member;

use crate::connect::KubernetesEngine;
use crate::controllers::Controller;
use crate::pods;
use crate::quantity;

const LIMIT: Duration = Duration::from_secs(5);
/// `NAME VALUE` lines: control groups of both versions, twice for the time that was spent. The volumes follow as
/// arguments.
const LOOK: &str = r#"g=/sys/fs/cgroup
first() { for f do if [ -r "$f" ]; then cat "$f"; return; fi; done; }
spent() {
  if [ -r $g/cpu.stat ]; then echo "usec $(sed -n 's/^usage_usec //p' $g/cpu.stat)"
  else echo "nsec $(first $g/cpuacct/cpuacct.usage $g/cpu,cpuacct/cpuacct.usage)"; fi
  echo "uptime $(cut -d' ' -f1 /proc/uptime)"
}
spent
echo "used $(first $g/memory.current $g/memory/memory.usage_in_bytes)"
echo "cache $(first $g/memory.stat $g/memory/memory.stat | sed -n 's/^\(total_\)\{0,1\}inactive_file //p' | tail -n 1)"
for path do echo "disk $(du -sk "$path" 2>/dev/null | cut -f1)"; done
sleep 0.3
spent"#;

impl KubernetesEngine {
    pub(crate) async fn member_usage(&self, members: &[Member]) -> BTreeMap<Member, Usage> {
        let used = join_all(members.iter().map(|member| async {
            let found = self.controller(member).await.ok()?;
            Some((member.clone(), self.usage_of(member, &found).await))
        }));
        used.await.into_iter().flatten().collect()
    }

    async fn usage_of(&self, member: &Member, found: &Controller) -> Usage {
        let Ok(pods) = self.pods_of(member).await else { return Usage::default() };
        let Some(pod) = pods.iter().find(|pod| pods::is_up(pod)) else { return Usage::default() };
        let limit =
            pods::main_of(&found.template).and_then(|main| main.resources.as_ref()?.limits.as_ref()?.get("memory"));
        let memory_limit_bytes = limit.and_then(quantity::whole);
        let told = tokio::time::timeout(LIMIT, self.look_at(member, pod, found.volume_paths())).await;
        let told = told.ok().flatten().unwrap_or_default();
        Usage { memory_limit_bytes, ..read(&told) }
    }

    async fn look_at(&self, member: &Member, pod: &Pod, volumes: Vec<String>) -> Option<String> {
        let argv = ["/bin/sh", "-c", LOOK, "sh"].map(str::to_owned);
        let argv: Vec<String> = argv.into_iter().chain(volumes).collect();
        Some(self.shell(member, pod, &argv, None).await.ok()?.stdout)
    }
}

fn read(told: &str) -> Usage {
    let all = |name: &str| {
        let values = told.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<f64>().ok());
        values.collect::<Vec<f64>>()
    };
    let whole = |value: f64| if value.is_finite() && value >= 0.0 { Some(value) } else { None };
    let used = all("used").first().copied();
    let cache = all("cache").first().copied().unwrap_or(0.0);
    let disk = all("disk");
    Usage {
        memory_bytes: used.and_then(|used| whole(if cache < used { used - cache } else { used })).map(to_u64),
        memory_limit_bytes: None,
        cpu_percent: percent(&all("usec"), 1e6, &all("uptime")).or(percent(&all("nsec"), 1e9, &all("uptime"))),
        disk_bytes: (!disk.is_empty()).then(|| to_u64(disk.iter().sum::<f64>() * 1024.0)),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of bytes, no less than zero")]
fn to_u64(value: f64) -> u64 {
    value as u64
}

/// Of one core, between two looks.
fn percent(spent: &[f64], per_second: f64, uptime: &[f64]) -> Option<f64> {
    let ([first, second], [begin, end]) = (spent, uptime) else { return None };
    (end > begin && second >= first).then(|| (second - first) / per_second / (end - begin) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_groups_of_both_versions() {
        let told = "usec 1000\nuptime 10.00\nused 5000\ncache 1000\ndisk 8\ndisk 4\nusec 151000\nuptime 10.30\n";
        let used = read(told);
        assert_eq!((used.memory_bytes, used.disk_bytes), (Some(4000), Some(12 * 1024)));
        assert!(used.cpu_percent.is_some_and(|percent| (49.9..50.1).contains(&percent)), "{used:?}");
        let older = read(&told.replace("usec 1000", "nsec 1000000").replace("usec 151000", "nsec 151000000"));
        assert_eq!(older.cpu_percent, used.cpu_percent);
    }

    #[test]
    fn what_is_not_told_is_not_guessed() {
        let used = read("usec \nuptime 10.00\nused \n");
        assert_eq!((used.memory_bytes, used.cpu_percent, used.disk_bytes), (None, None, None));
    }
}
