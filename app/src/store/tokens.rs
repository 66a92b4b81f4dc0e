//! API tokens: a user's keys for programs.

use serde::Serialize;
use sqlx::{Connection, FromRow, PgConnection};
use uuid::Uuid;

use super::{
    StoreError,
    pools::Databases,
    users::{Row, User},
};
use crate::accounts::Scope;

pub(crate) const MAX_TOKENS: i64 = 50;

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Token {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) created_at: String,
    pub(crate) expires_at: String,
    pub(crate) last_used_at: Option<String>,
}

#[derive(FromRow)]
struct TokenRow {
    id: Uuid,
    name: String,
    scopes: Vec<String>,
    created_at: String,
    expires_at: String,
    last_used_at: Option<String>,
}

impl From<TokenRow> for Token {
    fn from(row: TokenRow) -> Self {
        let TokenRow { id, name, scopes, created_at, expires_at, last_used_at } = row;
        Self { id, name, scopes: known(&scopes), created_at, expires_at, last_used_at }
    }
}

fn known(scopes: &[String]) -> Vec<Scope> {
    scopes.iter().filter_map(|name| Scope::named(name)).collect()
}

const TOKEN_COLUMNS: &str = "id, name, scopes, iso_utc(created_at) AS created_at, \
     iso_utc(expires_at) AS expires_at, \
     iso_utc(last_used_at) AS last_used_at";

pub(crate) struct NewToken<'a> {
    pub(crate) name: &'a str,
    pub(crate) digest: [u8; 32],
    pub(crate) scopes: &'a [Scope],
    pub(crate) days: i32,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AddError {
    #[error("the session is over: log in again")]
    SessionOver,
    #[error("remove one first: {MAX_TOKENS} are the most")]
    TooMany,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for AddError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// One after another, so that two at once cannot pass the limit together; and not beside a change of the password, which
/// would leave a token of whoever it was meant to shut out.
pub(crate) async fn add(
    connection: &mut PgConnection,
    user: Uuid,
    epoch: i32,
    token: &NewToken<'_>,
) -> Result<Token, AddError> {
    let mut tx = connection.begin().await?;
    let held = sqlx::query_scalar("SELECT session_epoch FROM users WHERE id = $1 FOR NO KEY UPDATE");
    if held.bind(user).fetch_optional(&mut *tx).await? != Some(epoch) {
        return Err(AddError::SessionOver);
    }
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.name()).collect();
    let mut query =
        sqlx::QueryBuilder::new("INSERT INTO api_tokens (id, user_id, name, digest, scopes, expires_at) SELECT ");
    query.push_bind(Uuid::now_v7()).push(", ").push_bind(user).push(", ").push_bind(token.name).push(", ");
    query.push_bind(token.digest.as_slice()).push(", ").push_bind(scopes).push(", now() + make_interval(days => ");
    query.push_bind(token.days).push(") WHERE (SELECT count(*) FROM api_tokens WHERE user_id = ").push_bind(user);
    query.push(") < ").push_bind(MAX_TOKENS).push(" RETURNING ").push(TOKEN_COLUMNS);
    let row: Option<TokenRow> = query.build_query_as().fetch_optional(&mut *tx).await?;
    tx.commit().await.map_err(StoreError::of_commit)?;
    row.map(Token::from).ok_or(AddError::TooMany)
}

pub(crate) async fn of_user(connection: &mut PgConnection, user: Uuid) -> Result<Vec<Token>, StoreError> {
    let mut query = sqlx::QueryBuilder::new("SELECT ");
    query.push(TOKEN_COLUMNS).push(" FROM api_tokens WHERE user_id = ").push_bind(user).push(" ORDER BY id");
    let rows: Vec<TokenRow> = query.build_query_as().fetch_all(connection).await?;
    Ok(rows.into_iter().map(Token::from).collect())
}

/// False: the user has no such token.
pub(crate) async fn remove(connection: &mut PgConnection, user: Uuid, id: Uuid) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM api_tokens WHERE id = $1 AND user_id = $2").bind(id).bind(user);
    Ok(query.execute(connection).await?.rows_affected() == 1)
}

/// Who made a token that has not run out, and what it may. Tried once more where the session turns out to be of no use.
pub(crate) async fn user_of(databases: &Databases, digest: &[u8]) -> Result<Option<(User, Vec<Scope>)>, StoreError> {
    match attempt(databases, digest).await {
        Err(error) if error.may_pass_at_once() => {
            tracing::warn!(%error, "look the token up once more");
            attempt(databases, digest).await
        }
        other => other,
    }
}

/// The columns of a user's row, and scopes.
type Bearer = (Uuid, String, String, String, i32, Vec<String>);

/// Its use is noted once a minute, not with every request; a server that cannot write refuses the statement either way.
async fn attempt(databases: &Databases, digest: &[u8]) -> Result<Option<(User, Vec<Scope>)>, StoreError> {
    let mut session = databases.writer().await?;
    let query = sqlx::query_as(
        "WITH used AS (UPDATE api_tokens SET last_used_at = now() WHERE digest = $1 AND expires_at > now() \
           AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')) \
         SELECT u.id, u.email, u.name, u.role, u.session_epoch, t.scopes FROM api_tokens t JOIN users u ON u.id = t.user_id \
         WHERE t.digest = $1 AND t.expires_at > now() AND u.is_active",
    );
    let found: Result<Option<Bearer>, StoreError> =
        query.bind(digest).fetch_optional(&mut *session).await.map_err(StoreError::from);
    match &found {
        Ok(_) => session.keep(),
        Err(error) if error.condemns_connection() => session.close(),
        Err(_) => {}
    }
    Ok(found?.map(|(id, email, name, role, session_epoch, scopes)| {
        (Row { id, email, name, role, session_epoch }.into(), known(&scopes))
    }))
}
