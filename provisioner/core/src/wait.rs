//! The one polling loop.

use std::time::Duration;

use tokio::time::Instant;

/// What one look showed.
pub enum Look<T, E> {
    Done(T),
    /// Not yet, and why.
    Pending(String),
    /// It will never come.
    Broken(E),
}

#[derive(Debug, thiserror::Error)]
pub enum WaitError<E> {
    #[error("not within {} s: {last}", after.as_secs())]
    TimedOut { after: Duration, last: String },
    #[error("{0}")]
    Broken(E),
}

/// The part of the time waited so far that may pass before the next look. Whatever takes long is not made slower by being
/// asked all the time: three nodes of Elasticsearch, looked at every 150 ms, cost a tenth of a core.
const PATIENCE: u32 = 20;

/// Looks every `every`, less often the longer it takes, until the look is done or broken, or until `limit` has passed; a
/// look that hangs is cut off at the limit.
// Not `AsyncFnMut`: the compiler cannot show that such a wait is `Send` (rust-lang/rust#110338), which engines and
// components need.
pub async fn until<T, E, F>(limit: Duration, every: Duration, mut look: impl FnMut() -> F) -> Result<T, WaitError<E>>
where
    F: Future<Output = Look<T, E>>,
{
    let begin = Instant::now();
    let deadline = begin + limit;
    let mut last = "no look was finished".to_owned();
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Look::Done(value)) => return Ok(value),
            Ok(Look::Pending(why)) => last = why,
            Ok(Look::Broken(error)) => return Err(WaitError::Broken(error)),
            Err(_) => return Err(WaitError::TimedOut { after: limit, last }),
        }
        let next = every.max(begin.elapsed() / PATIENCE);
        if Instant::now() + next >= deadline {
            return Err(WaitError::TimedOut { after: limit, last });
        }
        pause(next).await;
    }
}

/// A pause between two beats of something periodic.
#[allow(clippy::disallowed_methods, reason = "this is the one place that sleeps")]
pub async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_passes_is_an_error_with_the_last_reason() {
        let waited = until::<(), String, _>(Duration::from_secs(3), Duration::from_secs(1), async || {
            Look::Pending("port refused".to_owned())
        });
        assert_eq!(waited.await.unwrap_err().to_string(), "not within 3 s: port refused");
    }

    #[tokio::test(start_paused = true)]
    async fn looks_become_fewer_the_longer_it_takes() {
        let mut looks = 0;
        let waited = until::<(), String, _>(Duration::from_secs(60), Duration::from_millis(100), || {
            looks += 1;
            std::future::ready(Look::Pending("not yet".to_owned()))
        });
        assert!(waited.await.is_err());
        assert!((20..120).contains(&looks), "{looks} instead of 600");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_is_cut_off() {
        let waited = until::<(), String, _>(Duration::from_secs(3), Duration::from_secs(1), async || {
            std::future::pending::<Look<(), String>>().await
        });
        assert!(matches!(waited.await, Err(WaitError::TimedOut { .. })));
    }
}
