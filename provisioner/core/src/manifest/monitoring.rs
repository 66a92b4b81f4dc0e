//! The section of what watches the stack: how long it remembers, when it complains and to whom.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

use super::read::{Table, describe, excerpt};
use super::sections::{count, keeper, unread};
use super::thresholds::{Threshold, Unit, thresholds};
use super::{HostFiles, Monitoring, Pager};

const DURATION: &str = "a time such as 15d, 36h or 2w";
const URL: &str = "a URL that starts with http:// or https://";

pub(super) fn monitoring(mut table: Table<'_>) -> Monitoring {
    let monitoring = Monitoring {
        service: keeper(&mut table, 256, 500),
        retention: table.value("retention", DURATION, retention).unwrap_or_else(|| "15d".to_owned()),
        // Rules look at rates over five minutes, which need several looks.
        scrape_seconds: count(&mut table, "scrape_seconds", 1, 60).unwrap_or(15),
        thresholds: chosen(&mut table),
        webhook: url(&mut table, "webhook"),
        pagerduty: pager(&mut table, "pagerduty"),
        opsgenie: pager(&mut table, "opsgenie"),
    };
    table.finish();
    monitoring
}

fn retention(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u32 = number.parse().ok()?;
    (number > 0 && number < 10_000 && ["h", "d", "w", "y"].contains(&unit)).then(|| text.to_owned())
}

fn url(table: &mut Table<'_>, key: &'static str) -> Option<String> {
    table.value(key, URL, |value| {
        let is_plain = |c: char| c.is_ascii_graphic() && !"\"'\\<>`{}|^".contains(c);
        let is_url = |text: &&str| {
            let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) && text.chars().all(is_plain)
        };
        value.as_str().filter(is_url).map(str::to_owned)
    })
}

/// The key is a secret, so it comes as a file.
fn pager(table: &mut Table<'_>, key: &'static str) -> Option<Pager> {
    if !table.has(key) {
        return None;
    }
    let mut table = table.section(key);
    let expected = "the path of a file that holds the key";
    if table.is_absent("key_file") {
        table.problem("key_file", "nothing".to_owned(), expected);
    }
    let file = table.text("key_file", expected);
    let url = url(&mut table, "url");
    table.finish();
    let key = HostFiles { files: vec![PathBuf::from(file?)], digest: unread() };
    Some(Pager { key, url })
}

fn chosen(table: &mut Table<'_>) -> BTreeMap<String, f64> {
    let known = thresholds();
    let entries = table.entries("thresholds", "", |_| true);
    // Notes something that is no mapping.
    let mut section = table.section("thresholds");
    let mut chosen = BTreeMap::new();
    for (name, value) in entries {
        // Taken, so that it is not reported again as unknown.
        let _ = section.named_value(&name);
        let Some(Threshold { unit, .. }) = known.iter().find(|threshold| threshold.name == name) else {
            section.problem(&excerpt(&name), "this name".to_owned(), &nearest(&name, &known));
            continue;
        };
        match value.as_f64().filter(|value| unit.takes(*value)) {
            Some(value) => {
                chosen.insert(name, value);
            }
            None => section.problem(&name, describe(&value), &unit.expected()),
        }
    }
    section.finish();
    chosen
}

fn nearest(name: &str, known: &[Threshold]) -> String {
    let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(&known.name, name));
    let names: Vec<&str> = known.iter().map(|known| known.name.as_str()).collect();
    match nearest {
        Some(nearest) if strsim::damerau_levenshtein(&nearest.name, name) <= 3 => {
            format!("a threshold; did you mean {}?", nearest.name)
        }
        _ => format!("one of {}", names.join(", ")),
    }
}

impl Unit {
    fn takes(&self, value: f64) -> bool {
        value.is_finite() && value > 0.0 && (*self != Self::Ratio || value < 1.0)
    }

    fn expected(&self) -> String {
        match self {
            Self::Ratio => "a share between 0 and 1, such as 0.8".to_owned(),
            Self::Other(unit) => format!("a number above 0, in {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_less_than_the_whole() {
        let ratio = Unit::Ratio;
        assert!(ratio.takes(0.8) && !ratio.takes(1.0) && !ratio.takes(0.0) && !ratio.takes(f64::NAN));
        let seconds = Unit::Other("seconds".to_owned());
        assert!(seconds.takes(30.0) && !seconds.takes(-1.0) && !seconds.takes(0.0) && !seconds.takes(f64::INFINITY));
    }

    #[test]
    fn a_retention_has_a_number_and_a_unit() {
        let read = ["15d", "36h", "2w", "0d", "15", "d", "", "é", "-1d"].map(|text| retention(&Value::from(text)));
        assert_eq!(read.map(|read| read.is_some()), [true, true, true, false, false, false, false, false, false]);
    }
}
