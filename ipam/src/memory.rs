//! A datastore in memory that fails on command: the ground the proofs stand on.
//!
//! It keeps the promises of the API server (compare-and-swap by version, create once, remove by uid and version) and
//! the rights of a node's token, and breaks everything that may break: answers get lost after or before the write,
//! watch events are late, out of order or dropped, and stamps an older CRD does not know are pruned.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use ipnet::IpNet;

use crate::block::{Attribute, Block};
use crate::index::Event;
use crate::store::{Key, Meta, Object, StoreCall, StoreError, StoreReply, Stored};

/// Who calls with the rights of the leader: every write to these kinds.
pub const LEADER: &str = "(leader)";

/// What to do to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing.
    None,
    /// Refuse a swap or removal as if another write had come first.
    Conflict,
    /// Do it and lose the answer.
    UnknownDone,
    /// Do not do it and lose the answer.
    UnknownNotDone,
    /// Refuse it whatever its version.
    Denied,
}

/// Who watches, in order of subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watcher(usize);

/// A key, what is stored under it now, and the uid concerned.
type Change = (Key, Option<Stored<Object>>, Arc<str>);

/// A datastore in memory.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    objects: BTreeMap<Key, Stored<Object>>,
    /// Key → version written last and incarnations so far.
    counters: BTreeMap<Key, (u64, u64)>,
    /// Undelivered changes per watcher, oldest first.
    watches: Vec<VecDeque<Change>>,
    /// Serve a CRD without `releasedAt`.
    prune_released: bool,
    writes: u64,
    reads: u64,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves a CRD that does not know `releasedAt`: the stamp is dropped from every write.
    pub fn prune_released(&mut self) {
        self.prune_released = true;
    }

    /// Writes carried out so far.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// Reads carried out so far.
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Everything stored, by key.
    pub fn objects(&self) -> impl Iterator<Item = (&Key, &Stored<Object>)> {
        self.objects.iter()
    }

    /// What is stored under a key.
    pub fn get(&self, key: &Key) -> Option<&Stored<Object>> {
        self.objects.get(key)
    }

    /// The block of a CIDR.
    pub fn block(&self, cidr: IpNet) -> Option<&Block> {
        match self
            .objects
            .get(&Key::Block(cidr))
            .map(|stored| &stored.value)
        {
            Some(Object::Block(block)) => Some(block),
            Some(Object::Affinity(_) | Object::Handle(_)) | None => None,
        }
    }

    /// Every block.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.objects
            .values()
            .filter_map(|stored| match &stored.value {
                Object::Block(block) => Some(&**block),
                Object::Affinity(_) | Object::Handle(_) => None,
            })
    }

    /// Carries a call out for `node`, with its rights.
    ///
    /// # Errors
    /// As the API server, or as the fault commands.
    pub fn carry_out(
        &mut self,
        node: &str,
        call: &StoreCall,
        fault: Fault,
    ) -> Result<StoreReply, StoreError> {
        match fault {
            Fault::None => self.act(node, call),
            Fault::Conflict => match call {
                StoreCall::Swap(..) | StoreCall::Remove(..) => Err(StoreError::Conflict),
                StoreCall::Get(_) | StoreCall::Create(_) => self.act(node, call),
            },
            Fault::UnknownDone => {
                // Whatever came of it, the caller does not learn it.
                let _lost = self.act(node, call);
                Err(StoreError::Unknown("answer lost".to_owned()))
            }
            Fault::UnknownNotDone => Err(StoreError::Unknown("request lost".to_owned())),
            Fault::Denied => Err(StoreError::Denied("on command".to_owned())),
        }
    }

    /// A watch that starts now: what is stored, as events; then every change.
    pub fn subscribe(&mut self) -> (Watcher, Vec<Event>) {
        self.watches.push(VecDeque::new());
        (Watcher(self.watches.len() - 1), self.list())
    }

    /// Everything stored, as events.
    pub fn list(&self) -> Vec<Event> {
        self.objects
            .values()
            .filter_map(|stored| event(&stored.value.key(), Some(stored), None))
            .collect()
    }

    /// Number of undelivered changes.
    pub fn backlog(&self, watcher: Watcher) -> usize {
        self.watches.get(watcher.0).map_or(0, VecDeque::len)
    }

    /// Delivers the oldest change, or with `at` a later one out of order.
    pub fn deliver(&mut self, watcher: Watcher, at: usize) -> Option<Event> {
        let (key, stored, uid) = self.watches.get_mut(watcher.0)?.remove(at)?;
        event(&key, stored.as_ref(), Some(uid))
    }

    /// Loses every undelivered change; the watcher lists anew.
    pub fn relist(&mut self, watcher: Watcher) -> Vec<Event> {
        if let Some(changes) = self.watches.get_mut(watcher.0) {
            changes.clear();
        }
        self.list()
    }

    /// Stores an object as another writer would, past all rights.
    pub fn put(&mut self, object: Object) {
        let key = object.key();
        self.store(&key, object);
    }

    fn act(&mut self, node: &str, call: &StoreCall) -> Result<StoreReply, StoreError> {
        let may = |store: &Self| store.permits(node, call).map_err(StoreError::Denied);
        match call {
            StoreCall::Get(key) => {
                self.reads += 1;
                let stored = self.objects.get(key).cloned();
                stored.map(StoreReply::Object).ok_or(StoreError::NotFound)
            }
            StoreCall::Create(object) => {
                self.writes += 1;
                let key = object.key();
                if self.objects.contains_key(&key) {
                    return Err(StoreError::Exists);
                }
                may(self)?;
                Ok(StoreReply::Object(self.store(&key, object.clone())))
            }
            StoreCall::Swap(object, meta) => {
                self.writes += 1;
                let key = object.key();
                self.unchanged(&key, meta)?;
                may(self)?;
                Ok(StoreReply::Object(self.store(&key, object.clone())))
            }
            StoreCall::Remove(key, meta) => {
                self.writes += 1;
                self.unchanged(key, meta)?;
                may(self)?;
                self.objects.remove(key);
                self.publish(key, None, &meta.uid);
                Ok(StoreReply::Removed)
            }
        }
    }

    fn unchanged(&self, key: &Key, meta: &Meta) -> Result<(), StoreError> {
        match self.objects.get(key) {
            None => Err(StoreError::NotFound),
            Some(stored) if stored.meta == *meta => Ok(()),
            Some(_) => Err(StoreError::Conflict),
        }
    }

    fn store(&mut self, key: &Key, mut object: Object) -> Stored<Object> {
        if self.prune_released
            && let Object::Block(block) = &mut object
        {
            block.map_attributes(|attribute: &mut Attribute| attribute.released_at = None);
        }
        let exists = self.objects.contains_key(key);
        let (version, incarnation) = self.counters.entry(key.clone()).or_default();
        *version += 1;
        *incarnation += u64::from(!exists);
        let meta = Meta::new(&incarnation.to_string(), &version.to_string());
        let stored = Stored {
            meta,
            value: object,
        };
        self.objects.insert(key.clone(), stored.clone());
        self.publish(key, Some(&stored), &stored.meta.uid);
        stored
    }

    fn publish(&mut self, key: &Key, stored: Option<&Stored<Object>>, uid: &Arc<str>) {
        for watch in &mut self.watches {
            watch.push_back((key.clone(), stored.cloned(), Arc::clone(uid)));
        }
    }

    /// The rights of a node's token: its own affinities and blocks fully, the handles that bear its name, and of
    /// foreign blocks the allocation fields alone.
    fn permits(&self, node: &str, call: &StoreCall) -> Result<(), String> {
        if node == LEADER {
            return Ok(());
        }
        match call {
            StoreCall::Get(_)
            | StoreCall::Create(Object::Handle(_))
            | StoreCall::Swap(Object::Handle(_), _)
            | StoreCall::Remove(Key::Handle(_), _) => Ok(()),
            StoreCall::Create(Object::Block(block)) if block.is_of(node) => Ok(()),
            StoreCall::Create(Object::Block(block)) => {
                Err(format!("{node} creates a block for {:?}", block.owner()))
            }
            StoreCall::Swap(Object::Block(block), _) => match self.block(block.cidr()) {
                Some(old) if old.is_of(node) => Ok(()),
                Some(old)
                    if old.owner() == block.owner() && old.is_deleted() == block.is_deleted() =>
                {
                    Ok(())
                }
                Some(_) => Err(format!("{node} changes the owner of {}", block.cidr())),
                None => Ok(()),
            },
            StoreCall::Remove(Key::Block(cidr), _) => match self.block(*cidr) {
                Some(old) if !old.is_of(node) => {
                    Err(format!("{node} removes {cidr}, which is not its own"))
                }
                Some(_) | None => Ok(()),
            },
            StoreCall::Create(Object::Affinity(affinity))
            | StoreCall::Swap(Object::Affinity(affinity), _) => {
                if *affinity.node == *node {
                    Ok(())
                } else {
                    Err(format!("{node} writes {}", affinity.name()))
                }
            }
            StoreCall::Remove(Key::Affinity(owner, cidr), _) => {
                if **owner == *node {
                    Ok(())
                } else {
                    Err(format!("{node} removes the affinity of {owner} for {cidr}"))
                }
            }
        }
    }
}

/// A change as the index takes it; handles are not watched.
fn event(key: &Key, stored: Option<&Stored<Object>>, uid: Option<Arc<str>>) -> Option<Event> {
    match (key, stored) {
        (Key::Block(cidr), None) => Some(Event::BlockGone(*cidr, uid)),
        (Key::Affinity(node, cidr), None) => {
            Some(Event::AffinityGone(Arc::clone(node), *cidr, uid))
        }
        (
            _,
            Some(Stored {
                meta,
                value: Object::Block(block),
            }),
        ) => Some(Event::Block(Box::new(Stored {
            meta: meta.clone(),
            value: Block::clone(block),
        }))),
        (
            _,
            Some(Stored {
                meta,
                value: Object::Affinity(affinity),
            }),
        ) => Some(Event::Affinity(Box::new(Stored {
            meta: meta.clone(),
            value: affinity.clone(),
        }))),
        (Key::Handle(_), None)
        | (
            _,
            Some(Stored {
                value: Object::Handle(_),
                ..
            }),
        ) => None,
    }
}
