//! Names that appear in container names, DNS labels and record keys, checked once where they enter.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest stack name: leaves room for `-elasticsearch-3-data` inside a DNS label of 63 octets (RFC 1035, 2.3.4).
pub const STACK_NAME_MAX: usize = 32;

/// The name of a stack: lower-case letters, digits and hyphens, starting with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StackName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "name {found:?} is not usable, expected 1 to {STACK_NAME_MAX} lower-case letters, digits or hyphens that start with a letter and do not end with a hyphen"
)]
pub struct InvalidName {
    pub found: String,
}

impl StackName {
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
        let name = name.into();
        let fits = name.len() <= STACK_NAME_MAX
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && !name.ends_with('-')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if fits { Ok(Self(name)) } else { Err(InvalidName { found: name }) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for StackName {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        Self::new(name)
    }
}

impl From<StackName> for String {
    fn from(name: StackName) -> Self {
        name.0
    }
}

impl fmt::Display for StackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One running instance of a component inside a stack: `postgres-2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Member(String);

impl Member {
    /// The `ordinal`th member of a workload, counted from 1: `Member::nth("postgres", 2)` is `postgres-2`.
    pub fn nth(workload: &str, ordinal: u32) -> Self {
        Self(format!("{workload}-{ordinal}"))
    }

    pub fn named(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is one of several of: `postgres` of `postgres-2`.
    pub fn workload(&self) -> &str {
        match self.0.rsplit_once('-') {
            Some((workload, ordinal)) if ordinal.bytes().all(|byte| byte.is_ascii_digit()) => workload,
            _ => &self.0,
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_one_of_its_workload() {
        let of = |name: &str| Member::named(name).workload().to_owned();
        assert_eq!(Member::nth("worker-email", 2).workload(), "worker-email");
        assert_eq!((of("worker-email"), of("alone")), ("worker-email".to_owned(), "alone".to_owned()));
    }
}
