//! Short names for groups that outlive the daemon.
//!
//! An id is a number below 1,000,000 that starts from the group's content key and probes upwards past those taken. The kernel keeps
//! key and name together, so a restart reads them back; two daemons that never met still choose alike unless keys collide.

use std::collections::{BTreeMap, BTreeSet};

use crate::ruleset::{ContentKey, Name};

const IDS: u32 = 1_000_000;

/// Ids in use.
#[derive(Debug, Default)]
pub(super) struct Ids {
    by_key: BTreeMap<ContentKey, u32>,
}

impl Ids {
    /// Takes over ids that the kernel kept.
    pub(super) fn adopt(&mut self, kept: &BTreeMap<ContentKey, Name>) {
        let mut taken = BTreeSet::new();
        for (key, name) in kept {
            let id = name
                .strip_prefix('f')
                .and_then(|digits| digits.parse().ok());
            // Two keys under one id would be one chain for two groups.
            if let Some(id) = id.filter(|id| taken.insert(*id)) {
                self.by_key.insert(*key, id);
            }
        }
    }

    /// Gives every key of a plan an id and frees those no plan names.
    pub(super) fn begin(&mut self, keys: impl Iterator<Item = ContentKey>) {
        let wanted: BTreeSet<ContentKey> = keys.collect();
        self.by_key.retain(|key, _| wanted.contains(key));
        let mut taken: BTreeSet<u32> = self.by_key.values().copied().collect();
        for key in wanted {
            if self.by_key.contains_key(&key) {
                continue;
            }
            let mut id = start(&key);
            while !taken.insert(id) {
                id = (id + 1) % IDS;
            }
            self.by_key.insert(key, id);
        }
    }

    /// Name of the chain of a group that [`Ids::begin`] was told of.
    pub(super) fn name(&self, key: ContentKey) -> Name {
        let id = self.by_key.get(&key).copied().unwrap_or(start(&key));
        format!("f{id}").into()
    }
}

fn start(key: &ContentKey) -> u32 {
    let [a, b, c, d, ..] = key.0;
    u32::from_be_bytes([a, b, c, d]) % IDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> ContentKey {
        let mut bytes = [0; 16];
        bytes[15] = n;
        ContentKey(bytes)
    }

    #[test]
    fn keys_that_start_alike_get_different_ids_and_keep_them() {
        let mut ids = Ids::default();
        ids.begin([key(1), key(2)].into_iter());
        let second = ids.name(key(2));
        assert_ne!(ids.name(key(1)), second);
        ids.begin([key(2)].into_iter());
        assert_eq!(ids.name(key(2)), second);
    }

    #[test]
    fn adopted_ids_stay() {
        let mut ids = Ids::default();
        ids.adopt(&BTreeMap::from([
            (key(1), "f77".into()),
            (key(2), "f77".into()),
        ]));
        ids.begin([key(1), key(2)].into_iter());
        assert_eq!(&*ids.name(key(1)), "f77");
        assert_ne!(&*ids.name(key(2)), "f77");
    }
}
