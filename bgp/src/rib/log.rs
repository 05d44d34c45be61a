//! Which destinations changed, for any number of readers, in bounded memory.
//!
//! Each effective change appends the destination's id to a ring. A destination whose last entry nobody has read yet is
//! not appended again. A reader holds a [`Cursor`]; it acts on an entry only if that is the destination's newest, and
//! one that falls a whole ring behind scans the table for what changed since. Nothing is ever queued per reader.

/// Entries of the ring.
const CAPACITY: usize = 1 << 16;

/// The ring.
#[derive(Debug)]
pub(super) struct ChangeLog {
    ring: Vec<u32>,
    head: u64,
    /// The furthest any reader got.
    read: u64,
}

/// A reader's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Has read everything before this entry.
    At(u64),
    /// Scans the table for destinations that changed at `since` or later: the next id to look at, and where to go on
    /// in the ring afterwards.
    Scan {
        /// Changes from here on count.
        since: u64,
        /// Next destination.
        next: u32,
        /// Entry to continue with.
        then: u64,
    },
}

impl Cursor {
    /// A reader that knows nothing.
    pub const START: Self = Self::Scan {
        since: 0,
        next: 0,
        then: 0,
    };
}

impl ChangeLog {
    pub(super) fn new() -> Self {
        Self {
            ring: Vec::new(),
            head: 0,
            read: 0,
        }
    }

    /// Notes a change of `dest` whose newest entry is `last`; the number of its newest entry now.
    pub(super) fn append(&mut self, dest: u32, last: u64) -> u64 {
        let unread = last >= self.read && last < self.head && self.get(last) == Some(dest);
        if unread {
            return last;
        }
        let at = self.head;
        let slot = slot(at);
        match self.ring.get_mut(slot) {
            Some(entry) => *entry = dest,
            None => self.ring.push(dest),
        }
        self.head += 1;
        at
    }

    /// The destination of an entry, while the ring still holds it.
    pub(super) fn get(&self, at: u64) -> Option<u32> {
        let held = at < self.head && self.head - at <= CAPACITY as u64;
        held.then(|| self.ring.get(slot(at)).copied()).flatten()
    }

    /// Entries so far.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Whether the ring still holds everything from `at` on.
    pub(super) fn holds(&self, at: u64) -> bool {
        self.head.saturating_sub(at) <= CAPACITY as u64
    }

    /// A reader got to `at`.
    pub(super) fn note_read(&mut self, at: u64) {
        self.read = self.read.max(at);
    }
}

fn slot(at: u64) -> usize {
    usize::try_from(at % CAPACITY as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unread_destination_is_not_appended_twice() {
        let mut log = ChangeLog::new();
        let first = log.append(7, u64::MAX);
        assert_eq!(log.append(7, first), first);
        log.note_read(log.head());
        assert_ne!(log.append(7, first), first);
    }

    #[test]
    fn a_reader_a_ring_behind_is_told_so() {
        let mut log = ChangeLog::new();
        for dest in 0..u32::try_from(CAPACITY).unwrap() {
            log.append(dest, u64::MAX);
        }
        assert!(log.holds(0));
        log.append(0, u64::MAX);
        assert!(!log.holds(0));
        assert_eq!(log.get(0), None);
    }
}
