//! A day of the calendar, as `2026-11-23`.

use serde::Deserialize;

/// One that PostgreSQL takes too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = Date)]
pub(crate) struct Day(String);

impl Day {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Day {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const EXPECTED: &str = "expected a day such as 2026-11-23";
        let number = |range: std::ops::Range<usize>| -> Result<u32, Self::Error> {
            let digits = text.get(range).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            digits.and_then(|digits| digits.parse().ok()).ok_or(EXPECTED)
        };
        let is_shaped = text.len() == 10 && text.get(4..5) == Some("-") && text.get(7..8) == Some("-");
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let is_leap = (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
        let days = match month {
            2 if is_leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        if is_shaped && year >= 1970 && (1..=days).contains(&day) { Ok(Self(text)) } else { Err(EXPECTED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_days_that_there_are() {
        for day in ["2026-11-23", "2024-02-29", "2000-02-29", "9999-12-31"] {
            assert_eq!(Day::try_from(day.to_owned()).unwrap().as_str(), day);
        }
        for bad in [
            "",
            "2026-1-1",
            "2026-02-29",
            "1900-02-29",
            "2026-04-31",
            "2026-13-01",
            "2026-00-10",
            "2026-01-00",
            "2026/01/01",
            "+026-01-01",
            "2026-01-01Z",
            "２０26-01-01",
            "0000-01-01",
        ] {
            assert!(Day::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
