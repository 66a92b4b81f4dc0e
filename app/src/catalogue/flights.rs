//! One query at a time for one answer: whoever asks for the same meanwhile waits for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::OnceCell;

type Cell<T> = Arc<OnceCell<T>>;

#[derive(Debug)]
pub(crate) struct Flights<T>(Mutex<HashMap<String, Cell<T>>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// Everybody gets what the first one's `make` came to, failures too: a database that is away would otherwise be
    /// asked once more for each that waits. When the first one's client hangs up, the next one in line makes it.
    pub(crate) async fn join(&self, name: String, make: impl Future<Output = T>) -> T {
        let cell = Arc::clone(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default());
        let seat = Seat { flights: self, name, cell };
        seat.cell.get_or_init(|| make).await.clone()
    }
}

/// Whoever leaves takes the flight off the list if it has landed, or if nobody else is on it.
struct Seat<'a, T> {
    flights: &'a Flights<T>,
    name: String,
    cell: Cell<T>,
}

impl<T> Drop for Seat<'_, T> {
    fn drop(&mut self) {
        let mut flights = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The list and this seat hold one each. Nobody can join while the list is locked.
        let done = self.cell.initialized() || Arc::strong_count(&self.cell) == 2;
        if done && flights.get(&self.name).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell)) {
            flights.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        time::Duration,
    };

    use tokio::{sync::Notify, task::JoinSet, time::timeout};

    use super::*;

    #[tokio::test]
    async fn fifty_who_ask_at_once_are_one_query_and_the_next_is_another() {
        let flights = Arc::new(Flights::default());
        let (made, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut waiting = JoinSet::new();
        for _ in 0..50 {
            let (flights, made, gate) = (Arc::clone(&flights), Arc::clone(&made), Arc::clone(&gate));
            waiting.spawn(async move {
                let make = async {
                    gate.notified().await;
                    made.fetch_add(1, SeqCst)
                };
                flights.join("a".to_owned(), make).await
            });
        }
        let all_wait = async {
            while Arc::strong_count(flights.0.lock().unwrap().entry("a".to_owned()).or_default()) < 51 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), all_wait).await.expect("fifty wait for one answer");
        gate.notify_one();
        assert_eq!(waiting.join_all().await, vec![0; 50]);
        assert!(flights.0.lock().unwrap().is_empty());
        assert_eq!(flights.join("a".to_owned(), async { made.fetch_add(1, SeqCst) }).await, 1);
    }

    #[tokio::test]
    async fn one_who_hangs_up_is_replaced_and_leaves_nothing_behind() {
        let flights = Arc::new(Flights::<u8>::default());
        let stuck = |flights: &Arc<Flights<u8>>| {
            let flights = Arc::clone(flights);
            tokio::spawn(async move { flights.join("a".to_owned(), std::future::pending()).await })
        };
        let first = stuck(&flights);
        while flights.0.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move { flights.join("a".to_owned(), async { 7 }).await }
        });
        first.abort();
        assert_eq!(second.await.unwrap(), 7);
        let alone = stuck(&flights);
        while flights.0.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        alone.abort();
        assert!(alone.await.unwrap_err().is_cancelled());
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
