//! What somebody who is logged in means to order. Prices are those of the catalogue, until the order is placed.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::{Connection, FromRow, PgConnection};
use uuid::Uuid;

use super::StoreError;
use crate::basket::MAX_LINES;

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
pub(crate) struct CartLine {
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) qty: i32,
    pub(crate) unit_cents: i64,
    pub(crate) line_cents: i64,
    pub(crate) currency: String,
    /// Whether there is enough for the whole line now.
    pub(crate) in_stock: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CartError {
    #[error("no such product: {}", .0.join(", "))]
    UnknownSku(Vec<String>),
    #[error("found {MAX_LINES} lines in the cart: remove one first")]
    Full,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for CartError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

#[derive(Debug)]
pub(crate) enum Change<'a> {
    /// These lines and no others.
    Replace(&'a BTreeMap<String, i32>),
    /// This line, whatever its quantity was.
    Set(&'a str, i32),
    Remove(&'a str),
    Clear,
}

pub(crate) async fn lines(connection: &mut PgConnection, user: Uuid) -> Result<Vec<CartLine>, StoreError> {
    let lines = sqlx::query_as(
        "SELECT p.sku, p.name, c.qty, p.price_cents AS unit_cents, p.price_cents * c.qty AS line_cents, p.currency, \
           p.active AND coalesce(i.on_hand >= c.qty, false) AS in_stock \
         FROM cart_items c JOIN products p ON p.id = c.product_id LEFT JOIN inventory i ON i.product_id = p.id \
         WHERE c.user_id = $1 ORDER BY p.id",
    );
    Ok(lines.bind(user).fetch_all(connection).await?)
}

/// Changes of one cart come one after another, so that two at once cannot pass its limit together. The cart as it is then.
pub(crate) async fn change(
    connection: &mut PgConnection,
    user: Uuid,
    change: &Change<'_>,
) -> Result<Vec<CartLine>, CartError> {
    let mut tx = connection.begin().await?;
    hold(&mut tx, user).await?;
    match change {
        Change::Replace(wanted) => {
            clear(&mut tx, user).await?;
            put(&mut tx, user, wanted).await?;
        }
        Change::Set(sku, qty) => put(&mut tx, user, &BTreeMap::from([((*sku).to_owned(), *qty)])).await?,
        Change::Remove(sku) => {
            sqlx::query("DELETE FROM cart_items USING products WHERE id = product_id AND user_id = $1 AND sku = $2")
                .bind(user)
                .bind(sku)
                .execute(&mut *tx)
                .await?;
        }
        Change::Clear => clear(&mut tx, user).await?,
    }
    let lines = lines(&mut tx, user).await?;
    if lines.len() > MAX_LINES {
        return Err(CartError::Full);
    }
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(lines)
}

/// Empties the cart into an order: both happen with the same COMMIT.
pub(super) async fn take(tx: &mut PgConnection, user: Uuid) -> Result<BTreeMap<String, i32>, StoreError> {
    hold(tx, user).await?;
    let taken = sqlx::query_as(
        "DELETE FROM cart_items c USING products p WHERE p.id = c.product_id AND c.user_id = $1 RETURNING p.sku, c.qty",
    );
    let taken: Vec<(String, i32)> = taken.bind(user).fetch_all(tx).await?;
    Ok(taken.into_iter().collect())
}

async fn hold(tx: &mut PgConnection, user: Uuid) -> Result<(), StoreError> {
    sqlx::query("SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE").bind(user).execute(tx).await?;
    Ok(())
}

async fn clear(tx: &mut PgConnection, user: Uuid) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM cart_items WHERE user_id = $1").bind(user).execute(tx).await?;
    Ok(())
}

async fn put(tx: &mut PgConnection, user: Uuid, wanted: &BTreeMap<String, i32>) -> Result<(), CartError> {
    let (skus, quantities): (Vec<&str>, Vec<i32>) = wanted.iter().map(|(sku, qty)| (sku.as_str(), *qty)).unzip();
    let known: Vec<String> = sqlx::query_scalar(
        "WITH put AS ( \
           INSERT INTO cart_items (user_id, product_id, qty) \
           SELECT $1, p.id, line.qty FROM unnest($2::text[], $3::int[]) AS line (sku, qty) JOIN products p USING (sku) WHERE p.active \
           ON CONFLICT (user_id, product_id) DO UPDATE SET qty = excluded.qty, updated_at = now() RETURNING product_id) \
         SELECT sku FROM put JOIN products ON id = product_id",
    )
    .bind(user)
    .bind(&skus)
    .bind(quantities)
    .fetch_all(tx)
    .await?;
    if known.len() < skus.len() {
        let unknown = skus.into_iter().filter(|sku| !known.iter().any(|known| known == sku));
        return Err(CartError::UnknownSku(unknown.map(str::to_owned).collect()));
    }
    Ok(())
}
