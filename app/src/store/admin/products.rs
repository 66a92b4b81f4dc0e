//! Products as staff sees them: with their version, whatever their state.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{Connection, FromRow, PgConnection};

use super::ChangeError;
use crate::store::{
    StoreError,
    audit::{self, Author, Change},
    outbox::{self, Event},
};

/// Listed and for sale; not listed but for sale; neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = ProductState)]
pub(crate) enum State {
    #[default]
    Listed,
    Hidden,
    Inactive,
}

impl State {
    fn columns(self) -> (bool, bool) {
        (self != Self::Listed, self != Self::Inactive)
    }
}

/// Everything that its version speaks for, and nothing else: stock and pictures have routes of their own.
#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = AdminProduct)]
pub(crate) struct Product {
    #[serde(skip)]
    pub(crate) id: i64,
    pub(crate) sku: String,
    pub(crate) version: i64,
    state: String,
    name: String,
    description: String,
    brand: String,
    category: String,
    attrs: Value,
    price_cents: i64,
    currency: String,
    updated_at: String,
}

/// What may be set; what is `None` stays.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProductPatch)]
pub(crate) struct Fields {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) brand: Option<String>,
    /// Its slug.
    pub(crate) category: Option<String>,
    pub(crate) attrs: Option<Value>,
    pub(crate) price_cents: Option<i64>,
    pub(crate) currency: Option<String>,
    pub(crate) state: Option<State>,
}

macro_rules! product {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.sku, p.version, \
             CASE WHEN NOT p.active THEN 'inactive' WHEN p.hidden THEN 'hidden' ELSE 'listed' END AS state, p.name, \
             p.description, p.brand, c.slug AS category, p.attrs, p.price_cents, p.currency, \
             iso_utc(p.updated_at) AS updated_at FROM products p JOIN categories c ON c.id = p.category_id ",
            $rest
        )
    };
}

pub(crate) async fn by_sku(connection: &mut PgConnection, sku: &str) -> Result<Product, ChangeError> {
    let query = sqlx::query_as(product!("WHERE p.sku = $1"));
    query.bind(sku).fetch_optional(connection).await?.ok_or(ChangeError::Missing("product"))
}

/// By id, so that a walk misses nothing that was there from its beginning to its end.
pub(crate) async fn list(
    connection: &mut PgConnection,
    state: Option<State>,
    after: i64,
    limit: i64,
) -> Result<Vec<Product>, StoreError> {
    let columns = state.map(State::columns);
    let query = sqlx::query_as(product!(
        "WHERE p.id > $1 AND ($2::bool IS NULL OR (p.hidden, p.active) = ($2, $3)) ORDER BY p.id LIMIT $4"
    ));
    let query = query.bind(after).bind(columns.map(|(hidden, _)| hidden)).bind(columns.map(|(_, active)| active));
    Ok(query.bind(limit).fetch_all(connection).await?)
}

/// With no stock: that comes by a movement.
pub(crate) async fn create(
    connection: &mut PgConnection,
    author: &Author,
    sku: &str,
    fields: &Fields,
) -> Result<Product, ChangeError> {
    let mut tx = connection.begin().await?;
    let category = category(&mut tx, fields.category.as_deref().unwrap_or_default()).await?;
    let (hidden, active) = fields.state.unwrap_or_default().columns();
    let inserted = sqlx::query_scalar(
        "WITH made AS ( \
           INSERT INTO products (sku, name, description, brand, category_id, attrs, price_cents, currency, hidden, active) \
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (sku) DO NOTHING RETURNING id) \
         INSERT INTO inventory (product_id, on_hand) SELECT id, 0 FROM made RETURNING product_id",
    )
    .bind(sku)
    .bind(fields.name.as_deref())
    .bind(fields.description.as_deref())
    .bind(fields.brand.as_deref())
    .bind(category)
    .bind(fields.attrs.clone().unwrap_or_else(|| json!({})))
    .bind(fields.price_cents)
    .bind(fields.currency.as_deref())
    .bind(hidden)
    .bind(active);
    let inserted: Option<i64> = inserted.fetch_optional(&mut *tx).await?;
    if inserted.is_none() {
        return Err(ChangeError::Conflict("sku_taken", format!("there is a product {sku}")));
    }
    let product = by_sku(&mut tx, sku).await?;
    let change = Change {
        action: "product.create",
        entity: "product",
        entity_id: sku,
        before: None,
        after: Some(json!(product)),
    };
    audit::record(&mut tx, author, change).await?;
    announce(&mut tx, &product, author).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(product)
}

/// `version`: the one that whoever changes it has read; `None` for whichever there is.
pub(crate) async fn update(
    connection: &mut PgConnection,
    author: &Author,
    sku: &str,
    version: Option<i64>,
    fields: &Fields,
) -> Result<Product, ChangeError> {
    let mut tx = connection.begin().await?;
    // Whoever comes second waits here, and finds another version.
    sqlx::query("SELECT 1 FROM products WHERE sku = $1 FOR NO KEY UPDATE").bind(sku).execute(&mut *tx).await?;
    let before = by_sku(&mut tx, sku).await?;
    if version.is_some_and(|version| version != before.version) {
        return Err(ChangeError::Stale(before.version));
    }
    let category = match &fields.category {
        Some(slug) => Some(category(&mut tx, slug).await?),
        None => None,
    };
    let columns = fields.state.map(State::columns);
    sqlx::query(
        "UPDATE products SET name = coalesce($2, name), description = coalesce($3, description), \
           brand = coalesce($4, brand), category_id = coalesce($5, category_id), attrs = coalesce($6, attrs), \
           price_cents = coalesce($7, price_cents), currency = coalesce($8, currency), \
           hidden = coalesce($9, hidden), active = coalesce($10, active) WHERE id = $1",
    )
    .bind(before.id)
    .bind(fields.name.as_deref())
    .bind(fields.description.as_deref())
    .bind(fields.brand.as_deref())
    .bind(category)
    .bind(fields.attrs.clone())
    .bind(fields.price_cents)
    .bind(fields.currency.as_deref())
    .bind(columns.map(|(hidden, _)| hidden))
    .bind(columns.map(|(_, active)| active))
    .execute(&mut *tx)
    .await?;
    let after = by_sku(&mut tx, sku).await?;
    let change = Change {
        action: "product.update",
        entity: "product",
        entity_id: sku,
        before: Some(json!(before)),
        after: Some(json!(after)),
    };
    audit::record(&mut tx, author, change).await?;
    announce(&mut tx, &after, author).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(after)
}

async fn category(tx: &mut PgConnection, slug: &str) -> Result<i64, ChangeError> {
    let query = sqlx::query_scalar("SELECT id FROM categories WHERE slug = $1 FOR KEY SHARE").bind(slug);
    query.fetch_optional(tx).await?.ok_or(ChangeError::UnknownCategory)
}

/// The cache hears of it by the table's own trigger.
async fn announce(tx: &mut PgConnection, product: &Product, author: &Author) -> Result<(), StoreError> {
    let stock = sqlx::query_scalar("SELECT version FROM inventory WHERE product_id = $1").bind(product.id);
    let stock: i64 = stock.fetch_optional(&mut *tx).await?.unwrap_or_default();
    outbox::append(tx, &[index(product.id, &product.sku, product.version + stock)], &author.request_id).await
}

/// `version`: the product's and its stock's together.
pub(super) fn index(id: i64, sku: &str, version: i64) -> Event {
    Event {
        topic: outbox::INDEX_PRODUCT,
        aggregate_id: id.to_string(),
        aggregate_version: version,
        payload: json!({ "product_id": id, "sku": sku }),
    }
}
