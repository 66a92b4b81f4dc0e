//! Whoever is told of an address must be let in there: a cluster refuses everybody else.

use std::collections::BTreeSet;

use provisioner_core::stack::{Stack, Workload};

use crate::{DRILL, all, app, elasticsearch, monitoring, nginx, postgres, route, testing};

/// Component of who reaches, host and port that it reaches.
type Path = (String, String, u16);

fn stack() -> Stack {
    let manifest = testing::whole_manifest();
    let declared = all().into_iter().flat_map(|component| component.declare(&manifest));
    Stack::new(manifest.name.clone(), declared)
}

fn path(component: &str, host: &str, port: u16) -> Path {
    (component.to_owned(), host.to_owned(), port)
}

/// Everything that a member is given to read.
fn texts(workload: &Workload) -> impl Iterator<Item = String> {
    let command = workload.command.iter().map(String::as_str);
    let secret = workload.secret_env.values().map(provisioner_core::stack::Text::masked);
    let files = workload.files.iter().map(|file| file.content.masked());
    let all = command.chain(workload.env.values().map(String::as_str)).chain(secret).chain(files);
    // HAProxy puts the cluster's domain between name and port.
    all.map(|text| text.replace("${DOMAIN}", ""))
}

/// Ports that stand behind a name, as `NAME:PORT` or as a line `NAME PORT`.
fn ports_of(text: &str, name: &str) -> BTreeSet<u16> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let found = text.match_indices(name).filter(|(at, _)| !text[..*at].ends_with(is_part));
    let ports = found.filter_map(|(at, _)| {
        let rest = text[at + name.len()..].strip_prefix([':', ' '])?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    ports.collect()
}

/// What members read of each other, and what they are told while they run.
fn told(stack: &Stack) -> BTreeSet<Path> {
    let names = stack.workloads().flat_map(|it| it.names.iter().map(String::as_str).chain([it.member.as_str()]));
    let names: BTreeSet<&str> = names.collect();
    let mut told = BTreeSet::new();
    for workload in stack.workloads() {
        for text in texts(workload) {
            for name in names.iter().filter(|name| **name != workload.member.as_str()) {
                told.extend(ports_of(&text, name).into_iter().map(|port| path(&workload.component, name, port)));
            }
        }
    }
    let postgres: Vec<&Workload> = stack.members(postgres::NAME).collect();
    for member in &postgres {
        // A replica streams from whoever is the primary, and drills look at each of them.
        told.insert(path(postgres::NAME, member.member.as_str(), postgres::PORT));
        told.insert(path(DRILL, member.member.as_str(), postgres::PORT));
    }
    told.insert(path(DRILL, route::READ_WRITE, route::READ_WRITE_PORT));
    for node in stack.members(elasticsearch::NAME) {
        let transport = node.port("transport").unwrap().port;
        told.insert(path(elasticsearch::NAME, node.member.as_str(), transport));
    }
    told
}

#[test]
fn every_path_that_members_are_told_is_open() {
    let stack = stack();
    let told = told(&stack);
    // The texts are understood: one of each kind.
    for known in [
        path(app::NAME, "postgres-rw", 5432),
        path(app::NAME, "postgres-ro", 5433),
        path(app::NAME, "redis-1", 6379),
        path(app::NAME, "mail-1", 1025),
        path(nginx::NAME, "backend-1", 8000),
        path(nginx::NAME, "media-1", 8090),
        path(route::NAME, "postgres-2", 5432),
        path(monitoring::NAME, "route-1", 8404),
        path(monitoring::NAME, "nginx-1", 8081),
        path(monitoring::NAME, "alertmanager-1", 9093),
        path(monitoring::NAME, "pages-1", 8026),
        path(monitoring::NAME, "elasticsearch", 9200),
    ] {
        assert!(told.contains(&known), "{known:?} of {told:#?}");
    }
    let is_open = |(component, host, port): &&Path| {
        let mut led_to =
            stack.workloads().filter(|it| it.member.as_str() == host.as_str() || it.names.contains(host)).peekable();
        led_to.peek().is_some()
            && led_to.all(|it| it.ports.iter().any(|open| open.port == *port && open.lets_in(component)))
    };
    let refused: Vec<_> = told.iter().filter(|told| !is_open(told)).collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

/// A name that is nobody's would let nobody in, and say nothing.
#[test]
fn whoever_is_let_in_is_a_component_or_a_drill() {
    let mut known: BTreeSet<&str> = all().iter().map(|component| component.name()).collect();
    known.insert(DRILL);
    let stack = stack();
    let callers = stack.workloads().flat_map(|workload| &workload.ports).flat_map(|port| &port.from);
    let unknown: Vec<_> = callers.filter(|caller| !known.contains(caller.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn what_people_and_drills_have_no_business_with_is_closed() {
    let stack = stack();
    let lets_in = |member: &str, port: &str, component: &str| {
        let workload = stack.workloads().find(|workload| workload.member.as_str() == member).unwrap();
        workload.port(port).unwrap().lets_in(component)
    };
    assert!(lets_in("nginx-1", "http", "anybody") && !lets_in("nginx-1", "status", app::NAME));
    assert!(!lets_in("postgres-1", "postgres", app::NAME), "the app goes by the route");
    assert!(!lets_in("redis-1", "redis", nginx::NAME) && !lets_in("mail-1", "http", app::NAME));
}
