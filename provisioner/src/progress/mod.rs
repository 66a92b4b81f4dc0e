//! How a running plan looks on stderr: bars on a terminal, lines elsewhere, events for programs.

mod bars;
mod phases;
mod timings;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use provisioner_core::execute::{Event, Listener, Outcome};
use provisioner_core::plan::{Plan, Step, StepId};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cli::settings::{ProgressMode, Settings};
use crate::report::Printer;
use bars::Bars;

pub(crate) use phases::phases;
pub(crate) use timings::{Span, Spans, Timings};

/// So often a step that takes its time is mentioned again.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(10);

pub(crate) struct Progress {
    printer: Printer,
    bars: Option<Bars>,
    total: usize,
    verbose: bool,
    /// When the run began.
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: BTreeMap<StepId, (String, Instant)>,
    ended: usize,
    spans: Spans,
}

impl Progress {
    pub(crate) fn new(settings: &Settings, printer: &Printer, plan: &Plan, begun: Instant) -> Self {
        let total = plan.steps.len();
        let bars = (settings.progress == ProgressMode::Tty).then(|| Bars::new(total));
        printer.over(bars.as_ref().map(Bars::group));
        Self { printer: printer.clone(), bars, total, verbose: settings.verbose, begun, state: Mutex::default() }
    }

    /// When the steps that have ended so far began, and how long they took.
    pub(crate) fn spans(&self) -> Spans {
        self.state().spans.clone()
    }

    /// Says that steps which take their time are still alive.
    pub(crate) fn heartbeat(&self) {
        if self.bars.is_some() {
            return;
        }
        let state = self.state();
        let slow = state.running.iter().filter(|(_, (_, since))| since.elapsed() >= HEARTBEAT);
        for (id, (text, since)) in slow {
            let elapsed = since.elapsed();
            self.tell(
                || format!("{:>9} {text}, {} so far", "...", seconds(elapsed)),
                || json!({"type": "heartbeat", "id": id, "elapsed_ms": millis(elapsed)}),
            );
        }
    }

    /// A line for people, an event for programs; the printer knows who reads.
    fn tell(&self, line: impl FnOnce() -> String, event: impl FnOnce() -> Value) {
        if self.printer.is_for_programs() { self.printer.event(&event()) } else { self.printer.note(&line()) }
    }

    fn started(&self, step: &Step) {
        let text = step.action.to_string();
        if let Some(bars) = &self.bars {
            bars.start(step.id, &text);
        } else if self.verbose || self.printer.is_for_programs() {
            self.tell(
                || format!("{:>9} {text}, because {}", "begin", step.because),
                || json!({"type": "step_started", "id": step.id, "text": text, "because": step.because}),
            );
        }
        self.state().running.insert(step.id, (text, Instant::now()));
    }

    fn output(&self, step: &Step, line: &str) {
        if let Some(bars) = &self.bars {
            bars.output(step.id, &step.action.to_string(), line);
        }
        if self.verbose || self.printer.is_for_programs() {
            self.told(step, line);
        }
    }

    fn told(&self, step: &Step, line: &str) {
        self.tell(
            || format!("{:>9} {line}", format!("{} |", step.id.0)),
            || json!({"type": "output", "id": step.id, "line": line}),
        );
    }

    fn finished(&self, step: &Step, outcome: &Outcome) {
        let count = {
            let mut state = self.state();
            if let Some((_, since)) = state.running.remove(&step.id) {
                let span = Span { begin: since.duration_since(self.begun), took: since.elapsed() };
                state.spans.insert(step.id, span);
            }
            state.ended += 1;
            state.ended
        };
        if let Some(bars) = &self.bars {
            bars.finish(step.id, count);
        }
        let position = format!("[{count}/{}]", self.total);
        let action = &step.action;
        self.tell(
            || match outcome {
                Outcome::Done { took } => format!("{position:>9} {action}, {}", seconds(*took)),
                Outcome::Failed(failure) => format!("{position:>9} {action}: FAILED: {}", failure.chain()),
                Outcome::Skipped { because_of } => {
                    format!("{position:>9} {action}: skipped, step {} failed", because_of.0)
                }
                Outcome::NotBegun => format!("{position:>9} {action}: not begun"),
            },
            || {
                let mut event = outcome_json(outcome);
                if let Value::Object(fields) = &mut event {
                    fields.insert("type".to_owned(), json!("step_finished"));
                    fields.insert("id".to_owned(), json!(step.id));
                }
                event
            },
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bars) = &self.bars {
            bars.clear();
            self.printer.over(None);
        }
    }
}

impl Listener for Progress {
    fn hear(&self, event: Event<'_>) {
        match event {
            Event::Started(step) => self.started(step),
            Event::Output(step, line) => self.output(step, line),
            Event::Told(step, line) => self.told(step, line),
            Event::Finished(step, outcome) => self.finished(step, outcome),
        }
    }
}

/// How a step ended, for programs.
pub(crate) fn outcome_json(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Done { took } => json!({"outcome": "done", "took_ms": millis(*took)}),
        Outcome::Failed(failure) => json!({
            "outcome": "failed", "error": failure.chain(), "hints": failure.hints, "output": failure.output,
        }),
        Outcome::Skipped { because_of } => json!({"outcome": "skipped", "because_of": because_of}),
        Outcome::NotBegun => json!({"outcome": "not_begun"}),
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}
