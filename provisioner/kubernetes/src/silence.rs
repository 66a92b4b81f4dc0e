//! Nodes that have just left a command unanswered. The API server tries for 30 s to reach a node that is dead or cut off, and
//! whatever else is asked of it would wait as long: a primary and a member of its route may have been lost with one node.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use provisioner_core::engine::EngineError;

/// For so long nothing more is asked of it. A failover is over by then; a node that was only slow is asked again.
const KEPT: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(crate) struct Silence {
    since: Mutex<BTreeMap<String, Instant>>,
}

impl Silence {
    pub(crate) fn note(&self, node: &str) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), Instant::now());
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
}
