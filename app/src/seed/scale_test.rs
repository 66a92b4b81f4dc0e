//! A catalogue of 100,000 products on a real server: how long it takes to make, and that it stays quick to read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::{
    cursor::{Cursor, Sort},
    seed,
    store::{
        pools,
        products::{self, Listing, plans},
    },
    testing::Database,
};

/// Far more than it takes, 15 s on two busy cores without optimisation.
const IN_TIME: Duration = Duration::from_secs(60);
/// What a page of 20 may look at, in any step of its plan.
const ROWS: i64 = 3_000;

/// One test, because making the products takes most of its time.
#[tokio::test]
async fn a_hundred_thousand_products_take_under_a_minute_and_no_page_reads_them_all() {
    let database = Database::create().await;
    let started = Instant::now();
    seed::run(&database.options, Some(100_000)).await.unwrap();
    let took = started.elapsed();
    assert!(took < IN_TIME, "{took:?}");
    let pool = pools::write_pool(database.options.clone(), 2);
    let first = contents(&pool).await;
    assert!(first.0 > 100_000 && first.1 == first.0, "every product has stock: {first:?}");
    assert!(first.2 < 5_000, "the search index is not sent an event for each: {first:?}");
    seed::run(&database.options, Some(100_000)).await.unwrap();
    assert_eq!(contents(&pool).await, first, "the second seed changes nothing");
    println!("100,000 products with stock: {took:?}");

    for listing in listings() {
        let page = products::list(&mut pool.acquire().await.unwrap(), &listing).await.unwrap();
        assert_eq!(page.items.len(), usize::from(listing.limit), "{listing:?}");
        let steps = plans::steps(&pool, &listing).await;
        let reads = |(kind, table, rows): &(String, String, i64)| {
            (kind == "Seq Scan" && (table == "products" || table == "inventory")) || *rows > ROWS
        };
        assert!(!steps.iter().any(reads), "{listing:?}: {steps:?}");
    }
}

/// Products, those with stock, events for the index, and what all is worth.
async fn contents(pool: &PgPool) -> (i64, i64, i64, i64) {
    let sql = "SELECT count(*), count(i.product_id), (SELECT count(*) FROM outbox WHERE topic LIKE 'search.%'), \
               sum(price_cents * on_hand)::bigint FROM products p LEFT JOIN inventory i ON i.product_id = p.id";
    sqlx::query_as(sql).fetch_one(pool).await.unwrap()
}

/// Every sort with every filter, from the beginning and from the middle.
fn listings() -> Vec<Listing> {
    let mut listings = Vec::new();
    for sort in [Sort::Id, Sort::PriceAsc, Sort::PriceDesc] {
        for after in [None, Some(Cursor { sort, price_cents: 140_000, id: 50_000 })] {
            for (category, brand, prices) in [
                (None, None, None),
                (Some("burnished-copper"), None, None),
                (None, Some("Brand 13"), None),
                (Some("burnished-copper"), Some("Brand 13"), None),
                (None, None, Some((120_000, 160_000))),
                (Some("plated-tin"), None, Some((120_000, 160_000))),
            ] {
                listings.push(Listing {
                    sort,
                    limit: 20,
                    after,
                    category: category.map(str::to_owned),
                    brand: brand.map(str::to_owned),
                    min_price: prices.map(|(from, _)| from),
                    max_price: prices.map(|(_, to)| to),
                });
            }
        }
    }
    listings
}
