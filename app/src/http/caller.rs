//! Who asks: nobody, somebody with a session, or a program with a token.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
};

use super::{error::Problem, observe::RequestId};
use crate::{
    accounts::{Scope, secret::Secret, sessions::Session},
    state::{AppState, Shared},
    store::{
        audit::Author,
        tokens,
        users::{self, User},
    },
};

pub(crate) const SESSION_COOKIE: &str = "session";
pub(crate) const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");
const ADDRESS_HEADER: HeaderName = HeaderName::from_static("x-real-ip");

/// Somebody who is known.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) user: User,
    pub(crate) by: By,
}

/// By what they are known.
#[derive(Clone, Debug)]
pub(crate) enum By {
    Session { secret: Secret, session: Session },
    Token(Vec<Scope>),
}

impl Caller {
    /// The role is asked each time, not only when a token is made: it may have been taken away since.
    pub(crate) fn demand(&self, scope: Scope) -> Result<(), Problem> {
        if self.user.role < scope.needs() {
            return Err(forbidden(format!("expected the role {} or more", scope.needs().name())));
        }
        match &self.by {
            By::Token(scopes) if !scopes.contains(&scope) => {
                Err(forbidden(format!("the token lacks the scope {}", scope.name())))
            }
            By::Token(_) | By::Session { .. } => Ok(()),
        }
    }

    /// Whose changes the audit log tells of.
    pub(crate) fn author(self, RequestId(request_id): RequestId) -> Author {
        Author { id: self.user.id, email: self.user.email, request_id }
    }

    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.demand(scope).is_ok()
    }
}

pub(super) fn forbidden(detail: String) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", detail)
}

/// Somebody who must be known.
impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        let caller = <Self as OptionalFromRequestParts<Shared>>::from_request_parts(parts, state).await?;
        caller.ok_or_else(|| unauthorized("not_logged_in", "log in, or send a token: Authorization: Bearer TOKEN"))
    }
}

/// Somebody or nobody. Who claims to be somebody and is not gets an error, not a guest's answer.
impl OptionalFromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Option<Self>, Problem> {
        let state = Arc::clone(state);
        if let Some(value) = parts.headers.get(header::AUTHORIZATION) {
            return by_token(&state, bearer(value)).await.map(Some);
        }
        let Some(cookie) = cookie(&parts.headers, SESSION_COOKIE) else { return Ok(None) };
        by_session(&state, cookie, &parts.method, &parts.headers).await.map(Some)
    }
}

pub(super) fn bearer(value: &HeaderValue) -> Option<Secret> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    Secret::given(token.trim()).filter(|_| scheme.eq_ignore_ascii_case("bearer"))
}

async fn by_token(state: &AppState, token: Option<Secret>) -> Result<Caller, Problem> {
    let wrong = || unauthorized("invalid_token", "the token is unknown, has run out or was withdrawn");
    let token = token.ok_or_else(wrong)?;
    let found = tokens::user_of(&state.databases, &token.digest()).await?;
    let (user, scopes) = found.ok_or_else(wrong)?;
    Ok(Caller { user, by: By::Token(scopes) })
}

async fn by_session(state: &AppState, cookie: &str, method: &Method, headers: &HeaderMap) -> Result<Caller, Problem> {
    let over = || unauthorized("session_over", "the session is over: log in again");
    let secret = Secret::given(cookie).ok_or_else(over)?;
    let session = state.sessions.find(&secret).await?.ok_or_else(over)?;
    let user = users::by_id(&mut *state.databases.connection().await?, session.user).await?;
    let user = user.filter(|user| user.session_epoch == session.epoch).ok_or_else(over)?;
    // A foreign page can have the browser send the cookie; it cannot read this one.
    let sent = headers.get(CSRF_HEADER).map(|value| value.as_bytes());
    if !is_safe(method) && !sent.is_some_and(|sent| session.is_csrf_token(sent)) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "csrf_token_wrong",
            "send the csrf_token of the login as X-CSRF-Token",
        ));
    }
    Ok(Caller { user, by: By::Session { secret, session } })
}

fn unauthorized(code: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, code, detail)
}

/// The first of this name that says anything.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut found = pairs.filter(|(found, value)| *found == name && !value.is_empty());
    found.next().map(|(_, value)| value)
}

/// Whom limits count, as NGINX saw it; nobody else sets the header (nginx/site/proxy.conf). One customer has a whole /64
/// of IPv6, so it counts as one.
pub(crate) fn address(headers: &HeaderMap) -> String {
    let given = headers.get(ADDRESS_HEADER).and_then(|value| value.to_str().ok());
    match given.and_then(|text| text.parse().ok()).map(|ip: IpAddr| ip.to_canonical()) {
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("{}/64", Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX))),
        None => "unknown".to_owned(),
    }
}

pub(super) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_found_among_others() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(value).unwrap())]);
            cookie(&headers, SESSION_COOKIE).map(str::to_owned)
        };
        assert_eq!(of("a=b; session=x; c=d").as_deref(), Some("x"));
        assert_eq!(of("session=x"), Some("x".to_owned()));
        for without in ["", "sessions=x", "xsession=x", "session=", "session"] {
            assert_eq!(of(without), None, "{without}");
        }
    }

    #[test]
    fn an_address_is_one_of_ipv4_or_a_network_of_ipv6() {
        let of =
            |value: &str| address(&HeaderMap::from_iter([(ADDRESS_HEADER, HeaderValue::from_str(value).unwrap())]));
        assert_eq!((of("192.0.2.7").as_str(), of("::ffff:192.0.2.7").as_str()), ("192.0.2.7", "192.0.2.7"));
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
        assert_eq!(of("2001:db8:1:2::9"), "2001:db8:1:2::/64");
        for odd in ["", "192.0.2.7, 10.0.0.1", "localhost"] {
            assert_eq!(of(odd), "unknown", "{odd}");
        }
        assert_eq!(address(&HeaderMap::new()), "unknown");
    }
}
