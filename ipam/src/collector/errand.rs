//! One thing the leader sets right, step by step: read anew, prove anew, swap.
//!
//! The order matters. What is written was read first; that it may be written is proved *after* the read; and the swap lands only
//! on what was read. So whatever a node or pod did before the proof is seen by the proof, and whatever was written later is a conflict.
//!
//! Sans-IO: [`Errand::next`] says what is needed, [`Errand::feed`] takes what was found. Any failure ends the errand; the next look
//! begins a new one.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::repair::{Repair, handle_step, owner_step, ownerless_step};
use super::{Doubt, Settings, Spot, Suspect, View};
use crate::affinity::Affinity;
use crate::block::{Block, Given};
use crate::handle::{Handle, significant};
use crate::store::{Key, Object, StoreCall, StoreError, StoreReply, Stored};
use crate::time::Time;

/// What must be true, asked of the API server itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Proof {
    /// There is no Node of this name, and its daemon has not renewed its Lease since this stamp (`None`: there was no Lease).
    NodeGone(Arc<str>, Option<Arc<str>>),
    /// No unfinished pod of this namespace and name is bound to this node.
    PodNotOn((Arc<str>, Arc<str>), Arc<str>),
}

/// What an errand needs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// The object as the store has it now.
    Read(Key),
    /// Whether something is true.
    Prove(Proof),
    /// A call to be carried out.
    Write(StoreCall),
    /// Nothing.
    Done,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The object; `None` = there is none.
    Object(Option<Box<Stored<Object>>>),
    /// Whether it is true; what cannot be found out is not.
    Proved(bool),
    /// What became of the write.
    Written(Result<StoreReply, StoreError>),
}

/// Most writes of one errand: two soft deletes, two removals, one state.
const WRITES: u8 = 6;

#[derive(Clone, Debug)]
enum Aim {
    Free(Vec<Suspect>),
    Dead(Arc<str>),
    Ownerless,
    Handle,
}

/// One thing under way.
#[derive(Clone, Debug)]
pub struct Errand {
    aim: Aim,
    /// What is read, in order; a [`Found::Object`] fills the next place.
    keys: Vec<Key>,
    read: Vec<Read>,
    proofs: Vec<Proof>,
    proved: BTreeSet<Proof>,
    refuted: BTreeSet<Proof>,
    cooldown: Duration,
    rest_of_dead: Duration,
    writes: u8,
    /// Addresses the write under way frees, and those that landed.
    freeing: usize,
    freed: usize,
    over: bool,
}

impl Errand {
    pub(super) fn free(
        block: IpNet,
        suspects: Vec<Suspect>,
        stamp: &impl Fn(&Arc<str>) -> Option<Arc<str>>,
        settings: &Settings,
    ) -> Self {
        let proofs: BTreeSet<Proof> = suspects
            .iter()
            .map(|suspect| proof(suspect, stamp))
            .collect();
        let keys = vec![Key::Block(block)];
        Self::new(
            Aim::Free(suspects),
            keys,
            proofs.into_iter().collect(),
            settings,
        )
    }

    pub(super) fn repair(
        repair: &Repair,
        view: &View,
        stamp: &impl Fn(&Arc<str>) -> Option<Arc<str>>,
        settings: &Settings,
    ) -> Self {
        match repair {
            Repair::Dead { node, block } => {
                let keys = vec![Key::Block(*block), Key::Affinity(Arc::clone(node), *block)];
                let proofs = vec![Proof::NodeGone(Arc::clone(node), stamp(node))];
                Self::new(Aim::Dead(Arc::clone(node)), keys, proofs, settings)
            }
            Repair::Ownerless(block) => Self::new(
                Aim::Ownerless,
                vec![Key::Block(*block)],
                Vec::new(),
                settings,
            ),
            Repair::Handle(name) => {
                let mut keys = vec![Key::Handle(Arc::clone(name))];
                keys.extend(handle_blocks(name, view).into_iter().map(Key::Block));
                Self::new(Aim::Handle, keys, Vec::new(), settings)
            }
        }
    }

    fn new(aim: Aim, keys: Vec<Key>, proofs: Vec<Proof>, settings: &Settings) -> Self {
        Self {
            aim,
            keys,
            read: Vec::new(),
            proofs,
            proved: BTreeSet::new(),
            refuted: BTreeSet::new(),
            cooldown: settings.cooldown,
            rest_of_dead: settings.rest_of_dead(),
            writes: 0,
            freeing: 0,
            freed: 0,
            over: false,
        }
    }

    /// Addresses freed so far.
    pub fn freed(&self) -> usize {
        self.freed
    }

    /// What is needed next.
    pub fn next(&mut self, now: Time) -> Need {
        if self.over {
            return Need::Done;
        }
        if let Some(key) = self.keys.get(self.read.len()) {
            return Need::Read(key.clone());
        }
        let open = self
            .proofs
            .iter()
            .find(|proof| !self.proved.contains(*proof) && !self.refuted.contains(*proof));
        if let Some(proof) = open {
            return Need::Prove(proof.clone());
        }
        match self.step(now) {
            Some(call) if self.writes < WRITES => Need::Write(call),
            Some(_) | None => {
                self.over = true;
                Need::Done
            }
        }
    }

    /// Takes what was found.
    pub fn feed(&mut self, found: Found) {
        match found {
            Found::Object(object) => self.read.push(object.into()),
            Found::Proved(true) => self.settle_proof(true),
            Found::Proved(false) => self.settle_proof(false),
            Found::Written(Ok(_)) => {
                self.writes += 1;
                self.freed += std::mem::take(&mut self.freeing);
                self.over = matches!(self.aim, Aim::Free(_));
                // The next step begins with another look, and with another proof.
                self.read.clear();
                self.proved.clear();
            }
            Found::Written(Err(_)) => self.over = true,
        }
    }

    fn settle_proof(&mut self, holds: bool) {
        let open = self
            .proofs
            .iter()
            .find(|proof| !self.proved.contains(*proof) && !self.refuted.contains(*proof))
            .cloned();
        if let Some(proof) = open {
            if holds {
                self.proved.insert(proof);
            } else {
                self.refuted.insert(proof);
            }
        }
    }

    fn step(&mut self, now: Time) -> Option<StoreCall> {
        match &self.aim {
            Aim::Free(suspects) => {
                let allowed: Vec<&Suspect> = suspects
                    .iter()
                    .filter(|suspect| !self.refuted.iter().any(|proof| concerns(proof, suspect)))
                    .collect();
                let stored = self.block(0)?;
                let (block, freed) = self.give(&stored.value, &allowed, now)?;
                let call = StoreCall::Swap(Object::Block(Box::new(block)), stored.meta.clone());
                self.freeing = freed;
                Some(call)
            }
            Aim::Dead(node) if self.refuted.is_empty() => {
                owner_step(node, self.block(0), self.affinity(1), now, self.cooldown)
            }
            Aim::Dead(_) => None,
            Aim::Ownerless => ownerless_step(self.block(0)?, now, self.cooldown),
            Aim::Handle => {
                let blocks: Vec<Block> = (1..self.keys.len())
                    .filter_map(|at| Some(self.block(at)?.value.clone()))
                    .collect();
                handle_step(self.handle(0)?, &blocks)
            }
        }
    }

    /// The block with these allocations given back; `None` when none of them is there any more. By handle, ordinal and sequence:
    /// whatever changed since is somebody else's and stays.
    fn give(&self, block: &Block, suspects: &[&Suspect], now: Time) -> Option<(Block, usize)> {
        if block.is_deleted() {
            return None;
        }
        let mut changed = block.clone();
        let mut freed = 0;
        for suspect in suspects {
            let Spot {
                handle,
                ordinal,
                sequence,
                ..
            } = &suspect.spot;
            let rest = if suspect.doubt == Doubt::NodeGone {
                self.rest_of_dead
            } else {
                self.cooldown
            };
            let given = changed.give(*ordinal, handle, Some(*sequence), now, rest);
            freed += usize::from(given == Given::Freed);
        }
        if freed == 0 {
            return None;
        }
        changed.seal();
        Some((changed, freed))
    }

    fn block(&self, at: usize) -> Option<&Stored<Block>> {
        match self.read.get(at)? {
            Read::Block(stored) => Some(stored),
            Read::Affinity(_) | Read::Handle(_) | Read::Nothing => None,
        }
    }

    fn affinity(&self, at: usize) -> Option<&Stored<Affinity>> {
        match self.read.get(at)? {
            Read::Affinity(stored) => Some(stored),
            Read::Block(_) | Read::Handle(_) | Read::Nothing => None,
        }
    }

    fn handle(&self, at: usize) -> Option<&Stored<Handle>> {
        match self.read.get(at)? {
            Read::Handle(stored) => Some(stored),
            Read::Block(_) | Read::Affinity(_) | Read::Nothing => None,
        }
    }
}

impl fmt::Display for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = self.keys.first().map(Key::name).unwrap_or_default();
        match &self.aim {
            Aim::Free(suspects) => {
                let first = suspects.first().map(|suspect| suspect.doubt.as_str());
                write!(f, "addresses of {what}: {}", first.unwrap_or_default())
            }
            Aim::Dead(node) => write!(f, "block {what} of {node}, which is gone"),
            Aim::Ownerless => write!(f, "block {what} without owner"),
            Aim::Handle => write!(f, "handle {what}"),
        }
    }
}

/// What was read, sorted by kind.
#[derive(Clone, Debug)]
enum Read {
    Nothing,
    Block(Stored<Block>),
    Affinity(Stored<Affinity>),
    Handle(Stored<Handle>),
}

impl From<Option<Box<Stored<Object>>>> for Read {
    fn from(found: Option<Box<Stored<Object>>>) -> Self {
        let Some(found) = found else {
            return Self::Nothing;
        };
        let meta = found.meta;
        match found.value {
            Object::Block(value) => Self::Block(Stored {
                meta,
                value: *value,
            }),
            Object::Affinity(value) => Self::Affinity(Stored { meta, value }),
            Object::Handle(value) => Self::Handle(Stored { meta, value }),
        }
    }
}

/// What must still be true when a suspect is freed.
fn proof(suspect: &Suspect, stamp: &impl Fn(&Arc<str>) -> Option<Arc<str>>) -> Proof {
    let node = Arc::clone(&suspect.node);
    match (suspect.doubt, &suspect.pod) {
        (Doubt::PodGone | Doubt::PodFinished | Doubt::PodElsewhere, Some(pod)) => {
            Proof::PodNotOn(pod.clone(), node)
        }
        // A doubt about a pod always names one; were it not so, the stricter proof is asked.
        (Doubt::NodeGone, _)
        | (Doubt::PodGone | Doubt::PodFinished | Doubt::PodElsewhere, None) => {
            let stamp = stamp(&node);
            Proof::NodeGone(node, stamp)
        }
    }
}

/// Whether a suspect rests on a proof.
fn concerns(refuted: &Proof, suspect: &Suspect) -> bool {
    match (refuted, suspect.doubt) {
        (Proof::NodeGone(node, _), Doubt::NodeGone) => *node == suspect.node,
        (Proof::PodNotOn(pod, node), Doubt::PodGone | Doubt::PodFinished | Doubt::PodElsewhere) => {
            *node == suspect.node && Some(pod) == suspect.pod.as_ref()
        }
        (Proof::NodeGone(..), Doubt::PodGone | Doubt::PodFinished | Doubt::PodElsewhere)
        | (Proof::PodNotOn(..), Doubt::NodeGone) => false,
    }
}

/// Blocks a handle may have addresses in: those its object names, and those the watches show.
fn handle_blocks(name: &str, view: &View) -> BTreeSet<IpNet> {
    let Some(stored) = view.handles.get(name) else {
        return BTreeSet::new();
    };
    let id = significant(&stored.value.id).to_lowercase();
    let holds = |block: &Block| {
        block
            .held()
            .filter_map(|(_, entry)| entry.handle())
            .any(|handle| handle.to_lowercase() == id)
    };
    let seen = view
        .blocks
        .iter()
        .filter(|(_, stored)| holds(&stored.value))
        .map(|(cidr, _)| *cidr);
    stored.value.blocks.keys().copied().chain(seen).collect()
}
