//! `GET /api/v1/products` and `GET /api/v1/products/{sku}`.

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;

use super::{
    catalogue,
    error::Problem,
    input::{Asked, Path},
    page,
};
use crate::{
    catalogue::Question,
    cursor::{Cursor, Sort},
    state::Shared,
    store::products::Listing,
};

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub(crate) struct ListQuery {
    cursor: Option<String>,
    limit: Option<u32>,
    category: Option<String>,
    brand: Option<String>,
    min_price: Option<i64>,
    max_price: Option<i64>,
    #[serde(default)]
    #[param(inline)]
    sort: Sort,
}

pub(crate) async fn list(
    State(state): State<Shared>,
    headers: HeaderMap,
    Asked(query): Asked<ListQuery>,
) -> Result<Response, Problem> {
    catalogue::answer(&state, &headers, Question::List(listing(query)?), "nothing to list").await
}

pub(crate) async fn by_sku(
    State(state): State<Shared>,
    Path(sku): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let missing = "no product has this SKU";
    if sku.len() > 64 || sku.contains(char::is_control) {
        return Err(Problem::not_found(missing));
    }
    catalogue::answer(&state, &headers, Question::Product { sku }, missing).await
}

pub(super) fn listing(query: ListQuery) -> Result<Listing, Problem> {
    let limit = page::limit(query.limit)?;
    for (name, price) in [("min_price", query.min_price), ("max_price", query.max_price)] {
        if price.is_some_and(i64::is_negative) {
            return Err(Problem::bad_request("invalid_query", format!("{name}: expected cents, 0 or more")));
        }
    }
    let after = given(query.cursor).map(|text| Cursor::decode(&text, query.sort)).transpose()?;
    Ok(Listing {
        sort: query.sort,
        limit,
        after,
        category: text("category", query.category)?,
        brand: text("brand", query.brand)?,
        min_price: query.min_price,
        max_price: query.max_price,
    })
}

/// A form with an empty field means no filter.
fn given(value: Option<String>) -> Option<String> {
    value.filter(|text| !text.is_empty())
}

fn text(name: &str, value: Option<String>) -> Result<Option<String>, Problem> {
    match given(value) {
        Some(text) if text.len() > 64 || text.contains(char::is_control) => {
            Err(Problem::bad_request("invalid_query", format!("{name}: expected up to 64 printable characters")))
        }
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_prices_are_checked() {
        assert_eq!(listing(ListQuery::default()).unwrap().limit, 20);
        for limit in [0, 101, 257, u32::MAX] {
            assert!(listing(ListQuery { limit: Some(limit), ..ListQuery::default() }).is_err(), "{limit}");
        }
        assert!(listing(ListQuery { min_price: Some(-1), ..ListQuery::default() }).is_err());
        assert!(listing(ListQuery { brand: Some("a\nb".to_owned()), ..ListQuery::default() }).is_err());
        assert!(listing(ListQuery { cursor: Some("?".to_owned()), ..ListQuery::default() }).is_err());
    }

    #[test]
    fn an_empty_filter_is_no_filter() {
        let query = ListQuery { cursor: Some(String::new()), brand: Some(String::new()), ..ListQuery::default() };
        assert_eq!(listing(query).unwrap(), listing(ListQuery::default()).unwrap());
    }
}
