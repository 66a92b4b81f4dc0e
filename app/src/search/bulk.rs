//! One bulk request: what is in it, and what came of it.

use serde_json::{Value, json};

use super::{ALIAS, ALIAS_OF_BUILD, SearchError, documents::Document};

/// The highest version there is: nothing that was read before a product was deleted can bring it back.
const DELETED: i64 = i64::MAX;
/// An alias that is missing is an answer here, never an index made in passing with guessed types.
pub(super) const PATH: &str =
    "_bulk?require_alias=true&filter_path=items.*.status,items.*.error.type,items.*.error.reason";

/// Where documents go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Targets {
    /// The index that answers and the one that is being filled.
    All,
    Build,
}

impl Targets {
    fn aliases(self) -> &'static [&'static str] {
        match self {
            Self::All => &[ALIAS, ALIAS_OF_BUILD],
            Self::Build => &[ALIAS_OF_BUILD],
        }
    }
}

#[derive(Debug)]
pub(super) struct Bulk {
    targets: Targets,
    documents: usize,
    lines: String,
}

impl Bulk {
    pub(super) fn new(targets: Targets) -> Self {
        Self { targets, documents: 0, lines: String::new() }
    }

    pub(super) fn put(&mut self, document: &Document) {
        self.push(document.id, document.version, &json!(document).to_string());
    }

    /// Deleted products stay as hidden documents until the next re-index. A deletion would be forgotten after
    /// `index.gc_deletes`, and under an external version it makes an index where the alias is missing.
    pub(super) fn hide(&mut self, id: i64) {
        self.push(id, DELETED, &json!({ "id": id, "hidden": true }).to_string());
    }

    fn push(&mut self, id: i64, version: i64, source: &str) {
        self.documents += 1;
        for alias in self.targets.aliases() {
            let index =
                json!({ "_index": alias, "_id": id.to_string(), "version": version, "version_type": "external" });
            self.lines.push_str(&json!({ "index": index }).to_string());
            self.lines.push('\n');
            self.lines.push_str(source);
            self.lines.push('\n');
        }
    }

    pub(super) fn documents(&self) -> usize {
        self.documents
    }

    pub(super) fn into_lines(self) -> String {
        self.lines
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Every document is in every index that exists, in this version or a newer one.
    All,
    /// No index exists.
    NoIndex,
}

/// An answer that leaves out what was sent is no answer: what it does not name may not be written.
pub(super) fn judge(targets: Targets, documents: usize, reply: &Value) -> Result<Written, SearchError> {
    let items = reply["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (found, copies) = (items.len(), targets.aliases().len());
    if found != documents * copies {
        let expected = documents * copies;
        return Err(SearchError::Unavailable(format!("index documents: found {found} items, expected {expected}")));
    }
    for copies in items.chunks(copies) {
        let mut written = false;
        for item in copies {
            written |= is_written(&item["index"])?;
        }
        if !written {
            return Ok(Written::NoIndex);
        }
    }
    Ok(Written::All)
}

/// False where the alias does not exist.
fn is_written(item: &Value) -> Result<bool, SearchError> {
    let kind = item["error"]["type"].as_str().unwrap_or_default();
    match (item["status"].as_u64().unwrap_or_default(), kind) {
        (200..=299, _) | (409, "version_conflict_engine_exception") => Ok(true),
        (404, "index_not_found_exception") => Ok(false),
        (status, kind) => {
            let reason: String =
                format!("{kind}: {}", item["error"]["reason"].as_str().unwrap_or_default()).chars().take(300).collect();
            if matches!(status, 0 | 429 | 500..) {
                return Err(SearchError::Unavailable(format!("index a document: status {status}, {reason}")));
            }
            let status = u16::try_from(status).unwrap_or_default();
            Err(SearchError::Refused { what: "index a document".to_owned(), status, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(status: u16, kind: &str) -> Value {
        json!({ "index": { "status": status, "error": { "type": kind, "reason": "because" } } })
    }

    fn verdict(targets: Targets, items: &[Value]) -> Result<Written, SearchError> {
        judge(targets, items.len() / targets.aliases().len(), &json!({ "items": items }))
    }

    #[test]
    fn a_newer_document_and_a_missing_build_are_success() {
        let (done, newer) = (item(201, ""), item(409, "version_conflict_engine_exception"));
        let missing = item(404, "index_not_found_exception");
        assert_eq!(verdict(Targets::All, &[done.clone(), missing.clone()]).unwrap(), Written::All);
        assert_eq!(verdict(Targets::All, &[missing.clone(), newer.clone()]).unwrap(), Written::All);
        assert_eq!(verdict(Targets::All, &[newer, done.clone()]).unwrap(), Written::All);
        assert_eq!(
            verdict(Targets::All, &[missing.clone(), done.clone(), missing.clone(), missing.clone()]).unwrap(),
            Written::NoIndex
        );
        assert_eq!(verdict(Targets::Build, &[done, missing]).unwrap(), Written::NoIndex);
    }

    #[test]
    fn one_document_that_is_not_written_fails_the_batch() {
        let done = item(200, "");
        let busy = verdict(Targets::All, &[done.clone(), item(429, "es_rejected_execution_exception")]).unwrap_err();
        assert!(busy.is_unavailable(), "{busy}");
        let strange = verdict(Targets::All, &[item(400, "strict_dynamic_mapping_exception"), done]).unwrap_err();
        assert!(!strange.is_unavailable() && strange.to_string().contains("strict_dynamic"), "{strange}");
    }

    #[test]
    fn an_answer_that_leaves_something_out_is_none() {
        let done = item(201, "");
        let two = json!({ "items": [done.clone(), done] });
        assert_eq!(judge(Targets::Build, 2, &two).unwrap(), Written::All);
        for (targets, documents, reply) in [
            (Targets::Build, 3, &two),
            (Targets::Build, 1, &two),
            (Targets::All, 2, &two),
            (Targets::All, 1, &json!({})),
        ] {
            let error = judge(targets, documents, reply).unwrap_err();
            assert!(error.is_unavailable() && error.to_string().contains("items, expected"), "{error}");
        }
    }

    #[test]
    fn a_deleted_product_leaves_nothing_but_its_number() {
        let mut bulk = Bulk::new(Targets::Build);
        bulk.hide(7);
        let lines = bulk.into_lines();
        let (action, source) = lines.split_once('\n').unwrap();
        assert!(action.contains("9223372036854775807") && action.contains("external"), "{action}");
        assert_eq!(source.trim_end(), r#"{"hidden":true,"id":7}"#);
    }
}
