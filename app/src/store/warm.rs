//! Sessions that go from one read to the next without a visit to their pool.
//!
//! sqlx asks every session that comes back whether it lives, and the primary's pool asks each that it gives whether it may
//! write. Those are round trips, which is much beside a page or an order that is a statement or two; and a session that did
//! its work a moment ago has answered both.

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
    /// Half as many as the pool has sessions: who finds none here finds one there, and so does everybody else.
    seats: Semaphore,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    sessions: Vec<Kept>,
    /// How often sessions were forgotten: one that was taken before is not kept.
    doubts: u64,
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
    doubts: u64,
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
        let (kept, doubts) = self.freshest();
        let (connection, taken) = match kept {
            Some(Kept { connection, taken, .. }) => (connection, taken),
            None => (self.pool.acquire().await?, Instant::now()),
        };
        Ok(Session { warm: self, connection, taken, doubts, _seat })
    }

    /// The one that was used last; when that was too long ago, none is good.
    fn freshest(&self) -> (Option<Kept>, u64) {
        let mut idle = self.idle();
        let kept = idle.sessions.pop_if(|kept| kept.used.elapsed() < TRUSTED_FOR);
        if kept.is_none() {
            idle.sessions.clear();
        }
        (kept, idle.doubts)
    }

    pub(crate) fn kept(&self) -> usize {
        self.idle().sessions.len()
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session<'_> {
    /// For whoever comes next: this one has come to its end.
    pub(crate) fn keep(self) {
        let Self { warm, connection, taken, doubts, _seat } = self;
        let mut idle = warm.idle();
        if taken.elapsed() < KEPT_FOR && doubts == idle.doubts {
            idle.sessions.push(Kept { connection, taken, used: Instant::now() });
        }
    }

    /// What happened to this one may have happened to the others: the pool asks them before anybody has one again.
    pub(crate) fn close(mut self) {
        self.connection.close_on_drop();
        let mut idle = self.warm.idle();
        idle.doubts += 1;
        idle.sessions.clear();
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
    async fn after_one_was_closed_no_other_that_was_taken_before_is_kept() {
        let server = testing::setting("APP_TEST_DATABASE_URL").parse().unwrap();
        let warm = Warm::new(pools::read_pool(server, 6));
        let [first, second, third] =
            [warm.take().await.unwrap(), warm.take().await.unwrap(), warm.take().await.unwrap()];
        first.keep();
        assert_eq!(warm.kept(), 1);
        second.close();
        assert_eq!(warm.kept(), 0);
        third.keep();
        assert_eq!(warm.kept(), 0);
        warm.take().await.unwrap().keep();
        assert_eq!(warm.kept(), 1);
    }

    #[tokio::test]
    async fn what_was_idle_too_long_or_kept_too_long_goes_through_the_pool() {
        let server = testing::setting("APP_TEST_DATABASE_URL").parse().unwrap();
        let warm = Warm::new(pools::read_pool(server, 4));
        warm.take().await.unwrap().keep();
        warm.idle().sessions[0].used = Instant::now().checked_sub(TRUSTED_FOR).unwrap();
        let mut session = warm.take().await.unwrap();
        assert_eq!(warm.kept(), 0);
        session.taken = Instant::now().checked_sub(KEPT_FOR).unwrap();
        session.keep();
        assert_eq!(warm.kept(), 0);
    }
}
