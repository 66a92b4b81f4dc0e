//! Rows that are of no use after a while, and whose turn it is to remove them.

use std::time::Duration;

use sqlx::PgPool;

use super::StoreError;

/// Takes the clean-up of this period, if nobody has taken it: one process of the stack does it, whichever comes first. Who
/// dies over it has done a part, and the next period does the rest.
pub(crate) async fn claim(pool: &PgPool, every: Duration) -> Result<bool, StoreError> {
    let claim = sqlx::query(
        "UPDATE schedule SET due_at = now() + $1 * interval '1 second' WHERE task = 'clean_up' AND due_at <= now()",
    );
    Ok(claim.bind(every.as_secs_f64()).execute(pool).await?.rows_affected() == 1)
}

/// Tables whose rows are of no use after a while.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leftover {
    Published,
    IdempotencyKeys,
    Inbox,
    WebhookEvents,
    ExpiredTokens,
    Mails,
    Tasks,
}

impl Leftover {
    pub(crate) const ALL: [Self; 7] = [
        Self::Published,
        Self::IdempotencyKeys,
        Self::Inbox,
        Self::WebhookEvents,
        Self::ExpiredTokens,
        Self::Mails,
        Self::Tasks,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Published => "outbox",
            Self::IdempotencyKeys => "idempotency_keys",
            Self::Inbox => "inbox",
            Self::WebhookEvents => "webhook_events",
            Self::ExpiredTokens => "api_tokens",
            Self::Mails => "email_log",
            Self::Tasks => "custom_tasks",
        }
    }

    /// A key must outlive the client's retries; an inbox row the slowest way through the retry queues.
    fn kept_for(self) -> Duration {
        let hours = match self {
            Self::Published => 24,
            Self::IdempotencyKeys => 48,
            Self::Inbox => 7 * 24,
            // For longer than any provider goes on delivering.
            Self::WebhookEvents => 30 * 24,
            // Its owner sees for a while why a program is turned away.
            Self::ExpiredTokens => 30 * 24,
            // For longer than anybody asks for a mail that did not come, or for what became of a task.
            Self::Mails | Self::Tasks => 90 * 24,
        };
        Duration::from_secs(hours * 3600)
    }

    /// Removes one bounded batch, so that no lock is held for long; returns how many rows went.
    pub(crate) async fn purge(self, pool: &PgPool, limit: i64) -> Result<u64, StoreError> {
        let delete = sqlx::query(match self {
            Self::Published => {
                "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox \
                 WHERE published_at < now() - $1 * interval '1 second' ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
            Self::IdempotencyKeys => {
                "DELETE FROM idempotency_keys WHERE (scope, key) IN (SELECT scope, key FROM idempotency_keys \
                 WHERE created_at < now() - $1 * interval '1 second' ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
            Self::Inbox => {
                "DELETE FROM inbox WHERE (consumer, message_id) IN (SELECT consumer, message_id FROM inbox \
                 WHERE processed_at < now() - $1 * interval '1 second' ORDER BY processed_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
            Self::WebhookEvents => {
                "DELETE FROM webhook_events WHERE (provider, event_id) IN (SELECT provider, event_id FROM webhook_events \
                 WHERE received_at < now() - $1 * interval '1 second' ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
            Self::ExpiredTokens => {
                "DELETE FROM api_tokens WHERE id IN (SELECT id FROM api_tokens \
                 WHERE expires_at < now() - $1 * interval '1 second' LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
            Self::Mails => {
                "DELETE FROM email_log WHERE message_id IN (SELECT message_id FROM email_log \
                 WHERE sent_at < now() - $1 * interval '1 second' ORDER BY sent_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
            Self::Tasks => {
                "DELETE FROM custom_tasks WHERE message_id IN (SELECT message_id FROM custom_tasks \
                 WHERE done_at < now() - $1 * interval '1 second' ORDER BY done_at LIMIT $2 FOR UPDATE SKIP LOCKED)"
            }
        });
        Ok(delete.bind(self.kept_for().as_secs_f64()).bind(limit).execute(pool).await?.rows_affected())
    }
}

#[cfg(all(test, feature = "live-tests"))]
mod tests {
    use super::*;
    use crate::{store::pools, testing::Database};

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn of_many_who_would_clean_up_one_does_until_the_next_time() {
        let database = Database::create().await;
        let pool = pools::write_pool(database.options.clone(), 8);
        let claims = futures_util::future::join_all((0..8).map(|_| claim(&pool, HOUR))).await;
        assert_eq!(claims.into_iter().filter(|claimed| *claimed.as_ref().unwrap()).count(), 1);
        assert!(!claim(&pool, HOUR).await.unwrap());
        sqlx::query("UPDATE schedule SET due_at = now() - interval '1 second'").execute(&pool).await.unwrap();
        assert!(claim(&pool, HOUR).await.unwrap());
    }

    /// Two rows of each kind on either side of its limit; a batch of one takes the one that is over.
    #[tokio::test]
    async fn what_is_younger_than_its_limit_stays_and_a_batch_is_bounded() {
        let database = Database::create().await;
        let pool = pools::write_pool(database.options.clone(), 1);
        for leftover in Leftover::ALL {
            let kept = leftover.kept_for().as_secs_f64();
            for age in [kept - 60.0, kept - 60.0, kept + 60.0, kept + 60.0] {
                sqlx::raw_sql(sqlx::AssertSqlSafe(row(leftover, age))).execute(&pool).await.unwrap();
            }
            let count = format!("SELECT count(*) FROM {}", leftover.name());
            let count = async || {
                sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(count.clone())).fetch_one(&pool).await.unwrap()
            };
            for left in [3, 2, 2] {
                leftover.purge(&pool, 1).await.unwrap();
                assert_eq!(count().await, left, "{leftover:?}");
            }
        }
    }

    fn row(leftover: Leftover, age: f64) -> String {
        let at = format!("now() - {age} * interval '1 second'");
        match leftover {
            Leftover::Published => format!(
                "INSERT INTO outbox (message_id, topic, aggregate_id, aggregate_version, payload, created_at, published_at) \
                 VALUES (gen_random_uuid(), 't', '1', 1, '{{}}', {at}, {at})"
            ),
            Leftover::IdempotencyKeys => format!(
                "INSERT INTO idempotency_keys (scope, key, fingerprint, created_at) \
                 VALUES ('guest', gen_random_uuid()::text, '\\x00', {at})"
            ),
            Leftover::Inbox => {
                format!("INSERT INTO inbox (consumer, message_id, processed_at) VALUES ('c', gen_random_uuid(), {at})")
            }
            Leftover::WebhookEvents => format!(
                "INSERT INTO webhook_events (provider, event_id, received_at) VALUES ('p', gen_random_uuid()::text, {at})"
            ),
            Leftover::ExpiredTokens => format!(
                "INSERT INTO users (id, email, name, password_hash) VALUES ('00000000-0000-7000-8000-000000000001', 'a@b.c', 'a', 'x') \
                   ON CONFLICT DO NOTHING; \
                 INSERT INTO api_tokens (id, user_id, name, digest, scopes, expires_at) VALUES (gen_random_uuid(), \
                   '00000000-0000-7000-8000-000000000001', 't', sha256(gen_random_uuid()::text::bytea), '{{}}', {at})"
            ),
            Leftover::Mails => format!(
                "INSERT INTO orders (id, email, status, total_cents, currency) \
                   VALUES ('00000000-0000-4000-8000-000000000001', 'a@b.c', 'placed', 1, 'EUR') ON CONFLICT DO NOTHING; \
                 INSERT INTO email_log (message_id, recipient, template, order_id, sent_at) \
                   VALUES (gen_random_uuid(), 'a@b.c', 't', '00000000-0000-4000-8000-000000000001', {at})"
            ),
            Leftover::Tasks => format!(
                "INSERT INTO custom_tasks (message_id, topic, data, done_at) VALUES (gen_random_uuid(), 't', '{{}}', {at})"
            ),
        }
    }
}
