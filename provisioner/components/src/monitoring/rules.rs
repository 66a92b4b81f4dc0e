//! The rule files of `monitoring/rules/`.

use std::collections::BTreeMap;

use provisioner_core::manifest::threshold_rules;

macro_rules! embedded {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../monitoring/rules/", $name)))),+]
    };
}

const RULES: &[(&str, &str)] = embedded![
    "elasticsearch.yml",
    "hosts.yml",
    "meta.yml",
    "postgres.yml",
    "rabbitmq.yml",
    "redis.yml",
    "requests.yml",
    "workers.yml",
];
const THRESHOLDS: &str = "thresholds.yml";

/// Name and content of every rule file, with the manifest's thresholds in place.
pub(super) fn files(thresholds: &BTreeMap<String, f64>) -> Vec<(&'static str, String)> {
    let written = RULES.iter().map(|(name, text)| (*name, (*text).to_owned()));
    written.chain([(THRESHOLDS, threshold_rules(thresholds))]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn no_rule_file_is_left_out() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../monitoring/rules");
        let found = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let found: BTreeSet<String> = found.filter(|name| name.ends_with(".yml")).collect();
        let embedded = files(&BTreeMap::new()).into_iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(found, embedded);
    }
}
