//! When each step of a run began, how long it took, and which of them decided when the run was over.

use std::collections::BTreeMap;
use std::time::Duration;

use provisioner_core::plan::{Plan, StepId};
use serde::Serialize;

use super::{millis, seconds};
use crate::table::{Table, Tone};

/// Since the run's begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) begin: Duration,
    pub(crate) took: Duration,
}

pub(crate) type Spans = BTreeMap<StepId, Span>;

#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Timings {
    took_ms: u64,
    /// In the order in which they began.
    parts: Vec<Part>,
    /// How much of the run its critical parts were at work; the rest is planning, waiting for a turn, and clearing up.
    critical_ms: u64,
}

#[derive(Debug, PartialEq, Serialize)]
struct Part {
    /// `None`: the verification, which is no step.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<StepId>,
    text: String,
    begin_ms: u64,
    took_ms: u64,
    /// Had it taken less time, the run would have been over sooner.
    is_critical: bool,
}

impl Span {
    pub(crate) fn end(self) -> Duration {
        self.begin + self.took
    }
}

impl Timings {
    pub(crate) fn of(plan: Option<&Plan>, spans: &Spans, verification: Option<Span>, took: Duration) -> Self {
        let critical = plan.map(|plan| critical_path(plan, spans)).unwrap_or_default();
        let steps = plan.into_iter().flat_map(|plan| &plan.steps);
        let mut parts: Vec<Part> = steps
            .filter_map(|step| {
                let span = spans.get(&step.id)?;
                Some(Part::new(Some(step.id), step.action.to_string(), *span, critical.contains(&step.id)))
            })
            .collect();
        parts.sort_by_key(|part| (part.begin_ms, part.id));
        // It begins when everything else is done.
        parts.extend(verification.map(|span| Part::new(None, "verification".to_owned(), span, true)));
        let critical_ms = parts.iter().filter(|part| part.is_critical).map(|part| part.took_ms).sum();
        Self { took_ms: millis(took), parts, critical_ms }
    }

    pub(crate) fn human(&self, color: bool) -> String {
        let mut table = Table::with_header(&["", "BEGIN", "TOOK", "STEP"]);
        let shown = |ms: u64| seconds(Duration::from_millis(ms));
        for Part { id, text, begin_ms, took_ms, is_critical } in &self.parts {
            let tone = is_critical.then_some(Tone::Warn);
            let step = id.map_or_else(|| text.clone(), |id| format!("{} {text}", id.0));
            table.row(vec![
                (if *is_critical { "*" } else { "" }.to_owned(), tone),
                (shown(*begin_ms), None),
                (shown(*took_ms), tone),
                (step, None),
            ]);
        }
        let path: Vec<String> = self.parts.iter().filter(|part| part.is_critical).map(Part::name).collect();
        let (critical, took) = (shown(self.critical_ms), shown(self.took_ms));
        format!("{}* critical path, {critical} of {took}: {}\n", table.render(color), path.join(" > "))
    }
}

impl Part {
    fn new(id: Option<StepId>, text: String, span: Span, is_critical: bool) -> Self {
        Self { id, text, begin_ms: millis(span.begin), took_ms: millis(span.took), is_critical }
    }

    fn name(&self) -> String {
        self.id.map_or_else(|| self.text.clone(), |id| id.0.to_string())
    }
}

/// From the step that ended last backwards, always to the prerequisite that ended last.
fn critical_path(plan: &Plan, spans: &Spans) -> Vec<StepId> {
    let end = |id: &StepId| spans.get(id).map(|span| span.end());
    let last_of = |ids: &mut dyn Iterator<Item = StepId>| ids.filter(|id| end(id).is_some()).max_by_key(end);
    let mut path = Vec::new();
    let mut next = last_of(&mut plan.steps.iter().map(|step| step.id));
    while let Some(id) = next {
        path.push(id);
        let step = plan.steps.iter().find(|step| step.id == id);
        next = step.and_then(|step| last_of(&mut step.after.iter().copied()));
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use provisioner_core::plan::{Action, Step};
    use provisioner_core::stack::ResourceId;

    use super::*;

    fn plan(after: &[&[usize]]) -> Plan {
        let step = |(nth, after): (usize, &&[usize])| Step {
            id: StepId(nth + 1),
            action: Action::Remove { id: ResourceId::Volume(format!("v{}", nth + 1)) },
            because: String::new(),
            after: after.iter().copied().map(StepId).collect(),
        };
        Plan { steps: after.iter().enumerate().map(step).collect(), withheld: Vec::new() }
    }

    fn spans(spans: &[(usize, u64, u64)]) -> Spans {
        let span = |(id, begin, took): &(usize, u64, u64)| {
            let (begin, took) = (Duration::from_secs(*begin), Duration::from_secs(*took));
            (StepId(*id), Span { begin, took })
        };
        spans.iter().map(span).collect()
    }

    #[test]
    fn the_chain_that_ended_last_is_critical() {
        let plan = plan(&[&[], &[], &[1, 2], &[1], &[3, 4]]);
        // 2 is slower than 1, 4 is longest but was not what 5 waited for.
        let spans = spans(&[(1, 0, 1), (2, 0, 3), (3, 3, 3), (4, 1, 4), (5, 6, 1)]);
        assert_eq!(critical_path(&plan, &spans), [2, 3, 5].map(StepId));
        let verification = Span { begin: Duration::from_secs(8), took: Duration::from_secs(2) };
        let timings = Timings::of(Some(&plan), &spans, Some(verification), Duration::from_secs(10));
        assert_eq!(timings.critical_ms, 9_000);
        assert!(timings.human(false).ends_with("* critical path, 9.0s of 10.0s: 2 > 3 > 5 > verification\n"));
    }

    #[test]
    fn a_step_that_was_not_begun_is_on_no_path() {
        let plan = plan(&[&[], &[1], &[2]]);
        assert_eq!(critical_path(&plan, &spans(&[(1, 0, 1)])), [StepId(1)]);
        assert_eq!(critical_path(&plan, &Spans::new()), []);
    }
}
