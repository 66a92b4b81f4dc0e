//! Read your writes: an answer to a write says from where on a server shows it, and who sends that along with a read is
//! answered by a server that has come so far.

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};

use super::{caller, error::Problem};
use crate::store::position::Position;

const READ_AFTER: HeaderName = HeaderName::from_static("x-read-after");
const COOKIE: &str = "read_after";
/// A replica that is further behind than this has other troubles.
const COOKIE_SECONDS: u32 = 60;

/// Programs send the header, browsers the cookie by themselves. A header that cannot be one is a mistake to be told of;
/// a cookie is not worth an error that its owner cannot mend.
pub(crate) fn wanted(headers: &HeaderMap) -> Result<Position, Problem> {
    let Some(value) = headers.get(READ_AFTER) else {
        let cookie = caller::cookie(headers, COOKIE).and_then(|text| Position::read(text.as_bytes()));
        return Ok(cookie.unwrap_or_default());
    };
    Position::read(value.as_bytes()).ok_or_else(|| {
        let expected = format!("X-Read-After: expected {} digits, as an answer gave them", Position::DIGITS);
        Problem::bad_request("invalid_read_after", expected)
    })
}

pub(crate) fn stamp(mut response: Response, position: Option<Position>) -> Response {
    let Some(text) = position.map(|position| position.to_string()) else { return response };
    let cookie = format!("{COOKIE}={text}; Path=/api/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax");
    for (name, value) in [(READ_AFTER, text), (header::SET_COOKIE, cookie)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_header_is_refused_and_a_bad_cookie_is_none() {
        let of = |name: HeaderName, value: &str| {
            wanted(&HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]))
        };
        let position = Position::of(77);
        assert_eq!(of(READ_AFTER, &position.to_string()).unwrap(), position);
        assert_eq!(of(header::COOKIE, &format!("a=b; read_after={position}")).unwrap(), position);
        assert_eq!(of(header::COOKIE, "read_after=x").unwrap(), Position::default());
        assert_eq!(wanted(&HeaderMap::new()).unwrap(), Position::default());
        for bad in ["", "77", "0/4D", "99999999999999999999", "0000000000000000077x"] {
            assert!(of(READ_AFTER, bad).is_err(), "{bad}");
        }
    }
}
