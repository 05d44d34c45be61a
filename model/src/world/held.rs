//! Objects that the API no longer has and that still hold here, because what they isolate is not gone yet.
//!
//! Deleting a namespace deletes its policies and its pods side by side, in no order. Without policies its last pods would stand
//! open (CVE-2024-7598), so a policy that goes with its namespace stays until each interface that stood then is gone. The
//! namespace's deletion is told well before its content goes: its controller waits five seconds on purpose.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::Key;
use crate::ids::AttachmentId;

/// Deleted objects → interfaces they are kept for; never empty.
#[derive(Debug, Default)]
pub(super) struct Held {
    objects: BTreeMap<Key, BTreeSet<AttachmentId>>,
}

impl Held {
    /// Keeps an object for these interfaces; false when there are none, and so nothing to keep it for.
    pub(super) fn keep(&mut self, object: Key, interfaces: BTreeSet<AttachmentId>) -> bool {
        if interfaces.is_empty() {
            return false;
        }
        self.objects.insert(object, interfaces);
        true
    }

    /// The object exists again.
    pub(super) fn release(&mut self, object: &Key) {
        self.objects.remove(object);
    }

    /// An interface is gone: the objects that nothing keeps any more.
    pub(super) fn without(&mut self, interface: &AttachmentId) -> Vec<Key> {
        for interfaces in self.objects.values_mut() {
            interfaces.remove(interface);
        }
        let free =
            |entry: (&Key, &BTreeSet<AttachmentId>)| entry.1.is_empty().then(|| entry.0.clone());
        let gone: Vec<Key> = self.objects.iter().filter_map(free).collect();
        self.objects.retain(|_, interfaces| !interfaces.is_empty());
        gone
    }
}
