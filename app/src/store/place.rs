//! Placing an order: one statement takes the stock, or nothing happens.

use std::collections::{BTreeMap, HashSet};

use sqlx::{Connection, FromRow, PgConnection};
use tracing::Instrument;
use uuid::Uuid;

use super::{
    StoreError, cart,
    idempotency::{self, Key, Used},
    orders::OrderItem,
    outbox,
    pools::Databases,
    position::Position,
};
use crate::{
    basket::{Basket, Lines},
    traces,
};

pub(crate) const CREATED: u16 = 201;

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

impl Line {
    fn item(&self) -> OrderItem {
        OrderItem { sku: self.product.sku.clone(), qty: self.qty, unit_cents: self.product.price_cents }
    }
}

/// All of an order that writes, so that buyers of one product queue on its row for no round trip, and so that a session in
/// the middle of an order holds nothing.
///
/// `ours`: the advisory lock keeps a second request with the key from waiting, with its connection, for the first one's end.
/// Where the first one ended between this statement's snapshot and the lock, the primary key refuses it, and all is undone.
/// `stock`: rows are locked in ascending id, whatever join the planner picks: two orders with the same products never
/// deadlock. What is there is known once they are locked; the table's CHECK would refuse what is not.
/// The events are written here, because only here is the version known that the new stock has.
///
/// All of it looks rows up by their keys, so one plan fits every basket, and planning is most of the work. A parameter that
/// is an array comes out of a SELECT: the planner cannot look into it, and has no reason to plan anew for each basket.
const PLACE: &str = concat!(
    "WITH ours AS MATERIALIZED ( \
       SELECT ",
    idempotency::try_lock!(),
    " AND NOT EXISTS (SELECT FROM idempotency_keys WHERE scope = $1 AND key = $2) AS is_ours), \
     line AS MATERIALIZED ( \
       SELECT * FROM unnest((SELECT $4::bigint[]), (SELECT $5::int[]), (SELECT $6::bigint[]), (SELECT $7::uuid[])) \
         AS line (product_id, qty, unit_cents, message_id)), \
     stock AS MATERIALIZED ( \
       SELECT product_id, on_hand FROM inventory \
       WHERE product_id = ANY((SELECT $4::bigint[])::bigint[]) AND (SELECT is_ours FROM ours) \
       ORDER BY product_id FOR UPDATE), \
     short AS MATERIALIZED ( \
       SELECT product_id FROM line LEFT JOIN stock USING (product_id) WHERE on_hand IS NULL OR on_hand < qty), \
     placed AS ( \
       INSERT INTO orders (id, email, status, total_cents, currency, user_id) \
       SELECT $8, $9, 'placed', $10, $11, $12 WHERE NOT EXISTS (SELECT FROM short) \
       RETURNING id, number, status, total_cents, currency, created_at), \
     claimed AS ( \
       INSERT INTO idempotency_keys (scope, key, fingerprint, status, response) \
       SELECT $1, $2, $3, 201, (SELECT row_to_json(o) FROM ( \
         SELECT id, number, status, total_cents, currency, $13::json AS items, iso_utc(created_at) AS created_at) o) \
       FROM placed RETURNING response), \
     items AS ( \
       INSERT INTO order_items (order_id, product_id, qty, unit_cents) \
       SELECT id, product_id, qty, unit_cents FROM placed, line), \
     taken AS ( \
       UPDATE inventory i SET on_hand = i.on_hand - line.qty, updated_at = now() FROM placed, line \
       WHERE i.product_id = line.product_id RETURNING i.product_id, i.on_hand, i.version), \
     announced AS ( \
       INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, headers) \
       SELECT $14, $15, id::text, 1, jsonb_build_object('order_id', id, 'number', number, 'email', $9), $17::jsonb \
       FROM placed UNION ALL \
       SELECT message_id, $16, p.id::text, p.version + taken.version, \
         jsonb_build_object('product_id', p.id, 'sku', p.sku), $17::jsonb \
       FROM taken JOIN line USING (product_id) JOIN products p ON p.id = taken.product_id) \
     SELECT is_ours, (SELECT response FROM claimed) AS response, \
       EXISTS (SELECT FROM taken WHERE on_hand = 0) AS sold_out, ARRAY(SELECT product_id FROM short) AS short FROM ours",
);

/// Tried once more, also where the order may stand by now: it is found by its key then, and not placed again.
pub(crate) async fn place(databases: &Databases, purchase: &Purchase<'_>) -> Result<Answered, PlaceError> {
    let first = match attempt(databases, purchase).await {
        Err(PlaceError::Store(error)) if error.may_pass_with_a_key() => error,
        other => return other,
    };
    tracing::warn!(error = %first, "try the order once more");
    settled(first, attempt(databases, purchase).await)
}

/// That nothing was changed is only known of the second try. What it finds of the first one may have reached no replica yet,
/// and would be lost with this server: whoever asks again later is told of it.
fn settled(first: StoreError, second: Result<Answered, PlaceError>) -> Result<Answered, PlaceError> {
    match (&first, &second) {
        (
            StoreError::OutcomeUnknown(_),
            Ok(Answered { outcome: Outcome::Replayed { .. }, .. }) | Err(PlaceError::Store(StoreError::Unavailable(_))),
        ) => Err(first.into()),
        _ => second,
    }
}

async fn attempt(databases: &Databases, purchase: &Purchase<'_>) -> Result<Answered, PlaceError> {
    let mut session = databases.writer().await?;
    match transact(&mut session, purchase).instrument(traces::call("postgresql", "order")).await {
        Ok(outcome) if purchase.user.is_none() => {
            session.keep();
            Ok(Answered { outcome, position: None })
        }
        Ok(outcome) => {
            // The order stands, whatever comes of this.
            let position = Position::ask(&mut session).await.ok();
            if position.is_some() {
                session.keep();
            }
            Ok(Answered { outcome, position })
        }
        Err(error) => {
            match &error {
                PlaceError::Store(error) if error.condemns_connection() => session.close(),
                PlaceError::Store(_) => {}
                // What a refusal rolled back was over before its key was looked up.
                _ => session.keep(),
            }
            Err(error)
        }
    }
}

async fn transact(connection: &mut PgConnection, purchase: &Purchase<'_>) -> Result<Outcome, PlaceError> {
    let placed = match (&purchase.basket.lines, purchase.user) {
        (Lines::Given(wanted), _) => given(connection, purchase, wanted).await,
        (Lines::Cart, Some(user)) => cart(connection, purchase, user).await,
        (Lines::Cart, None) => Err(PlaceError::CartEmpty),
    };
    let refusal = match placed {
        Ok(_) | Err(PlaceError::Store(_)) => return placed,
        Err(refusal) => refusal,
    };
    // Whoever repeats a request gets what the first one got, though by now it would be refused.
    match idempotency::used(connection, purchase.key).await? {
        Some(Used::Done { status, body }) => Ok(Outcome::Replayed { status, body }),
        Some(Used::Otherwise) => Err(PlaceError::KeyReused),
        None => Err(refusal),
    }
}

/// No transaction besides that of the one statement: prices are read before it, and nothing is locked by that.
async fn given(
    connection: &mut PgConnection,
    purchase: &Purchase<'_>,
    wanted: &BTreeMap<String, i32>,
) -> Result<Outcome, PlaceError> {
    let lines = price(connection, wanted).await?;
    let answer = put(connection, purchase, &lines).await.map_err(StoreError::of_commit);
    outcome(answer, lines)
}

/// The cart is emptied with the COMMIT of its order. An early return rolls everything back: the transaction ends with the
/// borrow.
async fn cart(connection: &mut PgConnection, purchase: &Purchase<'_>, user: Uuid) -> Result<Outcome, PlaceError> {
    let mut tx = connection.begin().await?;
    if !idempotency::lock(&mut tx, purchase.key).await? {
        return Err(PlaceError::KeyRunning);
    }
    let wanted = cart::take(&mut tx, user).await?;
    if wanted.is_empty() {
        return Err(PlaceError::CartEmpty);
    }
    let lines = price(&mut tx, &wanted).await?;
    let answer = put(&mut tx, purchase, &lines).await.map_err(StoreError::from);
    let outcome = outcome(answer, lines)?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    Ok(outcome)
}

async fn price(tx: &mut PgConnection, wanted: &BTreeMap<String, i32>) -> Result<Vec<Line>, PlaceError> {
    let skus: Vec<&str> = wanted.keys().map(String::as_str).collect();
    let found = sqlx::query_as(
        "SELECT id, sku, price_cents, currency FROM products \
         WHERE sku = ANY((SELECT $1::text[])::text[]) AND active ORDER BY id",
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

#[derive(Debug, FromRow)]
struct Put {
    is_ours: bool,
    response: Option<String>,
    sold_out: bool,
    short: Vec<i64>,
}

async fn put(connection: &mut PgConnection, purchase: &Purchase<'_>, lines: &[Line]) -> Result<Put, sqlx::Error> {
    let Purchase { basket, user, key, request_id } = purchase;
    let items: Vec<OrderItem> = lines.iter().map(Line::item).collect();
    let items = serde_json::to_string(&items).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query_as(PLACE)
        .bind(key.scope)
        .bind(key.key)
        .bind(key.fingerprint)
        .bind(lines.iter().map(|line| line.product.id).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.qty).collect::<Vec<_>>())
        .bind(lines.iter().map(|line| line.product.price_cents).collect::<Vec<_>>())
        .bind(lines.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
        .bind(Uuid::new_v4())
        .bind(&basket.email)
        .bind(total(lines.iter().map(|line| (line.product.price_cents, line.qty))))
        .bind(lines.first().map(|line| line.product.currency.as_str()))
        .bind(user)
        .bind(items)
        .bind(Uuid::now_v7())
        .bind(outbox::ORDER_CONFIRMATION)
        .bind(outbox::INDEX_PRODUCT)
        .bind(outbox::headers(request_id))
        .fetch_one(connection)
        .await
}

fn outcome(answer: Result<Put, StoreError>, lines: Vec<Line>) -> Result<Outcome, PlaceError> {
    let Put { is_ours, response, sold_out, short } = match answer {
        Err(StoreError::Statement(error)) if idempotency::is_taken(&error) => return Err(PlaceError::KeyRunning),
        answer => answer?,
    };
    match response {
        Some(body) => Ok(Outcome::Placed { body, sold_out }),
        None if is_ours => {
            let short = lines.into_iter().map(|line| line.product).filter(|product| short.contains(&product.id));
            Err(PlaceError::OutOfStock(short.map(|product| product.sku).collect()))
        }
        None => Err(PlaceError::KeyRunning),
    }
}

/// 50 lines of 50,000 at the highest price that the table allows fit an i64 a thousand times over.
fn total(lines: impl Iterator<Item = (i64, i32)>) -> i64 {
    lines.map(|(cents, qty)| cents * i64::from(qty)).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    use super::*;
    use crate::basket::{MAX_LINES, MAX_QTY};

    #[test]
    fn an_order_is_only_told_of_when_it_is_known_to_stand() {
        let lost = || sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into());
        let found = || Outcome::Replayed { status: 201, body: "{}".to_owned() };
        let placed = || Outcome::Placed { body: "{}".to_owned(), sold_out: false };
        let second = |outcome| Ok(Answered { outcome, position: None });
        let away = || Err(StoreError::Unavailable(lost()).into());
        let unknown = |second| settled(StoreError::OutcomeUnknown(lost()), second);
        let is_unknown = |answer| matches!(answer, Err(PlaceError::Store(StoreError::OutcomeUnknown(_))));
        assert!(is_unknown(unknown(second(found()))) && is_unknown(unknown(away())));
        assert!(unknown(second(placed())).is_ok());
        assert!(matches!(unknown(Err(PlaceError::KeyRunning)), Err(PlaceError::KeyRunning)));
        let nothing = |second| settled(StoreError::Unavailable(lost()), second);
        assert!(nothing(second(found())).is_ok());
        assert!(matches!(nothing(away()), Err(PlaceError::Store(StoreError::Unavailable(_)))));
    }

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

#[cfg(test)]
#[cfg(feature = "live-tests")]
mod live_tests {
    use super::*;
    use crate::{
        basket::OrderRequest,
        store::{
            pools::{self, Databases},
            tokens,
            warm::Session,
        },
        testing::Database,
    };

    async fn shop() -> (Database, Databases) {
        let database = Database::create().await;
        let databases = Databases::new(pools::write_pool(database.options.clone(), 4), None);
        let stock = "WITH c AS (INSERT INTO categories (slug, name) VALUES ('c', 'C') RETURNING id), \
             p AS (INSERT INTO products (sku, name, description, brand, category_id, price_cents, currency) \
               SELECT sku, sku, '', 'B', c.id, 250, 'EUR' FROM c, unnest('{A,B}'::text[]) AS sku RETURNING id) \
             INSERT INTO inventory (product_id, on_hand) SELECT id, 1000 FROM p";
        sqlx::query(stock).execute(&databases.primary).await.unwrap();
        (database, databases)
    }

    async fn order(databases: &Databases, key: &str) -> Result<Answered, PlaceError> {
        let request: OrderRequest = serde_json::from_value(serde_json::json!({
            "email": "ada@example.org", "items": [{ "sku": "A", "qty": 1 }, { "sku": "B", "qty": 2 }],
        }))
        .unwrap();
        let basket = Basket::new(request, None).unwrap();
        let key = Key { scope: "test", key, fingerprint: "f" };
        place(databases, &Purchase { basket: &basket, user: None, key, request_id: "r" }).await
    }

    async fn count(databases: &Databases) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(&databases.primary).await.unwrap()
    }

    /// Planning costs more than the order.
    #[tokio::test]
    async fn an_order_is_planned_once_a_session() {
        let (_database, databases) = shop().await;
        for key in 0..12 {
            order(&databases, &key.to_string()).await.unwrap();
        }
        let mut session = databases.writer().await.unwrap();
        let plans: Vec<(i64, i64)> = sqlx::query_as(
            "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement ~ 'is_ours|FROM products' AND statement !~ 'custom_plans'",
        )
        .fetch_all(&mut *session)
        .await
        .unwrap();
        assert_eq!(plans, [(7, 5), (7, 5)], "the server tries five times before it keeps a plan");
    }

    /// What a failover behind one address leaves: sessions to the server that was demoted, which answer for ever.
    #[tokio::test]
    async fn sessions_that_became_read_only_are_left_with_the_first_order() {
        let (_database, databases) = shop().await;
        order(&databases, "before").await.unwrap();
        let mut sessions = [databases.writer().await.unwrap(), databases.writer().await.unwrap()];
        for session in &mut sessions {
            sqlx::query("SET default_transaction_read_only = on").execute(&mut **session).await.unwrap();
        }
        sessions.into_iter().for_each(Session::keep);
        let placed = order(&databases, "after").await.unwrap();
        assert!(matches!(placed.outcome, Outcome::Placed { .. }), "{placed:?}");
        assert_eq!(
            (count(&databases).await, databases.writers.kept()),
            (2, 1),
            "the other one is asked before it is used"
        );
    }

    #[tokio::test]
    async fn tokens_are_looked_up_on_sessions_that_can_write() {
        let (_database, databases) = shop().await;
        let mut session = databases.writer().await.unwrap();
        sqlx::query("SET default_transaction_read_only = on").execute(&mut *session).await.unwrap();
        session.keep();
        assert!(tokens::user_of(&databases, &[0; 32]).await.unwrap().is_none());
        assert_eq!(databases.writers.kept(), 1);
        assert!(order(&databases, "next").await.is_ok());
    }

    #[tokio::test]
    async fn a_refused_order_keeps_nothing_locked() {
        let (_database, databases) = shop().await;
        sqlx::query("UPDATE inventory SET on_hand = 1").execute(&databases.primary).await.unwrap();
        let refused = order(&databases, "k").await.unwrap_err();
        assert!(matches!(&refused, PlaceError::OutOfStock(skus) if *skus == ["B"]), "{refused:?}");
        sqlx::query("UPDATE inventory SET on_hand = 2").execute(&databases.primary).await.unwrap();
        let placed = order(&databases, "k").await.unwrap();
        assert!(matches!(placed.outcome, Outcome::Placed { sold_out: true, .. }), "{placed:?}");
    }
}
