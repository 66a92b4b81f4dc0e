//! One search as Elasticsearch takes and answers it.

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    ALIAS, SearchError,
    cursor::{Cursor, Engine, Key},
    request::{self, Answer, Count, FACET_SIZE, Facets, Request, Sort},
};
use crate::store::products::Product;

/// Each word may become up to `max_expansions` others, and a query may have about a thousand in all.
pub(super) const FUZZY_WORDS: usize = 12;

/// Copies of a shard score a little differently, so all pages of one query ask the same copy.
pub(super) fn path(request: &Request) -> String {
    let path = format!("{ALIAS}/_search?allow_partial_search_results=false");
    match (&request.q, request.sort) {
        (Some(q), Sort::Relevance) => {
            let digest = Sha256::digest(q.as_bytes());
            let copy: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("{path}&preference={copy}")
        }
        _ => path,
    }
}

pub(super) fn body(request: &Request) -> Value {
    let filters = Filters::new(request);
    let mut always = vec![json!({ "term": { "hidden": false } })];
    if request.in_stock {
        always.push(json!({ "term": { "in_stock": true } }));
    }
    let query = match &request.q {
        Some(q) => json!({ "bool": { "must": text(q), "filter": always } }),
        None => json!({ "bool": { "filter": always } }),
    };
    let terms = |field: &str| json!({ "values": { "terms": { "field": field, "size": FACET_SIZE } } });
    let mut body = json!({
        "size": u32::from(request.limit) + 1,
        "track_total_hits": true,
        "_source": ["sku", "name", "description", "brand", "category", "price_cents", "currency", "in_stock"],
        "query": query,
        // After the facets were counted.
        "post_filter": all_of([&filters.brand, &filters.category, &filters.price]),
        "aggs": {
            "brands": { "filter": all_of([&filters.category, &filters.price]), "aggs": terms("brand") },
            "categories": { "filter": all_of([&filters.brand, &filters.price]), "aggs": terms("categories") },
            "prices": { "filter": all_of([&filters.brand, &filters.category]), "aggs": price_ranges() },
        },
        "sort": match request.sort {
            Sort::Relevance => json!([{ "_score": "desc" }, { "id": "asc" }]),
            Sort::PriceAsc => json!([{ "price_cents": "asc" }, { "id": "asc" }]),
            Sort::PriceDesc => json!([{ "price_cents": "desc" }, { "id": "desc" }]),
        },
    });
    if let Some(after) = request.after {
        body["search_after"] = match after.key {
            Key::Score(_, score) => json!([score, after.id]),
            Key::PriceAsc(cents) | Key::PriceDesc(cents) => json!([cents, after.id]),
        };
    }
    body
}

/// Every word must be found: exactly, as the beginning of a word while somebody is typing, or with a typing error in
/// name or brand. The exact ones come first.
fn text(q: &str) -> Value {
    let mut ways = vec![
        json!({ "multi_match": { "query": q, "type": "cross_fields", "operator": "and",
            "fields": ["name^4", "words^2", "description"], "boost": 4 } }),
        json!({ "match_bool_prefix": { "name": { "query": q, "operator": "and", "boost": 2 } } }),
        json!({ "term": { "sku": { "value": q, "case_insensitive": true, "boost": 50 } } }),
    ];
    if q.split_whitespace().count() <= FUZZY_WORDS {
        ways.push(json!({ "match": { "words": { "query": q, "operator": "and", "fuzziness": "AUTO",
            "prefix_length": 1, "max_expansions": 30, "boost": 0.2 } } }));
    }
    json!({ "bool": { "should": ways, "minimum_should_match": 1 } })
}

struct Filters {
    brand: Option<Value>,
    category: Option<Value>,
    price: Option<Value>,
}

impl Filters {
    fn new(request: &Request) -> Self {
        let any_of =
            |field: &str, values: &[String]| (!values.is_empty()).then(|| json!({ "terms": { field: values } }));
        let price = (request.min_price.is_some() || request.max_price.is_some())
            .then(|| json!({ "range": { "price_cents": { "gte": request.min_price, "lte": request.max_price } } }));
        Self { brand: any_of("brand", &request.brands), category: any_of("categories", &request.categories), price }
    }
}

fn all_of<const N: usize>(filters: [&Option<Value>; N]) -> Value {
    json!({ "bool": { "filter": filters.into_iter().flatten().collect::<Vec<_>>() } })
}

fn price_ranges() -> Value {
    let ranges: Vec<Value> = request::price_counts(|_| 0)
        .into_iter()
        .map(|range| match range.to {
            Some(to) => json!({ "from": range.from, "to": to }),
            None => json!({ "from": range.from }),
        })
        .collect();
    json!({ "values": { "range": { "field": "price_cents", "ranges": ranges } } })
}

#[derive(Deserialize)]
struct Reply {
    hits: Hits,
    aggregations: Aggregations,
}

#[derive(Deserialize)]
struct Hits {
    total: Total,
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Total {
    value: u64,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_source")]
    product: Product,
    /// The keys that the hits are in order of: score or price, then the product's id.
    sort: Vec<Value>,
}

#[derive(Deserialize)]
struct Aggregations {
    brands: Filtered<Count>,
    categories: Filtered<Count>,
    prices: Filtered<PriceRange>,
}

#[derive(Deserialize)]
struct Filtered<T> {
    values: Buckets<T>,
}

#[derive(Deserialize)]
struct Buckets<T> {
    buckets: Vec<T>,
}

#[derive(Deserialize)]
struct PriceRange {
    doc_count: u64,
}

pub(super) fn answer(request: &Request, reply: Value) -> Result<Answer, SearchError> {
    let reply: Reply = serde_json::from_value(reply).map_err(|error| SearchError::Refused {
        what: "read a search's answer".to_owned(),
        status: 200,
        reason: error.to_string(),
    })?;
    let mut hits = reply.hits.hits;
    let next_cursor = request::cut(&mut hits, request.limit, |last| Cursor {
        key: Key::new(request.sort, Engine::Elasticsearch, score(last), last.product.price_cents),
        id: last.sort.last().and_then(Value::as_i64).unwrap_or_default(),
    });
    let Aggregations { brands, categories, prices } = reply.aggregations;
    let prices = prices.values.buckets;
    Ok(Answer {
        items: hits.into_iter().map(|hit| hit.product).collect(),
        total: reply.hits.total.value,
        facets: Facets {
            brands: brands.values.buckets,
            categories: categories.values.buckets,
            prices: request::price_counts(|position| prices.get(position).map_or(0, |range| range.doc_count)),
        },
        degraded: false,
        next_cursor,
    })
}

/// Elasticsearch computes in 32 bits and writes the shortest text of that; read as 64 bits it is the same number.
fn score(hit: &Hit) -> f32 {
    hit.sort.first().and_then(Value::as_f64).unwrap_or_default() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(value: &Value) -> String {
        value["bool"]["filter"].to_string()
    }

    #[test]
    fn a_facet_is_counted_without_its_own_filter_and_hits_with_all() {
        let request = Request {
            brands: vec!["Hollin".to_owned()],
            categories: vec!["knitwear".to_owned()],
            max_price: Some(5_000),
            limit: 20,
            ..Request::default()
        };
        let body = body(&request);
        for (facet, own) in [("brands", "Hollin"), ("categories", "knitwear"), ("prices", "5000")] {
            let filter = filtered(&body["aggs"][facet]["filter"]);
            for value in ["Hollin", "knitwear", "5000"] {
                assert_eq!(filter.contains(value), value != own, "{facet}: {filter}");
            }
        }
        let hits = filtered(&body["post_filter"]);
        assert!(["Hollin", "knitwear", "5000"].iter().all(|value| hits.contains(value)), "{hits}");
        assert!(filtered(&body["query"]).contains(r#"{"hidden":false}"#), "hidden products are never found");
        assert_eq!(body["size"], 21);
        assert_eq!(
            request::PRICE_BOUNDS.len() + 1,
            body["aggs"]["prices"]["aggs"]["values"]["range"]["ranges"].as_array().unwrap().len()
        );
    }

    #[test]
    fn long_texts_are_not_made_fuzzy() {
        assert!(text("red wool beanie").to_string().contains("fuzziness"));
        assert!(!text(&"a ".repeat(100)).to_string().contains("fuzziness"));
    }

    #[test]
    fn pages_of_one_query_ask_one_copy() {
        let query = |q: &str| Request { q: Some(q.to_owned()), ..Request::default() };
        assert_eq!(path(&query("a&b")), path(&query("a&b")));
        assert_ne!(path(&query("a")), path(&query("b")));
        assert!(!path(&query("a b&c=d")).contains(' '));
        assert!(!path(&Request::default()).contains("preference"));
    }
}
