//! The journal in the hands of many calls, with the questions they ask it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::AttachmentId;

use super::journal::file::{Journal, JournalError};
use super::metrics::Metrics;
use super::record::{Record, State};

/// The journal behind a lock that is never held across an await: an append to memory-backed storage takes microseconds.
#[derive(Debug)]
pub(super) struct Book {
    journal: Mutex<Journal>,
    metrics: Arc<Metrics>,
}

impl Book {
    /// A book over an opened journal.
    pub(super) fn new(journal: Journal, metrics: Arc<Metrics>) -> Self {
        let book = Self {
            journal: Mutex::new(journal),
            metrics,
        };
        book.count(&book.lock());
        book
    }

    /// A number for a new record.
    pub(super) fn next_serial(&self) -> u64 {
        self.lock().next_serial()
    }

    /// Enters a record, or its new state.
    ///
    /// # Errors
    /// The file cannot be written; the book remembers the record all the same.
    pub(super) fn put(&self, record: &Record) -> Result<(), JournalError> {
        let mut journal = self.lock();
        let written = journal.put(record.clone());
        self.count(&journal);
        written
    }

    /// Enters a record where nothing better can be done about a failing file than to say so.
    pub(super) fn note(&self, record: &Record) {
        if let Err(error) = self.put(record) {
            tracing::warn!(attachment = %record.id, %error, "journal entry is only in memory");
        }
    }

    /// Closes a record.
    pub(super) fn close(&self, serial: u64) {
        let mut journal = self.lock();
        let closed = journal.close(serial);
        self.count(&journal);
        drop(journal);
        if let Err(error) = closed {
            tracing::warn!(serial, %error, "journal entry is closed only in memory");
        }
    }

    /// The record of an attachment; owed releases of earlier ones under the same key do not count.
    pub(super) fn find(&self, id: &AttachmentId) -> Option<Record> {
        self.lock()
            .records()
            .values()
            .rev()
            .find(|record| record.id == *id && record.state != State::Owed)
            .cloned()
    }

    /// The record that holds a host interface, `except` apart.
    pub(super) fn holder(&self, host: &str, except: &AttachmentId) -> Option<Record> {
        self.lock()
            .records()
            .values()
            .rev()
            .find(|record| {
                &*record.host == host && record.id != *except && record.holds_interface()
            })
            .cloned()
    }

    /// A record by its number.
    pub(super) fn get(&self, serial: u64) -> Option<Record> {
        self.lock().records().get(&serial).cloned()
    }

    /// All records, oldest first.
    pub(super) fn all(&self) -> Vec<Record> {
        self.lock().records().values().cloned().collect()
    }

    /// Records in one state, oldest first.
    pub(super) fn in_state(&self, state: State) -> Vec<Record> {
        let mut records = self.all();
        records.retain(|record| record.state == state);
        records
    }

    fn count(&self, journal: &Journal) {
        let of = |state| {
            journal
                .records()
                .values()
                .filter(|record| record.state == state)
                .count() as u64
        };
        self.metrics.holds(of(State::Attached), of(State::Owed));
    }

    fn lock(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
