//! The allocator of one node: the only writer of that node's intents. Sans-IO.
//!
//! ```text
//!             Assign, Release, Cancel            Event (watches)
//!                      │                              │
//!                      ▼                              ▼
//!   job ──place──► lane per block ◄──asks── index ◄──learns── reply
//!    ▲                 │  one call in flight                    ▲
//!    │                 ▼                                        │
//!  Answer ◄──land── Op(CallId, StoreCall) ··· store ··· Reply(CallId, …)
//! ```
//!
//! A *job* is a request; a *lane* is all work on one block. While a call of a lane is in flight everything else for
//! that block queues, and goes as one next swap: group commit. What a lane does next is decided from what is stored
//! ([`affinity::next`]) and what is queued, never from what was done before. So a lost answer is read back, and an
//! address already under the request's handle *is* the answer.
//!
//! The allocator owns no clock, no randomness and no task: the same inputs give the same outputs.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::affinity::{self, Goal};
use crate::index::{Event, Index};
use crate::request::{Answer, Assign, Release, RequestId};
use crate::store::{CallId, StoreCall, StoreError, StoreReply};
use crate::time::Time;

mod choose;
mod job;
mod lane;
mod ledger;
mod place;
mod reply;
mod review;
mod warm;

use job::Job;
use lane::Lane;
use ledger::Ledger;
use warm::Warm;

pub use warm::Living;

/// Numbers an allocator works with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Blocks written at the same time.
    pub parallel: usize,
    /// Conflicts after which a request goes to another block.
    pub rounds: u32,
    /// Calls without an answer after which a request fails.
    pub silences: u32,
    /// First pause after a repeated conflict or a silence; doubles, with jitter.
    pub backoff: Duration,
    /// How long a block somebody else just claimed is left alone.
    pub lost_hold: Duration,
    /// How long a spare block must stay empty before it is given up.
    pub empty_hold: Duration,
    /// How late handle objects may be written.
    pub handle_delay: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            parallel: 4,
            rounds: 8,
            silences: 3,
            backoff: Duration::from_millis(5),
            lost_hold: Duration::from_secs(1),
            empty_hold: Duration::from_mins(15),
            handle_delay: Duration::from_millis(500),
            seed: 0,
        }
    }
}

/// What goes in.
#[derive(Clone, Debug)]
pub enum Input {
    /// The cluster changed.
    Event(Event),
    /// Addresses are wanted.
    Assign(RequestId, Assign),
    /// Addresses are given back.
    Release(RequestId, Release),
    /// The caller of an [`Assign`] went away: what it got or gets is given back.
    Cancel(RequestId),
    /// The journal was read: these addresses live. Nothing is lent from the warm ones before.
    Living(Vec<Living>),
    /// A call was carried out.
    Reply(CallId, Result<StoreReply, StoreError>),
    /// Time passed ([`Allocator::next_deadline`]).
    Tick,
}

/// What comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Carry this out and feed the reply back.
    Op(CallId, StoreCall),
    /// The answer to a request; exactly one each.
    Answer(RequestId, Answer),
    /// Something worth a log line or a metric.
    Note(Note),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A write of a block landed, with so many takes and gives in it.
    Landed {
        /// The block.
        block: IpNet,
        /// Takes and gives it carried.
        batch: usize,
    },
    /// Another write of the block came first.
    Conflict {
        /// The block.
        block: IpNet,
    },
    /// A block is this node's now.
    Claimed {
        /// The block.
        block: IpNet,
    },
    /// Somebody else claimed the block first.
    Lost {
        /// The block.
        block: IpNet,
    },
    /// A block or claim of this node is gone.
    GivenUp {
        /// The block.
        block: IpNet,
    },
    /// A release found another owner and changed nothing.
    NotOurs {
        /// The handle that released.
        handle: String,
        /// The block.
        block: IpNet,
        /// The place in the block.
        ordinal: u32,
    },
    /// The server dropped `releasedAt` (an older CRD is served): addresses do not rest any more.
    CooldownUnsupported,
    /// A call failed; it is repeated or its requests fail.
    Failed {
        /// What it was about.
        what: String,
        /// Why.
        why: StoreError,
    },
}

/// Whom a reply is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Lane(IpNet),
    Handle(Arc<str>),
}

/// The allocator of one node.
#[derive(Clone, Debug)]
pub struct Allocator {
    settings: Settings,
    index: Index,
    jobs: BTreeMap<RequestId, Job>,
    /// Releases by handle that wait for a request of that handle to end.
    behind: BTreeMap<RequestId, Vec<(RequestId, Release)>>,
    lanes: BTreeMap<IpNet, Lane>,
    ledger: Ledger,
    warm: Warm,
    calls: BTreeMap<CallId, Caller>,
    /// Takes that wait for a block: (request, part) → when to look again.
    waiting: BTreeMap<(RequestId, usize), Time>,
    /// Blocks somebody else just claimed: block → until when they are left alone.
    lost: BTreeMap<IpNet, Time>,
    /// Spare own blocks: block → empty since.
    empty_since: BTreeMap<IpNet, Time>,
    /// The server drops `releasedAt`: nothing may rest.
    no_cooldown: bool,
    next_call: u64,
    random: u64,
    out: Vec<Output>,
}

impl Allocator {
    /// An allocator for the node of this name, which knows nothing yet.
    pub fn new(node: &str, settings: Settings) -> Self {
        Self {
            random: settings.seed,
            settings,
            index: Index::new(Arc::from(node)),
            jobs: BTreeMap::new(),
            behind: BTreeMap::new(),
            lanes: BTreeMap::new(),
            ledger: Ledger::default(),
            warm: Warm::new(node),
            calls: BTreeMap::new(),
            waiting: BTreeMap::new(),
            lost: BTreeMap::new(),
            empty_since: BTreeMap::new(),
            no_cooldown: false,
            next_call: 0,
            out: Vec::new(),
        }
    }

    /// What the allocator knows.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Takes one input; returns what to do about it, in order.
    pub fn handle(&mut self, input: Input, now: Time) -> Vec<Output> {
        match input {
            Input::Event(event) => self.event(event, now),
            Input::Assign(id, request) => self.assign(id, request, now),
            Input::Release(id, request) => self.release(id, request),
            Input::Cancel(id) => self.cancel(id),
            Input::Living(living) => self.living(living),
            Input::Reply(call, reply) => self.reply(call, reply, now),
            Input::Tick => self.tick(now),
        }
        self.restock(now);
        self.pump(now);
        std::mem::take(&mut self.out)
    }

    /// When to send [`Input::Tick`], if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Time> {
        let lanes = self.lanes.values().filter_map(Lane::wakes_at);
        let waiting = self.waiting.values().copied();
        let spare = self
            .empty_since
            .values()
            .map(|since| since.plus(self.settings.empty_hold));
        lanes
            .chain(waiting)
            .chain(spare)
            .chain(self.ledger.next_deadline())
            .min()
    }

    /// Whether nothing is in flight or queued, handle objects aside.
    pub fn is_quiet(&self) -> bool {
        self.jobs.is_empty() && self.lanes.is_empty()
    }

    /// Whether nothing is in flight, queued or owed.
    pub fn is_idle(&self) -> bool {
        self.is_quiet() && self.ledger.is_idle()
    }

    /// Hashes what decides the future, for walks through a state space under one configuration: pools, nodes, settings
    /// and the numbers of calls are left out.
    pub fn fingerprint(&self, state: &mut impl Hasher) {
        self.index.fingerprint(state);
        self.jobs.hash(state);
        self.behind.keys().for_each(|id| id.hash(state));
        self.lanes.hash(state);
        self.ledger.hash(state);
        self.warm.hash(state);
        self.calls.values().for_each(|caller| caller.hash(state));
        self.waiting.hash(state);
        self.lost.hash(state);
        self.empty_since.hash(state);
        self.no_cooldown.hash(state);
    }

    fn event(&mut self, event: Event, now: Time) {
        let wide = match &event {
            Event::Synced => {
                self.index.apply(event);
                self.start(now);
                self.warm.touch();
                return;
            }
            Event::Node(name, _) => name == self.index.node(),
            Event::Pool(_) | Event::PoolGone(_) | Event::Config(_) => true,
            Event::Reservation(..)
            | Event::NodeGone(_)
            | Event::Block(_)
            | Event::BrokenBlock(_)
            | Event::BlockGone(..)
            | Event::Affinity(_)
            | Event::AffinityGone(..) => false,
        };
        if matches!(event, Event::Reservation(..)) {
            self.warm.touch();
        }
        if let Some(block) = self.index.apply(event) {
            self.settle(block);
            self.block_changed(block);
        }
        if wide {
            self.warm.touch();
            self.review();
        }
    }

    fn tick(&mut self, now: Time) {
        self.lost.retain(|_, until| *until > now);
        let due: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(part, _)| *part)
            .collect();
        for (id, part) in due {
            self.waiting.remove(&(id, part));
            self.place(id, part, now);
        }
        self.give_up_spare(now);
    }

    /// Lets every lane that may act do its next step.
    fn pump(&mut self, now: Time) {
        // A step may open lanes (a take moves on) or wake them, so repeat until nothing moves.
        loop {
            let ready: BTreeSet<IpNet> = self
                .lanes
                .iter()
                .filter(|(_, lane)| lane.is_ready(now))
                .map(|(block, _)| *block)
                .collect();
            let mut moved = false;
            for block in ready {
                let flying = self.lanes.values().filter(|lane| lane.is_flying()).count();
                if flying >= self.settings.parallel {
                    break;
                }
                moved |= self.step(block, now);
            }
            if !moved {
                break;
            }
        }
        self.pump_ledger(now);
    }

    /// Sends a call for a lane or a handle object.
    fn call(&mut self, caller: Caller, call: StoreCall) {
        let id = CallId(self.next_call);
        self.next_call += 1;
        self.calls.insert(id, caller);
        self.out.push(Output::Op(id, call));
    }

    fn note(&mut self, note: Note) {
        self.out.push(Output::Note(note));
    }

    /// How long a released address rests.
    fn cooldown(&self) -> Duration {
        if self.no_cooldown {
            Duration::ZERO
        } else {
            self.index.config().cooldown
        }
    }

    /// A pause after the `round`-th failure: doubles up to 30 s, a random half of it.
    fn pause(&mut self, round: u32) -> Duration {
        let full = self
            .settings
            .backoff
            .saturating_mul(1 << round.min(16))
            .min(Duration::from_secs(30));
        // SplitMix64: enough for jitter, and a function of the seed alone.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let share = u32::try_from((z ^ (z >> 31)) >> 33).unwrap_or(0) >> 16;
        full / 2 + (full / 2) * share / (1 << 16)
    }

    /// Opens the lane of a block, keeping the block whole in the index meanwhile.
    fn lane(&mut self, block: IpNet) -> &mut Lane {
        self.index.pin(block);
        self.lanes.entry(block).or_default()
    }

    /// Closes the lane of a block if it has nothing left to do.
    fn close_if_done(&mut self, block: IpNet) -> bool {
        let done = self.lanes.get(&block).is_some_and(Lane::is_done);
        if done && !self.is_settled(block) && self.lanes.get(&block).is_some_and(Lane::may_settle) {
            // Something changed while the lane was busy with something else.
            self.aim(block, Goal::Settle);
            return false;
        }
        if done {
            self.lanes.remove(&block);
            self.index.unpin(block);
        }
        done
    }

    /// Gives a lane a goal unless it has work that stands against it.
    fn aim(&mut self, block: IpNet, goal: Goal) {
        self.lane(block).aim(goal);
    }

    /// The next step of the claim protocol for a block.
    fn protocol(&self, block: IpNet, goal: Goal) -> affinity::Step {
        let (stored, claim) = self.index.views(block);
        affinity::next(stored, claim, goal)
    }
}
