//! What this node knows of blocks, affinities, pools and nodes: fed by events, asked without I/O.
//!
//! The index may be stale; the swap decides. A stale entry costs one conflict, never correctness.
//!
//! Blocks that concern this node (its own, and those an address of it lies in) are kept whole; of all others only
//! owner, version and free count, so that 5,000 blocks cost about a megabyte. A far block is read before it is
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::PoolUse;
use ipnet::IpNet;

use crate::affinity::{Affinity, AffinityView, BlockView};
use crate::block::{Block, Owner};
use crate::handle;
use crate::net::{self, Family};
use crate::pool::{Asker, Labels, Pool, Pools, overlap};
use crate::store::{Key, Meta, Object, Stored};
use crate::time::Time;

/// How nodes share the pools.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// No borrowing.
    pub strict: bool,
    /// Blocks a node may own per family.
    pub max_blocks: u32,
    /// Whether a node claims blocks when it needs them.
    pub automatic_blocks: bool,
    /// How long a released address rests.
    pub cooldown: Duration,
    /// Addresses of each family a node keeps ready.
    pub warm: u32,
}

impl Config {
    /// Reads the stored configuration; `None` = no object = the defaults.
    pub fn parse(spec: Option<&api::IPAMConfigurationSpec>) -> Self {
        let default = api::IPAMConfigurationSpec::default();
        let spec = spec.unwrap_or(&default);
        Self {
            strict: spec.strict_affinity,
            max_blocks: spec.max_blocks(),
            automatic_blocks: spec.allocates_blocks(),
            cooldown: Duration::from_secs(spec.cooldown_seconds().into()),
            warm: spec
                .margay
                .as_ref()
                .and_then(|margay| margay.warm_addresses)
                .unwrap_or(0),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::parse(None)
    }
}

/// A change of the cluster, as the watches tell it.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node exists, with these labels.
    Node(Arc<str>, Arc<Labels>),
    /// A node is gone.
    NodeGone(Arc<str>),
    /// A pool; `Err` holds its name and why it is unusable.
    Pool(Result<Pool, (Arc<str>, String)>),
    /// A pool is gone.
    PoolGone(Arc<str>),
    /// Ranges of one reservation object (name, ranges); none = gone.
    Reservation(Arc<str>, Vec<IpNet>),
    /// The configuration.
    Config(Config),
    /// A block.
    Block(Box<Stored<Block>>),
    /// A block object that cannot be decoded: it counts as taken and is used for nothing.
    BrokenBlock(IpNet),
    /// A block is gone. With the removed object's uid, a later block of the same name stays.
    BlockGone(IpNet, Option<Arc<str>>),
    /// An affinity of any node; only this node's are kept.
    Affinity(Box<Stored<Affinity>>),
    /// An affinity is gone.
    AffinityGone(Arc<str>, IpNet, Option<Arc<str>>),
    /// Every kind has listed: the index is whole.
    Synced,
}

/// Of a block that does not concern this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Far {
    meta: Meta,
    sequence: u64,
    owner: Option<Owner>,
    deleted: bool,
    free: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Near(Arc<Stored<Block>>),
    Far(Far),
    Broken,
}

impl Entry {
    fn sequence(&self) -> u64 {
        match self {
            Self::Near(stored) => stored.value.sequence(),
            Self::Far(far) => far.sequence,
            Self::Broken => 0,
        }
    }

    fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Near(stored) => stored.value.owner(),
            Self::Far(far) => far.owner.as_ref(),
            Self::Broken => None,
        }
    }

    fn meta(&self) -> Option<&Meta> {
        match self {
            Self::Near(stored) => Some(&stored.meta),
            Self::Far(far) => Some(&far.meta),
            Self::Broken => None,
        }
    }

    /// Whether what was seen now is older than this entry.
    fn outdates(&self, meta: &Meta, sequence: u64) -> bool {
        match self.meta() {
            None => false,
            Some(known) if known.uid == meta.uid => sequence < self.sequence(),
            Some(known) => older(&meta.version, &known.version),
        }
    }
}

/// What was removed last under a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Graves {
    /// Block → uid and number.
    blocks: BTreeMap<IpNet, (Arc<str>, u64)>,
    /// Block → uid of this node's affinity.
    affinities: BTreeMap<IpNet, Arc<str>>,
}

/// How much of a block the index has.
#[derive(Clone, Debug)]
pub enum Known {
    /// No such block.
    Absent,
    /// The whole block.
    Whole(Arc<Stored<Block>>),
    /// It exists; read it before writing it.
    Unread,
    /// It exists and cannot be decoded.
    Broken,
}

/// An address held under a handle, as the index shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The address.
    pub address: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Its place in the block.
    pub ordinal: u32,
    /// The number it was taken under.
    pub sequence: u64,
    /// The handle.
    pub handle: String,
    /// The owner.
    pub attributes: handle::Attributes,
}

/// The index of one node.
#[derive(Clone, Debug)]
pub struct Index {
    node: Arc<str>,
    nodes: BTreeMap<Arc<str>, Arc<Labels>>,
    no_labels: Arc<Labels>,
    pools: Pools,
    reservations: BTreeMap<Arc<str>, Vec<IpNet>>,
    config: Config,
    blocks: BTreeMap<IpNet, Entry>,
    /// Affinities of this node: block → row.
    affinities: BTreeMap<IpNet, Arc<Stored<Affinity>>>,
    /// Removed objects, so that a late event does not bring them back.
    graves: Graves,
    /// Blocks kept whole though they do not concern this node: work on them is under way.
    pinned: BTreeSet<IpNet>,
    /// Handle → near blocks that hold addresses of it.
    handles: BTreeMap<Arc<str>, BTreeSet<IpNet>>,
    synced: bool,
}

impl Index {
    /// An index that knows nothing yet.
    pub fn new(node: Arc<str>) -> Self {
        Self {
            node,
            nodes: BTreeMap::new(),
            no_labels: Arc::default(),
            pools: Pools::default(),
            reservations: BTreeMap::new(),
            config: Config::default(),
            blocks: BTreeMap::new(),
            affinities: BTreeMap::new(),
            graves: Graves::default(),
            pinned: BTreeSet::new(),
            handles: BTreeMap::new(),
            synced: false,
        }
    }

    /// Applies a change. Returns the block it touches, if any.
    pub fn apply(&mut self, event: Event) -> Option<IpNet> {
        match event {
            Event::Node(name, labels) => {
                self.nodes.insert(name, labels);
            }
            Event::NodeGone(name) => {
                self.nodes.remove(&name);
            }
            Event::Pool(pool) => self.pools.upsert(pool),
            Event::PoolGone(name) => self.pools.remove(&name),
            Event::Reservation(name, ranges) if ranges.is_empty() => {
                self.reservations.remove(&name);
            }
            Event::Reservation(name, ranges) => {
                self.reservations.insert(name, ranges);
            }
            Event::Config(config) => self.config = config,
            Event::Block(stored) => return Some(self.block_seen(*stored)),
            Event::BrokenBlock(cidr) => {
                self.unindex_handles(cidr);
                self.blocks.insert(cidr, Entry::Broken);
                return Some(cidr);
            }
            Event::BlockGone(cidr, uid) => {
                self.block_gone(cidr, uid.as_deref());
                return Some(cidr);
            }
            Event::Affinity(stored) => return self.affinity_seen(*stored),
            Event::AffinityGone(node, cidr, uid) if node == self.node => {
                self.affinity_gone(cidr, uid.as_deref());
                return Some(cidr);
            }
            Event::AffinityGone(..) => {}
            Event::Synced => self.synced = true,
        }
        None
    }

    /// Applies an object a call of this node returned.
    pub fn learn(&mut self, stored: Stored<Object>) {
        match stored.value {
            Object::Block(block) => {
                self.block_seen(Stored {
                    meta: stored.meta,
                    value: *block,
                });
            }
            Object::Affinity(affinity) => {
                self.affinity_seen(Stored {
                    meta: stored.meta,
                    value: affinity,
                });
            }
            Object::Handle(_) => {}
        }
    }

    /// Hashes what is known of blocks and affinities ([`crate::Allocator::fingerprint`]).
    pub(crate) fn fingerprint(&self, state: &mut impl Hasher) {
        self.blocks.hash(state);
        self.affinities.hash(state);
        self.graves.hash(state);
        self.pinned.hash(state);
        self.synced.hash(state);
    }

    /// Keeps a block whole while work on it is under way.
    pub fn pin(&mut self, cidr: IpNet) {
        self.pinned.insert(cidr);
    }

    /// Ends [`pin`](Self::pin).
    pub fn unpin(&mut self, cidr: IpNet) {
        self.pinned.remove(&cidr);
        if let Some(Entry::Near(stored)) = self.blocks.get(&cidr) {
            let entry = self.entry(Stored::clone(stored));
            if matches!(entry, Entry::Far(_)) {
                self.unindex_handles(cidr);
                self.blocks.insert(cidr, entry);
            }
        }
    }

    /// Whether every kind has listed.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// This node's name.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The pools.
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// Labels of this node; empty while it is unknown.
    pub fn node_labels(&self) -> &Labels {
        self.nodes.get(&self.node).unwrap_or(&self.no_labels)
    }

    /// What a request of this node says about itself; `namespace` as in [`Asker::namespace`].
    pub fn asker<'a>(
        &'a self,
        family: Family,
        usage: PoolUse,
        namespace: Option<&'a Labels>,
    ) -> Asker<'a> {
        Asker {
            family,
            usage,
            node: self.node_labels(),
            namespace,
        }
    }

    /// Whether automatic assignment skips an address.
    pub fn reserved(&self, address: IpAddr) -> bool {
        self.reservations
            .values()
            .flatten()
            .any(|range| range.contains(&address))
    }

    /// Whether automatic assignment skips every address of a block.
    pub fn wholly_reserved(&self, block: IpNet) -> bool {
        self.reservations
            .values()
            .flatten()
            .any(|range| range.contains(&block))
    }

    /// What is known of a block.
    pub fn block(&self, cidr: IpNet) -> Known {
        match self.blocks.get(&cidr) {
            None => Known::Absent,
            Some(Entry::Near(stored)) => Known::Whole(Arc::clone(stored)),
            Some(Entry::Far(_)) => Known::Unread,
            Some(Entry::Broken) => Known::Broken,
        }
    }

    /// Uid of an object, as far as it is known.
    pub(crate) fn uid(&self, key: &Key) -> Option<Arc<str>> {
        let meta = match key {
            Key::Block(cidr) => self.blocks.get(cidr).and_then(Entry::meta),
            Key::Affinity(_, cidr) => self.affinities.get(cidr).map(|stored| &stored.meta),
            Key::Handle(_) => None,
        };
        meta.map(|meta| Arc::clone(&meta.uid))
    }

    /// This node's affinity for a block, soft-deleted rows included.
    pub fn affinity(&self, cidr: IpNet) -> Option<&Arc<Stored<Affinity>>> {
        self.affinities.get(&cidr)
    }

    /// What the claim protocol sees of a block and this node's affinity for it.
    pub fn views(&self, cidr: IpNet) -> (BlockView, AffinityView) {
        let affinity = AffinityView::of(self.affinities.get(&cidr).map(|stored| &stored.value));
        let block = match self.blocks.get(&cidr) {
            None => BlockView::Absent,
            Some(Entry::Near(stored)) => BlockView::of(&self.node, Some(&stored.value)),
            Some(Entry::Far(far)) if far.deleted => BlockView::ForeignDeleted,
            Some(Entry::Far(far)) if far.owner.is_none() => BlockView::Ownerless,
            Some(Entry::Far(_) | Entry::Broken) => BlockView::Foreign,
        };
        (block, affinity)
    }

    /// Blocks this node has a claim on or owns, whatever the state: what there is to settle.
    pub fn claims(&self) -> BTreeSet<IpNet> {
        let owned = self
            .near()
            .filter(|stored| stored.value.is_of(&self.node))
            .map(|stored| stored.value.cidr());
        owned.chain(self.affinities.keys().copied()).collect()
    }

    /// Blocks of a pool that are this node's, ascending.
    pub fn own_blocks<'a>(
        &'a self,
        pool: &'a Pool,
    ) -> impl Iterator<Item = &'a Arc<Stored<Block>>> {
        self.in_pool(pool).filter_map(|(_, entry)| match entry {
            Entry::Near(stored) if stored.value.is_of(&self.node) && !stored.value.is_deleted() => {
                Some(stored)
            }
            Entry::Near(_) | Entry::Far(_) | Entry::Broken => None,
        })
    }

    /// Blocks of a pool that are not this node's, with the addresses that look free in them.
    pub fn foreign_blocks<'a>(
        &'a self,
        pool: &'a Pool,
        now: Time,
    ) -> impl Iterator<Item = (IpNet, usize)> + 'a {
        self.in_pool(pool)
            .filter_map(move |(cidr, entry)| match entry {
                Entry::Far(far) if !far.deleted && !self.wholly_reserved(cidr) => {
                    Some((cidr, far.free as usize))
                }
                Entry::Near(stored)
                    if !stored.value.is_of(&self.node) && !stored.value.is_deleted() =>
                {
                    Some((cidr, self.usable(&stored.value, now)))
                }
                Entry::Near(_) | Entry::Far(_) | Entry::Broken => None,
            })
    }

    /// How many addresses of a block automatic assignment could take now.
    pub fn usable(&self, block: &Block, now: Time) -> usize {
        block.usable(|address| self.reserved(address), now, self.config.cooldown)
    }

    /// Numbers of the pool's blocks that exist, ascending; and whether a block of another size lies in the way.
    pub fn taken<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = u128> + 'a {
        self.in_pool(pool)
            .filter_map(|(cidr, _)| pool.block_index(cidr))
    }

    /// Whether a block of another size shares addresses with this one: pools that changed hands leave such.
    pub fn obstructed(&self, block: IpNet) -> bool {
        let around = (0..block.prefix_len()).filter_map(|len| net::block_of(block.addr(), len));
        around
            .into_iter()
            .any(|wide| self.blocks.contains_key(&wide))
            || self
                .blocks
                .range(block..)
                .take_while(|(other, _)| overlap(block, **other))
                .any(|(other, _)| *other != block)
    }

    /// This node's rank by name among the nodes a pool takes that own no block in it.
    pub fn rank(&self, pool: &Pool) -> u128 {
        let owners: BTreeSet<&str> = self
            .in_pool(pool)
            .filter_map(|(_, entry)| match entry.owner() {
                Some(Owner::Host(name)) => Some(&**name),
                Some(Owner::LoadBalancer | Owner::Other(_)) | None => None,
            })
            .collect();
        let before = self.nodes.range(..Arc::clone(&self.node));
        let waiting =
            before.filter(|(name, labels)| !owners.contains(&***name) && pool.takes_node(labels));
        waiting.count() as u128
    }

    /// The highest number ever seen for a block.
    pub fn floor(&self, cidr: IpNet) -> u64 {
        let gone = self
            .graves
            .blocks
            .get(&cidr)
            .map_or(0, |(_, sequence)| *sequence);
        self.blocks
            .get(&cidr)
            .map_or(gone, |entry| gone.max(entry.sequence()))
    }

    /// Near blocks that hold addresses of a handle.
    pub fn blocks_of_handle(&self, handle: &str) -> impl Iterator<Item = &Arc<Stored<Block>>> {
        self.handles
            .get(handle)
            .into_iter()
            .flatten()
            .filter_map(|cidr| match self.blocks.get(cidr) {
                Some(Entry::Near(stored)) if !stored.value.is_deleted() => Some(stored),
                Some(Entry::Near(_) | Entry::Far(_) | Entry::Broken) | None => None,
            })
    }

    /// Addresses of a handle in blocks that concern this node.
    pub fn of_handle<'a>(&'a self, handle: &'a str) -> impl Iterator<Item = Held> + 'a {
        self.blocks_of_handle(handle).flat_map(move |stored| {
            stored
                .value
                .of_handle(handle)
                .filter_map(|ordinal| held(&stored.value, ordinal))
        })
    }

    /// Addresses of this node's blocks that rest.
    pub fn cooling(&self) -> usize {
        let own = self.near().filter(|stored| stored.value.is_of(&self.node));
        own.map(|stored| stored.value.cooling()).sum()
    }

    /// What is held at a place of a block that concerns this node.
    pub fn at(&self, block: IpNet, ordinal: u32) -> Option<Held> {
        match self.blocks.get(&block)? {
            Entry::Near(stored) if !stored.value.is_deleted() => held(&stored.value, ordinal),
            Entry::Near(_) | Entry::Far(_) | Entry::Broken => None,
        }
    }

    /// Who holds an address, if its block concerns this node.
    pub fn holder(&self, address: IpAddr) -> Option<Held> {
        let stored = self
            .near()
            .find(|stored| stored.value.cidr().contains(&address))?;
        held(&stored.value, stored.value.ordinal(address)?)
    }

    /// Every address this node holds: those whose entry names it as their node.
    pub fn held(&self) -> impl Iterator<Item = Held> + '_ {
        self.near()
            .filter(|stored| !stored.value.is_deleted())
            .flat_map(move |stored| {
                let mine = stored
                    .value
                    .held()
                    .filter(move |(_, entry)| entry_of(&self.node, &entry.owner));
                mine.filter_map(|(ordinal, _)| held(&stored.value, ordinal))
            })
    }

    fn near(&self) -> impl Iterator<Item = &Arc<Stored<Block>>> {
        self.blocks.values().filter_map(|entry| match entry {
            Entry::Near(stored) => Some(stored),
            Entry::Far(_) | Entry::Broken => None,
        })
    }

    fn in_pool<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = (IpNet, &'a Entry)> + 'a {
        let from = IpNet::new_assert(pool.cidr.network(), 0);
        let inside = self
            .blocks
            .range(from..)
            .map(|(cidr, entry)| (*cidr, entry));
        inside
            .take_while(|(cidr, _)| pool.cidr.contains(&cidr.network()))
            .filter(|(cidr, _)| pool.block_index(*cidr).is_some())
    }

    fn block_seen(&mut self, stored: Stored<Block>) -> IpNet {
        let cidr = stored.value.cidr();
        let buried = self
            .graves
            .blocks
            .get(&cidr)
            .is_some_and(|(uid, _)| *uid == stored.meta.uid);
        let stale = self
            .blocks
            .get(&cidr)
            .is_some_and(|known| known.outdates(&stored.meta, stored.value.sequence()));
        if buried || stale {
            return cidr;
        }
        self.unindex_handles(cidr);
        let entry = self.entry(stored);
        if let Entry::Near(stored) = &entry {
            for (_, attribute) in stored.value.held() {
                if let Some(handle) = attribute.handle() {
                    self.handles
                        .entry(Arc::from(handle))
                        .or_default()
                        .insert(cidr);
                }
            }
        }
        self.blocks.insert(cidr, entry);
        cidr
    }

    /// Keeps a block whole if it is this node's, or an address in it is.
    fn entry(&self, stored: Stored<Block>) -> Entry {
        let block = &stored.value;
        if self.pinned.contains(&block.cidr())
            || block.is_of(&self.node)
            || block
                .held()
                .any(|(_, entry)| entry_of(&self.node, &entry.owner))
        {
            return Entry::Near(Arc::new(stored));
        }
        let open = |address: IpAddr| self.reserved(address);
        let free = block.usable(open, Time::default(), Duration::MAX);
        Entry::Far(Far {
            meta: Meta {
                carried: None,
                ..stored.meta
            },
            sequence: block.sequence(),
            owner: block.owner().cloned(),
            deleted: block.is_deleted(),
            free: u32::try_from(free).unwrap_or(u32::MAX),
        })
    }

    fn block_gone(&mut self, cidr: IpNet, uid: Option<&str>) {
        let Some(entry) = self.blocks.get(&cidr) else {
            return;
        };
        if let Some(meta) = entry.meta() {
            if uid.is_some_and(|uid| *meta.uid != *uid) {
                return;
            }
            if uid.is_some() {
                self.graves
                    .blocks
                    .insert(cidr, (Arc::clone(&meta.uid), entry.sequence()));
            }
        }
        self.unindex_handles(cidr);
        self.blocks.remove(&cidr);
    }

    fn affinity_seen(&mut self, stored: Stored<Affinity>) -> Option<IpNet> {
        if stored.value.node != self.node {
            return None;
        }
        let cidr = stored.value.cidr;
        let buried = self.graves.affinities.get(&cidr) == Some(&stored.meta.uid);
        let stale = self
            .affinities
            .get(&cidr)
            .is_some_and(|known| older(&stored.meta.version, &known.meta.version));
        if !buried && !stale {
            self.affinities.insert(cidr, Arc::new(stored));
        }
        Some(cidr)
    }

    fn affinity_gone(&mut self, cidr: IpNet, uid: Option<&str>) {
        let Some(known) = self.affinities.get(&cidr) else {
            return;
        };
        match uid {
            Some(uid) if *known.meta.uid != *uid => return,
            Some(_) => {
                self.graves
                    .affinities
                    .insert(cidr, Arc::clone(&known.meta.uid));
            }
            None => {}
        }
        self.affinities.remove(&cidr);
    }

    fn unindex_handles(&mut self, cidr: IpNet) {
        let Some(Entry::Near(stored)) = self.blocks.get(&cidr) else {
            return;
        };
        for (_, attribute) in stored.value.held() {
            let Some(handle) = attribute.handle() else {
                continue;
            };
            if let Some(blocks) = self.handles.get_mut(handle) {
                blocks.remove(&cidr);
                if blocks.is_empty() {
                    self.handles.remove(handle);
                }
            }
        }
    }
}

/// Whether version `a` is older than `b`. Versions are numbers in every API server there is (and by promise since
/// Kubernetes 1.35); any other pair counts as in order of arrival.
fn older(a: &str, b: &str) -> bool {
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Ok(a), Ok(b)) => a < b,
        (Ok(_) | Err(_), _) => false,
    }
}

/// Whether an entry's owner attributes name a node.
fn entry_of(node: &str, owner: &handle::Attributes) -> bool {
    owner.get("node").is_some_and(|name| name == node)
}

fn held(block: &Block, ordinal: u32) -> Option<Held> {
    let attribute = block
        .holder(ordinal)
        .filter(|attribute| !attribute.is_cooling())?;
    Some(Held {
        address: block.address(ordinal)?,
        block: block.cidr(),
        ordinal,
        sequence: block.sequence_of(ordinal),
        handle: attribute.handle().unwrap_or_default().to_owned(),
        attributes: attribute.owner.clone(),
    })
}
