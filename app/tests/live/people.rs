//! Those who come to a shop, and what they bring along.

use std::process::{Output, Stdio};

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use crate::shop::{Database, Shop, binary, fresh_key, header};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// Somebody with a session.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) email: String,
    pub(crate) session: String,
    pub(crate) csrf: String,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    Guest,
    Session(&'a Person),
    /// As a foreign page would have the browser send it.
    WithoutCsrf(&'a Person),
    Token(&'a str),
}

impl Shop {
    pub(crate) fn request(&self, method: &str, path: &str, who: Who<'_>) -> RequestBuilder {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("{}{path}", self.base));
        // An address of its own each time: who means to be counted says so.
        let request = request.header("x-real-ip", somewhere());
        match who {
            Who::Guest => request,
            Who::Session(person) => {
                request.header("cookie", format!("session={}", person.session)).header("x-csrf-token", &person.csrf)
            }
            Who::WithoutCsrf(person) => request.header("cookie", format!("session={}", person.session)),
            Who::Token(token) => request.bearer_auth(token),
        }
    }

    pub(crate) async fn send(&self, method: &str, path: &str, who: Who<'_>, body: Option<&Value>) -> Response {
        let request = self.request(method, path, who);
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(body.to_string()),
            None => request,
        };
        request.send().await.unwrap()
    }

    /// Status and body.
    pub(crate) async fn call(&self, method: &str, path: &str, who: Who<'_>, body: Option<&Value>) -> (u16, Value) {
        let response = self.send(method, path, who, body).await;
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() })
    }

    pub(crate) async fn register(&self, name: &str) -> Person {
        let email = format!("{name}-{}@example.org", Uuid::new_v4().simple());
        let body = json!({ "email": email, "password": PASSWORD, "name": name });
        person(&email, self.send("POST", "/api/v1/auth/register", Who::Guest, Some(&body)).await, 201).await
    }

    pub(crate) async fn log_in(&self, email: &str, password: &str) -> Person {
        let body = json!({ "email": email, "password": password });
        person(email, self.send("POST", "/api/v1/auth/login", Who::Guest, Some(&body)).await, 200).await
    }

    pub(crate) async fn set_role(&self, person: &Person, role: &str) {
        let sql = "UPDATE users SET role = $2 WHERE email = $1";
        let set = sqlx::query(sql).bind(&person.email).bind(role).execute(&self.database.pool().await).await.unwrap();
        assert_eq!(set.rows_affected(), 1);
    }

    pub(crate) async fn token(&self, person: &Person, scopes: &[&str]) -> String {
        let body = json!({ "name": "test", "scopes": scopes });
        let (status, token) = self.call("POST", "/api/v1/me/tokens", Who::Session(person), Some(&body)).await;
        assert_eq!(status, 201, "{token}");
        token["token"].as_str().unwrap().to_owned()
    }

    /// An order of one piece, placed.
    pub(crate) async fn buy(&self, who: Who<'_>, sku: &str, qty: i64) -> Value {
        let response = self.try_to_buy(who, &fresh_key(), &json!([{ "sku": sku, "qty": qty }])).await;
        assert_eq!(response.status(), 201);
        response.json().await.unwrap()
    }

    pub(crate) async fn try_to_buy(&self, who: Who<'_>, key: &str, items: &Value) -> Response {
        let body = match who {
            Who::Guest => json!({ "email": "guest@example.org", "items": items }),
            _ => json!({ "items": items }),
        };
        let request = self.request("POST", "/api/v1/orders", who).header("idempotency-key", key);
        request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap()
    }
}

async fn person(email: &str, response: Response, status: u16) -> Person {
    let cookie = header(&response, "set-cookie");
    assert_eq!(response.status(), status, "{}", response.text().await.unwrap());
    let session = cookie.strip_prefix("session=").and_then(|rest| rest.split(';').next()).unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    Person { email: email.to_owned(), session, csrf: body["csrf_token"].as_str().unwrap().to_owned() }
}

pub(crate) fn somewhere() -> String {
    let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
    format!("10.{a}.{b}.{c}")
}

/// `app admin EMAIL`, with this on standard input.
pub(crate) async fn app_admin(database: &Database, email: &str, input: &str) -> Output {
    let mut admin = binary("admin");
    admin.arg(email).env("DATABASE_URL", database.url.as_str()).stdin(Stdio::piped());
    let mut process = admin.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    // It may end without reading.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    process.wait_with_output().await.unwrap()
}
