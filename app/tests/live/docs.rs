//! The document that describes the API, and its page.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    permissions::{Door, ROUTES},
    shop::{Shop, header},
};

/// The table of routes is compared with the router's source by the test of permissions.
#[tokio::test]
async fn every_route_of_the_router_has_an_operation_that_asks_for_what_the_route_asks_for() {
    let shop = Shop::open().await;
    let document: Value = shop.get("/openapi.json").await.json().await.unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        described.extend(item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    }
    let routes: BTreeSet<(String, String)> =
        ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(described, routes);
    assert!(described.len() >= 40, "{}", described.len());
    for (method, path, door) in ROUTES {
        let operation = &document["paths"][path][method.to_lowercase()];
        let who = operation["description"].as_str().unwrap();
        let (expected, scope) = match door {
            Door::Open => ("Everybody.", ""),
            Door::Guests(scope) | Door::Owned(scope) => ("Everybody;", *scope),
            Door::Known(scope) => ("Whoever is logged in;", *scope),
            Door::Session => ("A session of one's own;", ""),
            Door::Staff => ("Staff;", if *method == "GET" { "admin:read" } else { "admin:write" }),
            Door::Admin => ("An administrator;", "admin:write"),
        };
        assert!(who.starts_with(expected) && who.contains(scope), "{method} {path}: {who}");
        let session = if *method == "GET" { json!({ "session": [] }) } else { json!({ "session": [], "csrf": [] }) };
        let token = json!({ "token": [] });
        let ways = match door {
            Door::Open => Value::Null,
            Door::Guests(_) | Door::Owned(_) => json!([{}, session, token]),
            Door::Session => json!([session]),
            Door::Known(_) | Door::Staff | Door::Admin => json!([session, token]),
        };
        assert_eq!(operation["security"], ways, "{method} {path}");
        let refusals = operation["responses"].as_object().unwrap();
        for (status, is_expected) in [
            ("401", *door != Door::Open || path.contains("/login") || path.contains("/webhooks/")),
            ("403", *door != Door::Open),
            ("404", path.contains('{')),
            ("412", path.starts_with("/api/v1/admin/products/{sku}") && !path.contains("media") && *method != "GET"),
            ("5XX", true),
        ] {
            assert_eq!(refusals.contains_key(status), is_expected, "{method} {path}: {status}");
        }
        for (status, refusal) in refusals.iter().filter(|(status, _)| !status.starts_with(['2', '3'])) {
            let problem = &refusal["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(problem, "#/components/schemas/Problem", "{method} {path}: {status}");
            assert!(refusal["description"].as_str().unwrap().starts_with('`'), "{method} {path}: {status} has no code");
        }
    }
}

#[tokio::test]
async fn the_page_is_plain_and_needs_nothing_from_elsewhere() {
    let shop = Shop::open().await;
    let response = shop.get("/docs").await;
    assert_eq!(
        (response.status().as_u16(), header(&response, "content-type").as_str()),
        (200, "text/html; charset=utf-8")
    );
    let html = response.text().await.unwrap();
    for (method, path, _) in ROUTES {
        assert!(html.contains(&format!("<code>{method} {path}</code>")), "{method} {path}");
    }
    assert!(!html.contains("<script") && !html.contains("://"));
}
