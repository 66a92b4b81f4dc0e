//! The figures at which alerts begin: recording rules of constants in `monitoring/rules/thresholds.yml`, so that operators
//! read them where the rules are, and a manifest may put others in their place.

use std::collections::BTreeMap;

use serde::Deserialize;

const FILE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../monitoring/rules/thresholds.yml"));
const PREFIX: &str = "threshold:";

#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    pub name: String,
    pub unit: Unit,
}

/// What its figure counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A share of a whole.
    Ratio,
    Other(String),
}

#[derive(Deserialize)]
struct RuleFile {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    record: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// All that there are.
///
/// # Panics
///
/// If the embedded file is no rule file: it is part of this program, and a test reads it.
pub fn thresholds() -> Vec<Threshold> {
    let file: RuleFile = match serde_yaml::from_str(FILE) {
        Ok(file) => file,
        Err(error) => panic!("read the embedded monitoring/rules/thresholds.yml: {error}"),
    };
    let rules = file.groups.into_iter().flat_map(|group| group.rules);
    let thresholds = rules.filter_map(|rule| {
        let name = rule.record.strip_prefix(PREFIX)?.to_owned();
        let unit = match rule.labels.get("unit").map(String::as_str) {
            Some("ratio") => Unit::Ratio,
            unit => Unit::Other(unit.unwrap_or("its own unit").to_owned()),
        };
        Some(Threshold { name, unit })
    });
    thresholds.collect()
}

/// The rule file with these figures in place of its own, its comments kept.
pub fn threshold_rules(chosen: &BTreeMap<String, f64>) -> String {
    let mut current = None;
    let lines = FILE.split_inclusive('\n').map(|line| {
        let item = line.trim_start().trim_start_matches("- ").trim_end();
        if let Some(record) = item.strip_prefix("record:") {
            current = record.trim().trim_matches(['"', '\'']).strip_prefix(PREFIX).and_then(|name| chosen.get(name));
        }
        match (current, line.find("expr:")) {
            (Some(value), Some(at)) if item.starts_with("expr:") => {
                current = None;
                let written = if item.contains("vector(") { format!("vector({value})") } else { value.to_string() };
                format!("{}expr: {written}\n", &line[..at])
            }
            _ => line.to_owned(),
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Figure {
        record: String,
        expr: serde_yaml::Value,
    }

    fn figures(text: &str) -> BTreeMap<String, String> {
        let tree: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
        let groups = tree["groups"].as_sequence().unwrap().iter();
        let rules = groups.flat_map(|group| group["rules"].as_sequence().unwrap().clone());
        let figures = rules.map(|rule| serde_yaml::from_value::<Figure>(rule).unwrap());
        let shown = |expr: &serde_yaml::Value| serde_yaml::to_string(expr).unwrap().trim().to_owned();
        figures.map(|figure| (figure.record.clone(), shown(&figure.expr))).collect()
    }

    #[test]
    fn every_threshold_can_be_chosen_and_no_other_figure_changes() {
        assert!(!thresholds().is_empty());
        assert_eq!(threshold_rules(&BTreeMap::new()), FILE);
        let written = figures(FILE);
        for Threshold { name, .. } in thresholds() {
            let changed = figures(&threshold_rules(&BTreeMap::from([(name.clone(), 0.123)])));
            let key = format!("{PREFIX}{name}");
            assert!(changed[&key].contains("0.123"), "{name}: {}", changed[&key]);
            let others = |figures: &BTreeMap<String, String>| {
                figures.iter().filter(|(name, _)| **name != key).map(|(_, value)| value.clone()).collect::<Vec<_>>()
            };
            assert_eq!(others(&changed), others(&written), "{name}");
        }
    }

    #[test]
    fn no_two_thresholds_share_a_name() {
        let names: Vec<String> = thresholds().into_iter().map(|threshold| threshold.name).collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
