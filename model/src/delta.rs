//! Desired against actual, for any kernel table that is a map.
//!
//! One structure serves routes, links, neighbours and rules alike: the plan sets what is desired, a listing teaches what is
//! there, and the difference is what the driver sends. After an error the driver calls [`Delta::forget`], because a half
//! applied batch leaves the actual state unknown; the next round lists again.

use std::collections::BTreeMap;

/// What to send to the kernel so that actual becomes desired. Both lists are ordered by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<K, V> {
    /// Entries to create or replace: key → (wanted, what stands there now).
    pub upserts: Vec<(K, V, Option<V>)>,
    /// Entries of ours that nobody wants any more: key → what stands there now.
    pub removals: Vec<(K, V)>,
}

impl<K, V> Changes<K, V> {
    /// True when the kernel already equals the plan.
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }

    /// Number of kernel messages this stands for.
    pub fn len(&self) -> usize {
        self.upserts.len() + self.removals.len()
    }
}

/// One table of the kernel: what we want in it, and what we last learnt is in it.
#[derive(Clone, Debug)]
pub struct Delta<K, V> {
    desired: BTreeMap<K, V>,
    actual: Option<BTreeMap<K, V>>,
    keep: bool,
}

impl<K, V> Default for Delta<K, V> {
    fn default() -> Self {
        Self {
            desired: BTreeMap::new(),
            actual: None,
            keep: false,
        }
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Delta<K, V> {
    /// Replaces the plan.
    pub fn set_desired(&mut self, desired: BTreeMap<K, V>) {
        self.desired = desired;
    }

    /// What the plan wants.
    pub fn desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    /// Takes a fresh listing of the entries that carry our mark.
    pub fn learn(&mut self, actual: BTreeMap<K, V>) {
        self.actual = Some(actual);
    }

    /// What was last learnt, `None` after [`Delta::forget`].
    pub fn actual(&self) -> Option<&BTreeMap<K, V>> {
        self.actual.as_ref()
    }

    /// Drops what is known of the kernel; [`Delta::diff`] answers `None` until the next [`Delta::learn`].
    pub fn forget(&mut self) {
        self.actual = None;
    }

    /// While set, entries that nobody wants are left alone: nothing is removed before the whole cluster has been listed.
    pub fn keep_unwanted(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Compares desired with actual; `None` means "list first".
    pub fn diff(&self) -> Option<Changes<K, V>> {
        let actual = self.actual.as_ref()?;
        let upserts = self
            .desired
            .iter()
            .filter_map(|(key, wanted)| match actual.get(key) {
                Some(there) if there == wanted => None,
                there => Some((key.clone(), wanted.clone(), there.cloned())),
            })
            .collect();
        let removals = if self.keep {
            Vec::new()
        } else {
            actual
                .iter()
                .filter(|(key, _)| !self.desired.contains_key(*key))
                .map(|(key, there)| (key.clone(), there.clone()))
                .collect()
        };
        Some(Changes { upserts, removals })
    }

    /// Records that the kernel acknowledged all of `changes`.
    pub fn applied(&mut self, changes: &Changes<K, V>) {
        let Some(actual) = self.actual.as_mut() else {
            return;
        };
        for (key, _) in &changes.removals {
            actual.remove(key);
        }
        for (key, wanted, _) in &changes.upserts {
            actual.insert(key.clone(), wanted.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map() -> impl Strategy<Value = BTreeMap<u8, u8>> {
        proptest::collection::btree_map(any::<u8>(), 0..4u8, 0..40)
    }

    #[test]
    fn an_unlisted_table_has_no_difference_yet() {
        let mut delta: Delta<u8, u8> = Delta::default();
        delta.set_desired(BTreeMap::from([(1, 1)]));
        assert_eq!(delta.diff(), None);
        delta.learn(BTreeMap::new());
        delta.forget();
        assert_eq!(delta.diff(), None);
    }

    #[test]
    fn nothing_is_removed_while_the_world_is_incomplete() {
        let mut delta: Delta<u8, u8> = Delta::default();
        delta.keep_unwanted(true);
        delta.learn(BTreeMap::from([(1, 1), (2, 2)]));
        delta.set_desired(BTreeMap::from([(1, 9)]));
        let changes = delta.diff().unwrap();
        assert_eq!(changes.upserts, vec![(1, 9, Some(1))]);
        assert!(changes.removals.is_empty());
    }

    proptest! {
        #[test]
        fn applying_the_difference_makes_actual_equal_desired(desired in map(), actual in map()) {
            let mut delta = Delta::default();
            delta.set_desired(desired.clone());
            delta.learn(actual.clone());
            let changes = delta.diff().unwrap();
            let mut kernel = actual;
            for (key, _) in &changes.removals { kernel.remove(key); }
            for (key, value, _) in &changes.upserts { kernel.insert(*key, *value); }
            prop_assert_eq!(&kernel, &desired);
            delta.applied(&changes);
            prop_assert!(delta.diff().unwrap().is_empty());
        }
    }
}
