//! Pictures: `PUT` puts the bytes in a place of a product.

use axum::{
    Extension, Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::products::known;
use crate::{
    catalogue::invalidation,
    http::{
        accounts::NO_STORE,
        doors::{Admin, Staff},
        error::Problem,
        input::{self, Asked, Path},
        observe::RequestId,
    },
    state::Shared,
    store::admin::media::{self, Picture},
};

pub(crate) const SIZE_MAX: usize = 5 * 1024 * 1024;
const POSITION_MAX: i32 = 19;
const ALT_MAX: usize = 200;

#[derive(Deserialize, utoipa::IntoParams)]
pub(crate) struct MediaQuery {
    /// What the picture shows, for those who cannot see it.
    #[serde(default)]
    alt: String,
}

/// What it is by its first bytes, whatever the sender calls it. SVG is left out: it can hold scripts.
fn kind(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(("image/png", "png")),
        [0xff, 0xd8, 0xff, ..] => Some(("image/jpeg", "jpg")),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(("image/gif", "gif")),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(("image/webp", "webp")),
        [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f', ..] => Some(("image/avif", "avif")),
        _ => None,
    }
}

pub(crate) async fn list(
    State(state): State<Shared>,
    Staff(_): Staff,
    Path(sku): Path<String>,
) -> Result<Response, Problem> {
    let mut connection = state.databases.connection().await?;
    let items = media::list(&mut connection, &known(&sku)?).await?;
    Ok(([NO_STORE], Json(json!({ "items": items }))).into_response())
}

pub(crate) async fn put(
    State(state): State<Shared>,
    Admin(caller): Admin,
    Extension(id): Extension<RequestId>,
    Path((sku, position)): Path<(String, String)>,
    Asked(MediaQuery { alt }): Asked<MediaQuery>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let Some(store) = &state.media else {
        let detail = "no place for pictures is set up";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "media_not_set_up", detail));
    };
    let (sku, position) = (known(&sku)?, place(&position)?);
    if alt.chars().count() > ALT_MAX || alt.contains(char::is_control) {
        let detail = format!("alt: expected up to {ALT_MAX} printable characters");
        return Err(Problem::bad_request("invalid_query", detail));
    }
    let bytes = input::bytes(body)?;
    let (content_type, extension) = kind(&bytes).ok_or_else(|| {
        let detail = "expected the bytes of a PNG, JPEG, GIF, WebP or AVIF";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    })?;
    let digest: String = Sha256::digest(&bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let path = format!("{}/{digest}.{extension}", &digest[..2]);
    store.keep(&path, &bytes).await?;
    let picture = Picture { path: &path, content_type, alt: &alt };
    let author = caller.author(id);
    let medium = media::set(&mut *state.databases.connection().await?, &author, &sku, position, Some(&picture)).await?;
    invalidation::announce_at_once(&state).await;
    Ok(([NO_STORE], Json(medium)).into_response())
}

/// The file stays: another product may show the same, and caches do for a while.
pub(crate) async fn remove(
    State(state): State<Shared>,
    Admin(caller): Admin,
    Extension(id): Extension<RequestId>,
    Path((sku, position)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let (sku, position) = (known(&sku)?, place(&position)?);
    let author = caller.author(id);
    media::set(&mut *state.databases.connection().await?, &author, &sku, position, None).await?;
    invalidation::announce_at_once(&state).await;
    Ok((StatusCode::NO_CONTENT, [NO_STORE]).into_response())
}

fn place(text: &str) -> Result<i32, Problem> {
    let position = text.parse().ok().filter(|position| (0..=POSITION_MAX).contains(position));
    position.ok_or_else(|| Problem::not_found(format!("expected a place from 0 to {POSITION_MAX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_known_by_its_bytes() {
        let of = |bytes: &[u8]| kind(bytes).map(|(content_type, _)| content_type);
        assert_eq!(of(b"\x89PNG\r\n\x1a\n...."), Some("image/png"));
        assert_eq!(of(b"\xff\xd8\xff\xe0"), Some("image/jpeg"));
        assert_eq!(of(b"GIF89a"), Some("image/gif"));
        assert_eq!(of(b"RIFF\0\0\0\0WEBPVP8 "), Some("image/webp"));
        assert_eq!(of(b"\0\0\0\x1cftypavif"), Some("image/avif"));
        for other in [&b""[..], b"<svg xmlns=", b"<html>", b"RIFF\0\0\0\0WAVE", b"PNG", b"MZ", b"GIF88a"] {
            assert_eq!(of(other), None);
        }
    }

    #[test]
    fn places_are_few() {
        assert_eq!((place("0").unwrap(), place("19").unwrap()), (0, 19));
        for bad in ["", "-1", "20", "x", "99999999999"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
