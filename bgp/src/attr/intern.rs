//! Holds each attribute set once.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::AttrSet;

/// Name of an interned set. Each copy kept somewhere is counted: [`Interner::retain`], [`Interner::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttrId(u32);

#[derive(Debug)]
struct Slot {
    count: u32,
    set: Option<AttrSet>,
}

/// A table of attribute sets with reference counts, one owner.
///
/// Keys come from peers, so the hash is seeded: nobody can choose sets that collide.
#[derive(Debug)]
pub struct Interner {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashTable<u32>,
    hasher: FixedState,
}

impl Interner {
    /// An empty table.
    pub fn new(seed: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    /// The name of the set with these canonical octets, counted once more.
    pub fn intern(&mut self, octets: &[u8]) -> AttrId {
        let hash = self.hasher.hash_one(octets);
        let slots = &self.slots;
        let same = |index: &u32| octets_at(slots, *index) == Some(octets);
        if let Some(index) = self.index.find(hash, same).copied() {
            self.retain(AttrId(index));
            return AttrId(index);
        }
        let slot = Slot {
            count: 1,
            set: Some(AttrSet::from_canonical(octets)),
        };
        let index = if let Some(index) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(index as usize) {
                *place = slot;
            }
            index
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1)
                .expect("fewer than 2^32 attribute sets fit into memory")
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert_unique(hash, index, |index| {
            hasher.hash_one(octets_at(slots, *index).unwrap_or_default())
        });
        AttrId(index)
    }

    /// The set of a name.
    ///
    /// # Panics
    /// When the name was released more often than counted.
    pub fn get(&self, id: AttrId) -> &AttrSet {
        let slot = self
            .slots
            .get(id.0 as usize)
            .and_then(|slot| slot.set.as_ref());
        slot.expect("an AttrId is held only while it is counted")
    }

    /// Counts one more holder.
    pub fn retain(&mut self, id: AttrId) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            slot.count += 1;
        }
    }

    /// Counts one holder less; the last one frees the set.
    pub fn release(&mut self, id: AttrId) {
        let Some(slot) = self.slots.get_mut(id.0 as usize) else {
            return;
        };
        slot.count = slot.count.saturating_sub(1);
        if slot.count > 0 {
            return;
        }
        if let Some(set) = slot.set.take() {
            let hash = self.hasher.hash_one(set.octets());
            if let Ok(entry) = self.index.find_entry(hash, |index| *index == id.0) {
                entry.remove();
            }
            self.free.push(id.0);
        }
    }

    /// Number of distinct sets.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no set is held.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

fn octets_at(slots: &[Slot], index: u32) -> Option<&[u8]> {
    slots
        .get(index as usize)
        .and_then(|slot| slot.set.as_ref())
        .map(AttrSet::octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_share_a_name_until_the_last_release() {
        let mut interner = Interner::new(7);
        let origin = [0x40, 1, 1, 0];
        let first = interner.intern(&origin);
        let second = interner.intern(&origin);
        let other = interner.intern(&[0x40, 1, 1, 2]);
        assert_eq!(first, second);
        assert_ne!(first, other);
        interner.release(first);
        assert_eq!(interner.len(), 2);
        interner.release(second);
        assert_eq!(interner.len(), 1);
        assert_eq!(interner.get(other).octets(), [0x40, 1, 1, 2]);
        let reused = interner.intern(&[0x40, 1, 1, 1]);
        assert_eq!(reused, first, "slots are used again");
    }
}
