//! The lock over the wire.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use provisioner_core::engine::Engine;
use provisioner_core::lease::{self, Holder, Lease};
use support::with_ground;

/// Real beats and real waiting: what is shown in memory on paused time holds over the wire.
#[tokio::test]
async fn a_living_holders_lock_is_kept_and_a_killed_ones_frees_itself() {
    with_ground("lease", async |ground| {
        let holder = |id: &str| Holder {
            id: id.to_owned(),
            user: "ada".to_owned(),
            host: "laptop".to_owned(),
            boot: "b".to_owned(),
            pid: 7,
            command: "up".to_owned(),
            since: 0,
        };
        let acquire = async |id: &str, seconds: u64| {
            // Each holder has its own engine, as processes have.
            let engine: Arc<dyn Engine> = Arc::new(support::connect().await.stack(ground.engine.stack()));
            Lease::acquire(engine, &holder(id), Duration::from_secs(seconds), &|_| false, &|_| ()).await
        };
        let first = acquire("first", 0).await.unwrap();
        let refused = acquire("second", lease::TTL.as_secs() + 3).await.err().unwrap().to_string();
        assert!(refused.contains("id first") && first.is_held(), "{refused}");
        // No release: its heart stops, as by `kill -9`.
        drop(first);
        let start = Instant::now();
        let second = acquire("second", 60).await.unwrap();
        assert!(start.elapsed() > lease::TTL / 2 && start.elapsed() < lease::TTL * 2, "{:?}", start.elapsed());
        second.release().await.unwrap();
        assert!(lease::holder(&*ground.engine).await.unwrap().is_none());
        assert!(ground.volumes().await.is_empty(), "an empty stack keeps nothing of its lock");
    })
    .await;
}
