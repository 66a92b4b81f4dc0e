//! What is kept of a smoke that failed, for whoever was not there: what the run said, how the stack stood, what every
//! member logged, what the engine knows. No value of a secret is among it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use futures_util::future::join_all;
use provisioner_core::engine::{LogOptions, collect_text};
use provisioner_core::plan::Policy;

use super::report::Report;
use crate::cli::settings::Settings;
use crate::context::Context;
use crate::report::Printer;

/// Shorter values would tear up every text; nothing that the provisioner makes is as short.
const SECRET_MIN: usize = 8;

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

/// Writes as much as can be had; what could not be had is told in a file of its own.
pub(super) async fn collect(
    folder: &Path,
    context: &Context,
    transcript: &Transcript,
    report: &Report,
    since: u64,
) -> anyhow::Result<()> {
    let mut files = BTreeMap::from([("run.log".to_owned(), transcript.text())]);
    let mut missing = Vec::new();
    let mut values = BTreeMap::new();
    let findings: Vec<_> = report.findings().collect();
    files.insert("findings.json".to_owned(), serde_json::to_string_pretty(&findings)? + "\n");
    match context.engine.observe().await {
        Ok(observed) => {
            let members: Vec<_> = observed.workloads.keys().cloned().collect();
            let logs = join_all(members.iter().map(async |member| {
                let options = LogOptions { times: true, ..LogOptions::default() };
                collect_text(context.engine.logs(member, options).await?).await
            }));
            for (member, log) in members.iter().zip(logs.await) {
                match log {
                    Ok(text) => _ = files.insert(format!("logs/{member}.log"), text),
                    Err(error) => missing.push(format!("log of {member}: {error}")),
                }
            }
            files.insert("observed.json".to_owned(), serde_json::to_string_pretty(&observed)? + "\n");
            let names = observed.secrets.keys().cloned().collect();
            match context.engine.secrets(&names).await {
                Ok(read) => values = read,
                // Then nothing that a member wrote can be looked through for them.
                Err(error) => {
                    files.retain(|name, _| !name.starts_with("logs/"));
                    missing.push(format!("logs, which cannot be searched for secrets: {error}"));
                }
            }
        }
        Err(error) => missing.push(format!("the stack itself: {error}")),
    }
    match context.observe().await.and_then(|observed| context.plan(&observed, &Policy::default())) {
        Ok(plan) => _ = files.insert("plan.txt".to_owned(), plan.to_string()),
        Err(error) => missing.push(format!("plan: {error:#}")),
    }
    match context.engine.evidence(since).await {
        Ok(evidence) => files.extend(evidence.into_iter().map(|(name, text)| (format!("engine/{name}"), text))),
        Err(error) => missing.push(format!("what the engine knows: {error}")),
    }
    if !missing.is_empty() {
        files.insert("missing.txt".to_owned(), missing.join("\n") + "\n");
    }
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, redacted(text, &values)));
        written.with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// No part of the provisioner prints a secret; somebody's own app may.
fn redacted(mut text: String, values: &BTreeMap<String, String>) -> String {
    for (name, value) in values.iter().filter(|(_, value)| value.len() >= SECRET_MIN) {
        if text.contains(value.as_str()) {
            text = text.replace(value.as_str(), &format!("[secret {name}]"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_secret_becomes_its_name() {
        let values = [("redis-app", "hunter2hunter2"), ("short", "app")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let text = redacted("app said hunter2hunter2, twice: hunter2hunter2".to_owned(), &values);
        assert_eq!(text, "app said [secret redis-app], twice: [secret redis-app]");
    }
}
