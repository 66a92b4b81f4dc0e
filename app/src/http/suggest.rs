//! `GET /api/v1/search/suggest`.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::join;

use super::{error::Problem, input::Asked};
use crate::{
    catalogue::{self, Question},
    search::suggest::{Suggested, beginning_with},
    state::Shared,
};

const MAX_TYPED: usize = 100;

#[derive(Debug, Deserialize, utoipa::IntoParams)]
pub(crate) struct SuggestQuery {
    q: Option<String>,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Brand {
    name: String,
}

#[derive(Deserialize, Serialize, utoipa::ToSchema)]
#[schema(as = SuggestedCategory)]
struct Category {
    slug: String,
    name: String,
}

#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Suggestions {
    products: Vec<Suggested>,
    brands: Vec<String>,
    categories: Vec<Category>,
    degraded: bool,
}

pub(crate) async fn suggest(
    State(state): State<Shared>,
    Asked(SuggestQuery { q }): Asked<SuggestQuery>,
) -> Result<Response, Problem> {
    let typed = typed(q.as_deref().unwrap_or_default())?;
    let (products, brands, categories) = join!(
        state.search.suggest(&state.databases, typed),
        listed::<Brand>(&state, Question::Brands),
        listed::<Category>(&state, Question::Categories),
    );
    let (products, source) = products?;
    let degraded = source != "elasticsearch" || brands.is_none() || categories.is_none();
    let brands = beginning_with(brands.unwrap_or_default(), typed, |brand| &brand.name);
    let brands: Vec<String> = brands.into_iter().map(|brand| brand.name).collect();
    let categories = beginning_with(categories.unwrap_or_default(), typed, |category| &category.name);
    // People delete and type again: the browser need not ask twice.
    let cache_control = if degraded { "no-cache" } else { "public, max-age=30" };
    let body = Suggestions { products, brands, categories, degraded };
    Ok(([("cache-control", cache_control), ("x-source", source)], Json(body)).into_response())
}

pub(super) fn typed(q: &str) -> Result<&str, Problem> {
    let typed = q.trim();
    if typed.is_empty() || typed.chars().count() > MAX_TYPED || typed.contains(char::is_control) {
        return Err(Problem::bad_request(
            "invalid_query",
            format!("q: expected 1 to {MAX_TYPED} printable characters"),
        ));
    }
    Ok(typed)
}

/// The whole list as the catalogue gives it out: it is short, and in the cache. `None` when it cannot be had now.
async fn listed<T: DeserializeOwned>(state: &Shared, question: Question) -> Option<Vec<T>> {
    match catalogue::read(state, question).await {
        Ok(found) => serde_json::from_slice::<List<T>>(&found?.0.body()).ok().map(|list| list.items),
        Err(error) => {
            tracing::warn!(%error, "suggest without names");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_is_bounded() {
        assert_eq!(typed(" wool ").unwrap(), "wool");
        assert!(typed(&"ü".repeat(100)).is_ok());
        for bad in ["", "  ", "a\nb", &"ü".repeat(101)] {
            assert!(typed(bad).is_err(), "{bad}");
        }
    }
}
