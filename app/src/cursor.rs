//! Keyset cursors: where the last page ended, opaque to clients.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sort {
    #[default]
    Id,
    PriceAsc,
    PriceDesc,
}

impl Sort {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::PriceAsc => "price_asc",
            Self::PriceDesc => "price_desc",
        }
    }
}

/// The sort keys of the last product of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) sort: Sort,
    pub(crate) price_cents: i64,
    pub(crate) id: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CursorError {
    #[error("the cursor is not one that this service gave out")]
    Garbage,
    #[error("the cursor belongs to another sort order: start again without it")]
    OtherSort,
}

impl Cursor {
    pub(crate) fn encode(self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}:{}:{}", self.sort.name(), self.price_cents, self.id))
    }

    pub(crate) fn decode(text: &str, sort: Sort) -> Result<Self, CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Garbage)?;
        let plain = String::from_utf8(bytes).map_err(|_| CursorError::Garbage)?;
        let mut parts = plain.split(':');
        let (Some(name), Some(price), Some(id), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(CursorError::Garbage);
        };
        let named = [Sort::Id, Sort::PriceAsc, Sort::PriceDesc]
            .into_iter()
            .find(|sort| sort.name() == name)
            .ok_or(CursorError::Garbage)?;
        let price_cents = price.parse().map_err(|_| CursorError::Garbage)?;
        let id = id.parse().map_err(|_| CursorError::Garbage)?;
        if named == sort { Ok(Self { sort, price_cents, id }) } else { Err(CursorError::OtherSort) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for sort in [Sort::Id, Sort::PriceAsc, Sort::PriceDesc] {
            for (price_cents, id) in [(0, 1), (1_299, 42), (i64::MAX, i64::MAX), (-1, i64::MIN)] {
                let cursor = Cursor { sort, price_cents, id };
                let text = cursor.encode();
                assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{text}");
                assert_eq!(Cursor::decode(&text, sort), Ok(cursor));
            }
        }
    }

    #[test]
    fn garbage_is_refused() {
        let encoded = |plain: &str| URL_SAFE_NO_PAD.encode(plain);
        for text in [
            String::new(),
            "%%%".to_owned(),
            "not base64!".to_owned(),
            URL_SAFE_NO_PAD.encode([0xff, 0xfe, 0x00]),
            encoded("id:1"),
            encoded("id:1:2:3"),
            encoded("id:one:2"),
            encoded("id:1:99999999999999999999"),
            encoded("name:1:2"),
            encoded("id:1:2 OR true"),
            "A".repeat(5_000),
        ] {
            assert_eq!(Cursor::decode(&text, Sort::Id), Err(CursorError::Garbage), "{text}");
        }
    }

    #[test]
    fn a_cursor_of_another_sort_is_refused() {
        let text = Cursor { sort: Sort::PriceAsc, price_cents: 5, id: 1 }.encode();
        assert_eq!(Cursor::decode(&text, Sort::PriceDesc), Err(CursorError::OtherSort));
    }
}
