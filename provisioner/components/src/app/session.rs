//! Somebody who is logged in to the shop, as a browser is: with a cookie, and the token that changes need besides.

use std::time::Duration;

use provisioner_core::component::Access;
use provisioner_core::finding::Broken;
use reqwest::Method;
use reqwest::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use serde_json::{Value, json};

use super::Contract;
use crate::checks::unlimited;
use crate::http::{Reply, Site};

const LOGIN: &str = "/api/v1/auth/login";
const REGISTER: &str = "/api/v1/auth/register";
const COOKIE_NAME: &str = "session=";
pub(super) const CSRF: HeaderName = HeaderName::from_static("x-csrf-token");
/// From whom a request comes; NGINX sets it.
const ADDRESS: HeaderName = HeaderName::from_static("x-real-ip");
const LIMIT: Duration = Duration::from_secs(5);

pub(super) struct Session {
    pub(super) site: Site,
    pub(super) email: String,
    pub(super) cookie: HeaderValue,
    csrf: HeaderValue,
}

impl Session {
    pub(super) async fn log_in(access: &Access<'_>, site: Site, email: &str, password: &str) -> Result<Self, Broken> {
        let reply = enter(access, &site, LOGIN, email, password).await?.expect(200, &format!("POST {LOGIN}"))?;
        Self::of(site, email, &reply)
    }

    /// True: whoever it is signed up just now.
    pub(super) async fn log_in_or_sign_up(
        access: &Access<'_>,
        site: Site,
        email: &str,
        password: &str,
    ) -> Result<(Self, bool), Broken> {
        let reply = enter(access, &site, LOGIN, email, password).await?;
        if reply.status != 401 {
            let reply = reply.expect(200, &format!("POST {LOGIN}"))?;
            return Ok((Self::of(site, email, &reply)?, false));
        }
        let reply = enter(access, &site, REGISTER, email, password).await?;
        if reply.status == 409 {
            // Another verification did it just before this one.
            return Ok((Self::log_in(access, site, email, password).await?, false));
        }
        let reply = reply.expect(201, &format!("POST {REGISTER}"))?;
        Ok((Self::of(site, email, &reply)?, true))
    }

    fn of(site: Site, email: &str, reply: &Reply) -> Result<Self, Broken> {
        let cookies = reply.headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.filter_map(|cookie| cookie.split(';').next());
        let cookie = pairs.find(|pair| pair.starts_with(COOKIE_NAME) && pair.len() > COOKIE_NAME.len());
        let csrf = reply.json()?["csrf_token"].as_str().map(str::to_owned);
        let (Some(cookie), Some(csrf)) = (cookie, csrf) else {
            return Err(Broken::fail("a login has no cookie or no csrf_token, expected both"));
        };
        let hidden = |text: &str| {
            let mut value = HeaderValue::from_str(text).map_err(Broken::fail)?;
            value.set_sensitive(true);
            Ok::<_, Broken>(value)
        };
        Ok(Self { site, email: email.to_owned(), cookie: hidden(cookie)?, csrf: hidden(&csrf)? })
    }

    pub(super) fn headers(&self) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, self.cookie.clone()), (CSRF, self.csrf.clone())])
    }

    pub(super) async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, Broken> {
        ask(&self.site, method, path, self.headers(), body).await
    }
}

pub(super) async fn ask(
    site: &Site,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Option<&Value>,
) -> Result<Reply, Broken> {
    let request = || {
        let request = site.request(method.clone(), path).headers(headers.clone());
        match body {
            Some(body) => request.json(body),
            None => request,
        }
    };
    unlimited(&format!("{method} {path}"), request).await
}

/// A login or a registration. Where others of this address have used up its tries, as all customers behind one proxy may, it is
/// the backend that is asked, as by a customer from an address that nobody has.
async fn enter(access: &Access<'_>, site: &Site, path: &str, email: &str, password: &str) -> Result<Reply, Broken> {
    let credentials = json!({ "email": email, "password": password });
    let reply = ask(site, Method::POST, path, HeaderMap::new(), Some(&credentials)).await?;
    let backend = super::backends(access.stack).next().map(|backend| &backend.member);
    let Some(backend) = backend.filter(|_| reply.status == 429) else { return Ok(reply) };
    let contract = Contract::read(access.stack).map_err(Broken::Unknown)?;
    let site = Site::of(access, backend, contract.port, LIMIT).await.map_err(Broken::Unknown)?;
    let [high, low] = rand::random::<u16>().to_be_bytes();
    // Of the network that is kept for measurements.
    let address = HeaderValue::from_str(&format!("198.18.{high}.{low}")).map_err(Broken::unknown)?;
    ask(&site, Method::POST, path, HeaderMap::from_iter([(ADDRESS, address)]), Some(&credentials)).await
}

/// The problem's code besides its status: 403 has several reasons.
pub(super) fn refused(reply: Reply, status: u16, code: &str, what: &str) -> Result<(), Broken> {
    let problem = reply.expect(status, what)?.json()?;
    if problem["code"] == code {
        return Ok(());
    }
    Err(Broken::fail(format!("{what}: {status} {}, expected {code:?}", problem["code"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, headers: HeaderMap::new(), body: body.as_bytes().to_vec() }
    }

    #[test]
    fn a_refusal_for_another_reason_is_none() {
        let wrong = || reply(403, r#"{"code":"csrf_token_wrong"}"#);
        assert_eq!(refused(wrong(), 403, "csrf_token_wrong", "PUT"), Ok(()));
        let expected = "PUT: 403 \"csrf_token_wrong\", expected \"forbidden\"";
        assert_eq!(refused(wrong(), 403, "forbidden", "PUT"), Err(Broken::fail(expected)));
        assert!(refused(reply(200, "{}"), 403, "forbidden", "PUT").is_err());
    }

    #[test]
    fn a_login_gives_a_cookie_and_a_token() {
        let of = |cookie: &str, body: &str| {
            let mut reply = reply(200, body);
            reply.headers.append(SET_COOKIE, HeaderValue::from_static("read_after=1; Path=/api/"));
            reply.headers.append(SET_COOKIE, HeaderValue::from_str(cookie).unwrap());
            let site = Site::at(([127, 0, 0, 1], 1).into(), LIMIT).unwrap();
            Session::of(site, "ada", &reply)
        };
        let session = of("session=secret; Path=/; HttpOnly", r#"{"csrf_token":"token"}"#).unwrap_or_else(|_| panic!());
        assert_eq!((session.cookie.as_bytes(), session.csrf.as_bytes()), (&b"session=secret"[..], &b"token"[..]));
        // Neither is told by whoever prints a request.
        assert!(session.headers().values().all(HeaderValue::is_sensitive));
        assert!(of("session=; Path=/", r#"{"csrf_token":"token"}"#).is_err());
        assert!(of("session=secret", "{}").is_err());
    }
}
