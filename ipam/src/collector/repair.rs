//! Blocks, affinities and handle objects that only the leader may set right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{Collector, Orders, View};
use crate::affinity::{self, Affinity, AffinityView, BlockView, Goal, Step};
use crate::block::{Block, Owner};
use crate::handle::{Handle, WINDOWS_RESERVED, significant};
use crate::store::{Key, Object, StoreCall, Stored};
use crate::time::Time;

/// One thing to set right. Whoever carries it out reads the objects anew before each step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// What a dead node had of a block: its ownership, its affinity, or both.
    Dead {
        /// The node.
        node: Arc<str>,
        /// The block.
        block: IpNet,
    },
    /// A block without owner and addresses.
    Ownerless(IpNet),
    /// A handle object that is not as the blocks say, by object name.
    Handle(Arc<str>),
}

impl Collector {
    pub(super) fn repairs(&mut self, view: &View, now: Time, orders: &mut Orders) {
        let mut left: BTreeSet<&str> = BTreeSet::new();
        for (cidr, stored) in &view.blocks {
            let block = &stored.value;
            let holders = block
                .held()
                .filter_map(|(_, entry)| entry.owner.get("node"));
            left.extend(holders.map(String::as_str));
            match block.owner() {
                None if block.is_deleted() || vacant(block, now, self.settings.cooldown) => {
                    orders.repair.push(Repair::Ownerless(*cidr));
                }
                Some(Owner::Host(node)) => {
                    left.insert(node);
                    if self.is_dead(view, node, now)
                        && settled(block, node, now, self.settings.cooldown)
                    {
                        let (node, block) = (Arc::clone(node), *cidr);
                        orders.repair.push(Repair::Dead { node, block });
                    }
                }
                Some(Owner::LoadBalancer | Owner::Other(_)) | None => {}
            }
        }
        for ((node, cidr), stored) in &view.affinities {
            let owned = view
                .blocks
                .get(cidr)
                .is_some_and(|stored| stored.value.is_of(node));
            let is_virtual = stored.value.kind.as_deref() == Some("virtual");
            left.insert(node);
            if !owned && !is_virtual && self.is_dead(view, node, now) {
                let (node, block) = (Arc::clone(node), *cidr);
                orders.repair.push(Repair::Dead { node, block });
            }
        }
        self.handles(view, now, orders);
        orders.forget = view
            .signs
            .keys()
            .filter(|node| !left.contains(&***node) && self.is_dead(view, node, now))
            .cloned()
            .collect();
    }

    /// Handle objects that are wrong for long.
    fn handles(&mut self, view: &View, now: Time, orders: &mut Orders) {
        let crooked: BTreeSet<Arc<str>> = crooked(view);
        self.crooked.retain(|name, _| crooked.contains(name));
        for name in crooked {
            let since = *self.crooked.entry(Arc::clone(&name)).or_insert(now);
            if now.since(since) >= self.settings.handle_grace {
                orders.repair.push(Repair::Handle(name));
            }
        }
    }
}

/// Whether nothing of the dead node is left in its block: its addresses go first, by phase two. An address that rests is waited for.
fn settled(block: &Block, node: &str, now: Time, cooldown: Duration) -> bool {
    let own = block.held().any(|(_, entry)| {
        entry.handle().is_some() && entry.owner.get("node").is_some_and(|name| name == node)
    });
    block.is_deleted() || !own && (block.held().next().is_some() || rested(block, now, cooldown))
}

/// Whether no address of a block rests any more.
fn rested(block: &Block, now: Time, cooldown: Duration) -> bool {
    let mut thawed = block.clone();
    thawed.thaw(now, cooldown);
    thawed.cooling() == 0
}

/// Whether nothing keeps a block once its rested addresses are free.
fn vacant(block: &Block, now: Time, cooldown: Duration) -> bool {
    let mut thawed = block.clone();
    thawed.thaw(now, cooldown);
    thawed.is_empty()
}

fn crooked(view: &View) -> BTreeSet<Arc<str>> {
    let mut counted: BTreeMap<String, BTreeMap<IpNet, u32>> = BTreeMap::new();
    for stored in view
        .blocks
        .values()
        .filter(|stored| !stored.value.is_deleted())
    {
        for (handle, count) in counts(&stored.value) {
            counted
                .entry(handle)
                .or_default()
                .insert(stored.value.cidr(), count);
        }
    }
    let none = BTreeMap::new();
    view.handles
        .iter()
        .filter(|(_, stored)| !is_virtual_machine(&stored.value))
        .filter(|(_, stored)| {
            let handle = significant(&stored.value.id).to_lowercase();
            stored.value.deleted
                || stored.value.blocks.is_empty()
                || stored.value.blocks != *counted.get(&handle).unwrap_or(&none)
        })
        .map(|(name, _)| Arc::clone(name))
        .collect()
}

/// Addresses of each handle in a block, handles in lower case.
fn counts(block: &Block) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for (_, entry) in block.held() {
        if let Some(handle) = entry.handle().filter(|handle| *handle != WINDOWS_RESERVED) {
            *counts.entry(handle.to_lowercase()).or_insert(0) += 1;
        }
    }
    counts
}

/// Handles of virtual machines come before their address: an empty one may be about to be used.
fn is_virtual_machine(handle: &Handle) -> bool {
    handle.id.contains(".vmi.")
}

/// The next call that takes a dead node out of a block; `None` = nothing is left to do.
pub(super) fn owner_step(
    node: &str,
    block: Option<&Stored<Block>>,
    affinity: Option<&Stored<Affinity>>,
    now: Time,
    cooldown: Duration,
) -> Option<StoreCall> {
    let block = block.map(|stored| thawed(stored, now, cooldown));
    let block = block.as_ref();
    let seen = BlockView::of(node, block.map(|stored| &stored.value));
    let claim = AffinityView::of(affinity.map(|stored| &stored.value));
    let row = |change: &dyn Fn(&mut Affinity)| {
        let stored = affinity?;
        let mut value = stored.value.clone();
        change(&mut value);
        let meta = stored.meta.clone();
        Some(StoreCall::Swap(Object::Affinity(value), meta))
    };
    // Addresses of others keep the block: it loses its owner and lives on.
    match affinity::next(seen, claim, Goal::Abandon) {
        Step::SwapAffinity(state) => row(&|row| row.state = state),
        Step::SoftDeleteAffinity => row(&|row| row.deleted = true),
        Step::RemoveAffinity => affinity.map(|stored| {
            let key = Key::Affinity(Arc::clone(&stored.value.node), stored.value.cidr);
            StoreCall::Remove(key, stored.meta.clone())
        }),
        Step::SoftDeleteBlock => block.map(|stored| swap(stored, Block::soft_delete)),
        Step::RemoveBlock => block.map(remove),
        Step::Orphan => block.map(|stored| swap(stored, Block::orphan)),
        // Steps towards holding a block, which giving up never takes, and the end.
        Step::CreateAffinity(_) | Step::CreateBlock | Step::Use | Step::Lost | Step::Done => None,
    }
}

/// The next call that removes a block nobody owns and nobody has an address in; `None` = it stays.
pub(super) fn ownerless_step(
    block: &Stored<Block>,
    now: Time,
    cooldown: Duration,
) -> Option<StoreCall> {
    if block.value.owner().is_some() {
        return None;
    }
    if block.value.is_deleted() {
        return Some(remove(block));
    }
    let block = thawed(block, now, cooldown);
    block
        .value
        .is_empty()
        .then(|| swap(&block, Block::soft_delete))
}

fn thawed(block: &Stored<Block>, now: Time, cooldown: Duration) -> Stored<Block> {
    let mut block = block.clone();
    block.value.thaw(now, cooldown);
    block
}

fn swap(block: &Stored<Block>, change: fn(&mut Block)) -> StoreCall {
    let mut value = block.value.clone();
    change(&mut value);
    value.seal();
    StoreCall::Swap(Object::Block(Box::new(value)), block.meta.clone())
}

fn remove(block: &Stored<Block>) -> StoreCall {
    StoreCall::Remove(Key::Block(block.value.cidr()), block.meta.clone())
}

/// The next call that sets a handle object right. `blocks` are those its handle has addresses in or the object names, read anew.
pub(super) fn handle_step(handle: &Stored<Handle>, blocks: &[Block]) -> Option<StoreCall> {
    if is_virtual_machine(&handle.value) {
        return None;
    }
    let id = significant(&handle.value.id).to_lowercase();
    let live = blocks.iter().filter(|block| !block.is_deleted());
    let counted: BTreeMap<IpNet, u32> = live
        .filter_map(|block| Some((block.cidr(), *counts(block).get(&id)?)))
        .collect();
    let mut value = handle.value.clone();
    if counted.is_empty() {
        if handle.value.deleted {
            let key = Key::Handle(Arc::from(handle.value.id.as_str()));
            return Some(StoreCall::Remove(key, handle.meta.clone()));
        }
        value.deleted = true;
    } else {
        value.deleted = false;
        value.blocks = counted;
    }
    (value != handle.value).then(|| StoreCall::Swap(Object::Handle(value), handle.meta.clone()))
}
