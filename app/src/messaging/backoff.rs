//! Growing pauses between tries.

use std::time::Duration;

/// Doubles up to the limit, then stays there. A random part keeps processes that failed together from trying together.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.limit);
        pause.mul_f64(rand::random_range(0.75..=1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_start_over() {
        let (first, limit) = (Duration::from_millis(200), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, limit);
        let pauses: Vec<Duration> = (0..8).map(|_| backoff.pause()).collect();
        assert!(pauses[0] >= first.mul_f64(0.75) && pauses[0] <= first, "{pauses:?}");
        assert!(pauses[4] > pauses[2], "{pauses:?}");
        assert!(pauses[6..].iter().all(|pause| *pause >= limit.mul_f64(0.75) && *pause <= limit), "{pauses:?}");
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
