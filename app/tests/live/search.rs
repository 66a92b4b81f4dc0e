//! Searching, with Elasticsearch and without.

use std::collections::{BTreeMap, HashSet};

use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    gate::Gate,
    shop::{Shop, app_with, eventually, gate_to, header, http_client, setting, through},
};

static TURN: Mutex<()> = Mutex::const_new(());

/// Elasticsearch for one test alone, without an index.
pub(crate) async fn turn() -> MutexGuard<'static, ()> {
    let turn = TURN.lock().await;
    remove_indices(&setting("APP_TEST_ELASTICSEARCH_URL")).await;
    turn
}

/// A shop whose products are in Elasticsearch.
struct Searched {
    shop: Shop,
    gate: Gate,
    _turn: MutexGuard<'static, ()>,
}

impl Searched {
    async fn open() -> Self {
        let turn = turn().await;
        let url = setting("APP_TEST_ELASTICSEARCH_URL");
        let gate = gate_to(&url, 9200).await;
        let through_gate = through(&url, &gate);
        let settings = [("ELASTICSEARCH_URL", through_gate.as_str())];
        let shop = Shop::open_with(&settings).await;
        let searched = Self { shop, gate, _turn: turn };
        searched.reindex().await;
        searched
    }

    async fn reindex(&self) {
        let url = setting("APP_TEST_ELASTICSEARCH_URL");
        let output = app_with("reindex", &self.shop.database, &[("ELASTICSEARCH_URL", url.as_str())]).await;
        assert!(output.status.success(), "app reindex: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// By name, because a server refuses to remove by pattern.
async fn remove_indices(url: &Url) {
    let http = http_client();
    let indices: Value = http.get(url.join("products-*/_alias").unwrap()).send().await.unwrap().json().await.unwrap();
    for index in indices.as_object().unwrap().keys() {
        let gone = http.delete(url.join(index).unwrap()).send().await.unwrap();
        assert!(gone.status().is_success(), "{index}");
    }
}

impl Shop {
    async fn search(&self, query: &str) -> Value {
        let (status, source, answer) = self.read(&format!("/api/v1/search?{query}")).await;
        assert_eq!(status, 200, "{query}: {answer}");
        assert_eq!(source == "elasticsearch", answer["degraded"] == false, "{query}: {source}");
        answer
    }

    /// Every page, until there is none.
    async fn walk(&self, query: &str) -> Vec<Value> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        loop {
            let mut page = self.search(&format!("{query}&cursor={cursor}")).await;
            items.append(page["items"].as_array_mut().unwrap());
            match &page["next_cursor"] {
                Value::String(next) => cursor.clone_from(next),
                end => break assert!(end.is_null()),
            }
        }
        items
    }
}

fn skus(items: &[Value]) -> Vec<&str> {
    items.iter().map(|item| item["sku"].as_str().unwrap()).collect()
}

fn first_sku(answer: &Value) -> &str {
    answer["items"][0]["sku"].as_str().unwrap_or("nothing")
}

fn counts(facet: &Value) -> BTreeMap<&str, i64> {
    facet.as_array().unwrap().iter().map(|v| (v["value"].as_str().unwrap(), v["count"].as_i64().unwrap())).collect()
}

#[tokio::test]
async fn words_beginnings_and_typing_errors_find_the_product() {
    let Searched { shop, .. } = &Searched::open().await;
    for query in ["nordwind+merino+beanie", "Beanie+NORDWIND", "nordwnd+beanei", "nordwind+bean", "nrw-hea-01"] {
        let answer = shop.search(&format!("q={query}")).await;
        assert_eq!(first_sku(&answer), "NRW-HEA-01", "{query}: {answer}");
    }
    let exact = shop.search("q=merino").await;
    assert_eq!(exact["total"], shop.count("products WHERE name LIKE '%Merino%' AND NOT hidden").await);
    for query in ["q=%21%21%21", "q=zzzzzz", "q=beanie+zzzzzz", "q=beanie&brand=Nobody"] {
        let answer = shop.search(query).await;
        assert_eq!((&answer["total"], &answer["items"]), (&json!(0), &json!([])), "{query}");
    }
}

#[tokio::test]
async fn a_facet_is_counted_without_its_own_filter() {
    let Searched { shop, .. } = &Searched::open().await;
    let answer = shop.search("category=knitwear&brand=Hollin&brand=Kestrel&max_price=5000").await;
    let brands = counts(&answer["facets"]["brands"]);
    assert!(brands.len() > 2, "other brands stay in sight: {brands:?}");
    assert_eq!(brands["Hollin"] + brands["Kestrel"], answer["total"].as_i64().unwrap());
    assert_eq!(
        brands.values().sum::<i64>(),
        shop.count("products JOIN categories c ON c.id = category_id WHERE slug = 'knitwear' AND price_cents <= 5000")
            .await
    );
    let categories = counts(&answer["facets"]["categories"]);
    assert!(categories.len() > 2 && categories["knitwear"] == answer["total"], "{categories:?}");
    let prices = answer["facets"]["prices"].as_array().unwrap();
    assert_eq!(prices[0]["from"], 0);
    assert_eq!(prices[4]["to"], Value::Null);
    assert_eq!(
        prices.iter().map(|range| range["count"].as_i64().unwrap()).sum::<i64>(),
        shop.count("products JOIN categories c ON c.id = category_id WHERE slug = 'knitwear' AND brand IN ('Hollin', 'Kestrel')").await
    );
    for item in answer["items"].as_array().unwrap() {
        assert!(["Hollin", "Kestrel"].contains(&item["brand"].as_str().unwrap()), "{item}");
        assert!(item["category"] == "knitwear" && item["price_cents"].as_i64().unwrap() <= 5_000, "{item}");
    }
}

#[tokio::test]
async fn a_category_holds_what_is_below_it() {
    let searched = Searched::open().await;
    let shop = &searched.shop;
    sqlx::query(
        "WITH clothes AS (INSERT INTO categories (slug, name) VALUES ('clothes', 'Clothes') RETURNING id) \
         UPDATE categories SET parent_id = clothes.id FROM clothes WHERE slug IN ('knitwear', 'headwear')",
    )
    .execute(&shop.database.pool().await)
    .await
    .unwrap();
    let wanted = shop
        .count("products JOIN categories c ON c.id = category_id WHERE slug IN ('knitwear', 'headwear') AND NOT hidden")
        .await;
    searched.reindex().await;
    for degraded in [false, true] {
        if degraded {
            searched.gate.shut().await;
        }
        let answer = shop.search("category=clothes").await;
        assert_eq!((&answer["total"], &answer["degraded"]), (&wanted.into(), &degraded.into()));
        assert_eq!(counts(&answer["facets"]["categories"])["clothes"], wanted);
    }
}

#[tokio::test]
async fn every_walk_visits_every_product_once_and_never_a_hidden_one() {
    let searched = Searched::open().await;
    let shop = &searched.shop;
    let total = usize::try_from(shop.count("products WHERE NOT hidden").await).unwrap();
    let of_word = shop.search("q=merino").await["total"].as_u64().unwrap();
    for degraded in [false, true] {
        if degraded {
            searched.gate.shut().await;
        }
        for sort in ["relevance", "price_asc", "price_desc"] {
            let items = shop.walk(&format!("limit=97&sort={sort}")).await;
            assert_eq!(items.len(), total, "{sort}");
            assert_eq!(skus(&items).iter().collect::<HashSet<_>>().len(), total, "{sort}: a product came twice");
            assert!(!skus(&items).contains(&"PROBE-0"), "hidden products are never found");
            let prices: Vec<i64> = items.iter().map(|item| item["price_cents"].as_i64().unwrap()).collect();
            match sort {
                "price_asc" => assert!(prices.is_sorted()),
                "price_desc" => assert!(prices.iter().rev().is_sorted()),
                _ => {}
            }
        }
        let items = shop.walk("q=merino&limit=7").await;
        assert_eq!(items.len() as u64, of_word, "scores in the cursor lose no digit");
        assert_eq!(skus(&items).iter().collect::<HashSet<_>>().len(), items.len());
        for query in ["q=probe", "q=PROBE-0", "brand=Probe"] {
            assert_eq!(shop.search(query).await["total"], 0, "{query}");
        }
        let dear = shop.walk("min_price=10000&max_price=12000&in_stock=true&sort=price_asc").await;
        assert!(!dear.is_empty());
        assert!(dear.iter().all(|item| (10_000..=12_000).contains(&item["price_cents"].as_i64().unwrap())));
    }
}

#[tokio::test]
async fn both_systems_count_the_same_and_answer_in_the_same_form() {
    let searched = Searched::open().await;
    let shop = &searched.shop;
    shop.set_stock("NRW-HEA-01", 0).await;
    searched.reindex().await;
    let queries = [
        "limit=3",
        "q=merino&limit=100",
        "q=nordwind+mer",
        "q=nrw-hea-01",
        "q=beanie&in_stock=true",
        "q=wool&category=bedding&brand=Fjordlight&brand=Hollin",
        "brand=Alder+%26+Ash&min_price=5000&sort=price_desc",
        "category=knitwear&max_price=5000&sort=price_asc",
    ];
    let mut answers = Vec::new();
    for query in queries {
        answers.push(shop.search(query).await);
    }
    assert_eq!(answers[3]["items"][0]["in_stock"], false);
    searched.gate.shut().await;
    for (query, answer) in queries.into_iter().zip(answers) {
        let degraded = shop.search(query).await;
        assert_eq!((&answer["degraded"], &degraded["degraded"]), (&false.into(), &true.into()));
        assert_eq!(answer["total"], degraded["total"], "{query}");
        assert_eq!(answer["facets"], degraded["facets"], "{query}");
        let first = |answer: &Value| {
            let mut items = answer["items"].as_array().unwrap().clone();
            items.sort_by_key(|item| item["sku"].to_string());
            items
        };
        // Only where all of them are on the page: the order by relevance is each system's own.
        if answer["next_cursor"].is_null() || query.contains("price_") {
            assert_eq!(first(&answer), first(&degraded), "{query}");
        }
        for item in answer["items"].as_array().unwrap() {
            let keys: Vec<&String> = item.as_object().unwrap().keys().collect();
            assert_eq!(
                keys,
                ["brand", "category", "currency", "description", "in_stock", "name", "price_cents", "sku"]
            );
        }
    }
}

#[tokio::test]
async fn without_elasticsearch_a_database_answers_until_it_is_back() {
    let searched = Searched::open().await;
    let shop = &searched.shop;
    let begun = shop.search("q=merino&limit=5").await;
    let cursor_of = |answer: &Value| answer["next_cursor"].as_str().unwrap().to_owned();
    searched.gate.shut().await;
    let degraded = shop.search("q=merino&limit=5").await;
    assert_eq!((&degraded["degraded"], &degraded["total"]), (&true.into(), &begun["total"]));
    assert_eq!(shop.eventually_ready(200).await["degraded"], json!(["elasticsearch"]));
    let response = shop.get(&format!("/api/v1/search?q=merino&limit=5&cursor={}", cursor_of(&begun))).await;
    let problem: Value = response.json().await.unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&400.into(), &"invalid_cursor".into()), "{problem}");
    let by_price = shop.search("q=merino&sort=price_asc&limit=5").await;

    searched.gate.reopen();
    eventually("Elasticsearch answers again", async || {
        (shop.search("q=merino").await["degraded"] == false).then_some(())
    })
    .await;
    assert_eq!(shop.eventually_ready(200).await["degraded"], json!([]));
    let next = shop.search(&format!("q=merino&limit=5&cursor={}", cursor_of(&degraded))).await;
    assert_eq!(next["degraded"], true, "a walk by relevance ends where it began");
    let next = shop.search(&format!("q=merino&sort=price_asc&limit=5&cursor={}", cursor_of(&by_price))).await;
    assert_eq!(next["degraded"], false, "a walk by price goes on anywhere");
    let metrics = shop.http.get(format!("{}/metrics", shop.metrics)).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"searches_total{source="elasticsearch"}"#), "{metrics}");
    assert!(metrics.contains(r#"searches_total{source="replica"}"#), "{metrics}");
}

#[tokio::test]
async fn a_shop_that_has_no_elasticsearch_searches_degraded_and_is_whole() {
    let shop = Shop::open().await;
    let answer = shop.search("q=merino").await;
    assert!(answer["degraded"] == true && answer["total"].as_i64().unwrap() > 0, "{answer}");
    assert_eq!(shop.eventually_ready(200).await["degraded"], json!([]));
    for (query, code) in [
        ("limit=0", "invalid_query"),
        ("limit=101", "invalid_query"),
        ("sort=newest", "invalid_query"),
        ("min_price=-1", "invalid_query"),
        ("in_stock=maybe", "invalid_query"),
        ("cursor=garbage", "invalid_cursor"),
    ] {
        let response = shop.get(&format!("/api/v1/search?{query}")).await;
        assert_eq!(header(&response, "content-type"), "application/problem+json", "{query}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!((&problem["status"], &problem["code"]), (&400.into(), &code.into()), "{query}: {problem}");
    }
    let long = "x".repeat(201);
    assert_eq!(shop.get(&format!("/api/v1/search?q={long}")).await.status(), 400);
    let hostile = shop.search("q=%27%29%3B+DROP+TABLE+products%3B--+%3A%2A+%26+%7C+%21+%5C%27").await;
    assert_eq!(hostile["total"], 0);
}

#[tokio::test]
async fn somebody_who_types_is_offered_products_brands_and_categories_with_and_without_elasticsearch() {
    let searched = Searched::open().await;
    let shop = &searched.shop;
    let suggest = async |q: &str| {
        let (status, source, answer) = shop.read(&format!("/api/v1/search/suggest?q={q}")).await;
        assert_eq!(status, 200, "{q}: {answer}");
        assert_eq!(source == "elasticsearch", answer["degraded"] == false, "{q}: {source}");
        answer
    };
    let names = |answer: &Value| {
        answer["products"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for degraded in [false, true] {
        if degraded {
            searched.gate.shut().await;
        }
        let answer = suggest("nordwind+mer").await;
        assert_eq!(answer["degraded"], degraded);
        assert!((1..=8).contains(&names(&answer).len()), "{answer}");
        assert!(names(&answer).iter().all(|name| name.starts_with("Nordwind Merino")), "{answer}");
        let answer = suggest("knit").await;
        assert_eq!(answer["categories"], json!([{ "slug": "knitwear", "name": "Knitwear" }]));
        assert_eq!(suggest("ash").await["brands"], json!(["Alder & Ash"]));
        assert_eq!(suggest("NRW-HEA-01").await["products"][0]["sku"], "NRW-HEA-01");
        for q in ["probe", "PROBE-0", "zzzzzz", "%25", "%27%29%3B--"] {
            let answer = suggest(q).await;
            assert_eq!((&answer["products"], &answer["brands"]), (&json!([]), &json!([])), "{q}");
        }
        for bad in ["", "+", &"x".repeat(101), "a%0Ab"] {
            let (status, _, problem) = shop.read(&format!("/api/v1/search/suggest?q={bad}")).await;
            assert_eq!((status, &problem["code"]), (400, &"invalid_query".into()), "{bad}");
        }
    }
    assert_eq!(shop.read("/api/v1/search/suggest").await.0, 400);
    searched.gate.reopen();
    eventually("a typing error is forgiven again", async || {
        let answer = suggest("nordwnd+beani").await;
        (answer["products"][0]["sku"] == "NRW-HEA-01").then_some(())
    })
    .await;
}
