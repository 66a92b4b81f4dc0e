//! Orders: one transaction on the primary takes the stock, or nothing happens.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::json;
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use uuid::Uuid;

use super::{
    StoreError,
    idempotency::{self, Claim, Key},
    outbox::{self, Event},
};
use crate::basket::Basket;

pub(crate) const CREATED: u16 = 201;

#[derive(Debug, Serialize)]
pub(crate) struct Order {
    pub(crate) id: Uuid,
    pub(crate) number: i64,
    pub(crate) status: String,
    pub(crate) total_cents: i64,
    pub(crate) currency: String,
    pub(crate) items: Vec<OrderItem>,
    pub(crate) created_at: String,
}

#[derive(Debug, FromRow, Serialize)]
pub(crate) struct OrderItem {
    pub(crate) sku: String,
    pub(crate) qty: i32,
    pub(crate) unit_cents: i64,
}

#[derive(Debug)]
pub(crate) enum Outcome {
    /// `sold_out` is true when a product has no stock left after this order.
    Placed {
        body: String,
        sold_out: bool,
    },
    Replayed {
        status: u16,
        body: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("no such product: {}", .0.join(", "))]
    UnknownSku(Vec<String>),
    #[error("not enough stock of {}", .0.join(", "))]
    OutOfStock(Vec<String>),
    #[error("the products have different currencies: {}", .0.join(", "))]
    MixedCurrencies(Vec<String>),
    #[error("a request with this Idempotency-Key is still running")]
    KeyRunning,
    #[error("this Idempotency-Key was used with another payload")]
    KeyReused,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PlaceError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

#[derive(Debug)]
pub(crate) struct Purchase<'a> {
    pub(crate) basket: &'a Basket,
    pub(crate) key: Key<'a>,
    pub(crate) request_id: &'a str,
}

#[derive(Debug, FromRow)]
struct Priced {
    id: i64,
    sku: String,
    price_cents: i64,
    currency: String,
}

#[derive(Debug)]
struct Line {
    product: Priced,
    qty: i32,
}

/// One retry, and only when the failure came before COMMIT was sent.
pub(crate) async fn place(pool: &PgPool, purchase: &Purchase<'_>) -> Result<Outcome, PlaceError> {
    match attempt(pool, purchase).await {
        Err(PlaceError::Store(error)) if error.may_pass_at_once() => {
            tracing::warn!(%error, "try the order once more");
            attempt(pool, purchase).await
        }
        other => other,
    }
}

async fn attempt(pool: &PgPool, purchase: &Purchase<'_>) -> Result<Outcome, PlaceError> {
    let mut connection = pool.acquire().await?;
    let outcome = transact(&mut connection, purchase).await;
    if let Err(PlaceError::Store(error)) = &outcome
        && error.condemns_connection()
    {
        connection.close_on_drop();
    }
    outcome
}

/// An early return rolls everything back: the transaction ends with the borrow.
async fn transact(connection: &mut PgConnection, purchase: &Purchase<'_>) -> Result<Outcome, PlaceError> {
    let mut tx = connection.begin().await?;
    match idempotency::claim(&mut tx, purchase.key).await? {
        Claim::Ours => {}
        Claim::Done { status, body } => return Ok(Outcome::Replayed { status, body }),
        Claim::Running => return Err(PlaceError::KeyRunning),
        Claim::Reused => return Err(PlaceError::KeyReused),
    }
    let lines = price(&mut tx, &purchase.basket.lines).await?;
    let order = insert(&mut tx, &purchase.basket.email, &lines).await?;
    outbox::append(&mut tx, &[confirmation(&order, &purchase.basket.email)], purchase.request_id).await?;
    let body =
        serde_json::to_string(&order).map_err(|error| StoreError::Statement(sqlx::Error::Encode(error.into())))?;
    idempotency::complete(&mut tx, purchase.key, CREATED, &body).await?;
    // Last, because buyers of one product queue on its row from here to COMMIT.
    let sold_out = take_stock(&mut tx, &lines, purchase.request_id).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(Outcome::Placed { body, sold_out })
}

async fn price(tx: &mut PgConnection, wanted: &BTreeMap<String, i32>) -> Result<Vec<Line>, PlaceError> {
    let skus: Vec<&str> = wanted.keys().map(String::as_str).collect();
    let found = sqlx::query_as("SELECT id, sku, price_cents, currency FROM products WHERE sku = ANY($1) ORDER BY id");
    let found: Vec<Priced> = found.bind(skus).fetch_all(tx).await?;
    if found.len() < wanted.len() {
        let known: HashSet<&str> = found.iter().map(|product| product.sku.as_str()).collect();
        return Err(PlaceError::UnknownSku(
            wanted.keys().filter(|sku| !known.contains(sku.as_str())).cloned().collect(),
        ));
    }
    if found.iter().any(|product| product.currency != found[0].currency) {
        return Err(PlaceError::MixedCurrencies(found.into_iter().map(|product| product.sku).collect()));
    }
    let line = |product: Priced| Line { qty: wanted.get(&product.sku).copied().unwrap_or_default(), product };
    Ok(found.into_iter().map(line).collect())
}

async fn insert(tx: &mut PgConnection, email: &str, lines: &[Line]) -> Result<Order, StoreError> {
    // 50 lines of 50,000 at the highest price that the table allows fit an i64 a thousand times over.
    let total_cents = lines.iter().map(|line| line.product.price_cents * i64::from(line.qty)).sum();
    let currency = lines.first().map(|line| line.product.currency.clone()).unwrap_or_default();
    let id = Uuid::new_v4();
    let (number, status, created_at) = sqlx::query_as(
        "WITH placed AS ( \
           INSERT INTO orders (id, email, status, total_cents, currency) VALUES ($1, $2, 'placed', $3, $4) \
           RETURNING number, status, created_at), \
         items AS ( \
           INSERT INTO order_items (order_id, product_id, qty, unit_cents) \
           SELECT $1, product_id, qty, unit_cents FROM unnest($5::bigint[], $6::int[], $7::bigint[]) AS line (product_id, qty, unit_cents)) \
         SELECT number, status, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM placed",
    )
    .bind(id)
    .bind(email)
    .bind(total_cents)
    .bind(&currency)
    .bind(ids(lines))
    .bind(quantities(lines))
    .bind(lines.iter().map(|line| line.product.price_cents).collect::<Vec<_>>())
    .fetch_one(tx)
    .await?;
    let item =
        |line: &Line| OrderItem { sku: line.product.sku.clone(), qty: line.qty, unit_cents: line.product.price_cents };
    Ok(Order { id, number, status, total_cents, currency, items: lines.iter().map(item).collect(), created_at })
}

fn confirmation(order: &Order, email: &str) -> Event {
    Event {
        topic: outbox::ORDER_CONFIRMATION,
        aggregate_id: order.id.to_string(),
        aggregate_version: 1,
        payload: json!({ "order_id": order.id, "number": order.number, "email": email }),
    }
}

/// Locks in ascending id, whatever join the planner picks: two orders with the same products never deadlock. A row
/// with too little stock is left out of the answer, and then the whole order is off. The events are written by the same
/// statement: only it knows the version that the new stock has, and buyers who queue wait for no further round trip.
async fn take_stock(tx: &mut PgConnection, lines: &[Line], request_id: &str) -> Result<bool, PlaceError> {
    let taken: Vec<(i64, i32)> = sqlx::query_as(
        "WITH wanted AS (SELECT product_id, qty FROM unnest($1::bigint[], $2::int[]) AS line (product_id, qty)), \
         locked AS ( \
           SELECT i.product_id FROM inventory i WHERE i.product_id = ANY($1) ORDER BY i.product_id FOR UPDATE), \
         taken AS ( \
           UPDATE inventory i SET on_hand = i.on_hand - w.qty, updated_at = now() \
           FROM locked l JOIN wanted w USING (product_id) \
           WHERE i.product_id = l.product_id AND i.on_hand >= w.qty \
           RETURNING i.product_id, i.on_hand, i.version), \
         announced AS ( \
           INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers) \
           SELECT line.message_id, $4, p.id::text, p.version + t.version, \
             jsonb_build_object('product_id', p.id, 'sku', p.sku), jsonb_build_object('request_id', $5::text) \
           FROM unnest($1::bigint[], $3::uuid[]) AS line (product_id, message_id) \
           JOIN taken t USING (product_id) JOIN products p ON p.id = t.product_id ORDER BY p.id) \
         SELECT product_id, on_hand FROM taken",
    )
    .bind(ids(lines))
    .bind(quantities(lines))
    .bind(lines.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
    .bind(outbox::INDEX_PRODUCT)
    .bind(request_id)
    .fetch_all(tx)
    .await?;
    if taken.len() == lines.len() {
        return Ok(taken.iter().any(|(_, left)| *left == 0));
    }
    let enough: HashSet<i64> = taken.into_iter().map(|(id, _)| id).collect();
    let short = lines.iter().filter(|line| !enough.contains(&line.product.id));
    Err(PlaceError::OutOfStock(short.map(|line| line.product.sku.clone()).collect()))
}

fn ids(lines: &[Line]) -> Vec<i64> {
    lines.iter().map(|line| line.product.id).collect()
}

fn quantities(lines: &[Line]) -> Vec<i32> {
    lines.iter().map(|line| line.qty).collect()
}

/// From the primary, so that whoever just ordered finds the order.
pub(crate) async fn by_id(pool: &PgPool, id: Uuid) -> Result<Option<Order>, StoreError> {
    let order = sqlx::query_as(
        "SELECT number, status, total_cents, currency, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
         FROM orders WHERE id = $1",
    );
    let order: Option<(i64, String, i64, String, String)> = order.bind(id).fetch_optional(pool).await?;
    let Some((number, status, total_cents, currency, created_at)) = order else { return Ok(None) };
    let items = sqlx::query_as(
        "SELECT p.sku, i.qty, i.unit_cents FROM order_items i JOIN products p ON p.id = i.product_id WHERE i.order_id = $1 ORDER BY i.product_id",
    );
    let items = items.bind(id).fetch_all(pool).await?;
    Ok(Some(Order { id, number, status, total_cents, currency, items, created_at }))
}
