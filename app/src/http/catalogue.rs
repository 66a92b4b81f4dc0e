//! `GET /api/v1/categories` and `/api/v1/brands`, and how every answer of the catalogue is given.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};

use super::error::Problem;
use crate::{
    catalogue::{self, Entry, Question},
    state::Shared,
    store::pools::Source,
};

/// NGINX keeps an answer that long, and gives it out once more while it fetches a new one.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=5, stale-while-revalidate=5");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(crate) async fn categories(State(state): State<Shared>, headers: HeaderMap) -> Result<Response, Problem> {
    answer(&state, &headers, Question::Categories, "no categories").await
}

pub(crate) async fn brands(State(state): State<Shared>, headers: HeaderMap) -> Result<Response, Problem> {
    answer(&state, &headers, Question::Brands, "no brands").await
}

pub(super) async fn answer(
    state: &Shared,
    headers: &HeaderMap,
    question: Question,
    missing: &str,
) -> Result<Response, Problem> {
    match catalogue::read(state, question).await {
        Ok(Some((entry, source))) => Ok(respond(headers, &entry, source)),
        Ok(None) => Err(Problem::not_found(missing)),
        Err(error) => Err(Problem::from(&*error)),
    }
}

fn respond(asked: &HeaderMap, entry: &Entry, source: Source) -> Response {
    let etag = entry.etag();
    let is_known = asked.get_all(header::IF_NONE_MATCH).iter().any(|tags| matches(tags.as_bytes(), &etag));
    let mut response = if is_known { Response::new(Body::empty()) } else { Response::new(Body::from(entry.body())) };
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::CACHE_CONTROL, CACHE_CONTROL);
    headers.insert("x-source", HeaderValue::from_static(source.name()));
    if let Ok(etag) = HeaderValue::from_maybe_shared(etag) {
        headers.insert(header::ETAG, etag);
    }
    response
}

/// A compressing proxy makes the tag a weak one; it names the same answer. Our tags hold no comma.
pub(super) fn matches(tags: &[u8], etag: &[u8]) -> bool {
    tags.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|tag| {
        let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
        tag == etag || tag == b"*"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_known_alone_in_a_list_and_weakened() {
        for tags in ["\"a\"", "W/\"a\"", "\"b\", \"a\"", "\"b\",W/\"a\" ", "*"] {
            assert!(matches(tags.as_bytes(), b"\"a\""), "{tags}");
        }
        for tags in ["", "a", "\"b\"", "\"aa\"", "w/\"a\"", "W/", ","] {
            assert!(!matches(tags.as_bytes(), b"\"a\""), "{tags}");
        }
    }
}
