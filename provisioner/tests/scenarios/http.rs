//! Just enough of an HTTP client to see what a browser would see.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::harness::eventually;

pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

pub(crate) fn get(url: &str) -> Response {
    request("GET", url, "", "")
}

pub(crate) fn order(base: &str, key: &str, sku: &str) -> Response {
    order_of(base, key, sku, 1, "ada@example.com")
}

pub(crate) fn order_of(base: &str, key: &str, sku: &str, qty: usize, email: &str) -> Response {
    let body = format!(r#"{{"email":"{email}","items":[{{"sku":"{sku}","qty":{qty}}}]}}"#);
    let headers = format!("Idempotency-Key: {key}\r\nContent-Type: application/json\r\n");
    request("POST", &format!("{base}/api/v1/orders"), &headers, &body)
}

/// The answer to a request once NGINX lets it through, which it does with so many a second of an address.
pub(crate) fn let_through(ask: impl Fn() -> Response) -> Response {
    eventually("a request is let through", Duration::from_secs(15), || {
        Some(ask()).filter(|response| response.status != 429)
    })
}

/// HTTP/1.0, so that the answer ends where the connection does.
pub(crate) fn request(method: &str, url: &str, headers: &str, body: &str) -> Response {
    let rest = url.strip_prefix("http://").unwrap();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let mut stream = TcpStream::connect(authority).unwrap_or_else(|error| panic!("connect {authority}: {error}"));
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let length = body.len();
    write!(stream, "{method} /{path} HTTP/1.0\r\nHost: {authority}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Response { status, head: head.to_owned(), body: body.to_owned() }
}
