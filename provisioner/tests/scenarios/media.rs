//! Pictures, from an administrator's upload to a customer's browser.

use std::io::Write;
use std::process::Stdio;

use crate::harness::{Scenario, Stack, docker};
use crate::http::{self, Response};

pub(crate) const SCENARIOS: &[Scenario] = &[
    ("media_takes_pictures_for_everybody_and_without_it_the_shop_serves_on", uploaded_and_served),
    ("media_keeps_the_pictures_of_a_shared_volume", kept_when_they_get_a_member),
];

const PLACE: &str = "/api/v1/admin/products/PROBE-0/media";

/// Somebody who may upload, with what the shop wants to see of them.
struct Administrator {
    base: String,
    headers: String,
}

impl Administrator {
    fn of(stack: &Stack) -> Self {
        let password = "a phrase of this scenario";
        let mut command =
            stack.command(&["exec", "backend-1", "--", "/usr/local/bin/app", "admin", "root@example.com"]);
        let mut made = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        writeln!(made.stdin.take().unwrap(), "{password}").unwrap();
        assert!(made.wait().unwrap().success());
        let base = stack.http();
        let body = format!(r#"{{"email":"root@example.com","password":"{password}"}}"#);
        let login = format!("{base}/api/v1/auth/login");
        let answer = http::request("POST", &login, "Content-Type: application/json\r\n", &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        let cookie = answer.header("Set-Cookie").unwrap().split(';').next().unwrap().to_owned();
        let token = answer.json()["csrf_token"].as_str().unwrap().to_owned();
        Self { base, headers: format!("Cookie: {cookie}\r\nX-CSRF-Token: {token}\r\n") }
    }

    fn upload(&self, place: u32, picture: &str) -> Response {
        http::request("PUT", &format!("{}{PLACE}/{place}?alt=probe", self.base), &self.headers, picture)
    }

    /// The address of a picture that was taken.
    fn uploaded(&self, place: u32, picture: &str) -> String {
        let answer = self.upload(place, picture);
        assert_eq!(answer.status, 200, "{}", answer.body);
        format!("{}{}", self.base, answer.json()["url"].as_str().unwrap())
    }
}

fn shows(url: &str, picture: &str) {
    let answer = http::get(url);
    assert_eq!((answer.status, answer.body.as_str()), (200, picture), "{url}");
    assert_eq!(answer.header("Content-Type"), Some("image/gif"));
}

fn uploaded_and_served() {
    let stack = Stack::dev();
    let root = Administrator::of(&stack);
    let url = root.uploaded(19, "GIF89a of this scenario");
    shows(&url, "GIF89a of this scenario");
    for method in ["PUT", "DELETE", "POST"] {
        let refused = http::request(method, &url, &root.headers, "GIF89a of somebody else");
        assert_eq!(refused.status, 405, "{method} {}", refused.body);
    }
    shows(&url, "GIF89a of this scenario");

    stack.ok(&["stop", "media"]);
    let away = root.upload(18, "GIF89a that nobody takes");
    assert_eq!((away.status, away.json()["code"].as_str()), (503, Some("media_unavailable")), "{}", away.body);
    assert_eq!(http::get(&format!("{}/api/v1/products?limit=3", root.base)).status, 200);
    let order = http::order(&root.base, "scenario-without-media", "PROBE-0");
    assert_eq!(order.status, 201, "{}", order.body);
    stack.ok(&["up"]);
    shows(&url, "GIF89a of this scenario");
    root.uploaded(18, "GIF89a that is taken again");
}

/// As it was before: the volume is NGINX's, and the backends' user writes into it.
fn kept_when_they_get_a_member() {
    let stack = Stack::of("sc-media", |text| format!("{text}media: {{shared_volume: true}}\n"));
    stack.ok(&["up"]);
    assert!(!stack.containers().contains_key("sc-media-media-1"));
    let image = docker(&["inspect", "-f", "{{.Config.Image}}", "sc-media-nginx-1"]);
    let of_before = "chown 33:33 /srv/media && chmod 1777 /srv/media";
    let volume = "sc-media-media:/srv/media";
    docker(&["run", "--rm", "--user", "0", "--volume", volume, image.trim(), "sh", "-c", of_before]);
    let url = Administrator::of(&stack).uploaded(19, "GIF89a of before");
    shows(&url, "GIF89a of before");

    let changed = stack.changed(|text| text.replace("media: {shared_volume: true}\n", ""));
    changed.ok(&["up"]);
    shows(&url, "GIF89a of before");
    let root = Administrator::of(&changed);
    // In a folder that a backend has made, and in one of its own.
    assert_eq!(root.uploaded(18, "GIF89a of before"), url);
    let newer = root.uploaded(17, "GIF89a of now");
    shows(&newer, "GIF89a of now");
    stack.ok(&["down", "--volumes", "--yes"]);
}
