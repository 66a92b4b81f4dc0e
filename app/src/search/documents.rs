//! Products as the index keeps them, read from the primary.

use serde::Serialize;
use sqlx::{FromRow, PgExecutor};

/// What the search index refuses to replace by anything older. Stock has a version of its own, because orders change
/// it without the product; the sum grows with every change of either.
#[derive(Debug, FromRow, Serialize)]
pub(super) struct Document {
    pub(super) id: i64,
    pub(super) version: i64,
    sku: String,
    name: String,
    brand: String,
    description: String,
    category: String,
    /// The product's own category and every one above it.
    categories: Vec<String>,
    price_cents: i64,
    currency: String,
    on_hand: i32,
    in_stock: bool,
    hidden: bool,
}

macro_rules! documents {
    ($products:literal) => {
        concat!(
            "SELECT p.id, p.version + coalesce(i.version, 0) AS version, p.sku, p.name, p.brand, p.description, \
             c.slug AS category, \
             ARRAY(WITH RECURSIVE up AS ( \
               SELECT id, parent_id, slug FROM categories WHERE id = p.category_id \
               UNION SELECT c.id, c.parent_id, c.slug FROM categories c JOIN up ON c.id = up.parent_id) \
               SELECT slug FROM up) AS categories, \
             p.price_cents, p.currency, coalesce(i.on_hand, 0) AS on_hand, \
             coalesce(i.on_hand > 0, false) AS in_stock, p.hidden \
             FROM (SELECT * FROM products ",
            $products,
            ") p JOIN categories c ON c.id = p.category_id LEFT JOIN inventory i ON i.product_id = p.id ORDER BY p.id"
        )
    };
}

pub(super) async fn by_ids(primary: impl PgExecutor<'_>, ids: &[i64]) -> Result<Vec<Document>, sqlx::Error> {
    sqlx::query_as(documents!("WHERE id = ANY($1)")).bind(ids).fetch_all(primary).await
}

pub(super) async fn after(primary: impl PgExecutor<'_>, id: i64, limit: i64) -> Result<Vec<Document>, sqlx::Error> {
    sqlx::query_as(documents!("WHERE id > $1 ORDER BY id LIMIT $2")).bind(id).bind(limit).fetch_all(primary).await
}
