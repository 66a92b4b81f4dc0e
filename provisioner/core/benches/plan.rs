//! How long planning takes, and how it grows: 1,000 and 10,000 made-up resources, from nothing and when nothing is to do.
//!
//! `cargo bench -p provisioner-core --bench plan` prints the medians of 31 runs each, taken in turn, and the ratio of the two sizes;
//! it fails when a gate was not reached.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use provisioner_core::component::Dependency;
use provisioner_core::name::{Member, StackName};
use provisioner_core::observed::{Making, Network, Observed, ObservedWorkload, State};
use provisioner_core::plan::{Policy, plan};
use provisioner_core::stack::{
    Expose, File, Image, ImageId, Limits, Mount, OnChange, Port, Resource, Restart, Stack, Stop, Text, Volume, Workload,
};

/// The allocator of the program itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RUNS: usize = 31;
const LIMIT: Duration = Duration::from_millis(100);
const RATIO_LIMIT: f64 = 15.0;
const REFERENCE: &str = "registry.example/tool:1";

fn main() -> ExitCode {
    let worlds: Vec<(u32, &str, Stack, Observed)> = [1_000_u32, 10_000]
        .into_iter()
        .flat_map(|size| {
            let complete = complete(&stack(size / 2));
            [(size, "from nothing", stack(size / 2), Observed::default()), (size, "no-op", stack(size / 2), complete)]
        })
        .collect();
    // In turn, because a program plans once: the small world run again and again would stay in the processor's cache,
    // which no plan of a real run finds it in.
    let mut times: BTreeMap<(&str, u32), Vec<Duration>> = BTreeMap::new();
    for _ in 0..RUNS {
        for (size, name, stack, observed) in &worlds {
            times.entry((*name, *size)).or_default().push(time(stack, observed));
        }
    }
    let mut median = |name, size| {
        let times = times.entry((name, size)).or_default();
        times.sort();
        times[RUNS / 2]
    };
    let mut is_reached = true;
    for name in ["from nothing", "no-op"] {
        let (small, large) = (median(name, 1_000), median(name, 10_000));
        let ratio = large.as_secs_f64() / small.as_secs_f64();
        println!("{name:<12}: 1,000 in {:.1} ms, 10,000 in {:.1} ms, ratio {ratio:.1}", millis(small), millis(large));
        is_reached &= large <= LIMIT && ratio <= RATIO_LIMIT;
    }
    if is_reached {
        return ExitCode::SUCCESS;
    }
    eprintln!("gate not reached: expected at most {:.0} ms and a ratio of {RATIO_LIMIT:.0}", millis(LIMIT));
    ExitCode::FAILURE
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn time(stack: &Stack, observed: &Observed) -> Duration {
    let start = Instant::now();
    let plan = plan(stack, observed, &[], &Policy::default());
    let took = start.elapsed();
    assert!(plan.is_ok());
    took
}

/// `pairs` workloads with a volume each, every one after one that was declared earlier, as deep as a binary tree.
fn stack(pairs: u32) -> Stack {
    let image = Image::Reference { id: ImageId("tool".into()), reference: REFERENCE.into() };
    let mut declared = vec![Resource::Image(image), Resource::Network];
    for nth in 1..=pairs {
        let member = Member::nth("tool", nth);
        let volume = format!("{member}-data");
        declared.push(Resource::Volume(Volume { name: volume.clone(), component: "tool".into(), size_bytes: None }));
        let after = if nth > 1 { vec![Dependency::Ready(Member::nth("tool", nth / 2))] } else { Vec::new() };
        declared.push(Resource::Workload(Arc::new(Workload {
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
            ports: vec![Port::new("main", 80, Expose::Checks)],
            user: None,
            scratch: Vec::new(),
            limits: Limits::default(),
            stop: Stop { signal: "SIGTERM".into(), grace_secs: 5 },
            restart: Restart::UnlessStopped,
            probes: None,
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
            files: workload.file_fingerprints(&BTreeMap::new()),
            internal_ip: None,
            published: BTreeMap::new(),
            public: None,
            making: Making::default(),
        };
        (workload.member.clone(), observed)
    });
    Observed {
        images: [REFERENCE.to_owned()].into(),
        network: Network::Present,
        volumes: stack.workloads().flat_map(|workload| &workload.mounts).map(|mount| mount.volume.clone()).collect(),
        workloads: workloads.collect(),
        ..Observed::default()
    }
}
