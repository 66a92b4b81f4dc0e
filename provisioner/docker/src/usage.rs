//! What members use. Nobody waits long for it, and what the engine does not tell in time is left out.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use bollard::models::{ContainerCpuStats, ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use provisioner_core::engine::Usage;
use provisioner_core::name::Member;
use provisioner_core::wait;
use serde::Deserialize;

use crate::connect::{Docker, DockerEngine};
use crate::containers::Container;
use crate::endpoint::{Endpoint, TlsFiles};

/// Adding up what all volumes of a host hold takes an engine minutes on a large one.
const DISK_LIMIT: Duration = Duration::from_secs(3);
const SAMPLE_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at the time that processors spent.
const APART: Duration = Duration::from_millis(300);

impl DockerEngine {
    pub(crate) async fn member_usage(&self, members: &[Member]) -> BTreeMap<Member, Usage> {
        let Ok(containers) = self.containers().await else { return BTreeMap::new() };
        let of = |member: &&Member| containers.iter().find(|container| container.is_workload(&self.names, member));
        let known: Vec<(&Member, &Container)> =
            members.iter().filter_map(|member| Some((member, of(&member)?))).collect();
        let processes = join_all(known.iter().map(|(_, container)| self.process(container)));
        let (processes, sizes) = join(processes, tokio::time::timeout(DISK_LIMIT, volume_sizes(&self.docker))).await;
        let sizes = sizes.ok().flatten().unwrap_or_default();
        let of_member = known.into_iter().zip(processes).map(|((member, container), process)| {
            (member.clone(), Usage { disk_bytes: held(&container.volumes, &sizes), ..process })
        });
        of_member.collect()
    }

    async fn process(&self, container: &Container) -> Usage {
        if !container.is_up() {
            return Usage::default();
        }
        let samples = async {
            let first = self.sample(&container.id).await?;
            wait::pause(APART).await;
            Some((first, self.sample(&container.id).await?))
        };
        match tokio::time::timeout(SAMPLE_LIMIT, samples).await {
            Ok(Some((first, second))) => usage(&first, &second),
            _ => Usage::default(),
        }
    }

    async fn sample(&self, id: &str) -> Option<ContainerStatsResponse> {
        // Without `one_shot` the engine takes a second sample itself, a second later.
        let options = StatsOptions { stream: false, one_shot: true };
        let sampled = Box::pin(self.docker.client.stats(id, Some(options))).next().await;
        sampled?.ok()
    }
}

/// Together, if every one of them is known.
fn held(volumes: &[String], sizes: &BTreeMap<String, u64>) -> Option<u64> {
    if volumes.is_empty() {
        return None;
    }
    volumes.iter().map(|name| sizes.get(name).copied()).sum()
}

fn usage(first: &ContainerStatsResponse, second: &ContainerStatsResponse) -> Usage {
    let memory = second.memory_stats.as_ref();
    Usage {
        memory_bytes: memory.and_then(without_cache),
        memory_limit_bytes: memory.and_then(|memory| memory.limit),
        cpu_percent: first.cpu_stats.as_ref().zip(second.cpu_stats.as_ref()).and_then(|(a, b)| percent(a, b)),
        disk_bytes: None,
    }
}

/// As `docker stats` counts it: pages of files that nobody touched lately are given back when memory is needed.
fn without_cache(memory: &ContainerMemoryStats) -> Option<u64> {
    let used = memory.usage?;
    let stat = |name| memory.stats.as_ref().and_then(|stats| stats.get(name)).copied();
    // The first is cgroup v1's name, with the groups below; v2 has the second alone.
    let cache = stat("total_inactive_file").or_else(|| stat("inactive_file")).unwrap_or(0);
    Some(if cache < used { used - cache } else { used })
}

/// Of one core, between two samples.
fn percent(first: &ContainerCpuStats, second: &ContainerCpuStats) -> Option<f64> {
    let spent = |stats: &ContainerCpuStats| stats.cpu_usage.as_ref()?.total_usage;
    let own = spent(second)?.checked_sub(spent(first)?)?;
    let all = second.system_cpu_usage?.checked_sub(first.system_cpu_usage?).filter(|all| *all > 0)?;
    Some(own as f64 / all as f64 * f64::from(second.online_cpus?) * 100.0)
}

/// What engines answer: before API 1.52 `Volumes`, since then `VolumeUsage`. bollard reads the latter alone.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DiskUsage {
    volumes: Option<Vec<Held>>,
    volume_usage: Option<Items>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Items {
    items: Option<Vec<Held>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Held {
    name: String,
    usage_data: Option<Size>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    /// Negative: its driver does not tell.
    size: i64,
}

impl DiskUsage {
    fn sizes(self) -> BTreeMap<String, u64> {
        let items = self.volume_usage.and_then(|usage| usage.items);
        let held = self.volumes.into_iter().chain(items).flatten();
        held.filter_map(|Held { name, usage_data }| Some((name, u64::try_from(usage_data?.size).ok()?))).collect()
    }
}

async fn volume_sizes(docker: &Docker) -> Option<BTreeMap<String, u64>> {
    let (base, client) = plain_client(&docker.endpoint)?;
    let version = docker.client.client_version();
    // Engines that do not know `type` yet add up images and containers as well.
    let path = format!("{base}/v{}.{}/system/df?type=volume&verbose=1", version.major_version, version.minor_version);
    let answer = client.get(path).send().await.ok()?.error_for_status().ok()?;
    Some(answer.json::<DiskUsage>().await.ok()?.sizes())
}

/// A client without bollard's models, and what its addresses begin with.
fn plain_client(endpoint: &Endpoint) -> Option<(String, reqwest::Client)> {
    // Another crate of the program may have chosen a provider already; any one will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder().no_proxy();
    let (base, builder) = match endpoint {
        #[cfg(unix)]
        Endpoint::Unix(path) => ("http://docker".to_owned(), builder.unix_socket(path.as_path())),
        #[cfg(not(unix))]
        Endpoint::Unix(_) => return None,
        Endpoint::Tcp { address, tls: None } => (format!("http://{address}"), builder),
        Endpoint::Tcp { address, tls: Some(TlsFiles(folder)) } => {
            let read = |name| fs::read(folder.join(name)).ok();
            let identity = [read("cert.pem")?, read("key.pem")?].concat();
            let authority = reqwest::Certificate::from_pem(&read("ca.pem")?).ok()?;
            let identity = reqwest::Identity::from_pem(&identity).ok()?;
            (format!("https://{address}"), builder.tls_certs_only([authority]).identity(identity))
        }
    };
    Some((base, builder.build().ok()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sample(value: serde_json::Value) -> ContainerStatsResponse {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn memory_is_counted_without_the_page_cache_under_both_versions_of_cgroups() {
        for (stats, expected) in [
            (json!({"total_inactive_file": 30, "inactive_file": 10, "cache": 60}), 70),
            (json!({"inactive_file": 20, "file": 60}), 80),
            (json!({"inactive_file": 500}), 100),
            (json!({}), 100),
        ] {
            let memory = serde_json::from_value(json!({"usage": 100, "limit": 200, "stats": stats})).unwrap();
            assert_eq!(without_cache(&memory), Some(expected), "{stats}");
        }
    }

    #[test]
    fn a_hundred_percent_is_one_core() {
        let cpu = |own: u64, all: u64| {
            let usage = json!({"total_usage": own});
            sample(json!({"cpu_stats": {"cpu_usage": usage, "system_cpu_usage": all, "online_cpus": 4}}))
        };
        let used = usage(&cpu(1_000, 10_000), &cpu(1_250, 11_000));
        assert_eq!(used.cpu_percent, Some(100.0));
        assert_eq!(used.memory_bytes, None);
        // It was started anew in between.
        assert_eq!(usage(&cpu(1_000, 10_000), &cpu(10, 11_000)).cpu_percent, None);
    }

    #[test]
    fn sizes_of_volumes_are_read_from_old_and_new_engines() {
        let volumes = json!([
            {"Name": "a", "UsageData": {"Size": 7, "RefCount": 1}},
            {"Name": "b", "UsageData": {"Size": -1, "RefCount": 0}},
            {"Name": "c", "UsageData": null},
        ]);
        for answer in [json!({"LayersSize": 1, "Volumes": volumes}), json!({"VolumeUsage": {"Items": volumes}})] {
            let sizes = serde_json::from_value::<DiskUsage>(answer).unwrap().sizes();
            assert_eq!(sizes, BTreeMap::from([("a".to_owned(), 7)]));
            let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            assert_eq!(held(&names(&["a"]), &sizes), Some(7));
            assert_eq!(held(&names(&["a", "b"]), &sizes), None);
            assert_eq!(held(&[], &sizes), None);
        }
    }
}
