//! Whom Prometheus asks, as the stack has it: what its configuration is made of, and what `verify` expects it to have
//! found.

use std::collections::BTreeMap;

use provisioner_core::name::Member;
use provisioner_core::stack::Stack;

use super::Program;
use crate::{app, elasticsearch, media, nginx, postgres, rabbitmq, redis, route};

/// One that Prometheus asks, or has an exporter ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The member that its figures are about.
    pub(super) instance: String,
    pub(super) address: String,
}

/// Jobs by their name; one without targets is a system that the stack has not.
pub(super) type Jobs = BTreeMap<&'static str, Vec<Target>>;

pub(super) fn jobs(stack: &Stack) -> Jobs {
    let about = |member: &Member, address: String| Target { instance: member.to_string(), address };
    let own = |program: Program| vec![about(&program.member(), program.address())];
    let told_by = |member: Member, program: Program| vec![about(&member, program.address())];
    let each = |name: &str, port: u16, path: &str| -> Vec<Target> {
        let members = stack.members(name).map(|workload| &workload.member);
        members.map(|member| about(member, format!("{member}:{port}{path}"))).collect()
    };
    let (backends, workers) = app::scraped(stack).into_iter().partition::<Vec<_>, _>(|scraped| scraped.is_backend);
    let of_app = |scraped: Vec<app::Scraped>| {
        scraped.iter().map(|it| about(&it.member, format!("{}:{}", it.member, it.port))).collect()
    };
    let nginx = nginx::member();
    let has_tls = stack.workload(&nginx).is_some_and(|workload| workload.port("https").is_some());
    let has_node = stack.workload(&Program::Node.member()).is_some();
    let has_redis = stack.workload(&redis::member()).is_some();
    let has_search = elasticsearch::members(stack).next().is_some();
    BTreeMap::from([
        ("prometheus", own(Program::Prometheus)),
        ("alertmanager", own(Program::Alertmanager)),
        ("node", if has_node { own(Program::Node) } else { Vec::new() }),
        ("nginx", told_by(nginx.clone(), Program::Nginx)),
        ("route", each(route::NAME, route::STATUS_PORT, "")),
        ("postgres", each(postgres::NAME, postgres::PORT, &format!("/{}", postgres::HOME))),
        ("redis", if has_redis { told_by(redis::member(), Program::Redis) } else { Vec::new() }),
        ("app", of_app(backends)),
        ("workers", of_app(workers)),
        ("rabbitmq", each(rabbitmq::NAME, rabbitmq::PROMETHEUS, "")),
        ("rabbitmq-queues", each(rabbitmq::NAME, rabbitmq::PROMETHEUS, "")),
        ("elasticsearch", if has_search { own(Program::Elasticsearch) } else { Vec::new() }),
        ("blackbox-http", vec![about(&nginx, format!("http://{nginx}:{}/-/backend", nginx::CHECKS))]),
        ("blackbox-media", each(media::NAME, media::PORT, "/health")),
        ("blackbox-tls", if has_tls { vec![about(&nginx, format!("{nginx}:{}", nginx::HTTPS))] } else { Vec::new() }),
    ])
}
