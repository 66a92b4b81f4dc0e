//! An API server that was reached and then is away: it restarts, or the way to it is cut. Requests wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, Request, Response};
use kube::client::Body;
use tokio::time::Instant;
use tower::BoxError;
use tower::retry::Policy;

/// A server of a managed cluster is replaced within half a minute.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(500);

/// Cloned for each request.
#[derive(Clone, Default)]
pub(crate) struct Patience {
    /// Whoever was never reached is no server that is away: a wrong address is told at once.
    was_reached: Arc<AtomicBool>,
    since: Option<Instant>,
}

impl<Answer> Policy<Request<Body>, Response<Answer>, BoxError> for Patience {
    type Future = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

    fn retry(
        &mut self,
        request: &mut Request<Body>,
        result: &mut Result<Response<Answer>, BoxError>,
    ) -> Option<Self::Future> {
        match result {
            Ok(_) => {
                self.was_reached.store(true, Ordering::Relaxed);
                None
            }
            Err(error) if self.was_reached.load(Ordering::Relaxed) && is_repeatable(request, error.as_ref()) => {
                let since = *self.since.get_or_insert_with(Instant::now);
                (since.elapsed() < PATIENCE).then(|| Box::pin(provisioner_core::wait::pause(PAUSE)) as Self::Future)
            }
            Err(_) => None,
        }
    }

    /// `None`, and so no second try, where the body is a stream.
    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        let mut copy = Request::new(request.body().try_clone()?);
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.version_mut() = request.version();
        *copy.headers_mut() = request.headers().clone();
        *copy.extensions_mut() = request.extensions().clone();
        Some(copy)
    }
}

/// It never left, or doing it twice is doing it once. A record that is written conditionally is not: the second try would find
/// the first one's and take it for somebody else's.
fn is_repeatable(request: &Request<Body>, error: &(dyn std::error::Error + 'static)) -> bool {
    let is_idempotent = [Method::GET, Method::PATCH].contains(request.method());
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        let failed = cause.downcast_ref::<hyper_util::client::legacy::Error>();
        failed.is_some_and(|failed| is_idempotent || failed.is_connect())
    })
}
