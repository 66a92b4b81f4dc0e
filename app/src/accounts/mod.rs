//! Who somebody is and what they may: passwords, sessions, tokens, limits. No HTTP here.

pub(crate) mod administrator;
pub(crate) mod limits;
pub(crate) mod password;
mod role;
pub(crate) mod secret;
pub(crate) mod sessions;

pub(crate) use role::{Role, Scope};
