//! The roles that every cluster has, and the secrets that hold their passwords.

use provisioner_core::stack::{Resource, Secret, Stack, Text};

use super::{encryption, external};
use crate::route;

/// The application's database.
pub const DATABASE: &str = "app";

/// Holds the provisioner's own rows. Not the application's database, whose owner may drop what is in it and whose dumps
/// would carry them along.
pub const HOME: &str = "postgres";

const PASSWORD_LENGTH: usize = 24;

/// A role that logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    Superuser,
    /// Owns the application's tables and changes their shape.
    Owner,
    /// Reads and writes rows.
    App,
    Replicator,
    /// Sees statistics and settings, no rows.
    Monitor,
    /// Writes the rows of drills, in a schema of its own.
    Ledger,
}

impl Login {
    pub const ALL: [Self; 6] = [Self::Superuser, Self::Owner, Self::App, Self::Replicator, Self::Monitor, Self::Ledger];

    pub fn role(self) -> &'static str {
        match self {
            Self::Superuser => "postgres",
            Self::Owner => "app_owner",
            Self::App => "app",
            Self::Replicator => "replicator",
            Self::Monitor => "monitor",
            Self::Ledger => "ledger",
        }
    }

    pub fn secret(self) -> &'static str {
        match self {
            Self::Superuser => "postgres-superuser",
            Self::Owner => "postgres-owner",
            Self::App => "postgres-app",
            Self::Replicator => "postgres-replication",
            Self::Monitor => "postgres-monitoring",
            Self::Ledger => "postgres-ledger",
        }
    }
}

pub(super) fn secrets() -> impl Iterator<Item = Resource> {
    Login::ALL.into_iter().map(|login| Resource::Secret(Secret::password(login.secret(), PASSWORD_LENGTH)))
}

/// A URL up to its host.
pub(super) fn prefix(login: Login) -> Text {
    Text::new(format!("postgres://{}:{}@", login.role(), Text::secret(login.secret())))
}

/// The primary as the database's owner, for programs inside the stack that change its shape.
pub fn owner_url(stack: &Stack) -> Text {
    if let Some(url) = stack.external(super::NAME).and_then(external::url) {
        return url;
    }
    let (prefix, (parameters, _)) = (prefix(Login::Owner), encryption::parameters(stack));
    let (host, port) = (route::READ_WRITE, route::READ_WRITE_PORT);
    Text::new(format!("{}{host}:{port}/{DATABASE}{parameters}", prefix.masked()))
}
