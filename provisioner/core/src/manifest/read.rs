//! Reads a YAML tree key by key, collecting every problem instead of stopping at the first.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

/// One thing that is wrong, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `postgres.replicas`; empty for the document itself.
    pub path: String,
    pub found: String,
    pub expected: String,
}

/// Everything that is wrong with one manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {} in the manifest", .0.len(), if .0.len() == 1 { "problem" } else { "problems" })]
pub struct InvalidManifest(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "manifest" } else { &self.path };
        write!(f, "{path}: found {}, expected {}", self.found, self.expected)
    }
}

/// A mapping that is being read. Keys that nobody asked for are problems too, reported by [`Table::finish`].
pub(super) struct Table<'a> {
    path: String,
    map: Map<String, Value>,
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
}

/// Longest excerpt of a value in a message.
const EXCERPT: usize = 60;

impl<'a> Table<'a> {
    pub(super) fn new(path: &str, value: Value, problems: &'a mut Vec<Problem>) -> Self {
        let map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other => {
                problems.push(Problem {
                    path: path.to_owned(),
                    found: describe(&other),
                    expected: "a mapping of keys to values".to_owned(),
                });
                Map::new()
            }
        };
        Self { path: path.to_owned(), map, known: Vec::new(), problems }
    }

    /// The mapping under `key`; empty where there is none.
    pub(super) fn section(&mut self, key: &'static str) -> Table<'_> {
        let value = self.take(key).unwrap_or(Value::Null);
        let path = self.child(key);
        Table::new(&path, value, self.problems)
    }

    /// The mapping under a name that its writer chose.
    pub(super) fn named_section(&mut self, name: &str) -> Table<'_> {
        let value = self.map.remove(name).unwrap_or(Value::Null);
        let path = self.child(name);
        Table::new(&path, value, self.problems)
    }

    /// The value under a name that its writer chose.
    pub(super) fn named_value(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name)
    }

    /// Names that their writer chose, each with what it stands for; the section stays as it is. A name that is none is
    /// noted and taken out.
    pub(super) fn entries(
        &mut self,
        key: &'static str,
        expected: &str,
        is_name: fn(&str) -> bool,
    ) -> Vec<(String, Value)> {
        let mut entries = Vec::new();
        let Some(Value::Object(map)) = self.map.get_mut(key) else { return entries };
        let (right, wrong): (Map<String, Value>, Map<String, Value>) =
            std::mem::take(map).into_iter().partition(|(name, _)| is_name(name));
        entries.extend(right.iter().map(|(name, value)| (name.clone(), value.clone())));
        *map = right;
        for name in wrong.keys() {
            self.problem(&format!("{key}.{}", excerpt(name)), "this name".to_owned(), expected);
        }
        entries
    }

    /// Unlike [`Self::has`] not where nothing follows the key.
    pub(super) fn is_set(&mut self, key: &'static str) -> bool {
        self.known.push(key);
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.known.push(key);
        self.map.contains_key(key)
    }

    /// Problems for every other key than `key` and those that go with it.
    pub(super) fn refuse_beside(&mut self, key: &str, shared: &[&str], expected: &str) {
        let is_right = |name: &str| name == key || shared.contains(&name);
        let (right, wrong): (Map<String, Value>, Map<String, Value>) =
            std::mem::take(&mut self.map).into_iter().partition(|(name, _)| is_right(name));
        self.map = right;
        for (name, value) in wrong {
            self.problem(&excerpt(&name), describe(&value), expected);
        }
    }

    /// Neither written nor given a value.
    pub(super) fn is_absent(&self, key: &str) -> bool {
        self.map.get(key).is_none_or(Value::is_null)
    }

    /// The value under `key` as `read` understands it. `None` when it is absent or wrong; a wrong one is noted, with
    /// `expected` as what would be right.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let parsed = read(&value);
        if parsed.is_none() {
            self.problem(key, describe(&value), expected);
        }
        parsed
    }

    pub(super) fn text(&mut self, key: &'static str, expected: &str) -> Option<String> {
        self.value(key, expected, |value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
    }

    pub(super) fn integer(&mut self, key: &'static str, from: u64, to: u64) -> Option<u64> {
        let expected = format!("a whole number from {from} to {to}");
        self.value(key, &expected, |value| value.as_u64().filter(|number| (from..=to).contains(number)))
    }

    /// One of the named choices.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let expected = format!("one of {}", words.join(", "));
        self.value(key, &expected, |value| {
            // YAML reads a bare `off` as text but people also write `false` for it.
            let word = match value {
                Value::Bool(false) => "off",
                Value::String(word) => word,
                _ => return None,
            };
            choices.iter().find(|(name, _)| *name == word).map(|(_, choice)| *choice)
        })
    }

    /// A list of strings, as a command line is one.
    pub(super) fn words(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.value(key, "a list of words such as [/app, serve]", |value| {
            let words: Option<Vec<String>> =
                value.as_array()?.iter().map(|word| word.as_str().map(str::to_owned)).collect();
            words.filter(|words| !words.is_empty())
        })
    }

    /// Names to plain values, in the spelling that the software itself uses.
    /// `words` are what YAML's true and false are there: PostgreSQL says on and off, a variable says true and false.
    pub(super) fn settings(
        &mut self,
        key: &'static str,
        is_name: fn(&str) -> bool,
        words: [&str; 2],
    ) -> Vec<(String, String)> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Value::Object(map) = value else {
            self.problem(key, describe(&value), "a mapping of settings to values");
            return Vec::new();
        };
        let mut settings = Vec::new();
        for (name, value) in map {
            let plain = match &value {
                Value::String(text) => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                Value::Bool(flag) => Some(words[usize::from(!*flag)].to_owned()),
                _ => None,
            };
            let plain = plain.filter(|text| !text.is_empty() && !text.contains(char::is_control));
            match plain {
                Some(text) if is_name(&name) => settings.push((name, text)),
                Some(_) => self.problem(
                    &format!("{key}.{}", excerpt(&name)),
                    "this name".to_owned(),
                    "a setting that can be chosen here",
                ),
                None => self.problem(
                    &format!("{key}.{}", excerpt(&name)),
                    describe(&value),
                    "one line of text, a number or on/off",
                ),
            }
        }
        settings
    }

    pub(super) fn problem(&mut self, key: &str, found: String, expected: &str) {
        let path = self.child(key);
        self.problems.push(Problem { path, found, expected: expected.to_owned() });
    }

    /// Reports the keys that nobody asked for, each with the nearest one that exists.
    pub(super) fn finish(mut self) {
        // In the order in which they are read, which is that of the documentation.
        let mut named = BTreeSet::new();
        self.known.retain(|key| named.insert(*key));
        for key in std::mem::take(&mut self.map).into_iter().map(|(key, _)| key) {
            let nearest = self.known.iter().map(|known| (strsim::damerau_levenshtein(known, &key), *known)).min();
            let expected = match nearest {
                Some((distance, known)) if distance <= 3 && key.len() < EXCERPT => format!("{known} (nearest key)"),
                _ => format!("one of {}", self.known.join(", ")),
            };
            self.problem(&excerpt(&key), "an unknown key".to_owned(), &expected);
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.map.remove(key).filter(|value| !value.is_null())
    }

    fn child(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// A value as a person would name it.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("{:?}", excerpt(text)),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(map) => format!("a mapping of {}", map.len()),
    }
}

pub(super) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(EXCERPT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
