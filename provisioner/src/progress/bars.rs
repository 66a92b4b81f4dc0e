//! One bar for the whole plan and a spinner for every step that runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use provisioner_core::plan::StepId;

const TICK: Duration = Duration::from_millis(120);

pub(super) struct Bars {
    group: MultiProgress,
    whole: ProgressBar,
    steps: Mutex<BTreeMap<StepId, ProgressBar>>,
}

impl Bars {
    pub(super) fn new(total: usize) -> Self {
        let group = MultiProgress::new();
        let whole = group.add(ProgressBar::new(u64::try_from(total).unwrap_or(u64::MAX)));
        whole.set_style(style("{pos}/{len} {wide_bar} {elapsed}"));
        Self { group, whole, steps: Mutex::default() }
    }

    pub(super) fn group(&self) -> MultiProgress {
        self.group.clone()
    }

    pub(super) fn start(&self, id: StepId, text: &str) {
        let bar = self.group.insert_before(&self.whole, ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {elapsed:>4} {wide_msg}"));
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(TICK);
        self.steps().insert(id, bar);
    }

    pub(super) fn output(&self, id: StepId, text: &str, line: &str) {
        if let Some(bar) = self.steps().get(&id) {
            bar.set_message(format!("{text}: {}", line.trim()));
        }
    }

    pub(super) fn finish(&self, id: StepId, ended: usize) {
        if let Some(bar) = self.steps().remove(&id) {
            bar.finish_and_clear();
        }
        self.whole.set_position(u64::try_from(ended).unwrap_or(u64::MAX));
    }

    pub(super) fn clear(&self) {
        for bar in std::mem::take(&mut *self.steps()).into_values() {
            bar.finish_and_clear();
        }
        self.whole.finish_and_clear();
    }

    fn steps(&self) -> MutexGuard<'_, BTreeMap<StepId, ProgressBar>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our own templates are right; a wrong one would show indicatif's own form instead of failing a run.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
