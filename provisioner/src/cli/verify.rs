//! `verify`: every component's own checks, from outside, safe on a live stack.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use provisioner_core::engine::Quiet;
use provisioner_core::finding::{Finding, Verdict};
use provisioner_core::observed::Observed;

use super::Call;
use super::exit::{Exit, Stop};
use crate::context::Context;
use crate::table::{Table, Tone};

pub(super) async fn verify(call: &Call<'_>) -> anyhow::Result<Exit> {
    let context = Context::to_look(call).await?;
    let observed = context.observe().await?;
    let findings = findings(&context, &observed, &BTreeSet::new()).await;
    call.printer.data(&findings, || human(&findings, call.printer.is_colored()))?;
    judge(call, &findings)?;
    Ok(Exit::Done)
}

/// All checks of these components, none named: of all, which run side by side; in the order in which people read a
/// stack.
pub(super) async fn findings(context: &Context, observed: &Observed, targets: &BTreeSet<String>) -> Vec<Finding> {
    let access = context.access(observed, &Quiet);
    let is_target = |name: &str| targets.is_empty() || targets.contains(name);
    let checked = context.components.iter().filter(|component| is_target(component.name()));
    let mut findings: Vec<Finding> =
        join_all(checked.map(|component| component.verify(&access))).await.into_iter().flatten().collect();
    let place =
        |finding: &Finding| context.components.iter().position(|component| component.name() == finding.component);
    findings.sort_by_key(|finding| (place(finding), finding.level));
    findings
}

/// A verdict that could not be had is no pass, and a stack without checks proves nothing.
pub(super) fn judge(call: &Call<'_>, findings: &[Finding]) -> Result<(), Stop> {
    let named = |verdict: Verdict| {
        let of_verdict = findings.iter().filter(|finding| finding.verdict == verdict);
        of_verdict.map(|Finding { component, check, .. }| format!("{component}.{check}")).collect::<Vec<_>>()
    };
    let (failed, unknown, total) = (named(Verdict::Fail), named(Verdict::Unknown), findings.len());
    let (exit, message) = if !failed.is_empty() {
        (Exit::VerifyFailed, format!("{} of {total} checks failed: {}", failed.len(), failed.join(", ")))
    } else if total == 0 {
        (Exit::Unknown, "no check was made".to_owned())
    } else if !unknown.is_empty() {
        (Exit::Unknown, format!("{} of {total} checks could not be made: {}", unknown.len(), unknown.join(", ")))
    } else {
        return Ok(());
    };
    let next = format!("see the members with: {}", call.settings.again("status"));
    Err(Stop::new(exit, format!("verify: {message}")).hint(next))
}

pub(super) fn human(findings: &[Finding], color: bool) -> String {
    let mut table = Table::default();
    for Finding { component, check, level, verdict, evidence, took_ms } in findings {
        let tone = match verdict {
            Verdict::Pass => Tone::Good,
            Verdict::Fail => Tone::Bad,
            Verdict::Unknown => Tone::Warn,
        };
        table.row(vec![
            (verdict.to_string(), Some(tone)),
            (level.to_string(), None),
            (component.clone(), None),
            (check.clone(), None),
            (format!("{took_ms} ms"), None),
            (evidence.clone(), None),
        ]);
    }
    let passed = findings.iter().filter(|finding| finding.verdict == Verdict::Pass).count();
    format!("{}{passed} of {} checks passed\n", table.render(color), findings.len())
}
