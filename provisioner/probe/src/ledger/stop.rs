//! How everybody is told to come to an end.

use std::time::Duration;

use tokio::sync::watch;

/// What is on its way when the end is told may still arrive.
const GRACE: Duration = Duration::from_secs(1);

pub(super) struct Stopper(watch::Sender<bool>);

#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stopper {
    pub(super) fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    pub(super) fn new() -> (Stopper, Self) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Self(receiver))
    }

    pub(super) fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when the end is told.
    async fn told(&self) {
        // Without a sender nobody can tell it any more, which is the end too.
        let _ = self.0.clone().wait_for(|told| *told).await;
    }

    /// A pause that the end cuts short.
    pub(super) async fn pause(&self, duration: Duration) {
        let _ = tokio::time::timeout(duration, self.told()).await;
    }

    /// Lets `work` go on until `limit` (`None`: as long as it takes), or for a moment after the end; `None`: cut off.
    pub(super) async fn bound<T>(&self, limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
        let grace = async {
            self.told().await;
            let _ = tokio::time::timeout(GRACE, std::future::pending::<()>()).await;
        };
        let limited = async {
            match limit {
                Some(limit) => tokio::time::timeout(limit, work).await.ok(),
                None => Some(work.await),
            }
        };
        tokio::select! {
            done = limited => done,
            () = grace => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_cut_off_at_its_limit_or_a_moment_after_the_end() {
        let (stopper, stop) = Stop::new();
        let begin = Instant::now();
        let hangs = std::future::pending::<()>;
        assert_eq!(stop.bound(Some(Duration::from_secs(2)), hangs()).await, None);
        assert_eq!(begin.elapsed(), Duration::from_secs(2));
        stopper.stop();
        assert_eq!(stop.bound(None, hangs()).await, None);
        assert_eq!(begin.elapsed(), Duration::from_secs(3));
        assert_eq!(stop.bound(None, std::future::ready(7)).await, Some(7));
    }
}
