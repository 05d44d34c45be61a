//! Every interleaving of a small world: two nodes and a leader, one pool of two blocks of two addresses, calls that
//! land late or lose their answer, nodes that die between any two steps.
//!
//! Checked in every state: each address that was answered is stored under its handle and sequence (so no two owners),
//! blocks keep their invariant, numbers never fall, nobody oversteps its rights. From every state, without further
//! faults, every way leads to rest, and rest is clean: no leak, no pending claim, nothing soft-deleted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use api::PoolUse;
use ipam::affinity::{self, AffinityView, BlockView, Goal, State as Claim, Step};
use ipam::index::Event;
use ipam::memory::{Fault, Memory};
use ipam::store::{Key, Meta, Object, StoreCall, StoreError, StoreReply};
use ipam::{
    Addresses, Allocator, Answer, Assign, Assigned, Config, Family, Input, Living, Output, Release,
    RequestId, Settings, Time, Want,
};
use ipnet::IpNet;

use crate::sim::{Pending, START, net, pool, taken};

/// States beyond which a script is too large for every commit.
const MOST: u32 = 2_000_000;

const NAMES: [&str; 2] = ["a", "b"];

/// How far an attachment of the script is, as its node's journal has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Attachment {
    Waiting,
    Intent,
    Attached(Assigned),
    Leaving,
    Gone,
    Failed,
}

#[derive(Clone, Debug)]
struct Node {
    alloc: Allocator,
    calls: Vec<Pending>,
    /// Objects that changed since the node last heard.
    dirty: BTreeSet<Key>,
    attachments: Vec<Attachment>,
}

/// The leader takes one empty block from its living owner.
#[derive(Clone, Debug, Default, Hash)]
struct Leader {
    target: Option<(IpNet, Arc<str>, u64)>,
    /// The claim as the leader saw or left it.
    claim: Option<Meta>,
    call: Option<(StoreCall, Step)>,
    done: bool,
}

#[derive(Clone, Debug)]
struct World {
    store: Arc<Memory>,
    nodes: [Arc<Node>; 2],
    /// Calls whose caller is gone or gave up on them; they may land yet.
    ghosts: Vec<(usize, StoreCall)>,
    leader: Leader,
    crashes: u8,
    losses: u8,
    creations: u64,
    warm: u32,
    /// Block → highest number stored.
    numbers: BTreeMap<IpNet, u64>,
}

/// What is explored.
#[derive(Clone, Copy)]
struct Script {
    name: &'static str,
    /// Attachments of each node, and whether each is detached in the end.
    attachments: [&'static [bool]; 2],
    crashes: u8,
    losses: u8,
    leader: bool,
    /// The store begins with both blocks owned by node `a`, one address held in the first.
    all_owned: bool,
    /// Addresses each node keeps ready.
    warm: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Start(usize, usize),
    Detach(usize, usize),
    Carry(usize, usize),
    Reply(usize, usize),
    Deliver(usize),
    Scan(usize),
    Ghost(usize),
    Bury(usize),
    LeaderPicks(usize),
    LeaderReads,
    LeaderActs,
    // Faults.
    Crash(usize),
    LoseAnswer(usize, usize),
    LoseCall(usize, usize),
}

impl Action {
    fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Crash(_) | Self::LoseAnswer(..) | Self::LoseCall(..)
        )
    }
}

fn blocks() -> [IpNet; 2] {
    [net("10.0.0.0/31"), net("10.0.0.2/31")]
}

fn settings() -> Settings {
    Settings {
        backoff: Duration::ZERO,
        lost_hold: Duration::ZERO,
        // Handle objects and spare blocks have their own tests.
        handle_delay: Duration::from_secs(1 << 40),
        empty_hold: Duration::from_secs(1 << 40),
        ..Settings::default()
    }
}

fn handle(n: usize, r: usize) -> String {
    format!("{}{r}", NAMES[n])
}

fn add_id(r: usize) -> RequestId {
    RequestId(r as u64)
}

fn del_id(r: usize) -> RequestId {
    RequestId(100 + r as u64)
}

impl World {
    fn new(script: Script) -> Self {
        let mut store = Memory::new();
        if script.all_owned {
            let owner: Arc<str> = Arc::from(NAMES[0]);
            for cidr in blocks() {
                let mut block = ipam::block::Block::try_new(
                    cidr,
                    ipam::block::Owner::Host(Arc::clone(&owner)),
                    START,
                    0,
                )
                .unwrap();
                if cidr == blocks()[0] {
                    let entry = ipam::block::Attribute::new(
                        "old",
                        [("node".to_owned(), "a".to_owned())].into(),
                    );
                    block.take(&entry, |_| false);
                }
                store.put(Object::Block(Box::new(block)));
                store.put(Object::Affinity(affinity::Affinity::new(
                    &owner,
                    cidr,
                    Claim::Confirmed,
                )));
            }
        }
        let node = |n: usize| {
            let attachments = vec![Attachment::Waiting; script.attachments[n].len()];
            Arc::new(Node {
                alloc: Allocator::new(NAMES[n], settings()),
                calls: Vec::new(),
                dirty: BTreeSet::new(),
                attachments,
            })
        };
        let mut world = Self {
            store: Arc::new(store),
            nodes: [node(0), node(1)],
            ghosts: Vec::new(),
            leader: Leader {
                done: !script.leader,
                ..Leader::default()
            },
            crashes: script.crashes,
            losses: script.losses,
            creations: 1,
            warm: script.warm,
            numbers: BTreeMap::new(),
        };
        for n in 0..2 {
            world.boot(n);
        }
        world
    }

    fn now(&self) -> Time {
        // Time passes with every block created, so that numbers of two lives of a block differ.
        Time::from_nanos(START.as_nanos() + self.creations * 1000)
    }

    /// Starts a node from the store alone, then lets it pay what its journal owes.
    fn boot(&mut self, n: usize) {
        let events = self.store.list();
        let node = Arc::make_mut(&mut self.nodes[n]);
        node.alloc = Allocator::new(NAMES[n], settings());
        node.dirty.clear();
        for name in NAMES {
            self.feed(
                n,
                Input::Event(Event::Node(Arc::from(name), Arc::default())),
            );
        }
        self.feed(
            n,
            Input::Event(Event::Pool(Ok(pool("p", "10.0.0.0/30", 31)))),
        );
        let config = Config {
            cooldown: Duration::ZERO,
            warm: self.warm,
            ..Config::default()
        };
        self.feed(n, Input::Event(Event::Config(config)));
        for event in events {
            self.feed(n, Input::Event(event));
        }
        self.feed(n, Input::Event(Event::Synced));
        let living = self.living(n);
        self.feed(n, Input::Living(living));
        for r in 0..self.nodes[n].attachments.len() {
            match self.nodes[n].attachments[r] {
                Attachment::Intent | Attachment::Leaving => {
                    self.set(n, r, Attachment::Leaving);
                    self.detach(n, r, Addresses::OfHandle);
                }
                Attachment::Waiting
                | Attachment::Attached(_)
                | Attachment::Gone
                | Attachment::Failed => {}
            }
        }
    }

    /// What the journal of a node says lives.
    fn living(&self, n: usize) -> Vec<Living> {
        let attached = |(r, attachment): (usize, &Attachment)| match attachment {
            Attachment::Attached(assigned) => Some(Living {
                handle: handle(n, r),
                attributes: [("node".to_owned(), NAMES[n].to_owned())].into(),
                taken: taken(*assigned),
            }),
            Attachment::Waiting
            | Attachment::Intent
            | Attachment::Leaving
            | Attachment::Gone
            | Attachment::Failed => None,
        };
        let attachments = self.nodes[n].attachments.iter().enumerate();
        attachments.filter_map(attached).collect()
    }

    fn set(&mut self, n: usize, r: usize, attachment: Attachment) {
        Arc::make_mut(&mut self.nodes[n]).attachments[r] = attachment;
    }

    fn detach(&mut self, n: usize, r: usize, addresses: Addresses) {
        self.feed(
            n,
            Input::Release(
                del_id(r),
                Release {
                    handle: handle(n, r),
                    addresses,
                },
            ),
        );
    }

    fn feed(&mut self, n: usize, input: Input) {
        let now = self.now();
        let node = Arc::make_mut(&mut self.nodes[n]);
        let mut again = Vec::new();
        for output in node.alloc.handle(input, now) {
            match output {
                Output::Op(id, call) => node.calls.push(Pending {
                    id,
                    call,
                    result: None,
                }),
                Output::Note(_) => {}
                Output::Answer(id, answer) => {
                    let r = usize::try_from(id.0 % 100).unwrap();
                    match (answer, node.attachments.get(r).cloned()) {
                        (Answer::Assign(Ok(assigned)), Some(Attachment::Intent)) => {
                            node.attachments[r] = Attachment::Attached(assigned[0]);
                        }
                        (Answer::Assign(Err(error)), Some(Attachment::Intent)) => {
                            // The caller cannot know whether something was taken.
                            let silent = matches!(error, ipam::AssignError::Unreachable(_));
                            node.attachments[r] = if silent {
                                Attachment::Leaving
                            } else {
                                Attachment::Failed
                            };
                            if silent {
                                again.push(r);
                            }
                        }
                        (Answer::Release(Ok(_)), Some(Attachment::Leaving)) => {
                            node.attachments[r] = Attachment::Gone;
                        }
                        (Answer::Release(Err(_)), Some(Attachment::Leaving)) => again.push(r),
                        (Answer::Release(_), None) => {}
                        (answer, attachment) => panic!("{answer:?} while {attachment:?}"),
                    }
                }
            }
        }
        for r in again {
            self.detach(n, r, Addresses::OfHandle);
        }
    }

    fn carry(&mut self, n: usize, call: &StoreCall) -> Result<StoreReply, StoreError> {
        self.carry_as(NAMES[n], call)
    }

    fn carry_as(&mut self, who: &str, call: &StoreCall) -> Result<StoreReply, StoreError> {
        let store = Arc::make_mut(&mut self.store);
        let result = store.carry_out(who, call, Fault::None);
        if let Err(StoreError::Denied(why)) = &result {
            panic!("a node oversteps its rights: {why}");
        }
        let key = match call {
            StoreCall::Get(_) => return result,
            StoreCall::Create(object) | StoreCall::Swap(object, _) => object.key(),
            StoreCall::Remove(key, _) => key.clone(),
        };
        if result.is_ok() {
            if let (StoreCall::Create(_), Key::Block(_)) = (call, &key) {
                self.creations += 1;
            }
            if let Key::Block(cidr) = &key
                && let Some(block) = self.store.block(*cidr)
            {
                block.check().unwrap();
                let last = self.numbers.insert(*cidr, block.sequence()).unwrap_or(0);
                assert!(last < block.sequence(), "the number of {cidr} fell");
            }
            for (n, node) in self.nodes.iter_mut().enumerate() {
                let concerns = match &key {
                    Key::Block(_) => true,
                    Key::Affinity(owner, _) => **owner == *NAMES[n],
                    Key::Handle(_) => false,
                };
                if concerns && !node.dirty.contains(&key) {
                    Arc::make_mut(node).dirty.insert(key.clone());
                }
            }
        }
        result
    }

    /// Everything that may happen now.
    fn actions(&self, script: Script, faults: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        for (n, node) in self.nodes.iter().enumerate() {
            if let Some(r) = node
                .attachments
                .iter()
                .position(|a| *a == Attachment::Waiting)
            {
                actions.push(Action::Start(n, r));
            }
            for (r, attachment) in node.attachments.iter().enumerate() {
                if matches!(attachment, Attachment::Attached(_)) && script.attachments[n][r] {
                    actions.push(Action::Detach(n, r));
                }
            }
            for (k, call) in node.calls.iter().enumerate() {
                if call.result.is_some() {
                    actions.push(Action::Reply(n, k));
                    continue;
                }
                actions.push(Action::Carry(n, k));
                if faults && self.losses > 0 {
                    actions.extend([Action::LoseAnswer(n, k), Action::LoseCall(n, k)]);
                }
            }
            // Nobody learns anything from an idle node's watch.
            let idle = script.attachments[n].is_empty() && !script.leader;
            if !node.dirty.is_empty() && !idle {
                actions.push(Action::Deliver(n));
            }
            if self.strays(n).next().is_some() {
                actions.push(Action::Scan(n));
            }
            if faults && self.crashes > 0 {
                actions.push(Action::Crash(n));
            }
        }
        for ghost in 0..self.ghosts.len() {
            actions.extend([Action::Ghost(ghost), Action::Bury(ghost)]);
        }
        actions.extend(self.leader_actions());
        actions
    }

    fn leader_actions(&self) -> Vec<Action> {
        match (&self.leader.target, &self.leader.call) {
            _ if self.leader.done => Vec::new(),
            (None, _) => blocks()
                .iter()
                .enumerate()
                .filter(|(_, cidr)| {
                    self.store
                        .block(**cidr)
                        .is_some_and(|b| b.is_empty() && !b.is_deleted())
                })
                .map(|(b, _)| Action::LeaderPicks(b))
                .collect(),
            (Some(_), None) => vec![Action::LeaderReads],
            (Some(_), Some(_)) => vec![Action::LeaderActs],
        }
    }

    /// Handles the node's index shows that its journal does not know: what the node's own scan releases.
    fn strays(&self, n: usize) -> impl Iterator<Item = String> {
        let node = &self.nodes[n];
        let held: Vec<String> = node.alloc.held().map(|held| held.handle).collect();
        let busy = !node.alloc.is_quiet();
        held.into_iter().filter(move |name| {
            let r = name
                .strip_prefix(NAMES[n])
                .and_then(|r| r.parse::<usize>().ok());
            let known = r.and_then(|r| node.attachments.get(r));
            !busy && *name != "old" && matches!(known, Some(Attachment::Gone | Attachment::Failed))
        })
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Start(n, r) => {
                self.set(n, r, Attachment::Intent);
                let request = Assign {
                    handle: handle(n, r),
                    usage: PoolUse::Workload,
                    wants: vec![Want::any(Family::V4)],
                    namespace_labels: BTreeMap::new(),
                    attributes: [("node".to_owned(), NAMES[n].to_owned())].into(),
                    supersedes: BTreeSet::new(),
                };
                self.feed(n, Input::Assign(add_id(r), request));
            }
            Action::Detach(n, r) => {
                let Attachment::Attached(assigned) = self.nodes[n].attachments[r] else {
                    panic!("attached")
                };
                self.set(n, r, Attachment::Leaving);
                self.detach(n, r, Addresses::Exactly(vec![taken(assigned)]));
            }
            Action::Carry(n, k) => {
                let call = self.nodes[n].calls[k].call.clone();
                let result = self.carry(n, &call);
                Arc::make_mut(&mut self.nodes[n]).calls[k].result = Some(result);
            }
            Action::Reply(n, k) => {
                let pending = Arc::make_mut(&mut self.nodes[n]).calls.remove(k);
                self.feed(n, Input::Reply(pending.id, pending.result.unwrap()));
            }
            Action::Deliver(n) => self.deliver(n),
            Action::Scan(n) => {
                let strays: Vec<String> = self.strays(n).collect();
                for (k, name) in (1000_u64..).zip(strays) {
                    // Ids of the scan name no attachment.
                    let id = RequestId(k * 100 + 99);
                    self.feed(
                        n,
                        Input::Release(
                            id,
                            Release {
                                handle: name,
                                addresses: Addresses::OfHandle,
                            },
                        ),
                    );
                }
            }
            Action::Ghost(g) => {
                let (n, call) = self.ghosts.remove(g);
                let _nobody_waits = self.carry(n, &call);
            }
            Action::Bury(g) => {
                self.ghosts.remove(g);
            }
            Action::LeaderPicks(_) | Action::LeaderReads | Action::LeaderActs => self.lead(action),
            Action::Crash(n) => {
                self.crashes -= 1;
                let calls = std::mem::take(&mut Arc::make_mut(&mut self.nodes[n]).calls);
                let unsent = calls.into_iter().filter(|pending| pending.result.is_none());
                self.ghosts.extend(
                    unsent
                        .filter(|p| crate::sim::is_write(&p.call))
                        .map(|pending| (n, pending.call)),
                );
                self.boot(n);
            }
            Action::LoseAnswer(n, k) => {
                self.losses -= 1;
                let pending = Arc::make_mut(&mut self.nodes[n]).calls.remove(k);
                let _lost = self.carry(n, &pending.call);
                self.feed(
                    n,
                    Input::Reply(pending.id, Err(StoreError::Unknown("lost".to_owned()))),
                );
            }
            Action::LoseCall(n, k) => {
                self.losses -= 1;
                let pending = Arc::make_mut(&mut self.nodes[n]).calls.remove(k);
                if crate::sim::is_write(&pending.call) {
                    self.ghosts.push((n, pending.call));
                }
                self.feed(
                    n,
                    Input::Reply(pending.id, Err(StoreError::Unknown("lost".to_owned()))),
                );
            }
        }
    }

    fn deliver(&mut self, n: usize) {
        let dirty = std::mem::take(&mut Arc::make_mut(&mut self.nodes[n]).dirty);
        for key in dirty {
            let event = match (&key, self.store.get(&key)) {
                (Key::Block(cidr), None) => Event::BlockGone(*cidr, None),
                (Key::Affinity(owner, cidr), None) => {
                    Event::AffinityGone(Arc::clone(owner), *cidr, None)
                }
                (_, Some(stored)) => match &stored.value {
                    Object::Block(block) => Event::Block(Box::new(ipam::store::Stored {
                        meta: stored.meta.clone(),
                        value: (**block).clone(),
                    })),
                    Object::Affinity(affinity) => Event::Affinity(Box::new(ipam::store::Stored {
                        meta: stored.meta.clone(),
                        value: affinity.clone(),
                    })),
                    Object::Handle(_) => continue,
                },
                (Key::Handle(_), None) => continue,
            };
            self.feed(n, Input::Event(event));
        }
    }

    /// R1 to R4 by the leader, from a living owner: it passes on the number it saw and gives way on any other.
    fn lead(&mut self, action: Action) {
        if let Action::LeaderPicks(b) = action {
            let block = self.store.block(blocks()[b]).unwrap();
            let Some(ipam::block::Owner::Host(owner)) = block.owner() else {
                self.leader.done = true;
                return;
            };
            let target = (block.cidr(), Arc::clone(owner), block.sequence());
            let claim = Key::Affinity(Arc::clone(&target.1), target.0);
            self.leader.claim = self.store.get(&claim).map(|stored| stored.meta.clone());
            self.leader.target = Some(target);
            return;
        }
        let Some((cidr, owner, seen)) = self.leader.target.clone() else {
            return;
        };
        if let Some((call, step)) = self.leader.call.take() {
            let result = self.carry_as(&owner, &call);
            match (result, step) {
                (Err(_), _) => self.leader.done = true,
                (Ok(_), Step::SoftDeleteBlock) => {
                    self.leader.target = Some((cidr, owner, seen + 1));
                }
                (
                    Ok(StoreReply::Object(stored)),
                    Step::SwapAffinity(_) | Step::SoftDeleteAffinity,
                ) => {
                    self.leader.claim = Some(stored.meta);
                }
                (Ok(_), Step::RemoveAffinity) => self.leader.claim = None,
                (Ok(_), _) => {}
            }
            return;
        }
        let block = self.store.get(&Key::Block(cidr)).cloned();
        let claim = self
            .store
            .get(&Key::Affinity(Arc::clone(&owner), cidr))
            .cloned();
        let whole = self.store.block(cidr);
        // Whatever changed since is the owner's will: give way.
        let claimed_anew = claim
            .as_ref()
            .is_some_and(|claim| Some(&claim.meta) != self.leader.claim.as_ref());
        if claimed_anew || whole.is_some_and(|block| block.sequence() != seen) {
            self.leader.done = true;
            return;
        }
        let row = claim.as_ref().and_then(|stored| match &stored.value {
            Object::Affinity(affinity) => Some(affinity.clone()),
            Object::Block(_) | Object::Handle(_) => None,
        });
        let step = affinity::next(
            BlockView::of(&owner, whole),
            AffinityView::of(row.as_ref()),
            Goal::GiveUp,
        );
        let swap_row = |change: fn(&mut affinity::Affinity)| {
            let mut row = row.clone().unwrap();
            change(&mut row);
            StoreCall::Swap(Object::Affinity(row), claim.clone().unwrap().meta)
        };
        let call = match step {
            Step::SwapAffinity(Claim::PendingDeletion) => {
                swap_row(|row| row.state = Claim::PendingDeletion)
            }
            Step::SoftDeleteAffinity => swap_row(|row| row.deleted = true),
            Step::RemoveAffinity => {
                StoreCall::Remove(Key::Affinity(owner, cidr), claim.unwrap().meta)
            }
            Step::SoftDeleteBlock => {
                let mut changed = whole.unwrap().clone();
                changed.soft_delete();
                changed.seal();
                StoreCall::Swap(Object::Block(Box::new(changed)), block.unwrap().meta)
            }
            Step::RemoveBlock => StoreCall::Remove(Key::Block(cidr), block.unwrap().meta),
            _ => {
                self.leader.done = true;
                return;
            }
        };
        self.leader.call = Some((call, step));
    }

    /// What holds in every state.
    fn check(&self) {
        let mut addresses = BTreeSet::new();
        for node in &self.nodes {
            for (r, attachment) in node.attachments.iter().enumerate() {
                let Attachment::Attached(assigned) = attachment else {
                    continue;
                };
                assert!(
                    addresses.insert(assigned.address),
                    "two owners of {}",
                    assigned.address
                );
                let block = self
                    .store
                    .block(assigned.block)
                    .expect("the block of an answered address is stored");
                let holder = block
                    .holder(assigned.ordinal)
                    .expect("an answered address is held");
                // What was kept ready is answered before its entry bears the name; a late write may have put an older one.
                assert!(
                    self.warm > 0 || holder.handle().is_some_and(|h| h.ends_with(&r.to_string())),
                    "attachment {r}: {holder:?}"
                );
                assert_eq!(block.sequence_of(assigned.ordinal), assigned.sequence);
                assert_eq!(
                    holder.owner.get("node").map(String::as_str),
                    Some(node.alloc.index().node().as_ref())
                );
                assert!(!block.is_deleted());
            }
        }
    }

    /// What holds at rest.
    fn check_rest(&self, script: Script) {
        let mut expected: BTreeMap<std::net::IpAddr, String> = BTreeMap::new();
        for (n, node) in self.nodes.iter().enumerate() {
            assert!(node.calls.is_empty(), "rest");
            for (r, attachment) in node.attachments.iter().enumerate() {
                match attachment {
                    Attachment::Attached(assigned) => {
                        drop(expected.insert(assigned.address, handle(n, r)));
                    }
                    Attachment::Gone => {}
                    Attachment::Failed if script.all_owned => {}
                    other => panic!("attachment {r} of {n} rests as {other:?}"),
                }
            }
        }
        if script.all_owned {
            expected.insert("10.0.0.0".parse().unwrap(), "old".to_owned());
        }
        let mut held = BTreeMap::new();
        let mut owners: BTreeMap<IpNet, String> = BTreeMap::new();
        for block in self.store.blocks() {
            assert!(!block.is_deleted(), "{} rests soft-deleted", block.cidr());
            let warm = block
                .held()
                .filter(|(_, entry)| entry.handle().unwrap().starts_with("margay-warm-"));
            assert!(
                warm.count() <= self.warm as usize,
                "more is kept than wanted"
            );
            let named = block
                .held()
                .filter(|(_, entry)| !entry.handle().unwrap().starts_with("margay-warm-"));
            for (ordinal, entry) in named {
                held.insert(
                    block.address(ordinal).unwrap(),
                    entry.handle().unwrap().to_owned(),
                );
            }
            if let Some(ipam::block::Owner::Host(node)) = block.owner() {
                owners.insert(block.cidr(), node.to_string());
            }
        }
        assert_eq!(held, expected, "leak or loss");
        let mut claims = BTreeMap::new();
        for (_, stored) in self.store.objects() {
            if let Object::Affinity(claim) = &stored.value {
                assert!(
                    !claim.deleted && claim.state == Claim::Confirmed,
                    "{claim:?} at rest"
                );
                assert!(
                    claims.insert(claim.cidr, claim.node.to_string()).is_none(),
                    "two claims on {}",
                    claim.cidr
                );
            }
        }
        assert_eq!(claims, owners);
    }

    fn fingerprint(&self) -> u64 {
        let mut state = DefaultHasher::new();
        self.store
            .objects()
            .for_each(|object| object.hash(&mut state));
        for node in &self.nodes {
            node.alloc.fingerprint(&mut state);
            for pending in &node.calls {
                pending.call.hash(&mut state);
                pending.result.hash(&mut state);
            }
            node.dirty.hash(&mut state);
            node.attachments.hash(&mut state);
        }
        let mut ghosts: Vec<_> = self.ghosts.clone();
        ghosts.sort_by_key(|(n, call)| (*n, format!("{call:?}")));
        ghosts.hash(&mut state);
        self.leader.hash(&mut state);
        (self.crashes, self.losses, self.creations).hash(&mut state);
        state.finish()
    }
}

/// Walks every state; returns how many there were.
fn explore(script: Script) -> usize {
    let first = World::new(script);
    let mut known: HashMap<u64, u32> = HashMap::from([(first.fingerprint(), 0)]);
    let mut stack = vec![(0_u32, first)];
    // Steps without faults: the ways a world may go by itself.
    let mut ways: Vec<(u32, u32)> = Vec::new();
    let mut rests = 0_usize;
    let mut trail: Vec<(u32, Option<Action>)> = vec![(0, None)];
    while let Some((id, world)) = stack.pop() {
        let actions = world.actions(script, true);
        let rest = actions.iter().all(|action| action.is_fault());
        told(&trail, id, None, || {
            world.check();
            if rest {
                world.check_rest(script);
            }
        });
        rests += usize::from(rest);
        for action in actions {
            let mut next = world.clone();
            told(&trail, id, Some(action), || next.perform(action));
            let fresh = u32::try_from(known.len()).unwrap();
            assert!(
                fresh < MOST,
                "{}: more states than are worth walking",
                script.name
            );
            let next_id = *known.entry(next.fingerprint()).or_insert(fresh);
            if !action.is_fault() {
                ways.push((id, next_id));
            }
            if next_id == fresh {
                trail.push((id, Some(action)));
                stack.push((fresh, next));
            }
        }
    }
    assert!(rests > 0);
    assert!(
        ends(known.len(), &ways),
        "{}: a way goes on for ever",
        script.name
    );
    println!(
        "{}: {} states, {} ways, {rests} rests",
        script.name,
        known.len(),
        ways.len()
    );
    known.len()
}

/// Does something; when it fails, tells the way that led there first.
fn told(trail: &[(u32, Option<Action>)], id: u32, last: Option<Action>, work: impl FnOnce()) {
    if let Err(failure) = catch_unwind(AssertUnwindSafe(work)) {
        let mut way = vec![last];
        let mut at = id;
        while at != 0 {
            let (parent, action) = trail[at as usize];
            way.push(action);
            at = parent;
        }
        let way: Vec<Action> = way.into_iter().rev().flatten().collect();
        println!("the way there: {way:?}");
        resume_unwind(failure);
    }
}

/// Whether every way comes to an end: no circle among the steps without faults.
fn ends(states: usize, ways: &[(u32, u32)]) -> bool {
    let mut sorted = ways.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut incoming = vec![0_u32; states];
    for (_, to) in &sorted {
        incoming[*to as usize] += 1;
    }
    let mut open: Vec<u32> = (0..)
        .zip(&incoming)
        .filter(|(_, n)| **n == 0)
        .map(|(id, _)| id)
        .collect();
    let mut seen = 0;
    while let Some(id) = open.pop() {
        seen += 1;
        let from = sorted.partition_point(|(a, _)| *a < id);
        for (_, to) in sorted[from..].iter().take_while(|(a, _)| *a == id) {
            incoming[*to as usize] -= 1;
            if incoming[*to as usize] == 0 {
                open.push(*to);
            }
        }
    }
    seen == states
}

const LEAVE_AND_KEEP: &[bool] = &[true, false];
const KEEP: &[bool] = &[false];
const LEAVE: &[bool] = &[true];
const TWO: &[bool] = &[false, false];

const BASE: Script = Script {
    name: "",
    attachments: [KEEP, KEEP],
    crashes: 0,
    losses: 0,
    leader: false,
    all_owned: false,
    warm: 0,
};

#[test]
fn two_requests_of_each_node_race_for_all_there_is() {
    explore(Script {
        name: "full race",
        attachments: [TWO, TWO],
        ..BASE
    });
}

#[test]
fn two_nodes_race_for_blocks() {
    explore(Script {
        name: "race",
        attachments: [TWO, KEEP],
        ..BASE
    });
}

#[test]
fn a_node_dies_at_every_point_of_add_and_del() {
    explore(Script {
        name: "crash",
        attachments: [LEAVE, KEEP],
        crashes: 1,
        ..BASE
    });
}

#[test]
fn a_node_dies_with_two_requests_in_one_write() {
    explore(Script {
        name: "two requests and crash",
        attachments: [TWO, &[]],
        crashes: 1,
        ..BASE
    });
}

#[test]
fn both_nodes_come_and_go() {
    explore(Script {
        name: "add and del on both",
        attachments: [LEAVE, LEAVE],
        ..BASE
    });
}

#[test]
fn two_deaths_or_a_death_and_a_lost_answer_are_repaired() {
    explore(Script {
        name: "two crashes",
        attachments: [LEAVE, &[]],
        crashes: 2,
        ..BASE
    });
    explore(Script {
        name: "crash and loss",
        attachments: [LEAVE, &[]],
        crashes: 1,
        losses: 1,
        ..BASE
    });
}

#[test]
fn an_answer_is_lost_or_a_call_lands_late_at_every_point() {
    explore(Script {
        name: "loss",
        attachments: [LEAVE, KEEP],
        losses: 1,
        ..BASE
    });
}

#[test]
fn borrowing_beside_the_owner_survives_a_crash() {
    explore(Script {
        name: "borrow",
        attachments: [KEEP, LEAVE],
        crashes: 1,
        all_owned: true,
        ..BASE
    });
}

#[test]
fn addresses_kept_ready_have_one_owner_through_deaths_and_late_writes() {
    explore(Script {
        name: "warm",
        attachments: [TWO, KEEP],
        warm: 1,
        ..BASE
    });
    let base = Script {
        warm: 1,
        all_owned: true,
        ..BASE
    };
    explore(Script {
        name: "warm and crash",
        attachments: [LEAVE_AND_KEEP, &[]],
        crashes: 1,
        ..base
    });
    explore(Script {
        name: "warm and loss",
        attachments: [LEAVE_AND_KEEP, &[]],
        losses: 1,
        ..base
    });
}

#[test]
fn the_leader_takes_an_empty_block_from_a_living_owner() {
    let base = Script {
        leader: true,
        all_owned: true,
        ..BASE
    };
    explore(Script {
        name: "leader and owner",
        attachments: [KEEP, &[]],
        ..base
    });
    explore(Script {
        name: "leader and borrower",
        attachments: [&[], KEEP],
        ..base
    });
}
