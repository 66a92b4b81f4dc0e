//! What was sold, and what is about to be sold out. Asked of the replica.

use std::{fmt, str::FromStr};

use serde::Serialize;
use sqlx::{FromRow, PgConnection};

use crate::{
    day::Day,
    store::{StoreError, pools::Query, products::PROBE},
};

/// From the first day to the end of the last, in UTC.
#[derive(Clone, Debug)]
pub(crate) struct Period {
    pub(crate) from: Option<Day>,
    pub(crate) to: Option<Day>,
}

impl Period {
    fn bounds(&self) -> (Option<&str>, Option<&str>) {
        (self.from.as_ref().map(Day::as_str), self.to.as_ref().map(Day::as_str))
    }
}

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
pub(crate) struct Sales {
    day: String,
    category: String,
    currency: String,
    orders: i64,
    pieces: i64,
    total_cents: i64,
}

impl Sales {
    pub(crate) fn row(&self) -> SalesRow {
        let Self { day, category, currency, .. } = self;
        SalesRow { day: day.clone(), category: category.clone(), currency: currency.clone() }
    }
}

/// Which row: where the next page goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SalesRow {
    day: String,
    category: String,
    currency: String,
}

impl fmt::Display for SalesRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.day, self.currency, self.category)
    }
}

impl FromStr for SalesRow {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, ' ').map(str::to_owned);
        let (Some(day), Some(currency), Some(category)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("expected a day, a currency and a category");
        };
        if text.contains(char::is_control) {
            return Err("expected printable characters");
        }
        Ok(Self { day, category, currency })
    }
}

/// Without a first day: the last thirty. Orders that were cancelled or refunded are none, and what checks order is no sale.
#[derive(Debug)]
pub(crate) struct SalesAfter<'a> {
    pub(crate) period: Period,
    pub(crate) last: Option<&'a SalesRow>,
    pub(crate) limit: i64,
}

impl Query for SalesAfter<'_> {
    type Answer = Vec<Sales>;

    async fn ask(&self, connection: &mut PgConnection) -> Result<Vec<Sales>, StoreError> {
        let (from, to) = self.period.bounds();
        let query = sqlx::query_as(
            "SELECT * FROM (SELECT to_char(o.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS day, c.slug AS category, o.currency, \
               count(DISTINCT o.id) AS orders, sum(i.qty)::bigint AS pieces, sum(i.qty * i.unit_cents)::bigint AS total_cents \
             FROM orders o JOIN order_items i ON i.order_id = o.id JOIN products p ON p.id = i.product_id \
             JOIN categories c ON c.id = p.category_id \
             WHERE o.status = 'placed' AND p.sku <> $3 \
               AND o.created_at >= coalesce($1::date AT TIME ZONE 'UTC', now() - interval '30 days') \
               AND o.created_at < coalesce(($2::date + 1) AT TIME ZONE 'UTC', 'infinity') \
             GROUP BY 1, 2, 3) s \
             WHERE $4::text IS NULL OR (day, category, currency) > ($4, $5, $6) ORDER BY day, category, currency LIMIT $7",
        );
        let query = query.bind(from).bind(to).bind(PROBE);
        let last = self.last;
        let query = query.bind(last.map(|row| &row.day)).bind(last.map(|row| &row.category));
        Ok(query.bind(last.map(|row| &row.currency)).bind(self.limit).fetch_all(connection).await?)
    }
}

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
pub(crate) struct TopProduct {
    sku: String,
    name: String,
    currency: String,
    orders: i64,
    pieces: i64,
    total_cents: i64,
}

#[derive(Debug)]
pub(crate) struct TopProducts {
    pub(crate) period: Period,
    pub(crate) limit: i64,
}

impl Query for TopProducts {
    type Answer = Vec<TopProduct>;

    async fn ask(&self, connection: &mut PgConnection) -> Result<Vec<TopProduct>, StoreError> {
        let (from, to) = self.period.bounds();
        let query = sqlx::query_as(
            "SELECT p.sku, p.name, s.currency, s.orders, s.pieces, s.total_cents FROM ( \
               SELECT i.product_id, o.currency, count(*) AS orders, sum(i.qty)::bigint AS pieces, \
                 sum(i.qty * i.unit_cents)::bigint AS total_cents \
               FROM orders o JOIN order_items i ON i.order_id = o.id \
               WHERE o.status = 'placed' AND i.product_id <> ALL (SELECT id FROM products WHERE sku = $4) \
                 AND o.created_at >= coalesce($1::date AT TIME ZONE 'UTC', now() - interval '30 days') \
                 AND o.created_at < coalesce(($2::date + 1) AT TIME ZONE 'UTC', 'infinity') \
               GROUP BY 1, 2 ORDER BY pieces DESC, product_id LIMIT $3) s \
             JOIN products p ON p.id = s.product_id ORDER BY s.pieces DESC, p.id",
        );
        Ok(query.bind(from).bind(to).bind(self.limit).bind(PROBE).fetch_all(connection).await?)
    }
}

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
pub(crate) struct LowStock {
    sku: String,
    name: String,
    on_hand: i32,
}

/// Of what is for sale. It reads all of the stock, which has no index: each order would have to keep it.
#[derive(Debug)]
pub(crate) struct StockBelow {
    pub(crate) below: i32,
    pub(crate) limit: i64,
}

impl Query for StockBelow {
    type Answer = Vec<LowStock>;

    async fn ask(&self, connection: &mut PgConnection) -> Result<Vec<LowStock>, StoreError> {
        let query = sqlx::query_as(
            "SELECT p.sku, p.name, i.on_hand FROM inventory i JOIN products p ON p.id = i.product_id \
             WHERE i.on_hand < $1 AND p.active ORDER BY i.on_hand, p.id LIMIT $2",
        );
        Ok(query.bind(self.below).bind(self.limit).fetch_all(connection).await?)
    }
}
