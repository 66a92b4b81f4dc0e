//! What a call made for its own use goes also when nobody waits for the call any more.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

/// Removes in the background what its holder did not come to remove. Nobody is told how that ends: the next call that
/// wants the same name removes what is left.
pub struct Cleanup(Option<BoxFuture<'static, ()>>);

impl Cleanup {
    pub fn unless_done(removal: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Some(removal.boxed()))
    }

    /// Its holder goes on to remove it.
    pub fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let (Some(removal), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(removal);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn cleanup() -> (Cleanup, oneshot::Receiver<()>) {
        let (sender, removed) = oneshot::channel();
        (Cleanup::unless_done(async { sender.send(()).unwrap_or_default() }), removed)
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_removed() {
        let (cleanup, removed) = cleanup();
        drop(cleanup);
        assert!(removed.await.is_ok());
    }

    #[tokio::test]
    async fn what_its_holder_removes_is_left_alone() {
        let (cleanup, removed) = cleanup();
        cleanup.done();
        assert!(removed.await.is_err());
    }
}
