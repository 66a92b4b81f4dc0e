//! What people and programs may do.

use serde::{Deserialize, Serialize};

/// Each may all that the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Customer,
    Staff,
    Admin,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Customer, Self::Staff, Self::Admin];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Staff => "staff",
            Self::Admin => "admin",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// What a token may do; never more than the role of whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, utoipa::ToSchema)]
pub(crate) enum Scope {
    /// Read one's own account, cart and orders.
    #[serde(rename = "read")]
    Read,
    /// Fill the cart, order and cancel.
    #[serde(rename = "order")]
    Order,
    /// Read what staff reads.
    #[serde(rename = "admin:read")]
    AdminRead,
    /// Change what staff changes.
    #[serde(rename = "admin:write")]
    AdminWrite,
}

impl Scope {
    pub(crate) const ALL: [Self; 4] = [Self::Read, Self::Order, Self::AdminRead, Self::AdminWrite];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Order => "order",
            Self::AdminRead => "admin:read",
            Self::AdminWrite => "admin:write",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// The least role that may hand it to a token.
    pub(crate) fn needs(self) -> Role {
        match self {
            Self::Read | Self::Order => Role::Customer,
            Self::AdminRead | Self::AdminWrite => Role::Staff,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back() {
        assert!(Role::ALL.into_iter().all(|role| Role::named(role.name()) == Some(role)));
        assert!(Scope::ALL.into_iter().all(|scope| Scope::named(scope.name()) == Some(scope)));
        for scope in Scope::ALL {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.name());
        }
        assert_eq!((Role::named("root"), Scope::named("")), (None, None));
        assert!(Role::Customer < Role::Staff && Role::Staff < Role::Admin);
    }
}
