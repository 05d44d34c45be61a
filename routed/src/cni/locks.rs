//! One call at a time for each attachment and for each host interface.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::cancel::{Reason, Trip};

#[derive(Debug, Default)]
struct Entry {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The call that holds the turn, if it may be ended for a DEL.
    running: Option<Trip>,
    users: usize,
}

/// Locks by key; an entry lives while somebody holds or awaits it. Waiters are served in the order they came.
#[derive(Debug)]
pub(super) struct Locks<K: Ord + Clone + Debug>(Arc<Mutex<BTreeMap<K, Entry>>>);

/// The right to act on a key until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<K: Ord + Clone + Debug> {
    seat: Seat<K>,
    _guard: OwnedMutexGuard<()>,
}

/// A place in the queue; leaving it, also by being dropped while waiting, clears up behind.
#[derive(Debug)]
struct Seat<K: Ord + Clone + Debug> {
    key: K,
    locks: Arc<Mutex<BTreeMap<K, Entry>>>,
}

impl<K: Ord + Clone + Debug> Default for Locks<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord + Clone + Debug> Locks<K> {
    /// Waits for the turn at `key`.
    pub(super) async fn enter(&self, key: K) -> Turn<K> {
        let turn = {
            let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.entry(key.clone()).or_default();
            entry.users += 1;
            Arc::clone(&entry.turn)
        };
        let seat = Seat {
            key,
            locks: Arc::clone(&self.0),
        };
        let guard = turn.lock_owned().await;
        Turn {
            seat,
            _guard: guard,
        }
    }

    /// Ends the call that holds the turn at `key`, if it agreed to be ended.
    pub(super) fn interrupt(&self, key: &K) {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trip) = entries.get(key).and_then(|entry| entry.running.as_ref()) {
            trip.trip(Reason::Deleted);
        }
    }
}

impl<K: Ord + Clone + Debug> Turn<K> {
    /// Agrees to be ended by [`Locks::interrupt`] through `trip`.
    pub(super) fn interruptible(&self, trip: &Trip) {
        let mut entries = self
            .seat
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&self.seat.key) {
            entry.running = Some(trip.clone());
        }
    }
}

impl<K: Ord + Clone + Debug> Drop for Turn<K> {
    fn drop(&mut self) {
        let mut entries = self
            .seat
            .locks
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(&self.seat.key) {
            entry.running = None;
        }
    }
}

impl<K: Ord + Clone + Debug> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut entries = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = entries.get_mut(&self.key) else {
            return;
        };
        entry.users = entry.users.saturating_sub(1);
        if entry.users == 0 {
            entries.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn one_at_a_time_in_the_order_they_came_and_nothing_is_left() {
        let locks = Arc::new(Locks::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = locks.enter("key").await;
        let mut tasks = Vec::new();
        for number in 0..4 {
            let (locks, order) = (Arc::clone(&locks), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _turn = locks.enter("key").await;
                order.lock().unwrap().push(number);
            }));
            tokio::task::yield_now().await;
        }
        let _other_key_is_free = locks.enter("other").await;
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3]);
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_no_entry() {
        let locks = Locks::default();
        let first = locks.enter("key").await;
        assert!(
            tokio::time::timeout(Duration::from_millis(5), locks.enter("key"))
                .await
                .is_err()
        );
        drop(first);
        assert!(locks.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn only_the_call_that_agreed_is_interrupted() {
        let locks = Locks::default();
        let turn = locks.enter("key").await;
        locks.interrupt(&"key");
        let (trip, cancel) = Trip::new(Duration::from_secs(5));
        assert!(cancel.check().is_ok());
        turn.interruptible(&trip);
        locks.interrupt(&"key");
        assert!(cancel.check().is_err());
    }
}
