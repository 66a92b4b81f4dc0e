//! Listing, reading and caching products.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::shop::{Database, Shop, app_succeeds, eventually, header, redis_connection};

#[tokio::test]
async fn migrate_and_seed_can_be_repeated() {
    let database = Database::create().await;
    for _ in 0..2 {
        app_succeeds("migrate", &database).await;
    }
    let mut counts = HashSet::new();
    for _ in 0..2 {
        app_succeeds("seed", &database).await;
        let sql = "SELECT count(*) FILTER (WHERE NOT hidden), count(*), count(on_hand), sum(on_hand)::bigint FROM products LEFT JOIN inventory ON product_id = id";
        let found: (i64, i64, i64, i64) = sqlx::query_as(sql).fetch_one(&database.pool().await).await.unwrap();
        assert!(found.0 >= 1_000, "{found:?}");
        assert_eq!(found.1, found.0 + 1, "one product is hidden");
        assert_eq!(found.2, found.1, "every product has stock");
        counts.insert(found);
    }
    assert_eq!(counts.len(), 1, "the second seed changes nothing: {counts:?}");
}

#[tokio::test]
async fn paging_visits_every_product_once_in_every_order() {
    let shop = Shop::open().await;
    let total = shop.count("products WHERE NOT hidden").await;
    for sort in ["id", "price_asc", "price_desc"] {
        let (mut skus, mut prices, mut cursor) = (Vec::new(), Vec::new(), String::new());
        loop {
            let (status, _, page) = shop.read(&format!("/api/v1/products?limit=97&sort={sort}&cursor={cursor}")).await;
            assert_eq!(status, 200, "{page}");
            for item in page["items"].as_array().unwrap() {
                skus.push(item["sku"].as_str().unwrap().to_owned());
                prices.push(item["price_cents"].as_i64().unwrap());
            }
            match &page["next_cursor"] {
                Value::String(next) => cursor.clone_from(next),
                end => break assert!(end.is_null()),
            }
        }
        assert_eq!(i64::try_from(skus.len()).unwrap(), total, "{sort}");
        assert_eq!(skus.iter().collect::<HashSet<_>>().len(), skus.len(), "{sort}: a product came twice");
        assert!(!skus.iter().any(|sku| sku == "PROBE-0"), "hidden products are not listed");
        match sort {
            "price_asc" => assert!(prices.is_sorted()),
            "price_desc" => assert!(prices.iter().rev().is_sorted()),
            _ => {}
        }
    }
}

/// By a path that climbs, the entrance would serve whatever file is there.
#[tokio::test]
async fn a_picture_lies_below_media_or_nowhere() {
    let database = Database::create().await;
    app_succeeds("migrate", &database).await;
    app_succeeds("seed", &database).await;
    let pool = database.pool().await;
    let insert = "INSERT INTO product_media (product_id, position, path, content_type) SELECT min(id), $1, $2, 'image/png' FROM products";
    for (position, path) in ["a.png", "p/1/front.png", "A_b-1..2.png"].into_iter().enumerate() {
        sqlx::query(insert).bind(position as i32).bind(path).execute(&pool).await.unwrap();
    }
    for path in ["", "/etc/passwd", "../x.png", "a/../x.png", "a//b.png", ".hidden", "a/.b", "a b.png", "a\nb", "ä.png"]
    {
        assert!(sqlx::query(insert).bind(9).bind(path).execute(&pool).await.is_err(), "{path:?}");
    }
}

#[tokio::test]
async fn filters_narrow_and_unknown_parameters_are_ignored() {
    let shop = Shop::open().await;
    let (_, _, page) = shop
        .read("/api/v1/products?limit=100&category=knitwear&brand=Nordwind&min_price=5000&max_price=15000&utm_source=x")
        .await;
    let items = page["items"].as_array().unwrap();
    assert!(!items.is_empty(), "{page}");
    for item in items {
        assert_eq!((item["category"].as_str(), item["brand"].as_str()), (Some("knitwear"), Some("Nordwind")));
        assert!((5_000..=15_000).contains(&item["price_cents"].as_i64().unwrap()));
        let keys: Vec<&String> = item.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["brand", "category", "currency", "description", "in_stock", "name", "price_cents", "sku"]);
    }
    let (status, _, page) = shop.read("/api/v1/products?category=nonsense").await;
    assert_eq!((status, page["items"].as_array().unwrap().len()), (200, 0));
    for (query, code) in [
        ("limit=0", "invalid_query"),
        ("limit=101", "invalid_query"),
        ("limit=many", "invalid_query"),
        ("sort=newest", "invalid_query"),
        ("min_price=-1", "invalid_query"),
        ("cursor=garbage", "invalid_cursor"),
    ] {
        let response = shop.get(&format!("/api/v1/products?{query}")).await;
        assert_eq!(header(&response, "content-type"), "application/problem+json", "{query}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!((&problem["status"], &problem["code"]), (&400.into(), &code.into()), "{query}: {problem}");
    }
}

#[tokio::test]
async fn the_second_read_comes_from_redis_with_the_same_bytes() {
    let shop = Shop::open().await;
    for path in ["/api/v1/products?limit=7", "/api/v1/products/PROBE-0", "/api/v1/categories", "/api/v1/brands"] {
        let first = shop.get(path).await;
        assert_eq!(
            (header(&first, "x-source").as_str(), header(&first, "cache-control").as_str()),
            ("replica", "public, max-age=5, stale-while-revalidate=5"),
            "{path}"
        );
        let second = shop.get(path).await;
        assert_eq!(header(&second, "x-source"), "redis", "{path}");
        assert_eq!(header(&second, "cache-control"), header(&first, "cache-control"));
        assert_eq!(first.bytes().await.unwrap(), second.bytes().await.unwrap(), "{path}");
    }
    let metrics = shop.http.get(format!("{}/metrics", shop.metrics)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"cache_requests_total{result="hit"} 4"#), "{metrics}");
    assert!(metrics.contains(r#"cache_requests_total{result="miss"} 4"#), "{metrics}");
}

#[tokio::test]
async fn one_product_by_sku() {
    let shop = Shop::open().await;
    let sku = &shop.skus(1).await[0];
    let (status, _, product) = shop.read(&format!("/api/v1/products/{sku}")).await;
    assert_eq!((status, product["sku"].as_str(), &product["in_stock"]), (200, Some(sku.as_str()), &true.into()));
    let (status, _, probe) = shop.read("/api/v1/products/PROBE-0").await;
    assert_eq!((status, &probe["sku"]), (200, &"PROBE-0".into()));
    assert_eq!(product["media"], json!([]));
    let media = "INSERT INTO product_media (product_id, position, path, content_type, alt) \
                 SELECT id, position, path, 'image/webp', 'seen from ' || path FROM products, \
                 (VALUES (1, 'a/back.webp'), (0, 'a/front.webp')) AS m (position, path) WHERE sku = 'PROBE-0'";
    sqlx::query(media).execute(&shop.database.pool().await).await.unwrap();
    let (_, _, probe) = shop.read("/api/v1/products/PROBE-0?again").await;
    assert_eq!(probe["media"], json!([]), "in the cache until the change is announced");
    let mut redis = redis_connection(&shop.redis.url).await;
    redis::cmd("DEL").arg("products:entry:sku:PROBE-0").query_async::<()>(&mut redis).await.unwrap();
    let probe = eventually("Redis is asked again", async || {
        let (_, source, probe) = shop.read("/api/v1/products/PROBE-0").await;
        (source == "replica").then_some(probe)
    })
    .await;
    let medium = |path: &str| json!({ "url": format!("/media/{path}"), "content_type": "image/webp", "alt": format!("seen from {path}") });
    assert_eq!(probe["media"], json!([medium("a/front.webp"), medium("a/back.webp")]));
    let (status, source, problem) = shop.read("/api/v1/products/NO-SUCH").await;
    assert_eq!((status, source.as_str(), &problem["code"]), (404, "", &"not_found".into()));
}

#[tokio::test]
async fn categories_and_brands_lead_to_products() {
    let shop = Shop::open().await;
    let (_, _, categories) = shop.read("/api/v1/categories").await;
    assert!(categories["items"].as_array().unwrap().len() >= 10);
    assert_eq!(categories["items"][0]["parent"], Value::Null);
    for category in categories["items"].as_array().unwrap() {
        let (_, _, page) =
            shop.read(&format!("/api/v1/products?limit=1&category={}", category["slug"].as_str().unwrap())).await;
        assert_eq!(page["items"].as_array().unwrap().len(), 1, "{category}");
    }
    let (_, _, brands) = shop.read("/api/v1/brands").await;
    let names: Vec<&str> =
        brands["items"].as_array().unwrap().iter().map(|brand| brand["name"].as_str().unwrap()).collect();
    assert!(names.len() >= 10 && names.is_sorted() && !names.contains(&"Probe"), "{names:?}");
}

#[tokio::test]
async fn a_product_that_sells_out_leaves_the_cached_listing() {
    let shop = Shop::open().await;
    let sku = &shop.skus(1).await[0];
    let path = "/api/v1/products?limit=1";
    let in_stock = async || shop.read(path).await.2["items"][0]["in_stock"].clone();
    shop.set_stock(sku, 2).await;
    assert_eq!(in_stock().await, true);
    assert_eq!(shop.read(path).await.1, "redis");
    assert_eq!(shop.order("sell-out", &[(sku, 2)]).await.status(), 201);
    eventually("the listing says that the product is gone", async || (in_stock().await == false).then_some(())).await;
}
