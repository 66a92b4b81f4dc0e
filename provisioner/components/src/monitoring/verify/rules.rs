//! The rules that Prometheus runs.

use std::collections::{BTreeMap, BTreeSet};

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use serde::Deserialize;

use super::super::Program;
use super::super::declare::rules_folder;
use super::api::Prometheus;
use super::targets::settled;

/// One rule, of a file or as it is loaded: its place and what it says.
type Rules = BTreeMap<(String, usize), Said>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    name: String,
    expression: String,
}

#[derive(Deserialize)]
struct Loaded {
    groups: Vec<LoadedGroup>,
}

#[derive(Deserialize)]
struct LoadedGroup {
    name: String,
    file: String,
    rules: Vec<LoadedRule>,
}

#[derive(Deserialize)]
struct LoadedRule {
    name: String,
    query: String,
    health: String,
    #[serde(rename = "lastError", default)]
    last_error: String,
}

#[derive(Deserialize)]
struct RuleFile {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    record: Option<String>,
    alert: Option<String>,
    expr: Expression,
}

/// A constant may be written without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Expression {
    Text(String),
    Number(serde_yaml::Number),
}

/// Prometheus runs the rules of the manifest, all of them and no others. A reload that was just asked for may still be
/// under way.
pub(super) async fn loaded(access: &Access<'_>) -> Result<String, Broken> {
    let (prometheus, expected) = (Prometheus::of(access).await?, declared(access)?);
    settled(|| async {
        let found = running(&prometheus).await?;
        let mut wrong = Vec::new();
        for (place, said) in &expected {
            if !runs(&prometheus, said, found.get(place)).await? {
                wrong.push(format!("{} of {} is not what Prometheus runs", said.name, place.0));
            }
        }
        let surplus = found.iter().filter(|(place, _)| !expected.contains_key(*place));
        wrong.extend(surplus.map(|((place, _), said)| format!("{} of {place} runs, expected not", said.name)));
        Ok(wrong)
    })
    .await?;
    let groups: BTreeSet<&str> = expected.keys().map(|(place, _)| place.as_str()).collect();
    Ok(format!("{} of {} groups, as in the manifest", expected.len(), groups.len()))
}

async fn running(prometheus: &Prometheus) -> Result<Rules, Broken> {
    let loaded: Loaded = prometheus.read("/api/v1/rules").await?;
    let mut rules = Rules::new();
    for group in loaded.groups {
        let place = format!("{}/{}", group.file.rsplit('/').next().unwrap_or_default(), group.name);
        for (nth, rule) in group.rules.into_iter().enumerate() {
            rules.insert((place.clone(), nth), Said { name: rule.name, expression: dense(&rule.query) });
        }
    }
    Ok(rules)
}

/// Prometheus is asked how it writes an expression only where its spelling is another one.
async fn runs(prometheus: &Prometheus, said: &Said, found: Option<&Said>) -> Result<bool, Broken> {
    let Some(found) = found.filter(|found| found.name == said.name) else { return Ok(false) };
    if found.expression == dense(&said.expression) {
        return Ok(true);
    }
    Ok(found.expression == dense(&prometheus.formatted(&said.expression).await?))
}

/// Prometheus breaks long expressions over lines in one answer and not in the other.
fn dense(expression: &str) -> String {
    expression.chars().filter(|c| !c.is_whitespace()).collect()
}

/// What the stack's files say.
fn declared(access: &Access<'_>) -> Result<Rules, Broken> {
    let workload = access.stack.workload(&Program::Prometheus.member());
    let files = workload.iter().flat_map(|workload| &workload.files);
    let mut rules = Rules::new();
    for file in files {
        let folder = rules_folder();
        let Some(name) = file.path.strip_prefix(&folder) else { continue };
        let parsed: RuleFile = serde_yaml::from_str(file.content.masked())
            .map_err(|error| Broken::fail(format!("read {}: {error}", file.path)))?;
        for group in parsed.groups {
            let place = format!("{name}/{}", group.name);
            for (nth, rule) in group.rules.into_iter().enumerate() {
                let expression = match rule.expr {
                    Expression::Text(text) => text,
                    Expression::Number(number) => number.to_string(),
                };
                let said = Said { name: rule.record.or(rule.alert).unwrap_or_default(), expression };
                rules.insert((place.clone(), nth), said);
            }
        }
    }
    Ok(rules)
}

/// Every rule was evaluated, and without an error.
pub(super) async fn evaluated(access: &Access<'_>) -> Result<String, Broken> {
    let prometheus = Prometheus::of(access).await?;
    settled(|| async {
        let loaded: Loaded = prometheus.read("/api/v1/rules").await?;
        let rules = loaded.groups.iter().flat_map(|group| &group.rules);
        let wrong = rules.filter(|rule| rule.health != "ok");
        Ok(wrong.map(|rule| format!("{} is {} {}", rule.name, rule.health, rule.last_error)).collect())
    })
    .await?;
    Ok("all without an error".to_owned())
}
