//! What an empty shop can be filled with: products that read well, and as many as it takes.

mod demo;
mod parts;
#[cfg(all(test, feature = "live-tests"))]
mod scale_test;
mod words;

use std::{borrow::Cow, time::Instant};

use anyhow::Context;
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::store::{outbox, schema};

/// A statement for each: large enough that round trips do not count, small enough to be planned well.
const BATCH: usize = 2_000;
const CURRENCY: &str = "EUR";

#[derive(Debug, PartialEq, Eq)]
struct Shelf {
    slug: Cow<'static, str>,
    name: Cow<'static, str>,
    parent: Option<Cow<'static, str>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Product {
    sku: String,
    name: String,
    description: String,
    brand: Cow<'static, str>,
    category: Cow<'static, str>,
    price_cents: i64,
    hidden: bool,
    on_hand: i32,
}

/// The demo products, and `scale` parts besides.
pub(crate) async fn run(options: &PgConnectOptions, scale: Option<u32>) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options.clone())
        .await
        .context("connect to the primary to seed it")?;
    schema::check(&pool).await.context("check the schema before seeding")?;
    let mut connection = pool.acquire().await.context("connect to the primary to seed it")?;
    demo(&mut connection).await?;
    if let Some(scale) = scale {
        parts(&mut connection, scale).await?;
    }
    Ok(())
}

async fn demo(connection: &mut PgConnection) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut tx = connection.begin().await.context("begin the seed")?;
    insert_shelves(&mut tx, &demo::shelves()).await.context("insert the categories")?;
    let mut inserted = 0;
    for batch in demo::catalogue().chunks(BATCH) {
        let new = insert_products(&mut tx, batch).await.context("insert products")?;
        let skus: Vec<&str> = new.iter().map(String::as_str).collect();
        outbox::append_index_products(&mut tx, &skus).await.context("announce the products")?;
        inserted += new.len();
    }
    tx.commit().await.context("commit the seed")?;
    let took_ms = started.elapsed().as_secs_f64() * 1e3;
    tracing::info!(products = demo::catalogue().len(), inserted, took_ms, "catalogue is seeded");
    Ok(())
}

/// Without an event for each: a search index is filled as a whole in far less time.
async fn parts(connection: &mut PgConnection, scale: u32) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut tx = connection.begin().await.context("begin the seed of parts")?;
    insert_shelves(&mut tx, &parts::shelves()).await.context("insert the categories of parts")?;
    let text = parts::text();
    let mut parts = parts::catalogue(&text, scale);
    let mut inserted = 0;
    loop {
        let batch: Vec<Product> = parts.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        inserted += insert_products(&mut tx, &batch).await.context("insert parts")?.len();
    }
    tx.commit().await.context("commit the seed of parts")?;
    // The planner would think for a while that the tables are small.
    sqlx::raw_sql("ANALYZE products, inventory, categories").execute(connection).await.context("analyse the tables")?;
    let took_ms = started.elapsed().as_secs_f64() * 1e3;
    tracing::info!(products = scale, inserted, took_ms, "parts are seeded: run `app reindex` to find them by search");
    Ok(())
}

async fn insert_shelves(tx: &mut PgConnection, shelves: &[Shelf]) -> Result<(), sqlx::Error> {
    let slugs: Vec<&str> = shelves.iter().map(|shelf| shelf.slug.as_ref()).collect();
    let names: Vec<&str> = shelves.iter().map(|shelf| shelf.name.as_ref()).collect();
    let parents: Vec<Option<&str>> = shelves.iter().map(|shelf| shelf.parent.as_deref()).collect();
    let insert = sqlx::query(
        "INSERT INTO categories (slug, name) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING",
    );
    insert.bind(&slugs).bind(names).execute(&mut *tx).await?;
    let place = sqlx::query(
        "UPDATE categories c SET parent_id = p.id FROM unnest($1::text[], $2::text[]) AS s (slug, parent) \
         JOIN categories p ON p.slug = s.parent WHERE c.slug = s.slug AND c.parent_id IS NULL",
    );
    place.bind(slugs).bind(parents).execute(tx).await.map(drop)
}

/// The SKUs of those that were not there; all have stock afterwards.
async fn insert_products(tx: &mut PgConnection, batch: &[Product]) -> Result<Vec<String>, sqlx::Error> {
    let text = |of: fn(&Product) -> &str| batch.iter().map(of).collect::<Vec<&str>>();
    let insert = sqlx::query_scalar(
        "INSERT INTO products (sku, name, description, brand, category_id, price_cents, currency, hidden) \
         SELECT p.sku, p.name, p.description, p.brand, c.id, p.price_cents, $8, p.hidden \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bool[]) WITH ORDINALITY \
           AS p (sku, name, description, brand, category, price_cents, hidden, position) \
         JOIN categories c ON c.slug = p.category ORDER BY p.position ON CONFLICT DO NOTHING RETURNING sku",
    );
    let new = insert
        .bind(text(|product| &product.sku))
        .bind(text(|product| &product.name))
        .bind(text(|product| &product.description))
        .bind(text(|product| &product.brand))
        .bind(text(|product| &product.category))
        .bind(batch.iter().map(|product| product.price_cents).collect::<Vec<_>>())
        .bind(batch.iter().map(|product| product.hidden).collect::<Vec<_>>())
        .bind(CURRENCY)
        .fetch_all(&mut *tx)
        .await?;
    insert_stock(tx, batch).await?;
    Ok(new)
}

async fn insert_stock(tx: &mut PgConnection, batch: &[Product]) -> Result<(), sqlx::Error> {
    let insert = sqlx::query(
        "INSERT INTO inventory (product_id, on_hand) SELECT p.id, s.on_hand \
         FROM unnest($1::text[], $2::int[]) AS s (sku, on_hand) JOIN products p USING (sku) ON CONFLICT DO NOTHING",
    );
    let skus: Vec<&str> = batch.iter().map(|product| product.sku.as_str()).collect();
    let stock: Vec<i32> = batch.iter().map(|product| product.on_hand).collect();
    insert.bind(skus).bind(stock).execute(tx).await.map(drop)
}

fn sentence_case(name: &str) -> String {
    let lower = name.to_lowercase();
    lower.get(..1).map_or_else(String::new, |first| first.to_uppercase() + &lower[1..])
}
