//! Handle objects, written behind: an index for Calico's tools and for the way back.
//!
//! Level-triggered like the lanes: a touched handle is compared with the blocks and brought in line, whatever was
//! there. Nothing waits for it, and nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Allocator, Caller, Note};
use crate::block::Attribute;
use crate::handle::Handle;
use crate::store::{Key, Object, StoreCall, StoreError, StoreReply, Stored};
use crate::time::Time;

/// Handle objects written at the same time.
const PARALLEL: usize = 4;

/// What is known of a handle's object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Seen {
    /// Not written by this process, not read: there may be one.
    Unknown,
    /// There is none.
    Absent,
    /// This.
    Stored(Stored<Handle>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    seen: Seen,
    /// When to compare; `None` = in line.
    due: Option<Time>,
    flying: bool,
    failures: u32,
}

/// Handle objects of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ledger {
    entries: BTreeMap<Arc<str>, Entry>,
    /// Touched since the last pump, and whether an object may exist.
    touched: BTreeMap<Arc<str>, bool>,
}

impl Ledger {
    pub(super) fn is_idle(&self) -> bool {
        self.touched.is_empty()
            && self
                .entries
                .values()
                .all(|entry| entry.due.is_none() && !entry.flying)
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.entries
            .values()
            .filter(|entry| !entry.flying)
            .filter_map(|entry| entry.due)
            .min()
    }
}

impl Allocator {
    /// An address of a handle was taken: its object is due.
    pub(super) fn touch_handle(&mut self, attribute: &Attribute, may_exist: bool) {
        if let Some(handle) = attribute.handle().filter(|handle| !self.is_warm(handle)) {
            *self.ledger.touched.entry(Arc::from(handle)).or_default() |= may_exist;
        }
    }

    /// An address of a handle was given back.
    pub(super) fn touch_given(&mut self, handle: &Arc<str>) {
        if !self.is_warm(handle) {
            *self.ledger.touched.entry(Arc::clone(handle)).or_default() = true;
        }
    }

    /// A handle found at start.
    pub(super) fn touch_known(&mut self, handle: Arc<str>, now: Time) {
        if self.is_warm(&handle) {
            return;
        }
        let due = Some(now.plus(self.settings.handle_delay));
        self.ledger.entries.entry(handle).or_insert(Entry {
            seen: Seen::Unknown,
            due,
            flying: false,
            failures: 0,
        });
    }

    /// What is kept ready comes and goes with every pod; an object for it would be one more write each time, for nobody.
    fn is_warm(&self, handle: &str) -> bool {
        **self.warm.handle() == *handle
    }

    pub(super) fn pump_ledger(&mut self, now: Time) {
        let due = now.plus(self.settings.handle_delay);
        for (handle, may_exist) in std::mem::take(&mut self.ledger.touched) {
            let seen = if may_exist {
                Seen::Unknown
            } else {
                Seen::Absent
            };
            let fresh = Entry {
                seen,
                due: None,
                flying: false,
                failures: 0,
            };
            self.ledger
                .entries
                .entry(handle)
                .or_insert(fresh)
                .due
                .get_or_insert(due);
        }
        let flying = self
            .ledger
            .entries
            .values()
            .filter(|entry| entry.flying)
            .count();
        let ready: Vec<Arc<str>> = self
            .ledger
            .entries
            .iter()
            .filter(|(_, entry)| !entry.flying && entry.due.is_some_and(|due| due <= now))
            .map(|(handle, _)| Arc::clone(handle))
            .take(PARALLEL.saturating_sub(flying))
            .collect();
        for handle in ready {
            self.write_handle(&handle);
        }
    }

    /// Brings one object in line with the blocks, one call at a time.
    fn write_handle(&mut self, handle: &Arc<str>) {
        let wanted = self.counts(handle);
        let key = Key::Handle(Arc::clone(handle));
        let Some(entry) = self.ledger.entries.get_mut(handle) else {
            return;
        };
        let call = match &entry.seen {
            Seen::Unknown => Some(StoreCall::Get(key)),
            Seen::Absent if wanted.is_empty() => None,
            Seen::Absent => Some(StoreCall::Create(Object::Handle(Handle::new(
                handle,
                wanted.clone(),
            )))),
            Seen::Stored(stored) if stored.value.deleted => {
                Some(StoreCall::Remove(key, stored.meta.clone()))
            }
            Seen::Stored(stored) if stored.value.blocks == wanted => None,
            Seen::Stored(stored) => {
                let mut changed = stored.value.clone();
                changed.deleted = wanted.is_empty();
                changed.blocks.clone_from(&wanted);
                Some(StoreCall::Swap(
                    Object::Handle(changed),
                    stored.meta.clone(),
                ))
            }
        };
        match call {
            Some(call) => {
                entry.flying = true;
                self.call(Caller::Handle(Arc::clone(handle)), call);
            }
            None if wanted.is_empty() => {
                self.ledger.entries.remove(handle);
            }
            None => entry.due = None,
        }
    }

    fn counts(&self, handle: &str) -> BTreeMap<IpNet, u32> {
        let blocks = self.index.blocks_of_handle(handle);
        blocks
            .map(|stored| (stored.value.cidr(), stored.value.of_handle(handle).count()))
            .filter(|(_, count)| *count > 0)
            .map(|(block, count)| (block, u32::try_from(count).unwrap_or(u32::MAX)))
            .collect()
    }

    pub(super) fn handle_replied(
        &mut self,
        handle: &Arc<str>,
        reply: Result<StoreReply, StoreError>,
        now: Time,
    ) {
        let Some(entry) = self.ledger.entries.get_mut(handle) else {
            return;
        };
        entry.flying = false;
        let error = match reply {
            Ok(StoreReply::Object(Stored {
                meta,
                value: Object::Handle(value),
            })) => {
                entry.seen = Seen::Stored(Stored { meta, value });
                None
            }
            Ok(StoreReply::Removed) | Err(StoreError::NotFound) => {
                entry.seen = Seen::Absent;
                None
            }
            Ok(StoreReply::Object(_)) => None,
            Err(error) => {
                entry.seen = Seen::Unknown;
                Some(error)
            }
        };
        let Some(error) = error else {
            entry.failures = 0;
            entry.due = Some(now);
            return;
        };
        entry.failures += 1;
        let failures = entry.failures;
        match error {
            StoreError::Conflict | StoreError::Exists => {}
            StoreError::Denied(_)
            | StoreError::Broken(_)
            | StoreError::Unknown(_)
            | StoreError::NotFound => {
                self.note(Note::Failed {
                    what: format!("write handle {handle}"),
                    why: error,
                });
            }
        }
        // An index that is only for others never gives up and never hurries: 30 s at most between tries.
        let pause = self.pause(failures.max(2));
        if let Some(entry) = self.ledger.entries.get_mut(handle) {
            entry.due = Some(now.plus(pause));
        }
    }
}
