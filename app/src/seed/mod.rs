//! The demo catalogue: the same products every time, made from word lists.

mod words;

use std::time::Instant;

use anyhow::Context;
use sqlx::{
    Connection, PgConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::store::{outbox, schema};
use words::{BRANDS, CATEGORIES, COLOURS, Category};

const BATCH: usize = 500;
const CURRENCY: &str = "EUR";

#[derive(Debug, PartialEq, Eq)]
struct Product {
    sku: String,
    name: String,
    description: String,
    brand: &'static str,
    category: &'static str,
    price_cents: i64,
    hidden: bool,
    on_hand: i32,
}

pub(crate) async fn run(options: &PgConnectOptions) -> anyhow::Result<()> {
    let started = Instant::now();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options.clone())
        .await
        .context("connect to the primary to seed it")?;
    schema::check(&pool).await.context("check the schema before seeding")?;
    let mut connection = pool.acquire().await.context("connect to the primary to seed it")?;
    let mut tx = connection.begin().await.context("begin the seed")?;
    insert_categories(&mut tx).await.context("insert the categories")?;
    let mut inserted = 0;
    for batch in catalogue().chunks(BATCH) {
        let new = insert_products(&mut tx, batch).await.context("insert products")?;
        insert_stock(&mut tx, batch).await.context("insert stock")?;
        let skus: Vec<&str> = new.iter().map(String::as_str).collect();
        outbox::append_index_products(&mut tx, &skus).await.context("announce the products")?;
        inserted += new.len();
    }
    tx.commit().await.context("commit the seed")?;
    tracing::info!(
        products = catalogue().len(),
        inserted,
        took_ms = started.elapsed().as_secs_f64() * 1e3,
        "catalogue is seeded"
    );
    Ok(())
}

async fn insert_categories(tx: &mut PgConnection) -> Result<(), sqlx::Error> {
    let slugs: Vec<&str> = CATEGORIES.iter().map(|category| category.slug).collect();
    let names: Vec<&str> = CATEGORIES.iter().map(|category| category.name).collect();
    let insert = sqlx::query(
        "INSERT INTO categories (slug, name) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING",
    );
    insert.bind(slugs).bind(names).execute(tx).await.map(drop)
}

async fn insert_products(tx: &mut PgConnection, batch: &[Product]) -> Result<Vec<String>, sqlx::Error> {
    let text = |of: fn(&Product) -> &str| batch.iter().map(of).collect::<Vec<&str>>();
    let insert = sqlx::query_scalar(
        "INSERT INTO products (sku, name, description, brand, category_id, price_cents, currency, hidden) \
         SELECT p.sku, p.name, p.description, p.brand, c.id, p.price_cents, $8, p.hidden \
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bool[]) WITH ORDINALITY \
           AS p (sku, name, description, brand, category, price_cents, hidden, position) \
         JOIN categories c ON c.slug = p.category ORDER BY p.position ON CONFLICT DO NOTHING RETURNING sku",
    );
    insert
        .bind(text(|product| &product.sku))
        .bind(text(|product| &product.name))
        .bind(text(|product| &product.description))
        .bind(text(|product| product.brand))
        .bind(text(|product| product.category))
        .bind(batch.iter().map(|product| product.price_cents).collect::<Vec<_>>())
        .bind(batch.iter().map(|product| product.hidden).collect::<Vec<_>>())
        .bind(CURRENCY)
        .fetch_all(tx)
        .await
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

fn catalogue() -> Vec<Product> {
    let goods = CATEGORIES.iter().flat_map(|category| (0..category.nouns.len()).map(move |noun| (category, noun)));
    let mut products: Vec<Product> =
        goods.flat_map(|(category, noun)| (0..BRANDS.len()).map(move |brand| product(category, noun, brand))).collect();
    // Brands and nouns mix, so that the first pages show more than one shelf. 7919 is prime and does not divide the count.
    let count = products.len();
    let mut order: Vec<usize> = (0..count).map(|position| position * 7919 % count).collect();
    let mut taken: Vec<Option<Product>> = products.drain(..).map(Some).collect();
    products.extend(order.drain(..).filter_map(|index| taken[index].take()));
    products.push(probe());
    products
}

/// Orders of this product prove the write path on a live shop; it is never listed and never runs out.
fn probe() -> Product {
    Product {
        sku: "PROBE-0".to_owned(),
        name: "Probe".to_owned(),
        description: "Ordered by health probes; not for sale.".to_owned(),
        brand: "Probe",
        category: CATEGORIES[0].slug,
        price_cents: 100,
        hidden: true,
        on_hand: 1_000_000_000,
    }
}

fn product(category: &'static Category, noun: usize, brand: usize) -> Product {
    let (name, base_euros) = category.nouns[noun];
    let maker = &BRANDS[brand];
    let material = category.materials[(noun * 5 + brand * 3) % category.materials.len()];
    let colour = COLOURS[(noun * 7 + brand * 11) % COLOURS.len()];
    let use_case = category.uses[(noun + brand) % category.uses.len()];
    let euros = base_euros * maker.price_percent / 100 + i64::try_from((noun * 3 + brand * 2) % 5).unwrap_or(0);
    Product {
        sku: format!("{}-{}-{:02}", maker.code, category.code, noun + 1),
        name: format!("{} {material} {name}, {colour}", maker.name),
        description: format!(
            "{} in {colour}, made by {} from {}. {use_case}",
            sentence_case(name),
            maker.name,
            material.to_lowercase()
        ),
        brand: maker.name,
        category: category.slug,
        price_cents: euros.max(3) * 100 - 10,
        hidden: false,
        on_hand: i32::try_from(40 + (noun * 37 + brand * 53) % 160).unwrap_or(40),
    }
}

fn sentence_case(name: &str) -> String {
    let lower = name.to_lowercase();
    lower.get(..1).map_or_else(String::new, |first| first.to_uppercase() + &lower[1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_catalogue_is_large_distinct_and_the_same_every_time() {
        let products = catalogue();
        assert!(products.len() > 1_000, "{}", products.len());
        let distinct = |of: fn(&Product) -> &str| products.iter().map(of).collect::<HashSet<_>>().len();
        assert_eq!(distinct(|product| &product.sku), products.len());
        assert_eq!(distinct(|product| &product.name), products.len());
        assert_eq!(products, catalogue());
    }

    #[test]
    fn one_product_is_hidden_and_it_is_the_probe() {
        let products = catalogue();
        let hidden: Vec<&Product> = products.iter().filter(|product| product.hidden).collect();
        assert_eq!(hidden, [&probe()]);
        assert_eq!(hidden[0].on_hand, 1_000_000_000);
    }

    #[test]
    fn products_read_like_products() {
        for product in catalogue().iter().filter(|product| !product.hidden) {
            assert!((290..200_000).contains(&product.price_cents) && product.price_cents % 100 == 90, "{product:?}");
            assert!(product.description.ends_with('.') && product.description.len() > 40, "{product:?}");
            assert!((40..200).contains(&product.on_hand), "{product:?}");
        }
        let first = &catalogue()[..20];
        assert!(
            first.iter().map(|product| product.category).collect::<HashSet<_>>().len() > 4,
            "the first page is mixed"
        );
    }
}
