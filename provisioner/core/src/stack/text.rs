//! Text that may name secrets without holding them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::secret;

/// Text in which `@{secret:NAME}` stands for the value of a secret, so that plans, fingerprints, records and logs can
/// hold it; `@{secret:NAME.key}` and `@{secret:NAME.crt}` stand for the parts of a pair, `@{secret:NAME.url}` for the
/// value as a URL takes it. The engine resolves it at the moment it hands the text to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Text(String);

const OPEN: &str = "@{secret:";
const CLOSE: char = '}';

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("text names the secret {name:?}, which the stack does not hold")]
pub struct MissingSecret {
    pub name: String,
}

impl Text {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The marker to write into a template where the secret's value shall stand.
    pub fn secret(name: &str) -> String {
        format!("{OPEN}{name}{CLOSE}")
    }

    /// The text with its markers, safe to print.
    pub fn masked(&self) -> &str {
        &self.0
    }

    pub fn secrets(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        let mut rest = self.0.as_str();
        while let Some((_, tail)) = rest.split_once(OPEN) {
            let Some((name, tail)) = tail.split_once(CLOSE) else { break };
            names.insert(name.split_once('.').map_or(name, |(name, _)| name));
            rest = tail;
        }
        names
    }

    /// The text with every marker replaced by the value of its secret.
    pub fn resolve(&self, values: &BTreeMap<String, String>) -> Result<String, MissingSecret> {
        let mut resolved = String::with_capacity(self.0.len());
        let mut rest = self.0.as_str();
        while let Some((before, tail)) = rest.split_once(OPEN) {
            let Some((name, tail)) = tail.split_once(CLOSE) else { break };
            resolved.push_str(before);
            let value = value(name, values).ok_or_else(|| MissingSecret { name: name.to_owned() })?;
            resolved.push_str(&value);
            rest = tail;
        }
        resolved.push_str(rest);
        Ok(resolved)
    }
}

fn value<'a>(name: &str, values: &'a BTreeMap<String, String>) -> Option<Cow<'a, str>> {
    match name.split_once('.') {
        None => values.get(name).map(|value| Cow::Borrowed(value.as_str())),
        Some((name, "url")) => values.get(name).map(|value| Cow::Owned(secret::url_encoded(value))),
        Some((name, part)) => secret::part(values.get(name)?, part).map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_replaced_and_the_rest_is_kept() {
        let text = Text::new(format!("user app >{} on\n", Text::secret("redis-app")));
        let values = BTreeMap::from([("redis-app".to_owned(), "s3cret".to_owned())]);
        assert_eq!(text.resolve(&values).unwrap(), "user app >s3cret on\n");
        assert_eq!(text.secrets().into_iter().collect::<Vec<_>>(), ["redis-app"]);
    }

    #[test]
    fn an_unknown_secret_is_an_error_that_names_it() {
        let text = Text::new(Text::secret("nobody"));
        assert_eq!(text.resolve(&BTreeMap::new()).unwrap_err().name, "nobody");
    }

    #[test]
    fn an_open_marker_is_plain_text() {
        let text = Text::new("a @{secret:b");
        assert_eq!(text.resolve(&BTreeMap::new()).unwrap(), "a @{secret:b");
        assert!(text.secrets().is_empty());
    }
}
