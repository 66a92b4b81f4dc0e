//! Pictures of products: the rows. The files never change and are written before them.

use serde::Serialize;
use serde_json::json;
use sqlx::{Connection, FromRow, PgConnection};

use super::ChangeError;
use crate::store::{
    StoreError,
    audit::{self, Author, Change},
};

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = AdminMedium)]
pub(crate) struct Medium {
    position: i32,
    url: String,
    content_type: String,
    alt: String,
    created_at: String,
}

#[derive(Debug)]
pub(crate) struct Picture<'a> {
    pub(crate) path: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) alt: &'a str,
}

pub(crate) async fn list(connection: &mut PgConnection, sku: &str) -> Result<Vec<Medium>, ChangeError> {
    let product = product(connection, sku).await?;
    Ok(of_product(connection, product, None).await?)
}

async fn product(connection: &mut PgConnection, sku: &str) -> Result<i64, ChangeError> {
    let query = sqlx::query_scalar("SELECT id FROM products WHERE sku = $1 FOR KEY SHARE").bind(sku);
    query.fetch_optional(connection).await?.ok_or(ChangeError::Missing("product"))
}

async fn of_product(
    connection: &mut PgConnection,
    product: i64,
    position: Option<i32>,
) -> Result<Vec<Medium>, StoreError> {
    let query = sqlx::query_as(
        "SELECT position, '/media/' || path AS url, content_type, alt, iso_utc(created_at) AS created_at \
         FROM product_media WHERE product_id = $1 AND position = coalesce($2, position) ORDER BY position",
    );
    Ok(query.bind(product).bind(position).fetch_all(connection).await?)
}

/// Puts a picture in a place, `None` takes away the one that is there.
pub(crate) async fn set(
    connection: &mut PgConnection,
    author: &Author,
    sku: &str,
    position: i32,
    picture: Option<&Picture<'_>>,
) -> Result<Option<Medium>, ChangeError> {
    let mut tx = connection.begin().await?;
    let product = product(&mut tx, sku).await?;
    let before = of_product(&mut tx, product, Some(position)).await?.pop();
    match picture {
        Some(Picture { path, content_type, alt }) => {
            sqlx::query(
                "INSERT INTO product_media (product_id, position, path, content_type, alt) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (product_id, position) DO UPDATE SET path = excluded.path, \
                   content_type = excluded.content_type, alt = excluded.alt, created_at = now()",
            )
            .bind(product)
            .bind(position)
            .bind(path)
            .bind(content_type)
            .bind(alt)
            .execute(&mut *tx)
            .await?;
        }
        None if before.is_none() => return Err(ChangeError::Missing("picture")),
        None => {
            let delete = sqlx::query("DELETE FROM product_media WHERE product_id = $1 AND position = $2");
            delete.bind(product).bind(position).execute(&mut *tx).await?;
        }
    }
    let after = of_product(&mut tx, product, Some(position)).await?.pop();
    let action = if after.is_some() { "media.put" } else { "media.remove" };
    let value = |medium: &Option<Medium>| medium.as_ref().map(|medium| json!(medium));
    let change = Change { action, entity: "product", entity_id: sku, before: value(&before), after: value(&after) };
    audit::record(&mut tx, author, change).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(after)
}
