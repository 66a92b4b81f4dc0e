use std::collections::BTreeSet;

use provisioner_core::component::Component;
use provisioner_core::manifest::{Kubernetes, Manifest, parse};
use provisioner_core::stack::{OnChange, Stack, Workload};

use super::targets::jobs;
use super::{Monitoring, NAME, Program};
use crate::testing::whole_manifest;

fn stack(manifest: &Manifest) -> Stack {
    let declared = crate::all().into_iter().flat_map(|component| component.declare(manifest));
    Stack::new(manifest.name.clone(), declared)
}

fn with(section: &str) -> Manifest {
    let text = format!("name: dev\napp: {{ binary: target/app }}\nmonitoring: {section}\n");
    parse(text.as_bytes()).unwrap()
}

fn on_kubernetes() -> Manifest {
    Manifest { kubernetes: Some(Kubernetes::default()), ..with("{}") }
}

fn member(stack: &Stack, program: Program) -> Workload {
    stack.workload(&program.member()).unwrap().clone()
}

fn text(stack: &Stack, program: Program, path: &str) -> String {
    let workload = member(stack, program);
    workload.files.iter().find(|file| file.path.ends_with(path)).unwrap().content.masked().to_owned()
}

#[test]
fn the_configuration() {
    let whole = stack(&whole_manifest());
    insta::assert_snapshot!("prometheus.yml", text(&whole, Program::Prometheus, "prometheus.yml"));
    insta::assert_snapshot!("alertmanager.yml", text(&whole, Program::Alertmanager, "alertmanager.yml"));
    insta::assert_snapshot!("small.prometheus.yml", text(&stack(&with("{}")), Program::Prometheus, "prometheus.yml"));
}

/// An engine may lead to declared ports alone.
#[test]
fn every_address_that_members_are_told_is_a_declared_port() {
    let stack = stack(&whole_manifest());
    let asked = jobs(&stack).into_values().flatten().map(|target| target.address);
    let asked = asked.filter_map(|address| {
        let address = address.trim_start_matches("http://").split('/').next()?.to_owned();
        let (host, port) = address.split_once(':')?;
        Some((host.to_owned(), port.parse().ok()?))
    });
    let variables = crate::all().into_iter().flat_map(|component| component.variables(&stack));
    let told: BTreeSet<(String, u16)> = asked.chain(variables.map(|it| (it.host, it.port))).collect();
    assert!(told.len() > 20, "{told:?}");
    let is_declared = |(host, port): &&(String, u16)| {
        let mut called = stack.workloads().filter(|it| it.member.as_str() == host || it.names.contains(host));
        called.any(|workload| workload.ports.iter().any(|declared| declared.port == *port))
    };
    let undeclared: Vec<_> = told.iter().filter(|it| !is_declared(it)).collect();
    assert!(undeclared.is_empty(), "{undeclared:?}");
}

#[test]
fn prometheus_is_told_of_exactly_the_targets_that_are_verified() {
    for manifest in [whole_manifest(), with("{}"), on_kubernetes()] {
        let stack = stack(&manifest);
        let tree: serde_yaml::Value =
            serde_yaml::from_str(&text(&stack, Program::Prometheus, "prometheus.yml")).unwrap();
        let mut told = BTreeSet::new();
        for job in tree["scrape_configs"].as_sequence().unwrap() {
            for target in job["static_configs"].as_sequence().unwrap() {
                let word = |value: &serde_yaml::Value| value.as_str().unwrap().to_owned();
                let [address] = &target["targets"].as_sequence().unwrap()[..] else { panic!("expected one a label") };
                told.insert((word(&job["job_name"]), word(&target["labels"]["instance"]), word(address)));
            }
        }
        let expected: BTreeSet<_> = jobs(&stack)
            .into_iter()
            .flat_map(|(job, targets)| targets.into_iter().map(move |it| (job.to_owned(), it.instance, it.address)))
            .collect();
        assert_eq!(told, expected);
    }
}

/// The machines of a cluster are watched by the cluster's own.
#[test]
fn a_node_exporter_is_there_on_docker_alone() {
    let has_node = |manifest: &Manifest| stack(manifest).workload(&Program::Node.member()).is_some();
    assert!(has_node(&with("{}")) && !has_node(&on_kubernetes()));
}

/// A member that nobody looks at would fail in silence.
#[test]
fn every_member_of_the_stack_is_looked_at() {
    let stack = stack(&whole_manifest());
    let instances: BTreeSet<String> = jobs(&stack).into_values().flatten().map(|target| target.instance).collect();
    let is_seen = |workload: &&Workload| {
        // One node tells about all; exporters are seen by what they tell.
        let is_told = workload.component == "elasticsearch" || Program::of(&workload.member).is_some();
        is_told || instances.contains(workload.member.as_str())
    };
    let unseen: Vec<_> = stack.workloads().filter(|workload| !is_seen(workload)).map(|it| &it.member).collect();
    assert_eq!(unseen.iter().map(|member| member.as_str()).collect::<Vec<_>>(), ["mail-1"]);
}

#[test]
fn nothing_waits_for_monitoring_and_it_waits_for_nothing() {
    let stack = stack(&whole_manifest());
    for workload in stack.workloads() {
        if workload.component == NAME {
            assert!(workload.after.is_empty(), "{}", workload.member);
        }
        assert!(workload.after.iter().all(|after| !format!("{after:?}").contains(NAME)), "{}", workload.member);
    }
}

#[test]
fn rules_and_routes_are_checked_and_reloaded_without_a_restart() {
    let stack = stack(&whole_manifest());
    for (program, checker) in [
        (Program::Prometheus, "promtool"),
        (Program::Alertmanager, "amtool"),
        (Program::Blackbox, "prometheus-blackbox-exporter"),
    ] {
        let workload = member(&stack, program);
        let configuration = workload.files.iter().filter(|file| file.path.starts_with("/etc/prometheus/"));
        assert!(configuration.clone().count() > 0, "{program:?}");
        for file in configuration {
            let OnChange::Reload { check, signal } = &file.on_change else { panic!("{} restarts", file.path) };
            assert_eq!((check[0].as_str(), signal.as_str()), (checker, "SIGHUP"), "{}", file.path);
        }
    }
}

#[test]
fn a_threshold_of_the_manifest_takes_the_place_of_the_files() {
    let figure = |section: &str| {
        let text = text(&stack(&with(section)), Program::Prometheus, "rules/thresholds.yml");
        let (_, rest) = text.split_once("threshold:backend_p95\n").unwrap();
        rest.lines().next().unwrap().trim().to_owned()
    };
    assert_eq!(figure("{}"), "expr: 0.5");
    assert_eq!(figure("{ thresholds: { backend_p95: 0.8 } }"), "expr: 0.8");
}

#[test]
fn the_search_cluster_is_whole_with_as_many_nodes_as_the_manifest_has() {
    let text = text(&stack(&whole_manifest()), Program::Prometheus, "rules/thresholds.yml");
    let (_, rest) = text.split_once("threshold:search_nodes\n").unwrap();
    assert_eq!(rest.lines().next().unwrap().trim(), "expr: 3");
}

#[test]
fn whoever_names_a_webhook_has_no_page_of_the_stacks_own() {
    let stack = stack(&with("{ webhook: 'https://hooks.example/alerts' }"));
    assert!(stack.workload(&Program::Pages.member()).is_none());
    assert!(text(&stack, Program::Alertmanager, "alertmanager.yml").contains("https://hooks.example/alerts"));
    let names: Vec<_> = Monitoring.entrypoints(&stack).iter().map(|entrypoint| entrypoint.name).collect();
    assert_eq!(names, ["prometheus", "alertmanager"]);
}

#[test]
fn keys_and_passwords_are_files_and_variables_that_nobody_else_reads() {
    let mut manifest = whole_manifest();
    manifest.monitoring =
        with("{ pagerduty: { key_file: k, url: 'http://pd.example/v2/enqueue' }, opsgenie: { key_file: o } }")
            .monitoring;
    let stack = stack(&manifest);
    let alertmanager = text(&stack, Program::Alertmanager, "alertmanager.yml");
    assert!(alertmanager.contains("routing_key_file: \"/run/provisioner/pagerduty.key\""), "{alertmanager}");
    assert!(alertmanager.contains("api_key_file: \"/run/provisioner/opsgenie.key\""), "{alertmanager}");
    assert!(
        alertmanager.contains("pagerduty_url: \"http://pd.example/v2/enqueue\"")
            && !alertmanager.contains("opsgenie_api_url")
    );
    for workload in stack.members(NAME) {
        let shown = format!("{:?} {:?}", workload.command, workload.env);
        assert!(!shown.contains("@{secret:"), "{shown}");
        for file in &workload.files {
            let is_public = file.content.secrets().iter().all(|secret| *secret == "ca");
            assert!(is_public || file.mode == 0o400, "{} {:o}", file.path, file.mode);
        }
    }
}
