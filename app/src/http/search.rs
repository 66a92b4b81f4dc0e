//! `GET /api/v1/search`.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::de::{DeserializeOwned, value};

use super::{error::Problem, input::Asked, page};
use crate::{
    search::{
        Cursor,
        request::{Request, Sort},
    },
    state::Shared,
};

const MAX_TEXT: usize = 200;
const MAX_VALUES: usize = 20;

/// Pairs, because a filter may be given several times: any of its values will do.
pub(crate) async fn search(
    State(state): State<Shared>,
    Asked(pairs): Asked<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let found = state.search.find(&state.databases, &request(pairs)?).await?;
    Ok(([("cache-control", "no-cache"), ("x-source", found.source)], Json(found.answer)).into_response())
}

/// Unknown parameters are ignored; a form with an empty field means no filter.
pub(super) fn request(pairs: Vec<(String, String)>) -> Result<Request, Problem> {
    let mut request = Request { limit: page::limit(None)?, ..Request::default() };
    let mut cursor = None;
    for (name, value) in pairs.into_iter().filter(|(_, value)| !value.trim().is_empty()) {
        match name.as_str() {
            "q" => request.q = Some(text("q", value, MAX_TEXT)?.trim().to_owned()),
            "category" => push("category", &mut request.categories, value)?,
            "brand" => push("brand", &mut request.brands, value)?,
            "min_price" => request.min_price = Some(cents("min_price", &value)?),
            "max_price" => request.max_price = Some(cents("max_price", &value)?),
            "in_stock" => {
                request.in_stock = value.parse().map_err(|_| invalid("in_stock", "true or false"))?;
            }
            "sort" => {
                request.sort = word(&value).ok_or_else(|| invalid("sort", "relevance, price_asc or price_desc"))?
            }
            "limit" => {
                // What is no number is none of those that are allowed.
                request.limit = page::limit(Some(value.parse().unwrap_or_default()))?;
            }
            "cursor" => cursor = Some(value),
            _ => {}
        }
    }
    // Which cursor fits is known only when the sort is.
    request.after = cursor.map(|text| Cursor::decode(&text, request.sort)).transpose()?;
    Ok(request)
}

fn word(value: &str) -> Option<Sort> {
    deserialize(value).ok()
}

fn deserialize<T: DeserializeOwned>(value: &str) -> Result<T, value::Error> {
    T::deserialize(value::StrDeserializer::new(value))
}

fn push(name: &str, values: &mut Vec<String>, value: String) -> Result<(), Problem> {
    if values.len() == MAX_VALUES {
        return Err(invalid(name, &format!("up to {MAX_VALUES} values")));
    }
    values.push(text(name, value, 64)?);
    Ok(())
}

fn text(name: &str, value: String, length: usize) -> Result<String, Problem> {
    if value.chars().count() > length || value.contains(char::is_control) {
        return Err(invalid(name, &format!("up to {length} printable characters")));
    }
    Ok(value)
}

fn cents(name: &str, value: &str) -> Result<i64, Problem> {
    value.parse().ok().filter(|cents| *cents >= 0).ok_or_else(|| invalid(name, "cents, 0 or more"))
}

fn invalid(name: &str, expected: &str) -> Problem {
    Problem::bad_request("invalid_query", format!("{name}: expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &[(&str, &str)]) -> Result<Request, Problem> {
        request(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn filters_may_be_given_several_times_and_empty_ones_are_none() {
        let request =
            parse(&[("q", " wool "), ("brand", "A"), ("brand", "B"), ("category", ""), ("utm", "x")]).unwrap();
        assert_eq!(request.q.as_deref(), Some("wool"));
        assert_eq!(
            (request.brands.as_slice(), request.categories.len()),
            (["A".to_owned(), "B".to_owned()].as_slice(), 0)
        );
        assert_eq!((request.limit, request.sort, request.in_stock), (20, Sort::Relevance, false));
        let request =
            parse(&[("sort", "price_desc"), ("in_stock", "true"), ("limit", "100"), ("min_price", "0")]).unwrap();
        assert_eq!((request.limit, request.sort, request.in_stock), (100, Sort::PriceDesc, true));
    }

    #[test]
    fn everything_is_bounded() {
        let long = "x".repeat(201);
        for (name, value) in [
            ("q", long.as_str()),
            ("q", "a\nb"),
            ("brand", &long[..65]),
            ("limit", "0"),
            ("limit", "101"),
            ("limit", "many"),
            ("min_price", "-1"),
            ("max_price", "99999999999999999999"),
            ("in_stock", "maybe"),
            ("sort", "id"),
            ("cursor", "garbage"),
        ] {
            assert!(parse(&[(name, value)]).is_err(), "{name}={value}");
        }
        assert!(parse(&vec![("brand", "x"); 20]).is_ok());
        assert!(parse(&vec![("brand", "x"); 21]).is_err());
        assert!(parse(&[("q", &"ü".repeat(200))]).is_ok());
    }
}
