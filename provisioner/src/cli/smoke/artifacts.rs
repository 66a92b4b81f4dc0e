//! What is kept of a smoke that failed: what the run said, and the stack's evidence.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;

use super::report::Report;
use crate::cli::settings::Settings;
use crate::context::Context;
use crate::evidence::Evidence;
use crate::report::Printer;

/// What the verbs inside a smoke would have printed.
#[derive(Clone, Default)]
pub(super) struct Transcript(Arc<Mutex<Vec<u8>>>);

impl Transcript {
    pub(super) fn printer(&self, settings: &Settings) -> Printer {
        Printer::new(settings, Box::new(self.clone()), Box::new(self.clone()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Transcript {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes as much as can be had.
pub(super) async fn collect(
    folder: &Path,
    context: &Context,
    transcript: &Transcript,
    report: &Report,
    since: u64,
) -> anyhow::Result<()> {
    let mut evidence = Evidence::gather(context, since, None).await?;
    evidence.add("run.log", transcript.text());
    evidence.add_json("findings.json", &report.findings().collect::<Vec<_>>())?;
    for (name, text) in evidence.finish() {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, text));
        written.with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
