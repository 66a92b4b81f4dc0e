//! What somebody may mean who is still typing: products, and the brands and categories whose names begin so.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::FromRow;

use super::{ALIAS, SearchError, body::FUZZY_WORDS};

pub(super) const PRODUCTS: i64 = 8;
const NAMES: usize = 5;

#[derive(Debug, PartialEq, Eq, FromRow, Deserialize, Serialize, utoipa::ToSchema)]
pub(crate) struct Suggested {
    sku: String,
    name: String,
}

/// Names as the catalogue lists them: one or all of their words begin with what was typed.
pub(crate) fn beginning_with<T>(names: Vec<T>, typed: &str, name: impl Fn(&T) -> &str) -> Vec<T> {
    let typed = typed.to_lowercase();
    let begins = |item: &T| {
        let name = name(item).to_lowercase();
        // Every beginning of a word, up to the end of the name: "ash" and "alder & a" both begin "Alder & Ash" somewhere.
        let mut starts = name.char_indices().filter(|(at, letter)| {
            letter.is_alphanumeric() && !name[..*at].chars().next_back().is_some_and(char::is_alphanumeric)
        });
        starts.any(|(at, _)| name[at..].starts_with(&typed))
    };
    names.into_iter().filter(begins).take(NAMES).collect()
}

pub(super) fn path() -> String {
    format!("{ALIAS}/_search?allow_partial_search_results=false&filter_path=hits.hits._source")
}

/// The last word may be unfinished, all of them may have a typing error; what is exact comes first.
pub(super) fn body(typed: &str) -> Value {
    let mut ways = vec![
        json!({ "match_bool_prefix": { "name": { "query": typed, "operator": "and", "boost": 4 } } }),
        json!({ "prefix": { "sku": { "value": typed, "case_insensitive": true, "boost": 50 } } }),
    ];
    let mut unfinished = json!({ "query": typed, "operator": "and" });
    if typed.split_whitespace().count() <= FUZZY_WORDS {
        let mut misspelt = json!({ "query": typed, "operator": "and", "boost": 0.2 });
        for way in [&mut unfinished, &mut misspelt] {
            way["fuzziness"] = "AUTO".into();
            way["prefix_length"] = 1.into();
            way["max_expansions"] = 30.into();
        }
        ways.push(json!({ "match": { "words": misspelt } }));
    }
    ways.push(json!({ "match_bool_prefix": { "words": unfinished } }));
    json!({
        "size": PRODUCTS,
        "track_total_hits": false,
        "_source": ["sku", "name"],
        "query": { "bool": {
            "filter": { "term": { "hidden": false } },
            "should": ways,
            "minimum_should_match": 1,
        } },
        "sort": [{ "_score": "desc" }, { "id": "asc" }],
    })
}

pub(super) fn answer(mut reply: Value) -> Result<Vec<Suggested>, SearchError> {
    // Nothing found leaves nothing of the answer.
    let hits = reply.pointer_mut("/hits/hits").map(Value::take).unwrap_or_else(|| json!([]));
    #[derive(Deserialize)]
    struct Hit {
        #[serde(rename = "_source")]
        product: Suggested,
    }
    let hits: Vec<Hit> = serde_json::from_value(hits).map_err(|error| SearchError::Refused {
        what: "read suggestions".to_owned(),
        status: 200,
        reason: error.to_string(),
    })?;
    Ok(hits.into_iter().map(|hit| hit.product).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_suggested_by_the_beginning_of_any_of_its_words() {
        let names = || vec!["Alder & Ash", "Juniper Row", "Isbjorn", "Ärmel", "Rowan"];
        let suggested = |typed: &str| beginning_with(names(), typed, |name| name);
        assert_eq!(suggested("row"), ["Juniper Row", "Rowan"]);
        assert_eq!(suggested("alder & a"), ["Alder & Ash"]);
        assert_eq!(suggested("ASH"), ["Alder & Ash"]);
        assert_eq!(suggested("är"), ["Ärmel"]);
        for typed in ["jorn", "&", "zzz", "juniper rows"] {
            assert!(suggested(typed).is_empty(), "{typed}");
        }
        assert_eq!(beginning_with(vec!["a"; 9], "a", |name| name).len(), NAMES);
    }

    #[test]
    fn hidden_products_are_never_suggested_and_long_texts_are_not_made_fuzzy() {
        assert_eq!(body("wool")["query"]["bool"]["filter"], json!({ "term": { "hidden": false } }));
        assert!(body("red wool").to_string().contains("fuzziness"));
        assert!(!body(&"a ".repeat(50)).to_string().contains("fuzziness"));
    }

    #[test]
    fn an_answer_without_hits_is_no_suggestion() {
        assert_eq!(answer(json!({})).unwrap(), []);
        let found = answer(json!({ "hits": { "hits": [{ "_source": { "sku": "A", "name": "B" } }] } })).unwrap();
        assert_eq!(found, [Suggested { sku: "A".to_owned(), name: "B".to_owned() }]);
        answer(json!({ "hits": { "hits": [{ "_source": {} }] } })).unwrap_err();
    }
}
