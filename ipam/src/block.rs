//! One block of addresses: the unit of compare-and-swap, and the truth about who holds what.
//!
//! Pure algebra: take, give back, cool down, renumber. Every change is made on a copy, sealed ([`Block::seal`]) and
//! swapped; nothing counts before the swap landed.
//!
//! Invariant (checked by [`Block::check`], kept by every function): each ordinal is either once in the free queue or
//! has a slot, never both, never neither; slots point into the attributes.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use thiserror::Error;

use crate::handle::{self, Attributes};
use crate::net;
use crate::time::Time;

mod codec;
#[cfg(test)]
mod tests;

pub use codec::{parse, render};

/// Unknown fields of a stored object: name → value, kept as they are.
pub type Extra = BTreeMap<String, serde_json::Value>;

/// Most addresses a block may have (IPv4 /20, IPv6 /116).
pub const SIZE_MAX: u32 = 4096;

/// Who owns a block.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A node, by name.
    Host(Arc<str>),
    /// Addresses of Services.
    LoadBalancer,
    /// A text this version does not know; nobody's as far as we are concerned.
    Other(Arc<str>),
}

impl Owner {
    /// Whether the owner is the node of this name.
    pub fn is_host(&self, node: &str) -> bool {
        matches!(self, Self::Host(name) if &**name == node)
    }
}

/// Who holds an address, and what for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// Handle id as stored; compare with [`handle::significant`].
    pub handle: Option<String>,
    /// The owner.
    pub owner: Attributes,
    /// The other owner while a virtual machine moves.
    pub alternate: Attributes,
    /// When the address was given back; an entry with nothing else is a cooling address.
    pub released_at: Option<Time>,
    /// Fields this version does not know.
    pub extra: Extra,
}

impl Attribute {
    /// An entry for one owner.
    pub fn new(handle: &str, owner: Attributes) -> Self {
        Self {
            handle: Some(handle.to_owned()),
            owner,
            ..Self::default()
        }
    }

    /// Whether this entry is held under the handle.
    pub fn is_of(&self, handle: &str) -> bool {
        self.handle().is_some_and(|mine| mine == handle)
    }

    /// The handle, up to what old migrations left behind it.
    pub fn handle(&self) -> Option<&str> {
        self.handle.as_deref().map(handle::significant)
    }

    /// Whether the entry stands for an address that rests after its release.
    pub fn is_cooling(&self) -> bool {
        self.released_at.is_some() && self.handle.is_none()
    }

    fn is_cooled(&self, now: Time, cooldown: Duration) -> bool {
        self.is_cooling() && self.released_at.is_some_and(|at| now.since(at) >= cooldown)
    }
}

/// What became of giving an address back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Given {
    /// It is free, or rests.
    Freed,
    /// It was free or resting already.
    AlreadyFree,
    /// It is somebody else's by now: handle or sequence differ. Nothing changed.
    NotYours,
}

/// Why a certain address cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occupied {
    /// The same handle holds it already: as good as taken.
    Mine,
    /// Somebody else holds it.
    By(Box<Attribute>),
    /// The block has no such ordinal.
    Outside,
}

/// Why a stored block cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// The CIDR has host bits or too many addresses.
    #[error("{0} is not a block: host bits set, or more than {SIZE_MAX} addresses")]
    Cidr(IpNet),
    /// The number of slots is not the number of addresses.
    #[error("{slots} allocations for {size} addresses")]
    Size {
        /// Entries of `allocations`.
        slots: usize,
        /// Addresses of the block.
        size: u32,
    },
    /// A slot points past the attributes.
    #[error("ordinal {ordinal} points at attribute {index}, of {attributes}")]
    Attribute {
        /// The address.
        ordinal: u32,
        /// Where it points.
        index: u32,
        /// Entries of `attributes`.
        attributes: usize,
    },
    /// An ordinal is both free and taken, or twice free.
    #[error("ordinal {0} is free twice, or free and taken")]
    Twice(u32),
    /// An ordinal is neither free nor taken.
    #[error("ordinal {0} is neither free nor taken")]
    Lost(u32),
    /// A CIDR or timestamp that cannot be read.
    #[error("{0:?} cannot be read")]
    Text(String),
    /// An ordinal or index below zero, or above all sense.
    #[error("{0} is no ordinal")]
    Number(i64),
    /// A key of `sequenceNumberForAllocation` is no ordinal.
    #[error("sequence number for {0:?}, which is no ordinal")]
    Ordinal(String),
}

/// One block of addresses, decoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    cidr: IpNet,
    owner: Option<Owner>,
    claimed_at: Option<Time>,
    /// Ordinal → index into `attributes`.
    slots: Vec<Option<u32>>,
    /// Free ordinals: taken at the head, given back at the tail.
    free: VecDeque<u32>,
    attributes: Vec<Attribute>,
    sequence: u64,
    /// Ordinal → number of the block before the write that took or released it.
    sequences: BTreeMap<u32, u64>,
    deleted: bool,
    strict_affinity: bool,
    extra: Extra,
}

impl Block {
    /// A fresh, empty block whose sequence starts at the clock, or above `floor`, the highest number ever seen for
    /// this CIDR: a block that is deleted and made again never repeats a number.
    ///
    /// # Errors
    /// [`BlockError::Cidr`] when the CIDR cannot be a block.
    pub fn try_new(cidr: IpNet, owner: Owner, now: Time, floor: u64) -> Result<Self, BlockError> {
        let size = net::block_size(cidr).ok_or(BlockError::Cidr(cidr))?;
        Ok(Self {
            cidr,
            owner: Some(owner),
            claimed_at: Some(now.whole_second()),
            slots: vec![None; size as usize],
            free: (0..size).collect(),
            attributes: Vec::new(),
            sequence: now.as_nanos().max(floor.saturating_add(1)),
            sequences: BTreeMap::new(),
            deleted: false,
            strict_affinity: false,
            extra: Extra::new(),
        })
    }

    /// The block's CIDR.
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// Who owns it; `None` = an orphan with live addresses.
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    /// Whether the node of this name owns it.
    pub fn is_of(&self, node: &str) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.is_host(node))
    }

    /// When it was claimed.
    pub fn claimed_at(&self) -> Option<Time> {
        self.claimed_at
    }

    /// The block's number: grows with every write.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether readers treat the block as absent.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// Number of addresses.
    pub fn size(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(SIZE_MAX)
    }

    /// The address of an ordinal; `None` outside the block.
    pub fn address(&self, ordinal: u32) -> Option<IpAddr> {
        (ordinal < self.size()).then(|| net::nth(self.cidr.addr(), ordinal))
    }

    /// The ordinal of an address; `None` outside the block.
    pub fn ordinal(&self, address: IpAddr) -> Option<u32> {
        net::ordinal(self.cidr, address)
    }

    /// The number an address was taken or released under; 0 in old blocks that have none.
    pub fn sequence_of(&self, ordinal: u32) -> u64 {
        self.sequences.get(&ordinal).copied().unwrap_or(0)
    }

    /// Who holds an address; resting addresses included.
    pub fn holder(&self, ordinal: u32) -> Option<&Attribute> {
        let index = (*self.slots.get(ordinal as usize)?)?;
        self.attributes.get(index as usize)
    }

    /// Every address that has an entry, ascending, resting ones included.
    pub fn entries(&self) -> impl Iterator<Item = (u32, &Attribute)> {
        (0..self.size()).filter_map(|ordinal| Some((ordinal, self.holder(ordinal)?)))
    }

    /// Every address somebody holds, ascending.
    pub fn held(&self) -> impl Iterator<Item = (u32, &Attribute)> {
        self.entries()
            .filter(|(_, attribute)| !attribute.is_cooling())
    }

    /// The addresses of a handle, ascending.
    pub fn of_handle(&self, handle: &str) -> impl Iterator<Item = u32> {
        self.held()
            .filter(move |(_, attribute)| attribute.is_of(handle))
            .map(|(ordinal, _)| ordinal)
    }

    /// Whether nothing keeps the block: no address held, none resting. Reserved Windows entries do not count.
    pub fn is_empty(&self) -> bool {
        self.entries()
            .all(|(_, attribute)| attribute.is_of(handle::WINDOWS_RESERVED))
    }

    /// How many addresses rest.
    pub fn cooling(&self) -> usize {
        self.entries()
            .filter(|(_, attribute)| attribute.is_cooling())
            .count()
    }

    /// How many addresses [`take`](Self::take) would find: free or done resting, and not reserved.
    pub fn usable(
        &self,
        reserved: impl Fn(IpAddr) -> bool,
        now: Time,
        cooldown: Duration,
    ) -> usize {
        let rested = self
            .entries()
            .filter(|(_, a)| a.is_cooled(now, cooldown))
            .map(|(ordinal, _)| ordinal);
        let open = |ordinal: &u32| {
            self.address(*ordinal)
                .is_some_and(|address| !reserved(address))
        };
        self.free.iter().copied().filter(open).count() + rested.filter(open).count()
    }

    /// Moves addresses that have rested long enough to the tail of the free queue; returns how many.
    pub fn thaw(&mut self, now: Time, cooldown: Duration) -> usize {
        let rested: Vec<u32> = self
            .entries()
            .filter(|(_, a)| a.is_cooled(now, cooldown))
            .map(|(ordinal, _)| ordinal)
            .collect();
        for ordinal in &rested {
            self.vacate(*ordinal);
        }
        rested.len()
    }

    /// Takes the free address that has waited longest, stepping over reserved ones, which keep their place.
    pub fn take(
        &mut self,
        attribute: &Attribute,
        reserved: impl Fn(IpAddr) -> bool,
    ) -> Option<u32> {
        let at = self.free.iter().position(|ordinal| {
            self.address(*ordinal)
                .is_some_and(|address| !reserved(address))
        })?;
        let ordinal = self.free.remove(at)?;
        self.occupy(ordinal, attribute);
        Some(ordinal)
    }

    /// Takes one certain address, resting ones included (the caller purges conntrack first).
    ///
    /// # Errors
    /// [`Occupied`] says who holds it; nothing changed.
    pub fn take_exact(&mut self, ordinal: u32, attribute: &Attribute) -> Result<(), Occupied> {
        if ordinal >= self.size() {
            return Err(Occupied::Outside);
        }
        if let Some(holder) = self.holder(ordinal) {
            if !holder.is_cooling() {
                let same = attribute
                    .handle()
                    .is_some_and(|handle| holder.is_of(handle));
                return Err(if same {
                    Occupied::Mine
                } else {
                    Occupied::By(Box::new(holder.clone()))
                });
            }
            self.vacate(ordinal);
        }
        self.free.retain(|free| *free != ordinal);
        self.occupy(ordinal, attribute);
        Ok(())
    }

    /// Gives an address back: by handle **and** sequence (`None` = whatever the entry has, for a release by handle).
    ///
    /// A zero cooldown frees at once; otherwise the address rests. Either way its sequence is renewed, so a second,
    /// late release cannot hit the next owner.
    pub fn give(
        &mut self,
        ordinal: u32,
        handle: &str,
        sequence: Option<u64>,
        now: Time,
        cooldown: Duration,
    ) -> Given {
        let Some(holder) = self.holder(ordinal) else {
            return Given::AlreadyFree;
        };
        if holder.is_cooling() {
            return Given::AlreadyFree;
        }
        if !holder.is_of(handle)
            || sequence.is_some_and(|sequence| sequence != self.sequence_of(ordinal))
        {
            return Given::NotYours;
        }
        self.vacate(ordinal);
        self.sequences.insert(ordinal, self.sequence);
        if !cooldown.is_zero() {
            self.free.retain(|free| *free != ordinal);
            let resting = Attribute {
                released_at: Some(now.next_whole_second()),
                ..Attribute::default()
            };
            let index = self.attribute_index(&resting);
            self.set_slot(ordinal, Some(index));
        }
        Given::Freed
    }

    /// Puts an entry in another name; its number stays, so who remembers it may release it. Returns whether the block changed.
    ///
    /// The number alone says that it is still the same allocation: each take has its own.
    pub fn hand_over(&mut self, ordinal: u32, sequence: u64, to: &Attribute) -> bool {
        let same = |holder: &Attribute| {
            !holder.is_cooling() && holder != to && self.sequence_of(ordinal) == sequence
        };
        if !self.holder(ordinal).is_some_and(same) {
            return false;
        }
        let index = self.attribute_index(to);
        self.set_slot(ordinal, Some(index));
        true
    }

    /// Frees an entry that has neither owner nor stamp: what is left when the server prunes `releasedAt`.
    pub fn free_bare(&mut self, ordinal: u32, sequence: u64) -> Given {
        match self.holder(ordinal) {
            None => Given::AlreadyFree,
            Some(holder)
                if *holder != Attribute::default() || self.sequence_of(ordinal) != sequence =>
            {
                Given::NotYours
            }
            Some(_) => {
                self.vacate(ordinal);
                Given::Freed
            }
        }
    }

    /// Marks the block deleted for every reader; it is removed by uid and version afterwards.
    pub fn soft_delete(&mut self) {
        self.deleted = true;
    }

    /// Takes the owner away; live addresses stay.
    pub fn orphan(&mut self) {
        self.owner = None;
        self.claimed_at = None;
    }

    /// Ends a change: drops attributes nobody points at, renumbers, and counts the write.
    pub fn seal(&mut self) {
        let mut renumbered: Vec<Option<u32>> = vec![None; self.attributes.len()];
        for index in self.slots.iter().flatten() {
            if let Some(used) = renumbered.get_mut(*index as usize) {
                *used = Some(0);
            }
        }
        let mut kept = Vec::with_capacity(self.attributes.len());
        for (attribute, renumber) in self.attributes.drain(..).zip(&mut renumbered) {
            if renumber.is_some() {
                *renumber = u32::try_from(kept.len()).ok();
                kept.push(attribute);
            }
        }
        for slot in &mut self.slots {
            *slot = slot.and_then(|index| renumbered.get(index as usize).copied().flatten());
        }
        self.attributes = kept;
        self.sequence = self.sequence.saturating_add(1);
    }

    /// Checks the invariant of this module.
    ///
    /// # Errors
    /// The first violation found.
    pub fn check(&self) -> Result<(), BlockError> {
        let size = net::block_size(self.cidr).ok_or(BlockError::Cidr(self.cidr))?;
        if self.slots.len() != size as usize {
            return Err(BlockError::Size {
                slots: self.slots.len(),
                size,
            });
        }
        let mut free = vec![false; self.slots.len()];
        for ordinal in &self.free {
            match free.get_mut(*ordinal as usize) {
                Some(seen) if !*seen => *seen = true,
                Some(_) | None => return Err(BlockError::Twice(*ordinal)),
            }
        }
        for ((ordinal, slot), free) in (0..).zip(&self.slots).zip(free) {
            match (slot, free) {
                (Some(_), true) => return Err(BlockError::Twice(ordinal)),
                (None, false) => return Err(BlockError::Lost(ordinal)),
                (Some(index), false) if *index as usize >= self.attributes.len() => {
                    let attributes = self.attributes.len();
                    return Err(BlockError::Attribute {
                        ordinal,
                        index: *index,
                        attributes,
                    });
                }
                (Some(_), false) | (None, true) => {}
            }
        }
        Ok(())
    }

    /// Changes every entry, as a server that prunes fields does.
    pub(crate) fn map_attributes(&mut self, change: impl FnMut(&mut Attribute)) {
        self.attributes.iter_mut().for_each(change);
    }

    /// Gives a free ordinal, already out of the queue, to an owner.
    fn occupy(&mut self, ordinal: u32, attribute: &Attribute) {
        let index = self.attribute_index(attribute);
        self.set_slot(ordinal, Some(index));
        self.sequences.insert(ordinal, self.sequence);
    }

    /// Empties a slot and puts its ordinal at the tail of the queue.
    fn vacate(&mut self, ordinal: u32) {
        self.set_slot(ordinal, None);
        self.free.push_back(ordinal);
    }

    fn set_slot(&mut self, ordinal: u32, index: Option<u32>) {
        if let Some(slot) = self.slots.get_mut(ordinal as usize) {
            *slot = index;
        }
    }

    /// Index of an equal entry, added if there is none.
    fn attribute_index(&mut self, attribute: &Attribute) -> u32 {
        let at = self
            .attributes
            .iter()
            .position(|known| known == attribute)
            .unwrap_or_else(|| {
                self.attributes.push(attribute.clone());
                self.attributes.len() - 1
            });
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}
