//! Start, stop, and what the service says about itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::shop::{Database, Shop, app, fresh_key, header};

#[tokio::test]
async fn serve_and_seed_refuse_a_schema_that_is_too_old() {
    let database = Database::create().await;
    for command in ["serve", "seed"] {
        let output = app(command, &database).await;
        let log = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{command}: {log}");
        let expected =
            format!("found schema version 0, expected {} or newer: run `app migrate` first", newest_schema());
        assert!(log.contains(&expected), "{command}: {log}");
    }
}

/// By the names of the files.
fn newest_schema() -> i64 {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    let versions = files.map(|file| file.unwrap().file_name().to_str().unwrap()[..4].parse().unwrap());
    versions.max().unwrap()
}

/// A release rolls over its backends one by one, and may be taken back: the schema is then ahead of the program.
#[tokio::test]
async fn a_schema_that_a_later_release_has_expanded_is_served_and_left_as_it_is() {
    let shop = Shop::open().await;
    let later = newest_schema() + 7;
    let expanded = format!(
        "ALTER TABLE products ADD COLUMN of_later text; ALTER TABLE orders ADD COLUMN of_later text NOT NULL DEFAULT ''; \
         CREATE TABLE of_later (id int); \
         INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES ({later}, 'later', true, '\\x00', 1)"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(expanded)).execute(&shop.database.pool().await).await.unwrap();
    // Statements that were prepared before, and those of a process that starts now.
    let restarted = shop.another().await;
    for base in [&shop.base, &restarted.base] {
        let ready: Value = shop.http.get(format!("{base}/readyz")).send().await.unwrap().json().await.unwrap();
        assert_eq!(ready["status"], "ready", "{ready}");
        for path in ["/api/v1/products?limit=3", "/api/v1/products/PROBE-0", "/api/v1/search?q=wool"] {
            assert_eq!(shop.http.get(format!("{base}{path}")).send().await.unwrap().status(), 200, "{base} {path}");
        }
        let body = json!({ "email": "ada@example.org", "items": [{ "sku": "PROBE-0", "qty": 1 }] });
        let order = shop.http.post(format!("{base}/api/v1/orders")).header("idempotency-key", fresh_key()).json(&body);
        let order: Value = order.send().await.unwrap().json().await.unwrap();
        let cancel = format!("{base}/api/v1/orders/{}/cancel", order["id"].as_str().unwrap());
        assert_eq!(shop.http.post(cancel).send().await.unwrap().status(), 200);
    }
    crate::shop::app_succeeds("migrate", &shop.database).await;
    assert_eq!(shop.count("_sqlx_migrations WHERE description = 'later'").await, 1);
}

#[tokio::test]
async fn sigterm_drains_and_ends_with_success() {
    let shop = Shop::open().await;
    let started = Instant::now();
    let pid = shop.process.lock().await.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let unready = shop.eventually_ready(503).await;
    assert_eq!(unready["reasons"], json!(["draining"]));
    assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 201, "requests are answered while draining");
    let ended = timeout(Duration::from_secs(8), async { shop.process.lock().await.wait().await.unwrap() }).await;
    assert!(ended.expect("the process ends in time").success());
    assert!(started.elapsed() >= Duration::from_secs(1), "load balancers had no time to notice");
}

#[tokio::test]
async fn metrics_are_private_and_name_what_happened() {
    let shop = Shop::open().await;
    shop.order(&fresh_key(), &[("PROBE-0", 1)]).await;
    shop.register("ada").await;
    shop.get("/api/v1/products/NO-SUCH").await;
    assert_eq!(shop.get("/metrics").await.status(), 404);
    let metrics = shop.http.get(format!("{}/metrics", shop.metrics)).send().await.unwrap().text().await.unwrap();
    for line in [
        r#"orders_total{outcome="placed"} 1"#,
        r#"http_request_duration_seconds_count{method="GET",route="/api/v1/products/{sku}",status="404"} 1"#,
        r#"http_request_duration_seconds_count{method="POST",route="/api/v1/orders",status="201"} 1"#,
        r#"db_pool_connections{pool="primary",state="idle"}"#,
        r#"db_pool_connections{pool="replica",state="busy"}"#,
        r#"db_pool_wait_seconds_count{pool="primary"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn requests_carry_an_id_into_the_log_and_the_log_keeps_secrets() {
    let shop = Shop::open().await;
    let request = shop
        .http
        .get(format!("{}/api/v1/products?brand=secret-of-a-client", shop.base))
        .header("x-request-id", "trace-me-1");
    assert_eq!(header(&request.send().await.unwrap(), "x-request-id"), "trace-me-1");
    assert_eq!(header(&shop.get("/livez").await, "x-request-id").len(), 36);
    assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 201);
    shop.primary_gate.shut().await;
    assert_eq!(shop.order(&fresh_key(), &[("PROBE-0", 1)]).await.status(), 503);
    let log = shop.log.lock().unwrap().join("\n");
    assert!(log.contains("trace-me-1"), "{log}");
    for secret in ["secret-of-a-client", "ada@example.org", "postgres://", "redis://"] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_are_problems_too() {
    let shop = Shop::open().await;
    let (status, _, problem) = shop.read("/nowhere").await;
    assert_eq!((status, &problem["code"]), (404, &"not_found".into()));
    let response = shop.http.delete(format!("{}/api/v1/products", shop.base)).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), header(&response, "content-type").as_str()),
        (405, "application/problem+json")
    );
    let (_, _, version) = shop.read("/version").await;
    assert_eq!(version, json!({ "name": "app", "version": env!("CARGO_PKG_VERSION"), "schema": newest_schema() }));
    assert_eq!(shop.get("/livez").await.json::<Value>().await.unwrap(), json!({ "status": "alive" }));
}
