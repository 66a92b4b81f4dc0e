//! Proof that somebody would be told: every target is asked and answers, every rule is the manifest's and is evaluated, and
//! an alert comes out at the other end.

mod alerts;
mod api;
mod rules;
mod targets;

use provisioner_core::component::Access;
use provisioner_core::finding::{Broken, Finding, Level, check};

use super::{NAME, Program};
use crate::checks;

pub(super) async fn verify(access: &Access<'_>) -> Vec<Finding> {
    if access.stack.workload(&Program::Prometheus.member()).is_none() {
        return Vec::new();
    }
    // Side by side: several of them wait for the next time that Prometheus looks.
    let (processes, prometheus, alertmanager, loaded, rules, evaluated, discovered) = tokio::join!(
        check(NAME, "processes", Level::L0, async { processes(access) }),
        check(NAME, "prometheus", Level::L1, api::answers(access, Program::Prometheus)),
        check(NAME, "alertmanager", Level::L1, api::answers(access, Program::Alertmanager)),
        check(NAME, "configuration-loaded", Level::L1, api::loaded(access)),
        check(NAME, "rules", Level::L2, rules::loaded(access)),
        check(NAME, "rules-evaluated", Level::L2, rules::evaluated(access)),
        check(NAME, "alertmanager-discovered", Level::L3, targets::discovered(access)),
    );
    let (targets, systems, synthetic, watchdog) = tokio::join!(
        check(NAME, "targets", Level::L3, targets::up(access)),
        check(NAME, "systems-reached", Level::L2, targets::reached(access)),
        check(NAME, "synthetic-alert", Level::L2, alerts::synthetic(access)),
        check(NAME, "watchdog", Level::L2, alerts::watchdog(access)),
    );
    vec![
        processes,
        prometheus,
        alertmanager,
        loaded,
        rules,
        evaluated,
        systems,
        synthetic,
        watchdog,
        discovered,
        targets,
    ]
}

fn processes(access: &Access<'_>) -> Result<String, Broken> {
    let members: Vec<_> = access.stack.members(NAME).map(|workload| &workload.member).collect();
    let mut broken = Vec::new();
    for member in &members {
        if let Err(Broken::Fail(why) | Broken::Unknown(why)) = checks::process(access, member) {
            broken.push(why);
        }
    }
    if broken.is_empty() { Ok(format!("{} are running", members.len())) } else { Err(Broken::fail(broken.join("; "))) }
}
