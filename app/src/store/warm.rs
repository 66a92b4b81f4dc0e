//! Sessions that go from one read to the next without a visit to their pool.
//!
//! sqlx asks every session that comes back whether it lives. That is a round trip, which is much beside a page that is one
//! statement, and such a read leaves nothing behind that would have to be looked for.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::{StoreError, pools::TRUSTED_FOR};

/// From time to time it goes through the pool, which ends sessions that are too old.
const KEPT_FOR: Duration = Duration::from_secs(60);

pub(crate) struct Warm {
    pool: PgPool,
    /// Half as many as the pool has sessions: a read that finds none here finds one there, and so does everybody else.
    seats: Semaphore,
    idle: Mutex<Vec<Kept>>,
}

struct Kept {
    connection: PoolConnection<Postgres>,
    taken: Instant,
    used: Instant,
}

/// Dropped, it goes back to the pool.
pub(crate) struct Session<'a> {
    warm: &'a Warm,
    connection: PoolConnection<Postgres>,
    taken: Instant,
    _seat: SemaphorePermit<'a>,
}

impl Warm {
    pub(crate) fn new(pool: PgPool) -> Self {
        let seats = pool.options().get_max_connections().div_ceil(2);
        Self { pool, seats: Semaphore::new(usize::try_from(seats).unwrap_or(1)), idle: Mutex::default() }
    }

    pub(crate) async fn take(&self) -> Result<Session<'_>, StoreError> {
        let limit = self.pool.options().get_acquire_timeout();
        let seat = timeout(limit, self.seats.acquire()).await;
        let _seat = seat.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        if let Some(Kept { connection, taken, .. }) = self.freshest() {
            return Ok(Session { warm: self, connection, taken, _seat });
        }
        Ok(Session { warm: self, connection: self.pool.acquire().await?, taken: Instant::now(), _seat })
    }

    /// The one that was used last; when that was too long ago, none is good.
    fn freshest(&self) -> Option<Kept> {
        let mut idle = self.idle();
        let kept = idle.pop_if(|kept| kept.used.elapsed() < TRUSTED_FOR);
        if kept.is_none() {
            idle.clear();
        }
        kept
    }

    pub(crate) fn kept(&self) -> usize {
        self.idle().len()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session<'_> {
    /// For the next read: this one has come to its end.
    pub(crate) fn keep(self) {
        let Self { warm, connection, taken, _seat } = self;
        if taken.elapsed() < KEPT_FOR {
            warm.idle().push(Kept { connection, taken, used: Instant::now() });
        }
    }

    pub(crate) fn close(mut self) {
        self.connection.close_on_drop();
    }
}

impl Deref for Session<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Session<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

#[cfg(test)]
#[cfg(feature = "live-tests")]
mod tests {
    use super::*;
    use crate::{store::pools, testing};

    async fn pid(session: &mut Session<'_>) -> i32 {
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut **session).await.unwrap()
    }

    #[tokio::test]
    async fn a_session_that_was_kept_is_the_next_ones_and_the_pool_is_never_empty_for_others() {
        let server = testing::setting("APP_TEST_DATABASE_URL").parse().unwrap();
        let warm = Warm::new(pools::read_pool(server, 4));
        let mut first = warm.take().await.unwrap();
        let mut second = warm.take().await.unwrap();
        let (one, two) = (pid(&mut first).await, pid(&mut second).await);
        assert_ne!(one, two);
        second.keep();
        first.keep();
        assert_eq!(pid(&mut warm.take().await.unwrap()).await, one, "the one that was used last");

        let taken = [warm.take().await.unwrap(), warm.take().await.unwrap()];
        let waiting = timeout(Duration::from_millis(200), warm.take()).await;
        assert!(waiting.is_err(), "half of the sessions are for others");
        let others = [warm.pool.acquire().await.unwrap(), warm.pool.acquire().await.unwrap()];
        drop((taken, others));
        assert_eq!(warm.kept(), 0, "what is not kept goes to the pool");
    }

    #[tokio::test]
    async fn what_was_idle_too_long_or_kept_too_long_goes_through_the_pool() {
        let server = testing::setting("APP_TEST_DATABASE_URL").parse().unwrap();
        let warm = Warm::new(pools::read_pool(server, 4));
        warm.take().await.unwrap().keep();
        warm.idle()[0].used = Instant::now().checked_sub(TRUSTED_FOR).unwrap();
        let mut session = warm.take().await.unwrap();
        assert_eq!(warm.kept(), 0);
        session.taken = Instant::now().checked_sub(KEPT_FOR).unwrap();
        session.keep();
        assert_eq!(warm.kept(), 0);
    }
}
