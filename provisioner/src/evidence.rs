//! What tells why something went wrong, for whoever was not there: how the stack stands, what every member logged, what
//! the engine knows. No value of a secret is among it.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use provisioner_core::engine::{LogOptions, collect_text};
use provisioner_core::plan::Policy;
use serde::Serialize;

use crate::context::Context;

/// Shorter values would tear up every text; nothing that the provisioner makes is as short.
const SECRET_MIN: usize = 8;

/// Names of files and their texts.
pub(crate) struct Evidence {
    files: BTreeMap<String, String>,
    /// What could not be had, and why.
    missing: Vec<String>,
    /// Secret to its value.
    values: BTreeMap<String, String>,
}

impl Evidence {
    /// As much as can be had: the newest `tail` lines of each member, and what the engine saw since this second.
    pub(crate) async fn gather(context: &Context, since: u64, tail: Option<u32>) -> anyhow::Result<Self> {
        let mut evidence = Self { files: BTreeMap::new(), missing: Vec::new(), values: BTreeMap::new() };
        evidence.look_at_stack(context, tail).await?;
        let plan = context
            .observe_to(&Policy::default())
            .await
            .and_then(|observed| context.plan(&observed, &Policy::default()));
        evidence.add_or_miss("plan.txt", plan.map(|plan| plan.to_string()));
        match context.engine.evidence(since).await {
            Ok(told) => evidence.files.extend(told.into_iter().map(|(name, text)| (format!("engine/{name}"), text))),
            Err(error) => evidence.miss("what the engine knows", error),
        }
        Ok(evidence)
    }

    async fn look_at_stack(&mut self, context: &Context, tail: Option<u32>) -> anyhow::Result<()> {
        let observed = match context.engine.observe().await {
            Ok(observed) => observed,
            Err(error) => {
                self.miss("the stack itself", error);
                return Ok(());
            }
        };
        self.add_json("observed.json", &observed)?;
        match context.engine.secrets(&observed.secrets.keys().cloned().collect()).await {
            Ok(values) => self.values = values,
            Err(error) => {
                self.miss("logs, which cannot be searched for secrets", error);
                return Ok(());
            }
        }
        let members: Vec<_> = observed.workloads.keys().collect();
        let logs = join_all(members.iter().map(async |member| {
            let options = LogOptions { times: true, tail, ..LogOptions::default() };
            collect_text(context.engine.logs(member, options).await?).await
        }));
        for (member, log) in members.iter().zip(logs.await) {
            match log {
                Ok(text) => self.add(&format!("logs/{member}.log"), text),
                Err(error) => self.miss(&format!("log of {member}"), error),
            }
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, name: &str, text: String) {
        self.files.insert(name.to_owned(), text);
    }

    pub(crate) fn add_json(&mut self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        self.add(name, serde_json::to_string_pretty(value)? + "\n");
        Ok(())
    }

    pub(crate) fn add_or_miss(&mut self, name: &str, text: anyhow::Result<String>) {
        match text {
            Ok(text) => self.add(name, text),
            Err(error) => self.miss(name, format!("{error:#}")),
        }
    }

    fn miss(&mut self, what: &str, why: impl std::fmt::Display) {
        self.missing.push(format!("{what}: {why}"));
    }

    /// The files as they may be shown to anybody; what is missing is told in one of its own.
    pub(crate) fn finish(mut self) -> BTreeMap<String, String> {
        if !self.missing.is_empty() {
            let told = self.missing.join("\n") + "\n";
            self.add("missing.txt", told);
        }
        let Self { files, values, .. } = self;
        files.into_iter().map(|(name, text)| (name, redacted(text, &values))).collect()
    }
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
