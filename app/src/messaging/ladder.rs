//! What becomes of a message whose handling failed.

/// Fanout exchanges in front of queues that hold a message for as long as the name says.
const RUNGS: [&str; 4] = ["retry.5s", "retry.30s", "retry.5m", "retry.30m"];

/// Where a message waits that failed through no fault of its own.
pub(crate) const PARKING: &str = "retry.5s";

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Retry { exchange: &'static str, attempt: u32 },
    GiveUp,
}

/// The first delivery is attempt 1.
pub(crate) fn after_failure_of(attempt: u32) -> Step {
    let rung = usize::try_from(attempt.saturating_sub(1)).ok().and_then(|index| RUNGS.get(index));
    match rung {
        Some(exchange) => Step::Retry { exchange, attempt: attempt.max(1) + 1 },
        None => Step::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_attempts_then_the_end() {
        let (mut attempt, mut waited) = (1, Vec::new());
        while let Step::Retry { exchange, attempt: next } = after_failure_of(attempt) {
            assert_eq!(next, attempt + 1);
            waited.push(exchange);
            attempt = next;
        }
        assert_eq!((waited.as_slice(), attempt), (RUNGS.as_slice(), 5));
        assert_eq!(after_failure_of(u32::MAX), Step::GiveUp);
        assert_eq!(after_failure_of(0), Step::Retry { exchange: "retry.5s", attempt: 2 });
    }
}
