//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes since the log's beginning, written as `0/3006138` (PostgreSQL 17 docs, 8.20).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no WAL position, expected two hexadecimal numbers such as 0/3006138")]
pub struct NoLsn(String);

impl FromStr for Lsn {
    type Err = NoLsn;

    fn from_str(text: &str) -> Result<Self, NoLsn> {
        let half = |text: &str| u32::from_str_radix(text, 16).ok().map(u64::from);
        let parsed = text.split_once('/').and_then(|(high, low)| Some(half(high)? << 32 | half(low)?));
        parsed.map(Self).ok_or_else(|| NoLsn(text.to_owned()))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & u64::from(u32::MAX))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_in_bytes() {
        assert_eq!("0/3006138".parse::<Lsn>().unwrap(), Lsn(0x0300_6138));
        assert_eq!("1/0".parse::<Lsn>().unwrap(), Lsn(1 << 32));
        for text in ["", "3006138", "0/x", "1/100000000"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
        assert_eq!(Lsn((2 << 32) + 0xAB).to_string(), "2/AB");
    }
}
