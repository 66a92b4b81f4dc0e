//! What is searched for, and what is answered, whichever system answers.

use serde::{Deserialize, Serialize};

use super::Cursor;
use crate::store::products::Product;

/// Where one price range ends and the next begins, in cents.
pub(super) const PRICE_BOUNDS: [i64; 4] = [2_500, 5_000, 10_000, 20_000];
pub(super) const FACET_SIZE: u32 = 50;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sort {
    #[default]
    Relevance,
    PriceAsc,
    PriceDesc,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) q: Option<String>,
    /// Any of these or a category below one of them; none means all.
    pub(crate) categories: Vec<String>,
    /// Any of these; none means all.
    pub(crate) brands: Vec<String>,
    pub(crate) min_price: Option<i64>,
    pub(crate) max_price: Option<i64>,
    pub(crate) in_stock: bool,
    pub(crate) sort: Sort,
    pub(crate) limit: u8,
    pub(crate) after: Option<Cursor>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SearchAnswer)]
pub(crate) struct Answer {
    pub(crate) items: Vec<Product>,
    pub(crate) total: u64,
    pub(crate) facets: Facets,
    /// PostgreSQL answered: whole words and no tolerance for typing errors.
    pub(crate) degraded: bool,
    pub(crate) next_cursor: Option<String>,
}

/// Each counted without its own filter, so that choosing one value does not hide the others.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct Facets {
    pub(crate) brands: Vec<Count>,
    pub(crate) categories: Vec<Count>,
    pub(crate) prices: Vec<PriceCount>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = FacetCount)]
pub(crate) struct Count {
    #[serde(alias = "key")]
    pub(crate) value: String,
    #[serde(alias = "doc_count")]
    pub(crate) count: u64,
}

/// `from` belongs to the range, `to` does not.
#[derive(Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(crate) struct PriceCount {
    pub(crate) from: i64,
    pub(crate) to: Option<i64>,
    pub(crate) count: u64,
}

/// Every range, also those without a product.
pub(super) fn price_counts(count: impl Fn(usize) -> u64) -> Vec<PriceCount> {
    let from = std::iter::once(0).chain(PRICE_BOUNDS);
    let to = PRICE_BOUNDS.into_iter().map(Some).chain(std::iter::once(None));
    from.zip(to).enumerate().map(|(position, (from, to))| PriceCount { from, to, count: count(position) }).collect()
}

/// One more than asked for was looked for: it tells whether another page follows.
pub(super) fn cut<T>(found: &mut Vec<T>, limit: u8, cursor: impl FnOnce(&T) -> Cursor) -> Option<String> {
    let more = found.len() > usize::from(limit);
    found.truncate(usize::from(limit));
    found.last().filter(|_| more).map(|last| cursor(last).encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn price_ranges_meet_and_have_no_end() {
        let ranges = price_counts(|position| position as u64);
        assert_eq!(ranges[0], PriceCount { from: 0, to: Some(2_500), count: 0 });
        assert_eq!(ranges[4], PriceCount { from: 20_000, to: None, count: 4 });
        assert!(ranges.windows(2).all(|pair| pair[0].to == Some(pair[1].from)));
    }
}
