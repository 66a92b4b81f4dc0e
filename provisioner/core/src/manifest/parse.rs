//! From the bytes of a file to a checked manifest.

use serde_json::Value;

use super::Manifest;
use super::read::{InvalidManifest, Problem, Table, describe};
use super::sections;

/// A manifest is written by people; more than this is another file given by mistake.
pub const MANIFEST_SIZE_MAX: usize = 1 << 20;

const MAPPING: &str = "a YAML mapping; `manifests/dev.yaml` is an example";

/// Far more than a manifest needs.
const DEPTH_MAX: usize = 64;

/// Reads and checks a manifest. Either it is right, or every problem is returned at once.
pub fn parse(bytes: &[u8]) -> Result<Manifest, InvalidManifest> {
    let document = document(bytes).map_err(|problem| InvalidManifest(vec![problem]))?;
    let mut problems = Vec::new();
    let manifest = sections::manifest(Table::new("", document, &mut problems));
    match manifest {
        Some(manifest) if problems.is_empty() => Ok(manifest),
        _ => Err(InvalidManifest(problems)),
    }
}

fn document(bytes: &[u8]) -> Result<Value, Problem> {
    let problem = |found: String, expected: &str| Problem { path: String::new(), found, expected: expected.to_owned() };
    if bytes.len() > MANIFEST_SIZE_MAX {
        return Err(problem(format!("{} bytes", bytes.len()), "at most 1 MiB of YAML"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        problem(format!("a byte at {} that is not UTF-8", error.valid_up_to()), "YAML text in UTF-8")
    })?;
    if text.contains('\0') {
        return Err(problem("a NUL byte".to_owned(), "YAML text in UTF-8"));
    }
    if text.trim().is_empty() {
        return Err(problem("an empty file".to_owned(), MAPPING));
    }
    // The YAML reader's time grows with the square of the nesting.
    if bracket_depth(text) > DEPTH_MAX {
        return Err(problem(format!("brackets nested deeper than {DEPTH_MAX}"), MAPPING));
    }
    // Through YAML's own tree first: it refuses a key that is written twice, which JSON's would take the last of.
    let tree: serde_yaml::Value =
        serde_yaml::from_str(text).map_err(|error| problem(error.to_string(), "one YAML document"))?;
    if is_infinite(&tree) {
        return Err(problem("a number that is infinite or none (.inf, .nan)".to_owned(), "numbers"));
    }
    let value = serde_json::to_value(tree).map_err(|error| problem(error.to_string(), "keys that are text"))?;
    match value {
        Value::Object(_) => Ok(value),
        Value::Null => Err(problem("nothing but comments".to_owned(), MAPPING)),
        other => Err(problem(describe(&other), MAPPING)),
    }
}

fn bracket_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// JSON has no such numbers and would make them nothing, as if the key had not been written.
fn is_infinite(tree: &serde_yaml::Value) -> bool {
    use serde_yaml::Value::{Mapping, Number, Sequence, Tagged};
    match tree {
        Number(number) => number.as_f64().is_some_and(|number| !number.is_finite()),
        Sequence(list) => list.iter().any(is_infinite),
        Mapping(map) => map.values().any(is_infinite),
        Tagged(tagged) => is_infinite(&tagged.value),
        _ => false,
    }
}
