//! From the bytes of a file to a checked manifest.

use serde_json::Value;

use super::Manifest;
use super::read::{InvalidManifest, Problem, Table, describe};
use super::sections;

/// A manifest is written by people; more than this is another file given by mistake.
pub const MANIFEST_SIZE_MAX: usize = 1 << 20;

const MAPPING: &str = "a YAML mapping; `manifests/dev.yaml` is an example";

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
    // Through YAML's own tree first: it refuses a key that is written twice, which JSON's would take the last of.
    let tree: serde_yaml::Value =
        serde_yaml::from_str(text).map_err(|error| problem(error.to_string(), "one YAML document"))?;
    let value = serde_json::to_value(tree).map_err(|error| problem(error.to_string(), "keys that are text"))?;
    match value {
        Value::Object(_) => Ok(value),
        Value::Null => Err(problem("nothing but comments".to_owned(), MAPPING)),
        other => Err(problem(describe(&other), MAPPING)),
    }
}
