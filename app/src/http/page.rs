//! A page of a list and where it goes on.

use std::{fmt::Display, str::FromStr};

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    cursor::CursorError,
    http::{accounts::NO_STORE, error::Problem},
};

const DEFAULT_LIMIT: u8 = 20;
const MAX_LIMIT: u8 = 100;

/// A cursor names its list: that of another one is refused.
#[derive(Debug)]
pub(super) struct Page<K> {
    list: &'static str,
    limit: usize,
    pub(super) last: Option<K>,
}

impl<K: Display + FromStr> Page<K> {
    pub(super) fn of(list: &'static str, cursor: Option<&str>, limit: Option<u32>) -> Result<Self, Problem> {
        let last = cursor.filter(|text| !text.is_empty()).map(|text| decode(list, text)).transpose()?;
        Ok(Self { list, limit: usize::from(self::limit(limit)?), last })
    }

    /// One more than a page shows tells whether another one follows.
    pub(super) fn rows(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX - 1) + 1
    }

    pub(super) fn answer<T: Serialize>(self, rows: Vec<T>, key: impl Fn(&T) -> K) -> Response {
        self.answer_with(Map::new(), rows, key)
    }

    pub(super) fn answer_with<T: Serialize>(
        self,
        mut body: Map<String, Value>,
        mut rows: Vec<T>,
        key: impl Fn(&T) -> K,
    ) -> Response {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next = rows.last().filter(|_| more).map(|last| encode(self.list, &key(last)));
        body.insert("items".to_owned(), json!(rows));
        body.insert("next_cursor".to_owned(), json!(next));
        ([NO_STORE], Json(Value::Object(body))).into_response()
    }
}

pub(super) fn limit(asked: Option<u32>) -> Result<u8, Problem> {
    match asked.map(u8::try_from) {
        None => Ok(DEFAULT_LIMIT),
        Some(Ok(limit @ 1..=MAX_LIMIT)) => Ok(limit),
        Some(_) => Err(Problem::bad_request("invalid_query", format!("limit: expected 1 to {MAX_LIMIT}"))),
    }
}

pub(in crate::http) fn encode(list: &str, key: &impl Display) -> String {
    URL_SAFE_NO_PAD.encode(format!("{list}:{key}"))
}

pub(in crate::http) fn decode<K: FromStr>(list: &str, text: &str) -> Result<K, CursorError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Garbage)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| CursorError::Garbage)?;
    let key = text.strip_prefix(list).and_then(|rest| rest.strip_prefix(':'));
    key.and_then(|key| key.parse().ok()).ok_or(CursorError::Garbage)
}

/// What a text in a query may be: it goes to the database as it is.
pub(in crate::http) fn text(name: &str, value: Option<String>) -> Result<Option<String>, Problem> {
    match value.filter(|text| !text.is_empty()) {
        Some(text) if text.len() > 254 || text.contains(char::is_control) => {
            Err(Problem::bad_request("invalid_query", format!("{name}: expected up to 254 printable characters")))
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_cursor_leads_back_to_its_key_in_its_own_list(key in any::<i64>(), text in "\\PC*") {
            let cursor = encode("audit", &key);
            prop_assert_eq!(decode::<i64>("audit", &cursor), Ok(key));
            prop_assert!(decode::<i64>("orders", &cursor).is_err());
            prop_assert!(decode::<i64>("audit", &text).is_err() || text.len() > 7);
        }
    }

    #[test]
    fn limits_are_bounded() {
        for bad in [0, 101, 257, u32::MAX] {
            assert!(Page::<i64>::of("x", None, Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(Page::<i64>::of("x", Some(""), None).unwrap().rows(), 21);
        assert!(text("email", Some("a\0b".to_owned())).is_err());
    }
}
