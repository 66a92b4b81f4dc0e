//! What a route demands of whoever asks. It stands in the handler's signature, before the body: who may not ask learns
//! nothing of what else is wrong.

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{
    caller::{By, Caller, forbidden, is_safe},
    error::Problem,
};
use crate::{
    accounts::{Role, Scope, secret::Secret, sessions::Session},
    state::Shared,
    store::users::User,
};

/// Somebody with a session. What changes the account itself takes one: a token that leaked must not make others, or
/// lock its owner out.
pub(crate) struct Owner {
    pub(crate) user: User,
    pub(crate) secret: Secret,
    pub(crate) session: Session,
}

/// Somebody who may read what is theirs.
pub(crate) struct Reader(pub(crate) Caller);

/// Somebody who may fill a cart and order.
pub(crate) struct Buyer(pub(crate) Caller);

/// Staff or an administrator. Reading takes the scope `admin:read` of a token, everything else `admin:write`.
pub(crate) struct Staff(pub(crate) Caller);

/// An administrator alone; the scopes are those of staff.
pub(crate) struct Admin(pub(crate) Caller);

async fn known(parts: &mut Parts, state: &Shared) -> Result<Caller, Problem> {
    <Caller as FromRequestParts<Shared>>::from_request_parts(parts, state).await
}

async fn with(scope: Scope, parts: &mut Parts, state: &Shared) -> Result<Caller, Problem> {
    let caller = known(parts, state).await?;
    caller.demand(scope)?;
    Ok(caller)
}

impl FromRequestParts<Shared> for Owner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        let Caller { user, by } = known(parts, state).await?;
        match by {
            By::Session { secret, session } => Ok(Self { user, secret, session }),
            By::Token(_) => Err(forbidden("a token cannot do this: log in".to_owned())),
        }
    }
}

impl FromRequestParts<Shared> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        with(Scope::Read, parts, state).await.map(Self)
    }
}

impl FromRequestParts<Shared> for Buyer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        with(Scope::Order, parts, state).await.map(Self)
    }
}

impl FromRequestParts<Shared> for Staff {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        let scope = if is_safe(&parts.method) { Scope::AdminRead } else { Scope::AdminWrite };
        with(scope, parts, state).await.map(Self)
    }
}

impl FromRequestParts<Shared> for Admin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        let Staff(caller) = Staff::from_request_parts(parts, state).await?;
        match caller.user.role {
            Role::Admin => Ok(Self(caller)),
            Role::Customer | Role::Staff => Err(forbidden("expected the role admin".to_owned())),
        }
    }
}
