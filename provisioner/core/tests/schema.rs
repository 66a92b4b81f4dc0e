//! The schema for editors says what the reader of manifests does: the same keys, bounds, choices and defaults.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use provisioner_core::manifest::{InvalidManifest, Manifest, SCHEMA, parse};
use serde_json::{Map, Value, json};

const UNKNOWN: &str = "an-unknown-key-of-nobody";

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// Manifests in which every section that the schema knows can be put.
fn bases() -> [Value; 3] {
    [
        json!({"name": "dev", "app": {"binary": "app"}, "workers": {"email": {"health": {}}}, "nginx": {"tls": {}},
            "monitoring": {"pagerduty": {"key_file": "key"}, "opsgenie": {"key_file": "key"}}}),
        json!({"name": "dev", "app": {"image": "app:1", "serve": ["app"]}, "mail": {"host": "mail.example.com"}}),
        json!({"name": "dev", "app": {"binary": "app"},
            "postgres": {"external": {"host": "db", "user": "u", "password_file": "p", "database": "d", "ca_file": "c"}},
            "redis": {"external": {"host": "cache", "user": "u", "password_file": "p", "ca_file": "c"}},
            "rabbitmq": {"external": {"host": "mq", "user": "u", "password_file": "p", "ca_file": "c", "management": {}}},
            "elasticsearch": {"external": {"host": "es", "user": "u", "password_file": "p", "ca_file": "c"}}}),
    ]
}

fn read(manifest: &Value) -> Result<Manifest, Vec<(String, String)>> {
    parse(manifest.to_string().as_bytes()).map_err(|InvalidManifest(problems)| {
        problems.into_iter().map(|problem| (problem.path, problem.expected)).collect()
    })
}

/// Every section with its path: a mapping with fixed keys.
fn sections(path: &[&str], schema: &Value, found: &mut Vec<(Vec<String>, Map<String, Value>)>) {
    let Some(properties) = schema["properties"].as_object() else { return };
    found.push((path.iter().map(|part| (*part).to_owned()).collect(), properties.clone()));
    for (key, value) in properties {
        let mut below = path.to_vec();
        below.push(key);
        sections(&below, value, found);
        // A name that its writer chooses, and one of those that there are.
        below.push(if key == "members" { "postgres-1" } else { "email" });
        sections(&below, &value["additionalProperties"], found);
    }
}

fn all_sections() -> Vec<(Vec<String>, Map<String, Value>)> {
    let mut found = Vec::new();
    sections(&[], &schema(), &mut found);
    found
}

/// Every key that is no section: path, and the schema of its value.
fn keys() -> Vec<(Vec<String>, Value)> {
    let leaf = |(key, value): (&String, &Value), path: &[String]| {
        let is_section = value.get("properties").is_some() || value["additionalProperties"].get("properties").is_some();
        (!is_section).then(|| (path.iter().chain([key]).cloned().collect(), resolved(value)))
    };
    all_sections().iter().flat_map(|(path, keys)| keys.iter().filter_map(move |pair| leaf(pair, path))).collect()
}

fn resolved(value: &Value) -> Value {
    let Some(name) = value["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) else {
        return value.clone();
    };
    let mut all = schema()["$defs"][name].as_object().unwrap().clone();
    all.extend(value.as_object().unwrap().clone());
    Value::Object(all)
}

fn put(manifest: &Value, path: &[String], value: Value) -> Value {
    let mut manifest = manifest.clone();
    let mut place = &mut manifest;
    for part in path {
        place = &mut place[part.as_str()];
    }
    *place = value;
    manifest
}

/// What is wrong with the value at `path`, in whichever manifest it fits better.
fn problems_with(path: &[String], value: &Value) -> Vec<String> {
    let dotted = path.join(".");
    // Beside an external service a section is not read at all.
    let is_unread = |(above, expected): &(String, String)| {
        dotted.starts_with(above.as_str()) && expected.contains("beside `external:`")
    };
    let wrong = bases().into_iter().filter_map(|base| match read(&put(&base, path, value.clone())) {
        Ok(_) => Some(Vec::new()),
        Err(problems) if problems.iter().any(is_unread) => None,
        Err(problems) => {
            let here =
                problems.into_iter().filter(|(path, expected)| *path == dotted && !expected.contains("one of the two"));
            Some(here.map(|(_, expected)| expected).collect())
        }
    });
    wrong.min_by_key(Vec::len).unwrap()
}

#[test]
fn the_schema_knows_the_keys_that_are_read_and_no_others() {
    for (mut path, keys) in all_sections() {
        let mut wanted: Vec<&str> = keys.keys().map(String::as_str).collect();
        path.push(UNKNOWN.to_owned());
        let mut read: Vec<String> = bases().iter().flat_map(|base| problems_of_unknown(base, &path)).collect();
        read.sort();
        read.dedup();
        wanted.sort_unstable();
        assert_eq!(read, wanted, "{path:?}");
    }
}

fn problems_of_unknown(base: &Value, path: &[String]) -> Vec<String> {
    let problems = read(&put(base, path, json!(1))).unwrap_err();
    let dotted = path.join(".");
    let keys = problems
        .iter()
        .filter(|(path, _)| *path == dotted)
        .filter_map(|(_, expected)| expected.strip_prefix("one of "));
    keys.flat_map(|keys| keys.split(", ")).map(str::to_owned).collect()
}

#[test]
fn bounds_are_those_of_the_reader() {
    let mut tried = 0;
    for (path, key) in keys() {
        let step = if key["type"] == "integer" { json!(1) } else { json!(0.01) };
        let (Some(minimum), Some(maximum)) = (key["minimum"].as_f64(), key["maximum"].as_f64()) else { continue };
        tried += 1;
        let number = |value: f64| if key["type"] == "integer" { json!(value as i64) } else { json!(value) };
        let step = step.as_f64().unwrap();
        for (value, is_right) in [(minimum, true), (maximum, true), (minimum - step, false), (maximum + step, false)] {
            let problems = problems_with(&path, &number(value));
            assert_eq!(problems.is_empty(), is_right, "{path:?} {value}: {problems:?}");
        }
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn choices_and_patterns_are_those_of_the_reader() {
    for (path, key) in keys() {
        for choice in key["enum"].as_array().into_iter().flatten() {
            assert_eq!(problems_with(&path, choice), Vec::<String>::new(), "{path:?} {choice}");
        }
        for example in key["examples"].as_array().into_iter().flatten() {
            assert_eq!(problems_with(&path, example), Vec::<String>::new(), "{path:?} {example}");
        }
        let is_text = key["type"] == "string" || key.get("enum").is_some();
        let is_free = key["type"] == "string" && key.get("pattern").is_none();
        if is_text && !is_free {
            assert_ne!(problems_with(&path, &json!("no such Thing!")), Vec::<String>::new(), "{path:?}");
        }
        assert_ne!(problems_with(&path, &json!([[1]])), Vec::<String>::new(), "{path:?} takes anything");
    }
}

#[test]
fn defaults_are_those_of_the_reader() {
    let mut tried = 0;
    for (path, key) in keys() {
        let Some(default) = key.get("default") else { continue };
        let is_told = bases().iter().any(|base| {
            // A section that is absent is another stack than one with every default.
            let section = &path[..path.len() - 1];
            let place: String = section.iter().map(|part| format!("/{part}")).collect();
            let without = if base.pointer(&place).is_none() { put(base, section, json!({})) } else { base.clone() };
            let with = put(&without, &path, default.clone());
            matches!((read(&without), read(&with)), (Ok(without), Ok(with)) if without == with)
        });
        assert!(is_told, "{path:?}: {default} is not the default");
        tried += 1;
    }
    assert!(tried > 30, "{tried}");
}

#[test]
fn the_manifests_of_this_repository_fit_the_schema() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");
    let mut tried = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_ours = path.extension().is_some_and(|extension| extension == "yaml")
            && !path.file_name().unwrap().to_string_lossy().starts_with('.');
        if !is_ours {
            continue;
        }
        let manifest: Value = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let problems: Vec<String> =
            validator.iter_errors(&manifest).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert!(problems.is_empty(), "{}: {problems:?}", path.display());
        assert!(parse(&std::fs::read(&path).unwrap()).is_ok());
        tried += 1;
    }
    assert!(tried >= 2, "{tried}");
    let wrong = json!({"name": "Dev", "app": {"image": "a", "binary": "b"}, "nginx": {"http_port": 0, "gzip": true}});
    assert!(validator.iter_errors(&wrong).count() >= 4);
}
