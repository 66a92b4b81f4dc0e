//! `drift`: what is not as it should be, and what nobody could tell. Reads only.

use std::collections::{BTreeMap, BTreeSet};

use provisioner_core::drift::{Comparison, Repair, Verdict};
use provisioner_core::name::StackName;
use provisioner_core::observed::Observed;
use provisioner_core::plan::{Action, Impact, Plan, Policy, StepId};
use serde::Serialize;

use super::exit::Exit;
use super::{Call, plan};
use crate::context::Context;
use crate::report::counted;

#[derive(Serialize)]
struct Report {
    stack: StackName,
    verdict: Answer,
    /// How many things were compared and found the same.
    same: usize,
    differences: Vec<Difference>,
    unknown: Vec<Unknown>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    InSync,
    Drifted,
    Unknown,
}

#[derive(Serialize)]
struct Difference {
    /// The member, else the component.
    subject: String,
    what: String,
    expected: String,
    found: String,
    repair: String,
}

#[derive(Serialize)]
struct Unknown {
    subject: String,
    what: String,
    reason: String,
    next: String,
}

pub(super) async fn drift(call: &Call<'_>) -> anyhow::Result<Exit> {
    let context = Context::to_plan(call).await?;
    let observed = context.observe_to(&Policy { deep: true, ..Policy::default() }).await?;
    // The ordinary plan, so that what it says and what was compared deep are not told twice.
    let plan = context.plan(&Observed { deep: Vec::new(), ..observed.clone() }, &Policy::default())?;
    let report = Report::of(call, &context, &observed.deep, &plan);
    call.printer.data(&report, || human(&report))?;
    plan::note_certificate(call, &context);
    Ok(match report.verdict {
        Answer::InSync => Exit::Done,
        Answer::Drifted => Exit::Drifted,
        Answer::Unknown => Exit::DriftUnknown,
    })
}

/// What a plan that looked deep could not look at.
pub(super) fn note_unknown(call: &Call<'_>, observed: &Observed) {
    for comparison in &observed.deep {
        if let Verdict::Unknown { reason } = &comparison.verdict {
            call.printer.note(&format!("could not tell {} of {}: {reason}", comparison.what, subject(comparison)));
        }
    }
}

fn subject(comparison: &Comparison) -> String {
    comparison.member.as_ref().map_or_else(|| comparison.component.clone(), ToString::to_string)
}

impl Report {
    fn of(call: &Call<'_>, context: &Context, deep: &[Comparison], plan: &Plan) -> Self {
        let again = |words: &str| call.settings.again(words);
        let (mut differences, mut unknown, mut same) = (Vec::new(), Vec::new(), 0);
        for comparison in deep {
            let (subject, what) = (subject(comparison), comparison.what.clone());
            match &comparison.verdict {
                Verdict::Same => same += 1,
                Verdict::Unknown { reason } => {
                    let next = again(&format!("logs {subject}"));
                    unknown.push(Unknown { subject, what, reason: reason.clone(), next });
                }
                Verdict::Differs { expected, found, repair } => {
                    let repair = match repair {
                        Repair::Command { command } => command.clone(),
                        Repair::Replace | Repair::PutFile { .. } | Repair::Run { .. } => again("up --deep"),
                    };
                    differences.push(Difference {
                        subject,
                        what,
                        expected: expected.clone(),
                        found: found.clone(),
                        repair,
                    });
                }
            }
        }
        shallow(plan, &again("up"), &mut differences, &mut unknown);
        let verdict = match (differences.is_empty(), unknown.is_empty()) {
            (false, _) => Answer::Drifted,
            (true, false) => Answer::Unknown,
            (true, true) => Answer::InSync,
        };
        Self { stack: context.name().clone(), verdict, same, differences, unknown }
    }
}

/// What the ordinary plan would do. A member that is down is as it was described and only cannot be asked, and what
/// waits for it belongs to that.
fn shallow(plan: &Plan, up: &str, differences: &mut Vec<Difference>, unknown: &mut Vec<Unknown>) {
    let mut starts: BTreeSet<StepId> = BTreeSet::new();
    for step in &plan.steps {
        let is_start = matches!(step.action, Action::Change { impact: Impact::Start, .. });
        if is_start || step.after.iter().any(|id| starts.contains(id)) {
            starts.insert(step.id);
        }
        let subject = || step.action.member().map_or_else(|| "stack".to_owned(), ToString::to_string);
        if is_start {
            let (what, reason) = ("state".to_owned(), step.because.clone());
            unknown.push(Unknown { subject: subject(), what, reason, next: up.to_owned() });
        } else if !starts.contains(&step.id) && !matches!(step.action, Action::Await { .. }) {
            differences.push(Difference {
                subject: subject(),
                what: "plan".to_owned(),
                expected: "nothing to do".to_owned(),
                found: format!("{}, because {}", step.action, step.because),
                repair: up.to_owned(),
            });
        }
    }
    for withheld in plan.withheld.iter().filter(|withheld| withheld.blocks) {
        differences.push(Difference {
            subject: "stack".to_owned(),
            what: "withheld".to_owned(),
            expected: "nothing withheld".to_owned(),
            found: format!("{}, because {}", withheld.what, withheld.reason),
            repair: withheld.unlock.clone(),
        });
    }
}

fn human(report: &Report) -> String {
    let mut text = String::new();
    let mut groups: BTreeMap<&str, Vec<&Difference>> = BTreeMap::new();
    for difference in &report.differences {
        groups.entry(&difference.subject).or_default().push(difference);
    }
    for (subject, differences) in groups {
        text.push_str(&format!("{subject}\n"));
        for Difference { what, expected, found, .. } in &differences {
            text.push_str(&format!("  ~ {what}\n      expected {expected}\n      found    {found}\n"));
        }
        let repairs: BTreeSet<&str> = differences.iter().map(|difference| difference.repair.as_str()).collect();
        for repair in repairs {
            text.push_str(&format!("    repair: {repair}\n"));
        }
    }
    if !report.unknown.is_empty() {
        text.push_str("could not tell\n");
        for Unknown { subject, what, reason, next } in &report.unknown {
            text.push_str(&format!("  ? {subject} {what}: {reason}\n      next: {next}\n"));
        }
    }
    let word = match report.verdict {
        Answer::InSync => "in sync",
        Answer::Drifted => "drifted",
        Answer::Unknown => "could not tell",
    };
    let (differences, unknown) = (report.differences.len(), report.unknown.len());
    text.push_str(&format!(
        "stack {}: {word}; {} same, {}, {unknown} could not be told\n",
        report.stack,
        report.same,
        counted(differences, "difference")
    ));
    text
}
