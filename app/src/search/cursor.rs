//! Where a page of search results ended, opaque to clients.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::request::Sort;
use crate::cursor::CursorError;

/// Scores of one say nothing to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Elasticsearch,
    Postgres,
}

/// The sort key of the last product of a page.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Key {
    Score(Engine, f32),
    PriceAsc(i64),
    PriceDesc(i64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Cursor {
    pub(crate) key: Key,
    pub(crate) id: i64,
}

impl Key {
    pub(crate) fn new(sort: Sort, engine: Engine, score: f32, price_cents: i64) -> Self {
        match sort {
            Sort::Relevance => Self::Score(engine, score),
            Sort::PriceAsc => Self::PriceAsc(price_cents),
            Sort::PriceDesc => Self::PriceDesc(price_cents),
        }
    }

    fn sort(self) -> Sort {
        match self {
            Self::Score(..) => Sort::Relevance,
            Self::PriceAsc(_) => Sort::PriceAsc,
            Self::PriceDesc(_) => Sort::PriceDesc,
        }
    }
}

impl Cursor {
    /// Only an order by relevance ties the walk to the system that began it.
    pub(crate) fn engine(self) -> Option<Engine> {
        match self.key {
            Key::Score(engine, _) => Some(engine),
            Key::PriceAsc(_) | Key::PriceDesc(_) => None,
        }
    }

    pub(crate) fn encode(self) -> String {
        // The shortest text that reads back as the same number.
        let (name, key) = match self.key {
            Key::Score(Engine::Elasticsearch, score) => ("score", score.to_string()),
            Key::Score(Engine::Postgres, score) => ("rank", score.to_string()),
            Key::PriceAsc(cents) => ("price_asc", cents.to_string()),
            Key::PriceDesc(cents) => ("price_desc", cents.to_string()),
        };
        URL_SAFE_NO_PAD.encode(format!("search:{name}:{key}:{}", self.id))
    }

    pub(crate) fn decode(text: &str, sort: Sort) -> Result<Self, CursorError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| CursorError::Garbage)?;
        let cursor = String::from_utf8(bytes).ok().and_then(|plain| Self::parse(&plain)).ok_or(CursorError::Garbage)?;
        if cursor.key.sort() == sort { Ok(cursor) } else { Err(CursorError::OtherSort) }
    }

    fn parse(plain: &str) -> Option<Self> {
        let mut parts = plain.strip_prefix("search:")?.split(':');
        let (name, key, id) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        let score = || key.parse().ok().filter(|score: &f32| score.is_finite());
        let key = match name {
            "score" => Key::Score(Engine::Elasticsearch, score()?),
            "rank" => Key::Score(Engine::Postgres, score()?),
            "price_asc" => Key::PriceAsc(key.parse().ok()?),
            "price_desc" => Key::PriceDesc(key.parse().ok()?),
            _ => return None,
        };
        parts.next().is_none().then_some(Self { key, id })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = Key> {
        let score = || prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO;
        prop_oneof![
            score().prop_map(|score| Key::Score(Engine::Elasticsearch, score)),
            score().prop_map(|score| Key::Score(Engine::Postgres, score)),
            any::<i64>().prop_map(Key::PriceAsc),
            any::<i64>().prop_map(Key::PriceDesc),
        ]
    }

    proptest! {
        #[test]
        fn every_cursor_reads_back_to_the_last_digit_and_fits_no_other_sort(key in keys(), id: i64) {
            let cursor = Cursor { key, id };
            for sort in [Sort::Relevance, Sort::PriceAsc, Sort::PriceDesc] {
                let expected = if sort == key.sort() { Ok(cursor) } else { Err(CursorError::OtherSort) };
                prop_assert_eq!(Cursor::decode(&cursor.encode(), sort), expected);
            }
        }

        #[test]
        fn nothing_a_client_sends_is_taken_for_more_than_it_says(
            text: String,
            plain in "search:(score|rank|price_asc|id):[-+.e0-9]{0,22}:[-+0-9]{0,22}(:1)?",
        ) {
            for text in [text, URL_SAFE_NO_PAD.encode(plain)] {
                for sort in [Sort::Relevance, Sort::PriceAsc] {
                    if let Ok(cursor) = Cursor::decode(&text, sort) {
                        prop_assert_eq!(Cursor::decode(&cursor.encode(), sort), Ok(cursor));
                    }
                }
            }
        }
    }

    #[test]
    fn round_trip_keeps_every_digit_of_a_score() {
        for score in [0.0, 1.0, 12.345_678, f32::MIN_POSITIVE, 0.1 + 0.2, 1e-7, f32::MAX] {
            for engine in [Engine::Elasticsearch, Engine::Postgres] {
                let cursor = Cursor { key: Key::Score(engine, score), id: 42 };
                assert_eq!(Cursor::decode(&cursor.encode(), Sort::Relevance), Ok(cursor));
            }
        }
        for (sort, key) in [(Sort::PriceAsc, Key::PriceAsc(-1)), (Sort::PriceDesc, Key::PriceDesc(i64::MAX))] {
            let cursor = Cursor { key, id: i64::MIN };
            assert_eq!(Cursor::decode(&cursor.encode(), sort), Ok(cursor));
            assert_eq!(Cursor::decode(&cursor.encode(), Sort::Relevance), Err(CursorError::OtherSort));
        }
    }

    #[test]
    fn garbage_is_refused_and_so_is_a_cursor_of_the_listing() {
        let encoded = |plain: &str| URL_SAFE_NO_PAD.encode(plain);
        let listing = crate::cursor::Cursor { sort: crate::cursor::Sort::PriceAsc, price_cents: 1, id: 1 }.encode();
        for text in [
            String::new(),
            "%%%".to_owned(),
            listing,
            URL_SAFE_NO_PAD.encode([0xff, 0xfe]),
            encoded("search:score:NaN:1"),
            encoded("search:score:inf:1"),
            encoded("search:price_asc:1.5:1"),
            encoded("search:price_asc:1:1:1"),
            encoded("search:id:1:1"),
        ] {
            assert_eq!(Cursor::decode(&text, Sort::PriceAsc), Err(CursorError::Garbage), "{text}");
        }
    }
}
