//! The environment, read here and nowhere else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

const WRITERS_MAX: u16 = 64;
const MEMBERS_MAX: usize = 32;

/// A port of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) host: String,
    pub(crate) port: u16,
}

pub(crate) struct Settings {
    /// Where the application writes.
    pub(crate) route: Place,
    /// Each asked directly, past the route.
    pub(crate) members: Vec<Place>,
    pub(crate) writers: u16,
    /// Between two rows of one writer.
    pub(crate) every: Duration,
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) password: String,
    /// The authority that has signed the servers' certificates; `None`: sessions are in clear.
    pub(crate) authority: Option<PathBuf>,
    pub(crate) journal: PathBuf,
}

/// Everything that is wrong, at once.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) struct Problems(Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read the environment: {}", self.0.join("; "))
    }
}

impl Settings {
    pub(crate) fn read() -> Result<Self, Problems> {
        Self::of(&std::env::vars().collect())
    }

    fn of(variables: &BTreeMap<String, String>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let text = |name: &str, default: &str| variables.get(name).map_or(default, String::as_str).to_owned();
        let mut number = |name: &str, default: u64, max: u64| {
            let found = text(name, &default.to_string());
            match found.parse() {
                Ok(value) if (1..=max).contains(&value) => value,
                _ => {
                    problems.push(format!("{name} is {found:?}, expected a number from 1 to {max}"));
                    default
                }
            }
        };
        let writers = number("LEDGER_WRITERS", 4, u64::from(WRITERS_MAX));
        let every = number("LEDGER_EVERY_MS", 5, 60_000);
        let mut place = |name: &str, found: &str| match found.parse() {
            Ok(place) => place,
            Err(reason) => {
                problems.push(format!("{name} is {found:?}, {reason}"));
                Place { host: String::new(), port: 0 }
            }
        };
        let route = place("LEDGER_ROUTE", &text("LEDGER_ROUTE", "postgres-rw:5432"));
        let members: Vec<Place> =
            text("LEDGER_MEMBERS", "").split_whitespace().map(|found| place("LEDGER_MEMBERS", found)).collect();
        if members.is_empty() || members.len() > MEMBERS_MAX {
            problems.push(format!("LEDGER_MEMBERS names {} members, expected 1 to {MEMBERS_MAX}", members.len()));
        }
        let password = text("PGPASSWORD", "");
        if password.is_empty() {
            problems.push("PGPASSWORD is empty, expected the password of LEDGER_USER".to_owned());
        }
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        Ok(Self {
            route,
            members,
            writers: u16::try_from(writers).unwrap_or(WRITERS_MAX),
            every: Duration::from_millis(every),
            database: text("LEDGER_DATABASE", "postgres"),
            user: text("LEDGER_USER", "ledger"),
            password,
            authority: variables.get("LEDGER_CA").map(PathBuf::from),
            journal: text("LEDGER_JOURNAL", "/var/lib/ledger/journal").into(),
        })
    }
}

impl std::str::FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "5432"));
        match port.parse() {
            Ok(port) if port > 0 && !host.is_empty() && !host.contains(',') => Ok(Self { host: host.to_owned(), port }),
            _ => Err("expected HOST or HOST:PORT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Settings, Problems> {
        Settings::of(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn members_and_password_are_all_that_must_be_said() {
        let settings = of(&[("LEDGER_MEMBERS", "postgres-1 postgres-2:5433"), ("PGPASSWORD", "s")]).unwrap();
        assert_eq!(settings.route, Place { host: "postgres-rw".to_owned(), port: 5432 });
        assert_eq!(settings.members[1], Place { host: "postgres-2".to_owned(), port: 5433 });
        assert_eq!((settings.writers, settings.every), (4, Duration::from_millis(5)));
        assert!(settings.authority.is_none());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let Err(problems) = of(&[("LEDGER_WRITERS", "0"), ("LEDGER_ROUTE", "x:y")]) else {
            panic!("expected problems")
        };
        assert_eq!(
            problems.to_string(),
            "read the environment: LEDGER_WRITERS is \"0\", expected a number from 1 to 64; \
             LEDGER_ROUTE is \"x:y\", expected HOST or HOST:PORT; \
             LEDGER_MEMBERS names 0 members, expected 1 to 32; \
             PGPASSWORD is empty, expected the password of LEDGER_USER"
        );
    }
}
