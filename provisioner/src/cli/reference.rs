//! The reference of the manifest as a page, made from the schema that editors use.

use std::fmt::Write;

use provisioner_core::manifest::SCHEMA;
use serde_json::Value;

const HEAD: &str = "\
# Manifest

Every key, made from the schema by `provisioner config reference`. Editors that know JSON Schema check and complete a manifest
with `provisioner config schema > manifest.schema.json` and this first line in it:

    # yaml-language-server: $schema=manifest.schema.json

Required are `name` and `app`. An unknown or absurd key is refused, all problems at once; `provisioner config --env NAME` shows a
manifest with every default. A section that is missing is a system that the stack has not, except `nginx`, `route`, `postgres`
and `redis`, which every stack has, and `media`, which the shop has. Paths count from the manifest's own folder. A PostgreSQL,
Redis, RabbitMQ or Elasticsearch that exists already stands under `external` in its section: the stack uses and verifies it.
";

pub(super) fn page() -> anyhow::Result<String> {
    let schema: Value = serde_json::from_str(SCHEMA)?;
    let mut page = HEAD.to_owned();
    section(&mut page, &schema, "", &schema);
    Ok(page)
}

/// The plain keys of a section as a table, then the sections in it.
fn section(page: &mut String, schema: &Value, path: &str, found: &Value) {
    if !path.is_empty() {
        let _ = write!(page, "\n## {path}\n\n{}.\n", text(&found["description"]));
    }
    let Some(properties) = found["properties"].as_object() else {
        return named(page, schema, path, found);
    };
    let is_section = |value: &Value| value.get("properties").is_some() || !named_section(value).is_null();
    let (sections, keys): (Vec<_>, Vec<_>) = properties.iter().partition(|(_, value)| is_section(value));
    if !keys.is_empty() {
        page.push_str("\n| key | default | values | meaning |\n|---|---|---|---|\n");
    }
    for (key, value) in keys {
        let default = value.get("default").map_or_else(String::new, |default| format!("`{}`", plain(default)));
        let meaning = text(&value["description"]).replace('|', "\\|");
        let _ = writeln!(page, "| `{key}` | {default} | {} | {meaning} |", values(schema, value));
    }
    for (key, value) in sections {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        section(page, schema, &path, value);
    }
}

/// What each of the names that the writer chooses stands for.
fn named(page: &mut String, schema: &Value, path: &str, found: &Value) {
    section(page, schema, &format!("{path}.NAME"), named_section(found));
}

fn named_section(value: &Value) -> &Value {
    let below = &value["additionalProperties"];
    if below.get("properties").is_some() { below } else { &Value::Null }
}

fn values(schema: &Value, value: &Value) -> String {
    let kind = value["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/"));
    let value = kind.map_or(value, |kind| &schema["$defs"][kind]);
    match (kind, value["type"].as_str()) {
        (Some("size"), _) => "a size such as `512MiB`".to_owned(),
        (Some("image"), _) => "an image reference".to_owned(),
        (Some("words"), _) => "a list of words".to_owned(),
        (Some("settings"), _) => "names to values".to_owned(),
        (_, Some("integer" | "number")) => format!("{} to {}", value["minimum"], value["maximum"]),
        (_, Some("boolean")) => "`true`, `false`".to_owned(),
        (_, Some("string")) => "text".to_owned(),
        _ => match (value["enum"].as_array(), value.get("const")) {
            // `off` without quotes reads as `false` in YAML, so the schema allows both; people need one.
            (Some(choices), _) => {
                let words: Vec<String> = choices
                    .iter()
                    .filter(|choice| choice.is_string())
                    .map(|choice| format!("`{}`", plain(choice)))
                    .collect();
                words.join(", ")
            }
            (None, Some(only)) => format!("`{only}`"),
            (None, None) => match value["additionalProperties"]["type"].as_str() {
                Some("number") => "names to numbers".to_owned(),
                Some("string") => "names to texts".to_owned(),
                _ => "names to lists".to_owned(),
            },
        },
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
