//! Nodes that have just left a command unanswered. The API server tries for 30 s to reach a node that is dead or cut off, and
//! whatever else is asked of it would wait as long: a primary and a member of its route may have been lost with one node.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use provisioner_core::engine::EngineError;

/// For so long nothing more is asked of it. A failover is over by then; a node that was only slow is asked again.
const KEPT: Duration = Duration::from_secs(10);

/// A stream to a pod takes a node a tenth of a second.
const UNANSWERED: Duration = Duration::from_millis(2500);

#[derive(Default)]
pub(crate) struct Silence {
    since: Mutex<BTreeMap<String, Instant>>,
    /// When a stream was first asked for since one was given.
    asked: Mutex<BTreeMap<String, Instant>>,
}

impl Silence {
    pub(crate) fn note(&self, node: &str) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), Instant::now());
    }

    pub(crate) fn asks(&self, node: &str) {
        self.asked().entry(node.to_owned()).or_insert_with(Instant::now);
    }

    pub(crate) fn hears(&self, node: &str) {
        self.asked().remove(node);
    }

    /// Whether it should have given a stream by now. Not proof enough to leave it alone; enough not to wait as long as for another.
    pub(crate) fn is_suspect(&self, node: &str) -> bool {
        self.asked().get(node).is_some_and(|since| since.elapsed() >= UNANSWERED)
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error in place of asking a node that is silent.
    pub(crate) fn check(&self, node: &str, operation: &str) -> Result<(), EngineError> {
        self.check_at(Instant::now(), node, operation)
    }

    pub(crate) fn is_silent(&self, node: &str) -> bool {
        self.check(node, "ask").is_err()
    }

    fn check_at(&self, now: Instant, node: &str, operation: &str) -> Result<(), EngineError> {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let ago = since.get(node).map(|since| now.saturating_duration_since(*since));
        match ago.filter(|ago| *ago < KEPT) {
            None => Ok(()),
            Some(ago) => {
                let detail = format!("node {node} left a command unanswered {} s ago", ago.as_secs());
                Err(EngineError::failed(operation, detail))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_silent_is_not_asked_for_a_while_and_then_again() {
        let silence = Silence::default();
        silence.note("node2");
        let now = Instant::now();
        assert!(silence.check_at(now, "node1", "exec").is_ok());
        let said = silence.check_at(now + KEPT / 2, "node2", "exec `true`").unwrap_err().to_string();
        assert_eq!(said, "exec `true`: node node2 left a command unanswered 5 s ago");
        assert!(silence.check_at(now + KEPT, "node2", "exec").is_ok());
    }

    #[test]
    fn a_node_is_suspect_while_none_of_its_streams_is_given() {
        let silence = Silence::default();
        silence.asks("node2");
        assert!(!silence.is_suspect("node2"), "it has only just been asked");
        silence.asked().insert("node2".to_owned(), Instant::now().checked_sub(UNANSWERED).unwrap());
        silence.asks("node2");
        assert!(silence.is_suspect("node2") && !silence.is_suspect("node1"));
        silence.hears("node2");
        assert!(!silence.is_suspect("node2"));
    }
}
