use std::net::SocketAddr;

use provisioner_core::manifest::parse;
use provisioner_core::name::Member;
use provisioner_core::observed::{Making, ObservedWorkload, State};

use super::*;

/// A large host on which nothing is taken.
fn facts() -> Facts {
    let host = Host {
        engine: "Docker 20.10.24".to_owned(),
        is_supported: Ok(()),
        cpus: 8,
        memory_bytes: 32 * GIB,
        free_disk_bytes: Some(100 * GIB),
        ports: BTreeMap::new(),
        is_local: true,
    };
    Facts { host, holders: BTreeMap::new(), open_files: Some(20_000), memory_maps: Some(65_530) }
}

fn manifest() -> Manifest {
    parse(b"name: dev\napp:\n  image: example/app:1\n  serve: [app]\n").unwrap()
}

fn stack() -> Stack {
    let manifest = manifest();
    let components = provisioner_components::all();
    Stack::new(manifest.name.clone(), components.iter().flat_map(|component| component.declare(&manifest)))
}

fn judged(facts: &Facts, observed: &Observed) -> BTreeMap<&'static str, (Verdict, String)> {
    let lines = judge(facts, &manifest(), &stack(), observed);
    lines.into_iter().map(|line| (line.subject, (line.verdict, line.text))).collect()
}

fn refusal(subject: &str, facts: &Facts) -> String {
    let judged = judged(facts, &Observed::default());
    let others = judged.iter().filter(|(other, _)| **other != subject);
    assert!(others.into_iter().all(|(_, (verdict, _))| *verdict == Verdict::Ok), "{judged:?}");
    assert_eq!(judged[subject].0, Verdict::Refused, "{judged:?}");
    judged[subject].1.clone()
}

#[test]
fn a_large_host_is_fine() {
    assert!(judged(&facts(), &Observed::default()).values().all(|(verdict, _)| *verdict == Verdict::Ok));
}

#[test]
fn an_engine_that_is_none_of_ours_is_refused_by_name() {
    let mut facts = facts();
    facts.host.engine = "Podman 5.4".to_owned();
    facts.host.is_supported = Err("it does not pass the contract".to_owned());
    assert_eq!(refusal("engine", &facts), "Podman 5.4: it does not pass the contract");
}

#[test]
fn a_small_host_is_told_what_to_leave_out() {
    let mut facts = facts();
    facts.host.memory_bytes = GIB + 660 * MIB;
    assert!(refusal("memory", &facts).contains("app.replicas: 1"), "{}", refusal("memory", &facts));
    facts.host.memory_bytes = GIB + 300 * MIB;
    assert!(refusal("memory", &facts).contains("`solo`"), "{}", refusal("memory", &facts));
    facts.host.memory_bytes = GIB;
    assert!(refusal("memory", &facts).contains("lower postgres.memory"), "{}", refusal("memory", &facts));
}

#[test]
fn a_full_disk_is_refused_while_images_are_missing_only() {
    let mut facts = facts();
    facts.host.free_disk_bytes = Some(GIB);
    assert!(refusal("disk", &facts).contains("1.0 GiB free"));
    let mut observed = Observed::default();
    observed.volumes.insert("postgres-1-data".to_owned());
    let stack = stack();
    let images = stack.resources().filter_map(|resource| match resource {
        Resource::Image(image) => Some(image.reference()),
        _ => None,
    });
    observed.images = images.collect();
    assert_eq!(judged(&facts, &observed)["disk"].0, Verdict::Ok);
}

#[test]
fn a_taken_port_is_refused_with_its_holder() {
    let mut facts = facts();
    facts.holders.insert(8080, "jetty (pid 812)".to_owned());
    assert!(refusal("port", &facts).starts_with("127.0.0.1:8080 is held by jetty (pid 812)"));
}

#[test]
fn a_port_that_the_stack_itself_holds_is_fine() {
    let mut facts = facts();
    facts.holders.insert(8080, "container dev-nginx-1".to_owned());
    let nginx = ObservedWorkload {
        instance: "1".to_owned(),
        component: "nginx".to_owned(),
        image: String::new(),
        state: State::Running,
        spec: None,
        files: BTreeMap::new(),
        internal_ip: None,
        published: BTreeMap::from([(8080, SocketAddr::from(([127, 0, 0, 1], 8080)))]),
        public: None,
        making: Making::default(),
    };
    let mut observed = Observed::default();
    observed.workloads.insert(Member::named("nginx-1"), nginx);
    assert_eq!(judged(&facts, &observed)["port"].0, Verdict::Ok);
}

#[test]
fn a_member_that_asks_for_more_cores_than_there_are_is_refused() {
    let mut facts = facts();
    facts.host.cpus = 0;
    assert!(refusal("cpus", &facts).contains("this host has 0"));
}

#[test]
fn few_open_files_are_refused() {
    let mut facts = facts();
    facts.open_files = Some(1024);
    assert!(refusal("open files", &facts).starts_with("1024 a process"));
}

fn searching(environment: &str, lines: &str) -> Manifest {
    let text = format!(
        "name: dev\nenvironment: {environment}\napp:\n  image: example/app:1\n  serve: [app]\nelasticsearch:\n  nodes: 3\n{lines}"
    );
    parse(text.as_bytes()).unwrap()
}

fn judged_for(manifest: &Manifest, facts: &Facts) -> BTreeMap<&'static str, (Verdict, String)> {
    let components = provisioner_components::all();
    let declared = components.iter().flat_map(|component| component.declare(manifest));
    let stack = Stack::new(manifest.name.clone(), declared);
    let lines = judge(facts, manifest, &stack, &Observed::default());
    lines.into_iter().map(|line| (line.subject, (line.verdict, line.text))).collect()
}

#[test]
fn too_few_open_files_for_search_are_adapted_on_dev_and_ci_alone() {
    for environment in ["dev", "ci"] {
        let judged = judged_for(&searching(environment, ""), &facts());
        let wanted = format!("20000 a process; Elasticsearch wants 65535 and is told so, as this is {environment}");
        assert_eq!(judged["open files"], (Verdict::Adapted, wanted));
        assert!(!judged.contains_key("memory maps"), "nothing is mapped: {judged:?}");
    }
    let own = searching("dev", "  image: example/elasticsearch:8\n");
    assert_eq!(judged_for(&own, &facts())["open files"].0, Verdict::Refused, "it has no library for that");
    for environment in ["staging", "production"] {
        let judged = judged_for(&searching(environment, ""), &facts());
        assert_eq!(judged["open files"].0, Verdict::Refused, "{judged:?}");
        assert!(judged["open files"].1.contains("LimitNOFILE of docker.service"), "{judged:?}");
        assert_eq!(judged["memory maps"].0, Verdict::Refused, "{judged:?}");
        assert!(judged["memory maps"].1.contains("sudo sysctl -w vm.max_map_count=262144"), "{judged:?}");
    }
}

#[test]
fn a_host_with_the_limits_that_search_wants_is_fine() {
    let facts = Facts { open_files: Some(65_535), memory_maps: Some(262_144), ..facts() };
    for environment in ["dev", "production"] {
        let judged = judged_for(&searching(environment, ""), &facts);
        assert!(judged.values().all(|(verdict, _)| *verdict == Verdict::Ok), "{judged:?}");
    }
    let unmapped = searching("production", "  settings:\n    node.store.allow_mmap: false\n");
    let facts = Facts { memory_maps: Some(65_530), ..facts };
    assert!(!judged_for(&unmapped, &facts).contains_key("memory maps"));
}

#[test]
fn too_little_memory_for_three_nodes_leads_to_one() {
    let mut facts = facts();
    facts.host.memory_bytes = 3 * GIB;
    let (verdict, text) = judged_for(&searching("dev", ""), &facts)["memory"].clone();
    assert_eq!(verdict, Verdict::Refused);
    assert!(text.contains("provisioner up --env solo"), "{text}");
}
