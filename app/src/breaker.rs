//! Keeps a dead optional dependency from slowing down every request.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// While open, one caller per pause is let through to try again; the others go round the dependency at once.
#[derive(Debug)]
pub(crate) struct Breaker {
    start: Instant,
    pause: Duration,
    /// Milliseconds after `start`; 0 means closed.
    open_until: AtomicU64,
}

impl Breaker {
    pub(crate) fn new(pause: Duration) -> Self {
        Self { start: Instant::now(), pause, open_until: AtomicU64::new(0) }
    }

    pub(crate) fn allows(&self) -> bool {
        let until = self.open_until.load(Relaxed);
        if until == 0 {
            return true;
        }
        let now = self.millis(Duration::ZERO);
        now >= until && self.open_until.compare_exchange(until, self.millis(self.pause), Relaxed, Relaxed).is_ok()
    }

    pub(crate) fn trip(&self) {
        self.open_until.store(self.millis(self.pause), Relaxed);
    }

    pub(crate) fn close(&self) {
        self.open_until.store(0, Relaxed);
    }

    fn millis(&self, ahead: Duration) -> u64 {
        u64::try_from((self.start.elapsed() + ahead).as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_blocks_all_and_lets_one_through_after_the_pause() {
        let breaker = Breaker::new(Duration::from_secs(60));
        assert!(breaker.allows());
        breaker.trip();
        assert!(!breaker.allows());
        breaker.open_until.store(1, Relaxed);
        while breaker.millis(Duration::ZERO) <= 1 {
            std::thread::yield_now();
        }
        assert!(breaker.allows(), "the pause is over: one caller tries");
        assert!(!breaker.allows(), "the others keep going round");
        breaker.close();
        assert!(breaker.allows());
    }
}
