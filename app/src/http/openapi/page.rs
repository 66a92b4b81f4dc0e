//! The document as HTML, for people without tools.

use std::fmt::Write;

use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

pub(super) fn render(document: &OpenApi) -> String {
    let document = json!(document);
    let mut html = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>app: API</title>\
         <meta name=\"viewport\" content=\"width=device-width\"></head><body><main>\n<h1>API</h1>\n",
    );
    let about = document["info"]["description"].as_str().unwrap_or_default();
    let machine = "For programs: <a href=\"/openapi.json\">/openapi.json</a>.";
    // Writing to a String cannot fail.
    let _ = writeln!(html, "<p>{} {machine}</p>", escape(about));
    let mut tag = String::new();
    for (path, method, operation) in in_order(&document) {
        let found = operation["tags"][0].as_str().unwrap_or_default();
        if found != tag {
            tag = found.to_owned();
            let _ = writeln!(html, "<h2>{}</h2>", escape(&tag));
        }
        let summary = operation["summary"].as_str().unwrap_or_default();
        let title = format!("{} {path}", method.to_uppercase());
        let _ = writeln!(html, "<details><summary><code>{}</code> {}</summary>", escape(&title), escape(summary));
        let _ = writeln!(html, "<p>{}</p>", escape(operation["description"].as_str().unwrap_or_default()));
        parameters(&mut html, operation);
        let body = &operation["requestBody"]["content"];
        let example = body["application/json"].get("schema").map(|schema| sample(&document, schema, 0));
        let kind = body.as_object().and_then(|kinds| kinds.keys().next());
        let command = curl(path, method, operation, kind, example.as_ref());
        let _ = writeln!(html, "<pre>{}</pre>", escape(&command));
        let _ = writeln!(html, "</details>");
    }
    html.push_str("</main></body></html>\n");
    html
}

/// By tag, in the order in which the tags come first in the table; paths of a tag stay together.
fn in_order(document: &Value) -> Vec<(&str, &str, &Value)> {
    let mut tags: Vec<String> = Vec::new();
    for operation in super::operations::all() {
        let operation = json!(operation.built.build());
        let tag = operation["tags"][0].as_str().unwrap_or_default().to_owned();
        if !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            found.push((path.as_str(), method.as_str(), operation));
        }
    }
    found.sort_by_key(|(_, _, operation)| tags.iter().position(|tag| operation["tags"][0] == tag.as_str()));
    found
}

fn parameters(html: &mut String, operation: &Value) {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let rows: Vec<String> = parameters
        .map(|parameter| {
            let text = |name: &str| escape(parameter[name].as_str().unwrap_or_default());
            let needed = if parameter["required"] == true { ", required" } else { "" };
            format!("<li><code>{}</code> ({}{needed}) {}</li>", text("name"), text("in"), text("description"))
        })
        .collect();
    if !rows.is_empty() {
        let _ = writeln!(html, "<ul>{}</ul>", rows.concat());
    }
}

fn curl(path: &str, method: &str, operation: &Value, kind: Option<&String>, example: Option<&Value>) -> String {
    let mut command = format!("curl -X {} \"$SHOP{path}\"", method.to_uppercase());
    if operation["security"].as_array().is_some_and(|ways| !ways.iter().any(|way| *way == json!({}))) {
        command.push_str(" \\\n  -H \"Authorization: Bearer $TOKEN\"");
    }
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    for parameter in parameters.filter(|found| found["in"] == "header" && found["required"] == true) {
        let _ = write!(command, " \\\n  -H '{}: …'", parameter["name"].as_str().unwrap_or_default());
    }
    match (kind, example) {
        (Some(kind), Some(example)) => {
            let _ = write!(command, " \\\n  -H 'Content-Type: {kind}' \\\n  -d '{example}'");
        }
        (Some(_), None) => command.push_str(" \\\n  --data-binary @FILE"),
        (None, _) => {}
    }
    command
}

/// A value of the shape, to be filled in.
fn sample(document: &Value, schema: &Value, depth: u8) -> Value {
    if depth > 5 {
        return Value::Null;
    }
    if let Some(reference) = schema["$ref"].as_str() {
        let found = reference.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
        return found.map_or(Value::Null, |found| sample(document, found, depth + 1));
    }
    if let Some(one) = schema["oneOf"].as_array().and_then(|ways| ways.iter().find(|way| way["type"] != "null")) {
        return sample(document, one, depth + 1);
    }
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
    match kind {
        "object" => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            Value::Object(fields.map(|(name, field)| (name.clone(), sample(document, field, depth + 1))).collect())
        }
        "array" => json!([sample(document, &schema["items"], depth + 1)]),
        "integer" | "number" => json!(1),
        "boolean" => json!(true),
        "string" => json!("…"),
        _ => Value::Null,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_operation_and_needs_nothing_from_elsewhere() {
        let html = render(&super::super::build());
        assert_eq!(html.matches("<details>").count(), super::super::operations::all().len());
        assert!(html.contains("<code>POST /api/v1/orders</code>") && html.contains("&quot;items&quot;"), "{html}");
        for foreign in ["<script", "<style", "<link", "style=", "http://", "https://"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        assert_eq!(escape("<a href=\"&\">"), "&lt;a href=&quot;&amp;&quot;&gt;");
    }
}
