//! Parsers of what clients send.

use axum::{
    extract::Query,
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::{
    accounts::{Login, PasswordChange, Profile, Registration},
    admin::{
        analytics::{LowStockQuery, SalesQuery, TopQuery},
        dead_letters::Choice,
        orders::{NewStatus, OrderQuery},
        products::{self as admin_products, ProductQuery, Whole},
        records::AuditQuery,
        stock::NewMovement,
        users::{UserPatch, UserQuery},
    },
    caller, cart, catalogue, observe, orders, page,
    products::{self, ListQuery},
    recent, search, suggest,
    tokens::TokenRequest,
};
use crate::{
    accounts::secret::Secret,
    basket::{Basket, OrderRequest},
    store::{admin::products::Fields, position::Position},
};

fn one(name: HeaderName, value: &[u8]) -> Option<HeaderMap> {
    Some(HeaderMap::from_iter([(name, HeaderValue::from_bytes(value).ok()?)]))
}

pub(crate) fn cursors(text: &str) {
    if let Ok(id) = page::decode::<i64>("audit", text) {
        assert_eq!(page::decode("audit", &page::encode("audit", &id)), Ok(id));
    }
    if let Ok(id) = page::decode::<Uuid>("users", text) {
        assert_eq!(page::decode("users", &page::encode("users", &id)), Ok(id));
    }
}

pub(crate) fn cookies(value: &[u8]) {
    let Some(headers) = one(header::COOKIE, value) else { return };
    if let Some(found) = caller::cookie(&headers, caller::SESSION_COOKIE) {
        assert!(!found.is_empty() && !found.contains(';'), "{found:?}");
        if let Some(secret) = Secret::given(found) {
            assert_eq!(secret.expose(), found);
        }
    }
    assert!(recent::wanted(&headers).is_ok(), "a cookie is not worth an error");
}

pub(crate) fn authorization(value: &[u8]) {
    let Ok(header) = HeaderValue::from_bytes(value) else { return };
    if let Some(secret) = caller::bearer(&header) {
        let sent = header.to_str().unwrap_or_default();
        assert!(sent.ends_with(secret.expose()) || sent.trim_end().ends_with(secret.expose()));
        assert!(sent.to_ascii_lowercase().starts_with("bearer "));
    }
}

/// `If-None-Match` and `If-Match`.
pub(crate) fn conditions(value: &[u8]) {
    let is_known = catalogue::matches(value, b"\"0123456789abcdef\"");
    let can_be_known = value.contains(&b'*') || value.windows(18).any(|part| part == b"\"0123456789abcdef\"");
    assert!(!is_known || can_be_known);
    let Some(headers) = one(header::IF_MATCH, value) else { return };
    if let Ok(Some(version)) = admin_products::expected(&headers) {
        assert_eq!(value.trim_ascii(), format!("\"{version}\"").as_bytes());
    }
}

pub(crate) fn idempotency_key(value: &[u8]) {
    let Some(headers) = one(HeaderName::from_static("idempotency-key"), value) else { return };
    if let Ok(key) = orders::idempotency_key(&headers) {
        assert!((1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Some(headers) = one(HeaderName::from_static("x-request-id"), value) {
        let id = observe::request_id(&headers);
        assert!((1..=128).contains(&id.len()) && !id.contains(|c: char| c.is_control() || c == '"' || c == ' '));
    }
    if let Some(headers) = one(HeaderName::from_static("x-real-ip"), value) {
        assert!(caller::address(&headers).len() <= 64);
    }
}

pub(crate) fn read_after(value: &[u8]) {
    if let Some(position) = Position::read(value) {
        assert_eq!(position.to_string().as_bytes(), value);
    }
    if let Some(headers) = one(HeaderName::from_static("x-read-after"), value) {
        assert_eq!(recent::wanted(&headers).is_ok(), Position::read(headers["x-read-after"].as_bytes()).is_some());
    }
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Option<T> {
    Query::try_from_uri(uri).ok().map(|Query(query)| query)
}

pub(crate) fn queries(text: &str) {
    let Ok(uri) = format!("/x?{text}").parse::<Uri>() else { return };
    if let Some(Ok(listing)) = query::<ListQuery>(&uri).map(products::listing) {
        assert!((1..=100).contains(&listing.limit));
        assert!(listing.min_price.is_none_or(|cents| cents >= 0) && listing.max_price.is_none_or(|cents| cents >= 0));
        for text in [listing.category, listing.brand].into_iter().flatten() {
            assert!((1..=64).contains(&text.len()) && !text.contains(char::is_control));
        }
    }
    if let Some(Ok(request)) = query::<Vec<(String, String)>>(&uri).map(search::request) {
        assert!((1..=100).contains(&request.limit) && request.brands.len() <= 20 && request.categories.len() <= 20);
        assert!(request.q.is_none_or(|q| q.chars().count() <= 200 && !q.contains(char::is_control)));
    }
    query::<ProductQuery>(&uri);
    query::<OrderQuery>(&uri);
    query::<UserQuery>(&uri);
    query::<AuditQuery>(&uri);
    query::<SalesQuery>(&uri);
    query::<TopQuery>(&uri);
    query::<LowStockQuery>(&uri);
    if let Ok(Some(text)) = page::text("x", Some(text.to_owned())) {
        assert!((1..=254).contains(&text.len()) && !text.contains(char::is_control));
    }
    // Whether it is taken or not, it is not taken apart in the middle of a character.
    let _ = suggest::typed(text);
}

pub(crate) fn bodies(bytes: &[u8]) {
    fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
        serde_json::from_slice(bytes).ok()
    }
    for account in [None, Some("ada@example.org")] {
        let Some(request) = read::<OrderRequest>(bytes) else { break };
        match Basket::new(request, account) {
            Ok(basket) => assert_eq!(basket.fingerprint().len(), 64),
            Err(faults) => assert!(!faults.is_empty()),
        }
    }
    if let Some(fields) = read::<Fields>(bytes) {
        // Faults name each field once.
        assert!(admin_products::faults(&fields).len() <= 7);
    }
    if let Some(whole) = read::<Whole>(bytes) {
        assert!(admin_products::faults(&whole.into()).len() <= 7);
    }
    if let Some(choice) = read::<Choice>(bytes) {
        let _ = choice.wanted();
    }
    read::<NewMovement>(bytes);
    read::<NewStatus>(bytes);
    read::<UserPatch>(bytes);
    read::<TokenRequest>(bytes);
    read::<Registration>(bytes);
    read::<Login>(bytes);
    read::<PasswordChange>(bytes);
    read::<Profile>(bytes);
    read::<cart::Contents>(bytes);
    read::<cart::Quantity>(bytes);
}
