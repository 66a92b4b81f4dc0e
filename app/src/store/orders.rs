//! Orders as they are read; `place` makes them.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::StoreError;

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    pub(crate) number: i64,
    pub(crate) status: String,
    pub(crate) total_cents: i64,
    pub(crate) currency: String,
    pub(crate) items: Vec<OrderItem>,
    pub(crate) created_at: String,
}

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
pub(crate) struct OrderItem {
    pub(crate) sku: String,
    pub(crate) qty: i32,
    pub(crate) unit_cents: i64,
}

/// An order and whose it is.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) order: Order,
    pub(crate) user: Option<Uuid>,
}

pub(crate) async fn by_id(connection: &mut PgConnection, id: Uuid) -> Result<Option<Found>, StoreError> {
    let order = sqlx::query_as(
        "SELECT number, status, total_cents, currency, iso_utc(created_at), user_id \
         FROM orders WHERE id = $1",
    );
    let order: Option<(i64, String, i64, String, String, Option<Uuid>)> =
        order.bind(id).fetch_optional(&mut *connection).await?;
    let Some((number, status, total_cents, currency, created_at, user)) = order else { return Ok(None) };
    let items = sqlx::query_as(
        "SELECT p.sku, i.qty, i.unit_cents FROM order_items i JOIN products p ON p.id = i.product_id WHERE i.order_id = $1 ORDER BY i.product_id",
    );
    let items = items.bind(id).fetch_all(connection).await?;
    Ok(Some(Found { order: Order { id, number, status, total_cents, currency, items, created_at }, user }))
}
