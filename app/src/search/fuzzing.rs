//! Parsers of what Elasticsearch answers, and of the cursors that it walks by.

use serde_json::Value;

use super::{
    Cursor, body,
    bulk::{self, Targets, Written},
    request::{Request, Sort},
    suggest,
};

pub(crate) fn cursors(text: &str) {
    for sort in [Sort::Relevance, Sort::PriceAsc, Sort::PriceDesc] {
        if let Ok(cursor) = Cursor::decode(text, sort) {
            assert_eq!(Cursor::decode(&cursor.encode(), sort), Ok(cursor));
        }
    }
}

pub(crate) fn answers(bytes: &[u8]) {
    let Ok(reply) = serde_json::from_slice::<Value>(bytes) else { return };
    let request = Request { limit: 2, ..Request::default() };
    if let Ok(answer) = body::answer(&request, reply.clone()) {
        assert!(answer.items.len() <= 2);
    }
    let _ = suggest::answer(reply.clone());
    for targets in [Targets::All, Targets::Build] {
        let named = reply["items"].as_array().map_or(0, Vec::len);
        let all = matches!(bulk::judge(targets, 1, &reply), Ok(Written::All));
        assert!(!all || named > 0, "an answer that says nothing is no success");
    }
}
