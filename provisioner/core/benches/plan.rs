//! How long planning takes, and how it grows: 1,000 and 10,000 made-up resources, from nothing and when nothing is to do.
//!
//! `cargo bench -p provisioner-core --bench plan` prints the median of eleven runs each and the ratio of the two sizes.
#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use provisioner_core::component::Dependency;
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::{Observed, ObservedWorkload, State};
use provisioner_core::plan::{Policy, plan};
use provisioner_core::stack::{
    Expose, File, Image, ImageId, Limits, Mount, OnChange, Port, Resource, Restart, Stack, Stop, Text, Volume, Workload,
};

/// The allocator of the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RUNS: usize = 11;
const REFERENCE: &str = "registry.example/tool:1";

fn main() {
    let mut medians = BTreeMap::new();
    for size in [1_000_u32, 10_000] {
        let stack = stack(size / 2);
        for (name, observed) in [("from nothing", Observed::default()), ("no-op", complete(&stack))] {
            let median = median(&stack, &observed);
            println!("{size:>6} resources, {name:<12}: median {:.1} ms", millis(median));
            medians.insert((name, size), median);
        }
    }
    for name in ["from nothing", "no-op"] {
        let (small, large) = (medians[&(name, 1_000)], medians[&(name, 10_000)]);
        println!("{name}: time(10k) / time(1k) = {:.1}", large.as_secs_f64() / small.as_secs_f64());
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn median(stack: &Stack, observed: &Observed) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            let plan = plan(stack, observed, &[], &Policy::default());
            let took = start.elapsed();
            assert!(plan.is_ok());
            took
        })
        .collect();
    times.sort();
    times[RUNS / 2]
}

/// `pairs` workloads with a volume each, every one after one that was declared earlier, as deep as a binary tree.
fn stack(pairs: u32) -> Stack {
    let image = Image::Reference { id: ImageId("tool".into()), reference: REFERENCE.into() };
    let mut declared = vec![Resource::Image(image), Resource::Network];
    for nth in 1..=pairs {
        let member = Member::nth("tool", nth);
        let volume = format!("{member}-data");
        declared.push(Resource::Volume(Volume { name: volume.clone(), component: "tool".into() }));
        let after = if nth > 1 { vec![Dependency::Ready(Member::nth("tool", nth / 2))] } else { Vec::new() };
        declared.push(Resource::Workload(Box::new(Workload {
            member,
            component: "tool".into(),
            image: ImageId("tool".into()),
            command: vec!["tool".into(), "--serve".into()],
            env: BTreeMap::from([("N".to_owned(), nth.to_string())]),
            secret_env: BTreeMap::new(),
            files: vec![File {
                path: "/etc/tool.conf".into(),
                mode: 0o644,
                owner: (0, 0),
                content: Text::new(format!("n = {nth}\n").repeat(20)),
                on_change: OnChange::Restart,
            }],
            mounts: vec![Mount { volume, path: "/data".into() }],
            names: Vec::new(),
            ports: vec![Port { name: "main".into(), port: 80, expose: Expose::Checks }],
            limits: Limits::default(),
            stop: Stop { signal: "SIGTERM".into(), grace_secs: 5 },
            restart: Restart::UnlessStopped,
            after,
        })));
    }
    let name = StackName::new("bench").unwrap_or_else(|error| unreachable!("{error}"));
    Stack::new(name, declared)
}

fn complete(stack: &Stack) -> Observed {
    let workloads = stack.workloads().map(|workload| {
        let observed = ObservedWorkload {
            instance: workload.member.to_string(),
            component: workload.component.clone(),
            image: REFERENCE.to_owned(),
            state: State::Running,
            spec: Some(workload.spec_fingerprint(REFERENCE)),
            files: workload.file_fingerprints(),
            internal_ip: None,
            published: BTreeMap::new(),
        };
        (workload.member.clone(), observed)
    });
    Observed {
        images: [REFERENCE.to_owned()].into(),
        network: true,
        volumes: stack.workloads().flat_map(|workload| &workload.mounts).map(|mount| mount.volume.clone()).collect(),
        workloads: workloads.collect(),
        ..Observed::default()
    }
}
