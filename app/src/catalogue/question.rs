//! What the catalogue can be asked.

use serde::Serialize;
use sqlx::PgConnection;

use crate::{
    cursor::Cursor,
    store::{
        StoreError,
        pools::Query,
        products::{self, Listing},
    },
};

#[derive(Clone, Debug)]
pub(crate) enum Question {
    List(Listing),
    Product { sku: String },
    Categories,
    Brands,
}

impl Question {
    /// The same for two questions exactly if their answers are. A newline cannot be part of a filter, so it separates.
    pub(crate) fn name(&self) -> String {
        let listing = match self {
            Self::List(listing) => listing,
            Self::Product { sku } => return format!("sku:{sku}"),
            Self::Categories => return "categories".to_owned(),
            Self::Brands => return "brands".to_owned(),
        };
        let Listing { sort, limit, after, category, brand, min_price, max_price } = listing;
        let number = |value: &Option<i64>| value.map_or_else(String::new, |value| value.to_string());
        let after = after.map_or_else(String::new, Cursor::encode);
        let (category, brand) = (category.as_deref().unwrap_or(""), brand.as_deref().unwrap_or(""));
        format!("list:{}:{limit}:{}:{}:{after}:{category}\n{brand}", sort.name(), number(min_price), number(max_price))
    }
}

impl Query for Question {
    /// Its bytes; `None` when there is no such thing.
    type Answer = Option<Vec<u8>>;

    async fn ask(&self, connection: &mut PgConnection) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::List(listing) => json(&products::list(connection, listing).await?).map(Some),
            Self::Product { sku } => products::by_sku(connection, sku).await?.map(|product| json(&product)).transpose(),
            Self::Categories => json(&products::categories(connection).await?).map(Some),
            Self::Brands => json(&products::brands(connection).await?).map(Some),
        }
    }
}

fn json(answer: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(answer).map_err(|error| StoreError::Statement(sqlx::Error::Encode(error.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Sort;

    #[test]
    fn names_tell_questions_apart() {
        let base = Listing { limit: 20, ..Listing::default() };
        let listings = [
            Listing { category: Some("x".to_owned()), ..base.clone() },
            Listing { brand: Some("x".to_owned()), ..base.clone() },
            Listing { min_price: Some(1), ..base.clone() },
            Listing { max_price: Some(1), ..base.clone() },
            Listing { limit: 21, ..base.clone() },
            Listing { sort: Sort::PriceAsc, ..base.clone() },
            Listing { after: Some(Cursor { sort: Sort::Id, price_cents: 0, id: 1 }), ..base.clone() },
            base,
        ];
        let others = [Question::Product { sku: "categories".to_owned() }, Question::Categories, Question::Brands];
        let all: Vec<Question> = listings.into_iter().map(Question::List).chain(others).collect();
        let names: std::collections::HashSet<String> = all.iter().map(Question::name).collect();
        assert_eq!(names.len(), all.len());
    }
}
