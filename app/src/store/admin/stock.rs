//! Stock that comes or goes by hand.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{Connection, FromRow, PgConnection};

use super::{ChangeError, products::index};
use crate::store::{
    StoreError,
    audit::{self, Author, Change},
    idempotency::{self, Claim, Key, Used},
    outbox::{self, Event},
};

pub(crate) const CREATED: u16 = 201;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    Restock,
    Return,
    Damage,
    Loss,
    Count,
}

impl Reason {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Restock => "restock",
            Self::Return => "return",
            Self::Damage => "damage",
            Self::Loss => "loss",
            Self::Count => "count",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Movement<'a> {
    pub(crate) sku: &'a str,
    pub(crate) delta: i32,
    pub(crate) reason: Reason,
    pub(crate) note: &'a str,
}

/// Of movements by hand and of cancelled orders; what orders take stands in their lines.
#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = StockMovement)]
pub(crate) struct Moved {
    pub(crate) id: i64,
    delta: i32,
    reason: String,
    note: String,
    order_id: Option<uuid::Uuid>,
    created_at: String,
}

/// What a movement came to.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = StockMoved)]
pub(crate) struct Applied {
    sku: String,
    on_hand: i32,
    movement: Moved,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Moved { body: String, availability_changed: bool },
    Replayed { status: u16, body: String },
}

pub(crate) async fn apply(
    connection: &mut PgConnection,
    author: &Author,
    key: Key<'_>,
    movement: &Movement<'_>,
) -> Result<Answer, ChangeError> {
    let mut tx = connection.begin().await?;
    match idempotency::claim(&mut tx, key).await? {
        Claim::Ours => {}
        Claim::Used(Used::Done { status, body }) => return Ok(Answer::Replayed { status, body }),
        Claim::Used(Used::Otherwise) => return Err(ChangeError::KeyReused),
        Claim::Running => return Err(ChangeError::KeyRunning),
    }
    let Stock { product_id, had, product_version } = hold(&mut tx, movement.sku).await?;
    let has = had.checked_add(movement.delta).filter(|has| *has >= 0).ok_or_else(|| {
        let detail = format!("found {had} of {}, expected enough for {}", movement.sku, movement.delta);
        ChangeError::Conflict("stock_out_of_range", detail)
    })?;
    let version: i64 = sqlx::query_scalar(
        "UPDATE inventory SET on_hand = $2, updated_at = now() WHERE product_id = $1 RETURNING version",
    )
    .bind(product_id)
    .bind(has)
    .fetch_one(&mut *tx)
    .await?;
    let moved: Moved = sqlx::query_as(
        "INSERT INTO stock_movements (product_id, delta, reason, note) VALUES ($1, $2, $3, $4) \
         RETURNING id, delta, reason, note, order_id, iso_utc(created_at) AS created_at",
    )
    .bind(product_id)
    .bind(movement.delta)
    .bind(movement.reason.name())
    .bind(movement.note)
    .fetch_one(&mut *tx)
    .await?;
    let change = Change {
        action: "stock.move",
        entity: "product",
        entity_id: movement.sku,
        before: Some(json!({ "on_hand": had })),
        after: Some(json!({ "on_hand": has, "movement": moved })),
    };
    audit::record(&mut tx, author, change).await?;
    let mut events = vec![index(product_id, movement.sku, product_version + version)];
    if had == 0 {
        events.push(Event {
            topic: outbox::BACK_IN_STOCK,
            aggregate_id: product_id.to_string(),
            aggregate_version: version,
            payload: json!({ "product_id": product_id, "sku": movement.sku, "on_hand": has }),
        });
    }
    outbox::append(&mut tx, &events, &author.request_id).await?;
    let body = json!(Applied { sku: movement.sku.to_owned(), on_hand: has, movement: moved }).to_string();
    idempotency::complete(&mut tx, key, CREATED, &body).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(Answer::Moved { body, availability_changed: (had > 0) != (has > 0) })
}

#[derive(FromRow)]
struct Stock {
    product_id: i64,
    had: i32,
    product_version: i64,
}

/// Buyers and other movements of the product wait from here to COMMIT.
async fn hold(tx: &mut PgConnection, sku: &str) -> Result<Stock, ChangeError> {
    let query = sqlx::query_as(
        "SELECT p.id AS product_id, i.on_hand AS had, p.version AS product_version \
         FROM products p JOIN inventory i ON i.product_id = p.id WHERE p.sku = $1 FOR UPDATE OF i",
    );
    query.bind(sku).fetch_optional(tx).await?.ok_or(ChangeError::Missing("product"))
}

/// What is there, and the movements from the newest on.
pub(crate) async fn list(
    connection: &mut PgConnection,
    sku: &str,
    below: i64,
    limit: i64,
) -> Result<(i32, Vec<Moved>), ChangeError> {
    let stock = sqlx::query_as(
        "SELECT p.id, i.on_hand FROM products p JOIN inventory i ON i.product_id = p.id WHERE p.sku = $1",
    );
    let stock: Option<(i64, i32)> = stock.bind(sku).fetch_optional(&mut *connection).await?;
    let (product, on_hand) = stock.ok_or(ChangeError::Missing("product"))?;
    let moved = sqlx::query_as(
        "SELECT id, delta, reason, note, order_id, iso_utc(created_at) AS created_at FROM stock_movements \
         WHERE product_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
    );
    Ok((on_hand, moved.bind(product).bind(below).bind(limit).fetch_all(connection).await?))
}
