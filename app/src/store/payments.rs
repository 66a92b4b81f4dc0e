//! Orders that somebody else says are paid.

use sqlx::PgConnection;
use uuid::Uuid;

use serde_json::json;

use super::{
    StoreError,
    audit::{self, Actor, Change},
};

/// What a provider took from a customer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Payment {
    pub(crate) order_id: Uuid,
    pub(crate) amount_cents: i64,
    pub(crate) currency: String,
}

/// Why a person must look at it: trying again would not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PaymentError {
    #[error("no order has the id {0}")]
    UnknownOrder(Uuid),
    #[error("found a payment of {found}, expected {expected}")]
    OtherAmount { found: String, expected: String },
    #[error("the order {0} is paid already")]
    PaidBefore(i64),
    /// The money must go back.
    #[error("found the order {number} {status}, expected placed")]
    NotPlaced { number: i64, status: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PaymentError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// The caller claims the event in the same transaction, so a second payment is another one.
pub(crate) async fn mark_paid(tx: &mut PgConnection, by: Actor<'_>, payment: &Payment) -> Result<(), PaymentError> {
    let held = sqlx::query_as(
        "SELECT number, total_cents, currency, status, paid_at IS NOT NULL FROM orders WHERE id = $1 FOR NO KEY UPDATE",
    );
    let held: Option<(i64, i64, String, String, bool)> = held.bind(payment.order_id).fetch_optional(&mut *tx).await?;
    let (number, total, currency, status, is_paid) = held.ok_or(PaymentError::UnknownOrder(payment.order_id))?;
    if is_paid {
        return Err(PaymentError::PaidBefore(number));
    }
    if (payment.amount_cents, &payment.currency) != (total, &currency) {
        let found = format!("{} {}", payment.amount_cents, payment.currency);
        return Err(PaymentError::OtherAmount { found, expected: format!("{total} {currency}") });
    }
    if status != "placed" {
        return Err(PaymentError::NotPlaced { number, status });
    }
    let set = sqlx::query_scalar("UPDATE orders SET paid_at = now() WHERE id = $1 RETURNING iso_utc(paid_at)");
    let paid_at: String = set.bind(payment.order_id).fetch_one(&mut *tx).await?;
    let change = Change {
        action: "order.pay",
        entity: "order",
        entity_id: &payment.order_id.to_string(),
        before: Some(json!({ "paid_at": null })),
        after: Some(json!({ "paid_at": paid_at })),
    };
    Ok(audit::record(tx, by, change).await?)
}
