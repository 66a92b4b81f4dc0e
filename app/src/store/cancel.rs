//! Cancelling: the stock goes back in the transaction that ends the order.

use serde_json::json;
use sqlx::{Connection, PgConnection};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    StoreError,
    audit::{self, Author, Change},
    orders::{self, Order},
    outbox::{self, Event},
    pools::Databases,
    position::Position,
    stock,
};
use crate::traces;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CancelError {
    #[error("no order has this id")]
    Missing,
    #[error("found the order {0}, expected placed")]
    TooLate(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for CancelError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

#[derive(Debug)]
pub(crate) struct Cancelled {
    pub(crate) order: Order,
    /// True when a product has stock again that had none.
    pub(crate) is_back_in_stock: bool,
    pub(crate) position: Option<Position>,
}

/// Done again it changes nothing and answers the same, so it may be tried once more whatever happened.
///
/// `author`: staff that cancels what is not theirs.
pub(crate) async fn cancel(
    databases: &Databases,
    id: Uuid,
    request_id: &str,
    author: Option<&Author>,
) -> Result<Cancelled, CancelError> {
    match attempt(databases, id, request_id, author).await {
        Err(CancelError::Store(error)) if error.may_pass_at_once() => {
            tracing::warn!(%error, "try to cancel once more");
            attempt(databases, id, request_id, author).await
        }
        other => other,
    }
}

async fn attempt(
    databases: &Databases,
    id: Uuid,
    request_id: &str,
    author: Option<&Author>,
) -> Result<Cancelled, CancelError> {
    let mut connection = databases.connection().await?;
    let span = traces::call("postgresql", "cancel");
    let mut cancelled = transact(&mut connection, id, request_id, author).instrument(span).await;
    match &mut cancelled {
        Ok(cancelled) => cancelled.position = Position::ask(&mut connection).await.ok(),
        Err(CancelError::Store(error)) if error.condemns_connection() => connection.close_on_drop(),
        Err(_) => {}
    }
    cancelled
}

/// An early return rolls everything back: the transaction ends with the borrow.
async fn transact(
    connection: &mut PgConnection,
    id: Uuid,
    request_id: &str,
    author: Option<&Author>,
) -> Result<Cancelled, CancelError> {
    let mut tx = connection.begin().await?;
    // Whoever comes second waits here, and finds what the first one did.
    let held = sqlx::query_as("SELECT status, email FROM orders WHERE id = $1 FOR NO KEY UPDATE");
    let held: Option<(String, String)> = held.bind(id).fetch_optional(&mut *tx).await?;
    let (status, email) = held.ok_or(CancelError::Missing)?;
    let is_placed = match status.as_str() {
        "placed" => true,
        "cancelled" => false,
        _ => return Err(CancelError::TooLate(status)),
    };
    if is_placed {
        sqlx::query("UPDATE orders SET status = 'cancelled', cancelled_at = now() WHERE id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
    }
    let order = orders::by_id(&mut tx, id).await?.ok_or(CancelError::Missing)?.order;
    let mut is_back_in_stock = false;
    if is_placed {
        if let Some(author) = author {
            let change = Change {
                action: "order.cancel",
                entity: "order",
                entity_id: &id.to_string(),
                before: Some(json!({ "status": status })),
                after: Some(json!({ "status": order.status })),
            };
            audit::record(&mut tx, author, change).await?;
        }
        outbox::append(&mut tx, &[notice(&order, &email)], request_id).await?;
        // Last, because buyers of one product queue on its row from here to COMMIT.
        is_back_in_stock = stock::give_back(&mut tx, id, request_id).await?;
    }
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(Cancelled { order, is_back_in_stock, position: None })
}

fn notice(order: &Order, email: &str) -> Event {
    Event {
        topic: outbox::ORDER_CANCELLED,
        aggregate_id: order.id.to_string(),
        aggregate_version: 2,
        payload: json!({ "order_id": order.id, "number": order.number, "email": email }),
    }
}
