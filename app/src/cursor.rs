//! Keyset cursors: where the last page ended, opaque to clients.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
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
    use proptest::prelude::*;

    use super::*;

    const SORTS: [Sort; 3] = [Sort::Id, Sort::PriceAsc, Sort::PriceDesc];

    proptest! {
        #[test]
        fn every_cursor_reads_back_needs_no_escape_and_fits_no_other_sort(price_cents: i64, id: i64, sort in 0..3_usize) {
            let cursor = Cursor { sort: SORTS[sort], price_cents, id };
            let text = cursor.encode();
            prop_assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{}", text);
            for sort in SORTS {
                let expected = if sort == cursor.sort { Ok(cursor) } else { Err(CursorError::OtherSort) };
                prop_assert_eq!(Cursor::decode(&text, sort), expected);
            }
        }

        /// Whatever is accepted is a cursor that could have been given out, whether text or what text stands for.
        #[test]
        fn nothing_a_client_sends_is_taken_for_more_than_it_says(text: String, plain in "(id|price_asc|x):[-+0-9]{0,22}:[-+0-9]{0,22}(:1)?") {
            for text in [text, URL_SAFE_NO_PAD.encode(plain)] {
                for sort in SORTS {
                    if let Ok(cursor) = Cursor::decode(&text, sort) {
                        prop_assert_eq!(Cursor::decode(&cursor.encode(), sort), Ok(cursor));
                    }
                }
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
