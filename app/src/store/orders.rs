//! Orders: one transaction on the primary takes the stock, or nothing happens.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use serde_json::json;
use sqlx::{Connection, FromRow, PgConnection, PgPool};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    StoreError, cart,
    idempotency::{self, Claim, Key},
    outbox::{self, Event},
    pools::{self, Source},
    position::Position,
    stock,
};
use crate::{
    basket::{Basket, Lines},
    traces,
};

pub(crate) const CREATED: u16 = 201;

/// All statements of an order look rows up by their keys, so one plan fits every basket. Left to itself the server plans two
/// of them anew each time, because of what it thinks of arrays: a third of its work (0.33 ms of 0.51 for the stock alone).
const BEGIN: &str = "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan";

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

/// What became of it, and from where on a server shows it: known for orders that their owner may list.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) outcome: Outcome,
    pub(crate) position: Option<Position>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("no such product: {}", .0.join(", "))]
    UnknownSku(Vec<String>),
    #[error("not enough stock of {}", .0.join(", "))]
    OutOfStock(Vec<String>),
    #[error("the products have different currencies: {}", .0.join(", "))]
    MixedCurrencies(Vec<String>),
    #[error("the cart is empty")]
    CartEmpty,
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
    /// Whose order it will be; nobody's is a guest's.
    pub(crate) user: Option<Uuid>,
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
pub(crate) async fn place(pool: &PgPool, purchase: &Purchase<'_>) -> Result<Answered, PlaceError> {
    match attempt(pool, purchase).await {
        Err(PlaceError::Store(error)) if error.may_pass_at_once() => {
            tracing::warn!(%error, "try the order once more");
            attempt(pool, purchase).await
        }
        other => other,
    }
}

async fn attempt(pool: &PgPool, purchase: &Purchase<'_>) -> Result<Answered, PlaceError> {
    let mut connection = pools::take(pool, Source::Primary).await?;
    match transact(&mut connection, purchase).instrument(traces::call("postgresql", "order")).await {
        Ok(outcome) => {
            let position = match purchase.user {
                // The order stands, whatever comes of this.
                Some(_) => Position::ask(&mut connection).await.ok(),
                None => None,
            };
            Ok(Answered { outcome, position })
        }
        Err(error) => {
            if matches!(&error, PlaceError::Store(error) if error.condemns_connection()) {
                connection.close_on_drop();
            }
            Err(error)
        }
    }
}

/// An early return rolls everything back: the transaction ends with the borrow.
async fn transact(connection: &mut PgConnection, purchase: &Purchase<'_>) -> Result<Outcome, PlaceError> {
    let mut tx = connection.begin_with(BEGIN).await?;
    match idempotency::claim(&mut tx, purchase.key).await? {
        Claim::Ours => {}
        Claim::Done { status, body } => return Ok(Outcome::Replayed { status, body }),
        Claim::Running => return Err(PlaceError::KeyRunning),
        Claim::Reused => return Err(PlaceError::KeyReused),
    }
    let lines = match (&purchase.basket.lines, purchase.user) {
        (Lines::Given(wanted), _) => price(&mut tx, wanted).await?,
        (Lines::Cart, Some(user)) => match cart::take(&mut tx, user).await? {
            wanted if wanted.is_empty() => return Err(PlaceError::CartEmpty),
            wanted => price(&mut tx, &wanted).await?,
        },
        (Lines::Cart, None) => return Err(PlaceError::CartEmpty),
    };
    let order = insert(&mut tx, purchase, &lines).await?;
    outbox::append(&mut tx, &[confirmation(&order, &purchase.basket.email)], purchase.request_id).await?;
    let body =
        serde_json::to_string(&order).map_err(|error| StoreError::Statement(sqlx::Error::Encode(error.into())))?;
    idempotency::complete(&mut tx, purchase.key, CREATED, &body).await?;
    // Last, because buyers of one product queue on its row from here to COMMIT.
    let taken = stock::take(&mut tx, &ids(&lines), &quantities(&lines), purchase.request_id).await?;
    let enough: HashSet<i64> = taken.iter().map(|(id, _)| *id).collect();
    let short: Vec<String> = lines
        .into_iter()
        .map(|line| line.product)
        .filter(|product| !enough.contains(&product.id))
        .map(|product| product.sku)
        .collect();
    if !short.is_empty() {
        return Err(PlaceError::OutOfStock(short));
    }
    let sold_out = taken.iter().any(|(_, left)| *left == 0);
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(Outcome::Placed { body, sold_out })
}

async fn price(tx: &mut PgConnection, wanted: &BTreeMap<String, i32>) -> Result<Vec<Line>, PlaceError> {
    let skus: Vec<&str> = wanted.keys().map(String::as_str).collect();
    let found = sqlx::query_as(
        "SELECT id, sku, price_cents, currency FROM products WHERE sku = ANY($1) AND active ORDER BY id",
    );
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

/// 50 lines of 50,000 at the highest price that the table allows fit an i64 a thousand times over.
fn total(lines: impl Iterator<Item = (i64, i32)>) -> i64 {
    lines.map(|(cents, qty)| cents * i64::from(qty)).sum()
}

async fn insert(tx: &mut PgConnection, purchase: &Purchase<'_>, lines: &[Line]) -> Result<Order, StoreError> {
    let total_cents = total(lines.iter().map(|line| (line.product.price_cents, line.qty)));
    let currency = lines.first().map(|line| line.product.currency.clone()).unwrap_or_default();
    let id = Uuid::new_v4();
    let (number, status, created_at) = sqlx::query_as(
        "WITH placed AS ( \
           INSERT INTO orders (id, email, status, total_cents, currency, user_id) VALUES ($1, $2, 'placed', $3, $4, $8) \
           RETURNING number, status, created_at), \
         items AS ( \
           INSERT INTO order_items (order_id, product_id, qty, unit_cents) \
           SELECT $1, product_id, qty, unit_cents FROM unnest($5::bigint[], $6::int[], $7::bigint[]) AS line (product_id, qty, unit_cents)) \
         SELECT number, status, iso_utc(created_at) FROM placed",
    )
    .bind(id)
    .bind(&purchase.basket.email)
    .bind(total_cents)
    .bind(&currency)
    .bind(ids(lines))
    .bind(quantities(lines))
    .bind(lines.iter().map(|line| line.product.price_cents).collect::<Vec<_>>())
    .bind(purchase.user)
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

fn ids(lines: &[Line]) -> Vec<i64> {
    lines.iter().map(|line| line.product.id).collect()
}

fn quantities(lines: &[Line]) -> Vec<i32> {
    lines.iter().map(|line| line.qty).collect()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    use super::*;
    use crate::basket::{MAX_LINES, MAX_QTY};

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Lines of one SKU merge, so that one line may have the quantity of all.
        #[test]
        fn no_order_that_may_be_placed_overflows(
            lines in proptest::collection::vec(
                (0..=1_000_000_000_i64, 1..=MAX_QTY * i32::try_from(MAX_LINES).unwrap()),
                1..=MAX_LINES,
            ),
        ) {
            let exact: i128 = lines.iter().map(|(cents, qty)| i128::from(*cents) * i128::from(*qty)).sum();
            prop_assert_eq!(i128::from(total(lines.iter().copied())), exact);
        }
    }
}
