//! Everybody's orders.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Connection, FromRow, PgConnection, QueryBuilder};
use uuid::Uuid;

use super::ChangeError;
use crate::{
    day::Day,
    store::{
        StoreError,
        audit::{self, Author, Change},
        orders::OrderItem,
    },
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OrderStatus)]
pub(crate) enum Status {
    Placed,
    Cancelled,
    Refunded,
}

impl Status {
    const ALL: [Self; 3] = [Self::Placed, Self::Cancelled, Self::Refunded];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::Cancelled => "cancelled",
            Self::Refunded => "refunded",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// The goods of a cancelled order have not left; those of a refunded one have, and come back by a movement.
    pub(crate) fn may_become(self, next: Self) -> bool {
        matches!((self, next), (Self::Placed, Self::Cancelled | Self::Refunded) | (Self::Cancelled, Self::Refunded))
    }
}

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = AdminOrder)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    pub(crate) number: i64,
    email: String,
    user_id: Option<Uuid>,
    status: String,
    total_cents: i64,
    currency: String,
    created_at: String,
    paid_at: Option<String>,
    cancelled_at: Option<String>,
    refunded_at: Option<String>,
}

const COLUMNS: &str = "SELECT id, number, email, user_id, status, total_cents, currency, iso_utc(created_at) AS created_at, \
     iso_utc(paid_at) AS paid_at, iso_utc(cancelled_at) AS cancelled_at, iso_utc(refunded_at) AS refunded_at FROM orders WHERE ";

#[derive(Debug, Default)]
pub(crate) struct Search {
    pub(crate) status: Option<Status>,
    pub(crate) email: Option<String>,
    pub(crate) user: Option<Uuid>,
    pub(crate) from: Option<Day>,
    pub(crate) to: Option<Day>,
    pub(crate) below: Option<i64>,
    pub(crate) limit: i64,
}

/// Newest first. Only the filters that are set become SQL.
pub(crate) async fn list(connection: &mut PgConnection, search: &Search) -> Result<Vec<Order>, StoreError> {
    let mut sql = QueryBuilder::new(COLUMNS);
    sql.push("number < ").push_bind(search.below.unwrap_or(i64::MAX));
    if let Some(status) = search.status {
        sql.push(" AND status = ").push_bind(status.name());
    }
    if let Some(email) = &search.email {
        sql.push(" AND email = ").push_bind(email.clone());
    }
    if let Some(user) = search.user {
        sql.push(" AND user_id = ").push_bind(user);
    }
    if let Some(from) = &search.from {
        sql.push(" AND created_at >= ").push_bind(from.as_str().to_owned()).push("::date AT TIME ZONE 'UTC'");
    }
    if let Some(to) = &search.to {
        sql.push(" AND created_at < (").push_bind(to.as_str().to_owned()).push("::date + 1) AT TIME ZONE 'UTC'");
    }
    sql.push(" ORDER BY number DESC LIMIT ").push_bind(search.limit);
    Ok(sql.build_query_as().fetch_all(connection).await?)
}

pub(crate) async fn by_id(connection: &mut PgConnection, id: Uuid) -> Result<(Order, Vec<OrderItem>), ChangeError> {
    let mut sql = QueryBuilder::new(COLUMNS);
    sql.push("id = ").push_bind(id);
    let order = sql.build_query_as().fetch_optional(&mut *connection).await?.ok_or(ChangeError::Missing("order"))?;
    let items = sqlx::query_as(
        "SELECT p.sku, i.qty, i.unit_cents FROM order_items i JOIN products p ON p.id = i.product_id \
         WHERE i.order_id = $1 ORDER BY i.product_id",
    );
    Ok((order, items.bind(id).fetch_all(connection).await?))
}

/// Done again it changes nothing and answers the same.
pub(crate) async fn refund(connection: &mut PgConnection, author: &Author, id: Uuid) -> Result<(), ChangeError> {
    let mut tx = connection.begin().await?;
    let held = sqlx::query_scalar("SELECT status FROM orders WHERE id = $1 FOR NO KEY UPDATE").bind(id);
    let held: Option<String> = held.fetch_optional(&mut *tx).await?;
    let found = held.ok_or(ChangeError::Missing("order"))?;
    let status = Status::named(&found);
    if status == Some(Status::Refunded) {
        return Ok(());
    }
    if !status.is_some_and(|status| status.may_become(Status::Refunded)) {
        return Err(ChangeError::Conflict("status_not_allowed", format!("found the order {found}")));
    }
    let set = sqlx::query("UPDATE orders SET status = 'refunded', refunded_at = now() WHERE id = $1");
    set.bind(id).execute(&mut *tx).await?;
    let change = Change {
        action: "order.refund",
        entity: "order",
        entity_id: &id.to_string(),
        before: Some(json!({ "status": found })),
        after: Some(json!({ "status": Status::Refunded })),
    };
    audit::record(&mut tx, author, change).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_back_and_money_goes_back_once() {
        let allowed: Vec<(Status, Status)> = Status::ALL
            .into_iter()
            .flat_map(|from| Status::ALL.into_iter().map(move |to| (from, to)))
            .filter(|(from, to)| from.may_become(*to))
            .collect();
        use Status::{Cancelled, Placed, Refunded};
        assert_eq!(allowed, [(Placed, Cancelled), (Placed, Refunded), (Cancelled, Refunded)]);
        assert!(Status::ALL.into_iter().all(|status| Status::named(status.name()) == Some(status)));
    }
}
