//! `GET /api/v1/products` and `GET /api/v1/products/{sku}`.

use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    response::Response,
};
use serde::Deserialize;

use super::{catalogue, error::Problem};
use crate::{
    cursor::{Cursor, Sort},
    state::Shared,
    store::products::{self, Listing},
};

const DEFAULT_LIMIT: u8 = 20;
const MAX_LIMIT: u8 = 100;

/// Unknown parameters are ignored.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ListQuery {
    cursor: Option<String>,
    limit: Option<u32>,
    category: Option<String>,
    brand: Option<String>,
    min_price: Option<i64>,
    max_price: Option<i64>,
    #[serde(default)]
    sort: Sort,
}

pub(crate) async fn list(
    State(state): State<Shared>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::bad_request("invalid_query", rejection.body_text()))?;
    let listing = listing(query)?;
    catalogue::read(&state, &cache_name(&listing), |pool| {
        let listing = &listing;
        async move { products::list(&pool, listing).await }
    })
    .await
}

pub(crate) async fn by_sku(State(state): State<Shared>, Path(sku): Path<String>) -> Result<Response, Problem> {
    let missing = || Problem::not_found("no product has this SKU");
    if sku.len() > 64 || sku.contains(char::is_control) {
        return Err(missing());
    }
    let name = format!("sku:{sku}");
    let found = catalogue::read_optional(&state, &name, |pool| {
        let sku = &sku;
        async move { products::by_sku(&pool, sku).await }
    });
    found.await?.ok_or_else(missing)
}

fn listing(query: ListQuery) -> Result<Listing, Problem> {
    let limit = match query.limit.map(u8::try_from) {
        None => DEFAULT_LIMIT,
        Some(Ok(limit @ 1..=MAX_LIMIT)) => limit,
        Some(_) => return Err(Problem::bad_request("invalid_query", format!("limit: expected 1 to {MAX_LIMIT}"))),
    };
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

/// The same for two queries exactly if their answers are. A newline cannot be part of a filter, so it separates.
fn cache_name(listing: &Listing) -> String {
    let Listing { sort, limit, after, category, brand, min_price, max_price } = listing;
    let number = |value: &Option<i64>| value.map_or_else(String::new, |value| value.to_string());
    let after = after.map_or_else(String::new, Cursor::encode);
    let (category, brand) = (category.as_deref().unwrap_or(""), brand.as_deref().unwrap_or(""));
    format!("list:{}:{limit}:{}:{}:{after}:{category}\n{brand}", sort.name(), number(min_price), number(max_price))
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

    #[test]
    fn cache_names_tell_listings_apart() {
        let base = Listing { limit: 20, ..Listing::default() };
        let others = [
            Listing { category: Some("x".to_owned()), ..base.clone() },
            Listing { brand: Some("x".to_owned()), ..base.clone() },
            Listing { min_price: Some(1), ..base.clone() },
            Listing { max_price: Some(1), ..base.clone() },
            Listing { limit: 21, ..base.clone() },
            Listing { sort: Sort::PriceAsc, ..base.clone() },
            Listing { after: Some(Cursor { sort: Sort::Id, price_cents: 0, id: 1 }), ..base.clone() },
            base,
        ];
        let names: std::collections::HashSet<String> = others.iter().map(cache_name).collect();
        assert_eq!(names.len(), others.len());
    }
}
