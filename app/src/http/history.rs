//! `GET /api/v1/orders`: one's own orders, newest first.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::json;

use super::{doors::Reader, error::Problem, recent};
use crate::{
    cursor::CursorError,
    state::Shared,
    store::{StoreError, history::History, pools::Source},
};

const DEFAULT_LIMIT: u8 = 20;
const MAX_LIMIT: u8 = 100;

/// Unknown parameters are ignored.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(crate) struct ListQuery {
    cursor: Option<String>,
    limit: Option<u32>,
}

pub(crate) async fn list(
    State(state): State<Shared>,
    Reader(caller): Reader,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::bad_request("invalid_query", rejection.body_text()))?;
    let limit = match query.limit.map(u8::try_from) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit @ 1..=MAX_LIMIT)) => limit,
        Some(_) => return Err(Problem::bad_request("invalid_query", format!("limit: expected 1 to {MAX_LIMIT}"))),
    };
    let below = query.cursor.filter(|text| !text.is_empty()).map(|text| decode(&text)).transpose()?;
    let wanted = recent::wanted(&headers)?;
    let history = History { user: caller.user.id, below: below.unwrap_or(i64::MAX), limit: i64::from(limit) + 1 };
    let found = state.databases.read_since(Some(wanted), &history).await?;
    // Catalogue reads take an older answer over none. Here an order would be missing that its owner has just placed.
    if found.source == Source::Replica && found.position < wanted {
        return Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut).into());
    }
    let mut items = found.value;
    let more = items.len() > usize::from(limit);
    items.truncate(usize::from(limit));
    let next_cursor = items.last().filter(|_| more).map(|last| encode(last.number));
    let headers = [(header::CACHE_CONTROL.as_str(), "no-store"), ("x-source", found.source.name())];
    Ok((headers, Json(json!({ "items": items, "next_cursor": next_cursor }))).into_response())
}

pub(super) fn encode(number: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("orders:{number}"))
}

pub(super) fn decode(text: &str) -> Result<i64, CursorError> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Garbage)?;
    let number = bytes.strip_prefix(b"orders:").and_then(|digits| std::str::from_utf8(digits).ok());
    number.and_then(|digits| digits.parse().ok()).ok_or(CursorError::Garbage)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_cursor_leads_back_to_its_number(number in any::<i64>()) {
            prop_assert_eq!(decode(&encode(number)), Ok(number));
        }

        #[test]
        fn no_text_is_read_as_a_cursor_that_means_something_else(text in "\\PC*") {
            if let Ok(number) = decode(&text) {
                prop_assert_eq!(decode(&encode(number)), Ok(number));
            }
        }
    }

    #[test]
    fn a_cursor_of_the_catalogue_is_refused() {
        assert_eq!(decode(&URL_SAFE_NO_PAD.encode("id:1:2")), Err(CursorError::Garbage));
        assert_eq!(decode(""), Err(CursorError::Garbage));
    }
}
