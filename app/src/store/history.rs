//! The orders of one user, newest first.

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{StoreError, pools::Query};

#[derive(Debug, FromRow, Serialize, utoipa::ToSchema)]
#[schema(as = OrderEntry)]
pub(crate) struct Entry {
    pub(crate) id: Uuid,
    pub(crate) number: i64,
    pub(crate) status: String,
    pub(crate) total_cents: i64,
    pub(crate) currency: String,
    pub(crate) created_at: String,
}

#[derive(Debug)]
pub(crate) struct History {
    pub(crate) user: Uuid,
    /// Orders with a lower number than this.
    pub(crate) below: i64,
    /// One more than a page shows tells whether another one follows.
    pub(crate) limit: i64,
}

impl Query for History {
    type Answer = Vec<Entry>;

    async fn ask(&self, connection: &mut PgConnection) -> Result<Vec<Entry>, StoreError> {
        let page = sqlx::query_as(
            "SELECT id, number, status, total_cents, currency, \
               iso_utc(created_at) AS created_at \
             FROM orders WHERE user_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
        );
        Ok(page.bind(self.user).bind(self.below).bind(self.limit).fetch_all(connection).await?)
    }
}
