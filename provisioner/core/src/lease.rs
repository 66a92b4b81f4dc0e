//! One operator at a time: a lock with a heartbeat, kept as a record in the engine.
//!
//! A holder proves that it lives by writing the record again and again. Whoever waits watches the record's version: one
//! that has not moved for [`TTL`] of the watcher's own time belongs to a dead holder. No two clocks are compared.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::clock;
use crate::engine::{Engine, EngineError};
use crate::record::{Record, RecordError, Version};
use crate::wait;

pub const KEY: &str = "lock";
/// A record that does not move for this long is abandoned.
pub const TTL: Duration = Duration::from_secs(15);
/// Three beats fit into [`TTL`], so one slow answer of the engine does not lose the lock.
const BEAT: Duration = Duration::from_secs(4);
/// A holder that could not write for this long stops beginning steps, well before anybody may take over.
const HELD_FOR: Duration = Duration::from_secs(10);
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// An engine that does not answer may come back, and the lock with it as long as nobody else has taken it.
const REGAIN_LIMIT: Duration = Duration::from_secs(60);

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Names this very acquisition; needed to release it by hand.
    pub id: String,
    pub user: String,
    pub host: String,
    /// Changes when the host boots, so that a pid is never compared across boots.
    pub boot: String,
    pub pid: u32,
    pub command: String,
    /// Seconds since 1970 by the holder's clock, for people to read.
    pub since: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("take the lock: {holder} holds it, waited {} s", waited.as_secs())]
    Held { holder: Box<Holder>, waited: Duration },
    #[error("take the lock")]
    Record(#[from] RecordError),
    #[error("release the lock: it is held as {found}, not as {given}")]
    OtherId { found: String, given: String },
    #[error("release the lock: nobody holds it")]
    NotHeld,
}

/// A held lock. It is given back by [`Lease::release`]; when it is dropped or its process dies it runs out by itself.
pub struct Lease {
    engine: Arc<dyn Engine>,
    beat: JoinHandle<()>,
    state: watch::Receiver<Beat>,
}

#[derive(Clone, Copy, Debug)]
struct Beat {
    version: Version,
    at: Instant,
    is_lost: bool,
}

impl Lease {
    /// Takes the lock, waiting up to `timeout` for a living holder. `is_dead` may recognise at once that a holder's
    /// process is gone; `on_wait` is told once whom we wait for.
    pub async fn acquire(
        engine: Arc<dyn Engine>,
        holder: &Holder,
        timeout: Duration,
        is_dead: &(dyn Fn(&Holder) -> bool + Sync),
        on_wait: &(dyn Fn(&Holder) + Sync),
    ) -> Result<Self, LeaseError> {
        let start = Instant::now();
        let value = to_value(holder)?;
        // The version that is being watched, and since when it has not moved.
        let mut watched: Option<(Version, Instant)> = None;
        loop {
            let found = engine.records().get(KEY).await.map_err(RecordError::from)?;
            let version = found.as_ref().map_or(0, |record| record.version);
            let is_free = match &found {
                None => true,
                Some(record) => {
                    let other: Holder = record.read(KEY)?;
                    let since = match watched {
                        Some((seen, since)) if seen == version => since,
                        _ => Instant::now(),
                    };
                    if watched.is_none() {
                        on_wait(&other);
                    }
                    watched = Some((version, since));
                    let is_abandoned = is_dead(&other) || since.elapsed() >= TTL;
                    if !is_abandoned && start.elapsed() >= timeout {
                        return Err(LeaseError::Held { holder: Box::new(other), waited: start.elapsed() });
                    }
                    is_abandoned
                }
            };
            if is_free {
                match engine.records().put_if(KEY, version, value.clone()).await {
                    Ok(version) => return Ok(Self::keep(engine, version, value)),
                    Err(RecordError::Conflict { .. }) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            wait::pause(WATCH_EVERY).await;
        }
    }

    fn keep(engine: Arc<dyn Engine>, version: Version, value: serde_json::Value) -> Self {
        let (sender, state) = watch::channel(Beat { version, at: Instant::now(), is_lost: false });
        let records = Arc::clone(&engine);
        let beat = tokio::spawn(async move {
            loop {
                wait::pause(BEAT).await;
                let Beat { version, at, .. } = *sender.borrow();
                let begun = Instant::now();
                match records.records().put_if(KEY, version, value.clone()).await {
                    // Counted from before the request: the write may have happened at any moment since.
                    Ok(version) => sender.send_replace(Beat { version, at: begun, is_lost: false }),
                    Err(RecordError::Conflict { .. }) => {
                        sender.send_replace(Beat { version, at, is_lost: true });
                        return;
                    }
                    // The engine did not answer; `is_held` counts how long that has been so.
                    Err(_) => continue,
                };
            }
        });
        Self { engine, beat, state }
    }

    /// Nobody else can have taken the lock yet.
    pub fn is_held(&self) -> bool {
        let Beat { at, is_lost, .. } = *self.state.borrow();
        !is_lost && at.elapsed() < HELD_FOR
    }

    /// Until the lock is written again after the engine was away. False: somebody else has it, or it takes too long.
    pub async fn is_regained(&self) -> bool {
        let mut state = self.state.clone();
        let written = state.wait_for(|beat| beat.is_lost || beat.at.elapsed() < HELD_FOR);
        let _ = tokio::time::timeout(REGAIN_LIMIT, written).await;
        self.is_held()
    }

    /// Gives the lock back. Somebody who took it over in the meantime keeps it.
    pub async fn release(self) -> Result<(), LeaseError> {
        self.beat.abort();
        // A beat that was being written may have moved the version by one; what counts is that the value is ours.
        let Beat { version, is_lost, .. } = *self.state.borrow();
        if is_lost {
            return Ok(());
        }
        for version in [version, version + 1] {
            match self.engine.records().remove_if(KEY, version).await {
                Err(RecordError::Conflict { .. }) => {}
                other => return Ok(other?),
            }
        }
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.beat.abort();
    }
}

/// Whether somebody works on a stack, by the same rule by which a waiting run would take the lock over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Life {
    /// Nobody holds the lock.
    Free,
    Alive(Holder),
    /// The holder is gone without having given the lock back.
    Abandoned(Holder),
}

/// Watches the lock until its holder has shown that it lives, or has not for [`TTL`]. Reads only.
pub async fn life(engine: &dyn Engine, is_dead: &(dyn Fn(&Holder) -> bool + Sync)) -> Result<Life, LeaseError> {
    let read = async || engine.records().get(KEY).await.map_err(RecordError::from);
    let Some(first) = read().await? else { return Ok(Life::Free) };
    let found: Holder = first.read(KEY)?;
    let begin = Instant::now();
    while !is_dead(&found) && begin.elapsed() < TTL {
        wait::pause(WATCH_EVERY).await;
        match read().await? {
            None => return Ok(Life::Free),
            Some(next) if next.version != first.version => return Ok(Life::Alive(next.read(KEY)?)),
            Some(_) => {}
        }
    }
    Ok(Life::Abandoned(found))
}

/// Who holds the lock according to the record.
pub async fn holder(engine: &dyn Engine) -> Result<Option<Holder>, LeaseError> {
    let found = engine.records().get(KEY).await.map_err(RecordError::from)?;
    Ok(found.map(|record: Record| record.read(KEY)).transpose()?)
}

/// Takes the lock away from the acquisition `id`, whatever its holder does.
pub async fn release_by_id(engine: &dyn Engine, id: &str) -> Result<(), LeaseError> {
    loop {
        let Some(record) = engine.records().get(KEY).await.map_err(RecordError::from)? else {
            return Err(LeaseError::NotHeld);
        };
        let found: Holder = record.read(KEY)?;
        if found.id != id {
            return Err(LeaseError::OtherId { found: found.id, given: id.to_owned() });
        }
        match engine.records().remove_if(KEY, record.version).await {
            // It beat in between: read the new version.
            Err(RecordError::Conflict { .. }) => {}
            other => return Ok(other?),
        }
    }
}

fn to_value(holder: &Holder) -> Result<serde_json::Value, LeaseError> {
    let value = serde_json::to_value(holder);
    value.map_err(|error| RecordError::from(EngineError::failed("write the lock", error)).into())
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, user, host, pid, command, since, .. } = self;
        let age = clock::human_seconds(clock::unix_seconds().saturating_sub(*since));
        write!(f, "{user}@{host} (pid {pid}, `{command}`, for {age}, id {id})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::StackName;
    use crate::testing::memory::MemoryEngine;

    fn engine() -> Arc<dyn Engine> {
        Arc::new(MemoryEngine::new(StackName::new("lease").unwrap()))
    }

    fn holder(id: &str) -> Holder {
        Holder {
            id: id.to_owned(),
            user: "ada".to_owned(),
            host: "laptop".to_owned(),
            boot: "b".to_owned(),
            pid: 7,
            command: "provisioner up".to_owned(),
            since: 0,
        }
    }

    async fn acquire(engine: &Arc<dyn Engine>, id: &str, timeout: u64) -> Result<Lease, LeaseError> {
        Lease::acquire(Arc::clone(engine), &holder(id), Duration::from_secs(timeout), &|_| false, &|_| ()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_living_holder_keeps_the_lock_however_long_somebody_waits() {
        let engine = engine();
        let lease = acquire(&engine, "first", 1).await.unwrap();
        let refused = acquire(&engine, "second", 120).await.err().unwrap();
        assert!(matches!(refused, LeaseError::Held { holder, .. } if holder.id == "first"));
        assert!(lease.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_holders_lock_frees_itself() {
        let engine = engine();
        drop(acquire(&engine, "killed", 1).await.unwrap());
        let start = Instant::now();
        let lease = acquire(&engine, "next", 60).await.unwrap();
        assert!(start.elapsed() >= TTL && start.elapsed() < TTL * 2);
        assert!(lease.is_held());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_known_to_be_dead_is_not_waited_for() {
        let engine = engine();
        drop(acquire(&engine, "killed", 1).await.unwrap());
        let start = Instant::now();
        let next = holder("next");
        let taken = Lease::acquire(Arc::clone(&engine), &next, Duration::ZERO, &|other| other.pid == 7, &|_| ());
        assert!(taken.await.unwrap().is_held());
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_living_holder_is_told_from_one_that_is_gone() {
        let engine = engine();
        let look = async || life(&*engine, &|_| false).await.unwrap();
        assert_eq!(look().await, Life::Free);

        let lease = acquire(&engine, "first", 1).await.unwrap();
        let begin = Instant::now();
        assert_eq!(look().await, Life::Alive(holder("first")));
        assert!(begin.elapsed() <= BEAT * 2);

        drop(lease);
        let begin = Instant::now();
        assert_eq!(look().await, Life::Abandoned(holder("first")));
        assert!(begin.elapsed() >= TTL);
        assert_eq!(life(&*engine, &|_| true).await.unwrap(), Life::Abandoned(holder("first")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lock_is_free_at_once() {
        let engine = engine();
        acquire(&engine, "first", 1).await.unwrap().release().await.unwrap();
        assert!(super::holder(&*engine).await.unwrap().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_whose_lock_was_taken_away_knows_it() {
        let engine = engine();
        let lease = acquire(&engine, "first", 1).await.unwrap();
        release_by_id(&*engine, "first").await.unwrap();
        let thief = acquire(&engine, "second", 1).await.unwrap();
        wait::pause(BEAT * 2).await;
        assert!(!lease.is_held());
        lease.release().await.unwrap();
        assert!(thief.is_held());
        assert_eq!(super::holder(&*engine).await.unwrap().unwrap().id, "second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_could_not_be_written_is_regained_unless_somebody_took_it() {
        for is_taken in [false, true] {
            let memory = Arc::new(MemoryEngine::new(StackName::new("lease").unwrap()));
            let engine: Arc<dyn Engine> = memory.clone();
            let lease = acquire(&engine, "first", 1).await.unwrap();
            memory.fail_after(Some(0));
            wait::pause(HELD_FOR + BEAT).await;
            assert!(!lease.is_held());
            memory.fail_after(None);
            if is_taken {
                release_by_id(&*engine, "first").await.unwrap();
            }
            let begin = Instant::now();
            assert_eq!(lease.is_regained().await, !is_taken);
            assert!(begin.elapsed() <= BEAT * 2, "{:?}", begin.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_twenty_at_once_one_wins() {
        let engine = engine();
        let tries = (0..20).map(|nth| {
            let engine = Arc::clone(&engine);
            async move { acquire(&engine, &nth.to_string(), 0).await }
        });
        let leases = futures_util::future::join_all(tries).await;
        assert_eq!(leases.iter().filter(|lease| lease.is_ok()).count(), 1);
    }
}
