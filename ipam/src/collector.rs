//! What the leader frees for others: addresses nobody holds, and everything of nodes that are gone.
//!
//! Two phases and a veto, because a collector that trusts one list frees live addresses one day:
//!
//! ```text
//!  lists ─► doubt ─► mark ─► the node is asked ─► grace ─► read anew: block, pod, node ─► swap
//!           (judge)          (mine: kept)          (decide)  (whoever carries it out)
//! ```
//!
//! Pure: [`Collector::look`] takes what the watches show and returns orders; the caller writes questions, verifies against the API
//! server itself and swaps. A leader that dies loses its marks, so everything waits anew; nothing else depends on it.

mod decide;
mod doubt;
mod errand;
mod repair;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::affinity::Affinity;
use crate::block::{Block, Owner};
use crate::handle::Handle;
use crate::store::Stored;
use crate::time::Time;

pub use decide::{Act, Answer, Case, NodeState, decide};
pub use doubt::{Doubt, doubt};
pub use errand::{Errand, Found, Need, Proof};
pub use repair::Repair;

/// Waits and limits of the collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an address of a living node stays in doubt before it is freed (`leakGracePeriod`); zero = it never is.
    pub leak_grace: Duration,
    /// How long a Node must be gone before what it had is freed.
    pub gone_grace: Duration,
    /// How long a node's Lease must stand still before its daemon counts as gone.
    pub silence: Duration,
    /// How long a doubt waits before the node is asked: its own scan comes first.
    pub ask_after: Duration,
    /// How long an unanswered question stands, and how long the answer "mine" counts.
    pub ask_again: Duration,
    /// How long a handle object stays wrong before it is set right.
    pub handle_grace: Duration,
    /// Questions to one node at once.
    pub questions: usize,
    /// Addresses freed in one look.
    pub rate: usize,
    /// How long nothing is freed after objects vanished in mass.
    pub hold: Duration,
    /// How long a released address rests.
    pub cooldown: Duration,
}

impl Settings {
    /// How long an address of a dead node rests: it has rested already while the node was silent.
    fn rest_of_dead(&self) -> Duration {
        if self.silence >= self.cooldown {
            Duration::ZERO
        } else {
            self.cooldown
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leak_grace: Duration::from_mins(15),
            gone_grace: Duration::from_secs(40),
            silence: Duration::from_secs(40),
            ask_after: Duration::from_mins(1),
            ask_again: Duration::from_mins(5),
            handle_grace: Duration::from_mins(1),
            questions: 64,
            rate: 200,
            hold: Duration::from_mins(1),
            cooldown: Duration::from_secs(u64::from(api::ipamconfig::DEFAULT_COOLDOWN_SECONDS)),
        }
    }
}

/// A pod, as far as addresses go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSeen {
    /// Node it is bound to.
    pub node: Option<Arc<str>>,
    /// Addresses of its status.
    pub addresses: Vec<IpAddr>,
    /// Succeeded or failed.
    pub finished: bool,
    /// Uses the node's own addresses.
    pub host_network: bool,
}

/// The Lease of a node's daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// When this leader saw it renewed, by the leader's clock: clocks of nodes are not compared.
    pub heard: Time,
    /// `renewTime` as it stands there.
    pub stamp: Arc<str>,
}

/// What the leader's watches show.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Blocks by CIDR.
    pub blocks: BTreeMap<IpNet, Stored<Block>>,
    /// Blocks that do not decode, and why.
    pub broken: BTreeMap<IpNet, String>,
    /// Affinities by node and block.
    pub affinities: BTreeMap<(Arc<str>, IpNet), Stored<Affinity>>,
    /// Handles by object name.
    pub handles: BTreeMap<Arc<str>, Stored<Handle>>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<(Arc<str>, Arc<str>), PodSeen>,
    /// Names of Nodes.
    pub nodes: BTreeSet<Arc<str>>,
    /// Leases of the nodes' daemons.
    pub signs: BTreeMap<Arc<str>, Sign>,
    /// Every kind has listed.
    pub whole: bool,
}

/// One allocation: an address, who took it, and the number it was taken under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spot {
    /// The handle.
    pub handle: Arc<str>,
    /// The block.
    pub block: IpNet,
    /// Its place in the block.
    pub ordinal: u32,
    /// The number it was taken under.
    pub sequence: u64,
}

/// An allocation to free, and what must still be true then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Which.
    pub spot: Spot,
    /// Why.
    pub doubt: Doubt,
    /// The node its entry names.
    pub node: Arc<str>,
    /// Namespace and name of the pod its entry names.
    pub pod: Option<(Arc<str>, Arc<str>)>,
}

/// Questions to one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Pairs questions with their answer; never repeats.
    pub id: u64,
    /// What the node shall say "mine" to, or not.
    pub spots: Vec<Spot>,
}

/// What to do after a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Questions, by node.
    pub ask: BTreeMap<Arc<str>, Ask>,
    /// Allocations to free once verified, all of a handle together.
    pub free: Vec<Suspect>,
    /// Blocks, affinities and handles to set right.
    pub repair: Vec<Repair>,
    /// Nodes of which nothing is left: their Lease may go.
    pub forget: Vec<Arc<str>>,
    /// Why nothing is done now.
    pub held: Option<&'static str>,
}

#[derive(Clone, Debug)]
struct Mark {
    since: Time,
    suspect: Suspect,
    answer: Option<(Answer, Time)>,
}

/// The leader's memory between two looks.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    settings: Settings,
    marks: BTreeMap<Spot, Mark>,
    /// Nodes that own or hold something and have no Node object: since when.
    gone: BTreeMap<Arc<str>, Time>,
    /// Handle objects that are not as the blocks say: since when.
    crooked: BTreeMap<Arc<str>, Time>,
    /// Node → questions it has, and since when.
    asked: BTreeMap<Arc<str>, (Ask, Time)>,
    /// Nodes and pods at the last look.
    counts: Option<(usize, usize)>,
    held_until: Option<Time>,
}

impl Collector {
    /// A collector that has seen nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// The waits and limits, to follow the cluster's configuration.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Allocations in doubt.
    pub fn doubtful(&self) -> usize {
        self.marks.len()
    }

    /// Takes a node's answer: which of the questions it calls its own, by position. An answer to other questions than the last
    /// is none.
    pub fn answered(&mut self, node: &str, id: u64, mine: &BTreeSet<usize>, now: Time) {
        let Some((ask, _)) = self.asked.get(node).filter(|(ask, _)| ask.id == id) else {
            return;
        };
        for (at, spot) in ask.spots.iter().enumerate() {
            if let Some(mark) = self.marks.get_mut(spot) {
                let answer = if mine.contains(&at) {
                    Answer::Mine
                } else {
                    Answer::Free
                };
                mark.answer = Some((answer, now));
            }
        }
        self.asked.remove(node);
    }

    /// Looks at everything and says what to do now.
    pub fn look(&mut self, view: &View, now: Time) -> Orders {
        if !view.whole {
            *self = Self::new(self.settings.clone());
            return Orders {
                held: Some("not every kind has been listed"),
                ..Orders::default()
            };
        }
        if self.vanished_in_mass(view, now) {
            self.marks.clear();
            self.gone.clear();
            return Orders {
                held: Some("nodes or pods vanished in mass"),
                ..Orders::default()
            };
        }
        self.miss(view, now);
        self.mark(view, now);
        let mut orders = Orders::default();
        self.sentence(view, now, &mut orders);
        self.repairs(view, now, &mut orders);
        orders
    }

    /// Whether more than three in ten, and at least ten, of nodes or pods are gone since the last look: an old snapshot does that.
    fn vanished_in_mass(&mut self, view: &View, now: Time) -> bool {
        let counts = (view.nodes.len(), view.pods.len());
        let shrank = |before: usize, after: usize| {
            let lost = before.saturating_sub(after);
            lost >= 10 && lost * 10 > before * 3
        };
        if let Some((nodes, pods)) = self.counts.replace(counts)
            && (shrank(nodes, counts.0) || shrank(pods, counts.1))
        {
            self.held_until = Some(now.plus(self.settings.hold));
        }
        self.held_until.is_some_and(|until| now < until)
    }

    /// Notes since when nodes are missed that still own or hold something.
    fn miss(&mut self, view: &View, now: Time) {
        let owners = view
            .blocks
            .values()
            .filter_map(|stored| match stored.value.owner() {
                Some(Owner::Host(node)) => Some(Arc::clone(node)),
                Some(Owner::LoadBalancer | Owner::Other(_)) | None => None,
            });
        let claimants = view
            .affinities
            .iter()
            .filter(|(_, stored)| stored.value.kind.as_deref() != Some("virtual"))
            .map(|((node, _), _)| Arc::clone(node));
        let holders = view.blocks.values().flat_map(|stored| {
            let held = stored.value.held();
            held.filter_map(|(_, entry)| entry.owner.get("node"))
                .map(|node| Arc::from(node.as_str()))
        });
        let leases = view.signs.keys().cloned();
        let missed: BTreeSet<Arc<str>> = owners
            .chain(claimants)
            .chain(holders)
            .chain(leases)
            .filter(|node| !view.nodes.contains(node))
            .collect();
        self.gone.retain(|node, _| missed.contains(node));
        for node in missed {
            self.gone.entry(node).or_insert(now);
        }
    }

    /// Marks every allocation in doubt; forgets those that are not any more.
    fn mark(&mut self, view: &View, now: Time) {
        let mut found = BTreeMap::new();
        for stored in view
            .blocks
            .values()
            .filter(|stored| !stored.value.is_deleted())
        {
            for (ordinal, entry) in stored.value.held() {
                if let Some(suspect) = doubt::suspect(&stored.value, ordinal, entry, view) {
                    found.insert(suspect.spot.clone(), suspect);
                }
            }
        }
        self.marks.retain(|spot, _| found.contains_key(spot));
        for (spot, suspect) in found {
            let mark = self.marks.entry(spot).or_insert_with(|| Mark {
                since: now,
                suspect: suspect.clone(),
                answer: None,
            });
            mark.suspect = suspect;
        }
    }

    /// Decides about each mark, all of a handle together.
    fn sentence(&mut self, view: &View, now: Time, orders: &mut Orders) {
        if self.marks.is_empty() {
            return;
        }
        let handles: BTreeSet<Arc<str>> = self
            .marks
            .keys()
            .map(|spot| Arc::clone(&spot.handle))
            .collect();
        let held = count(view, &handles);
        for handle in handles {
            let marks: Vec<&Mark> = self
                .marks
                .range(first(&handle)..)
                .take_while(|(spot, _)| spot.handle == handle)
                .map(|(_, mark)| mark)
                .collect();
            let whole = held.get(&handle) == Some(&marks.len());
            let acts: Vec<Act> = marks
                .iter()
                .map(|mark| decide(&self.case(view, mark, now), &self.settings))
                .collect();
            for (mark, act) in marks.iter().zip(&acts) {
                if *act == Act::Ask {
                    self.question(mark, now, orders);
                }
            }
            if whole
                && acts.iter().all(|act| *act == Act::Free)
                && orders.free.len() + marks.len() <= self.settings.rate
            {
                orders
                    .free
                    .extend(marks.iter().map(|mark| mark.suspect.clone()));
            }
        }
        for (node, ask) in &orders.ask {
            self.asked.insert(Arc::clone(node), (ask.clone(), now));
        }
    }

    /// Adds a question, unless the node has some already.
    fn question(&self, mark: &Mark, now: Time, orders: &mut Orders) {
        let node = &mark.suspect.node;
        let pending = self
            .asked
            .get(node)
            .is_some_and(|(_, at)| now.since(*at) < self.settings.ask_again);
        if pending {
            return;
        }
        let ask = orders.ask.entry(Arc::clone(node)).or_insert_with(|| Ask {
            id: now.as_nanos(),
            spots: Vec::new(),
        });
        if ask.spots.len() < self.settings.questions {
            ask.spots.push(mark.suspect.spot.clone());
        }
    }

    fn case(&self, view: &View, mark: &Mark, now: Time) -> Case {
        let recent = mark.answer.filter(|(answer, at)| {
            *answer == Answer::Free || now.since(*at) < self.settings.ask_again
        });
        Case {
            age: now.since(mark.since),
            node: self.state(view, &mark.suspect.node, now),
            answer: recent.map(|(answer, _)| answer),
        }
    }

    /// How a node stands.
    pub fn state(&self, view: &View, node: &str, now: Time) -> NodeState {
        let silent = view
            .signs
            .get(node)
            .is_none_or(|sign| now.since(sign.heard) >= self.settings.silence);
        match self.gone.get(node) {
            None if silent => NodeState::Silent,
            None => NodeState::Alive,
            Some(_) if !silent => NodeState::DeletedAlive,
            Some(since) => NodeState::Gone(now.since(*since)),
        }
    }

    /// The orders as errands, in their order: addresses, then what they lay in.
    pub fn errands(&self, orders: &Orders, view: &View) -> Vec<Errand> {
        let mut by_block: BTreeMap<IpNet, Vec<Suspect>> = BTreeMap::new();
        for suspect in &orders.free {
            by_block
                .entry(suspect.spot.block)
                .or_default()
                .push(suspect.clone());
        }
        let stamp = |node: &Arc<str>| view.signs.get(node).map(|sign| Arc::clone(&sign.stamp));
        let frees = by_block
            .into_iter()
            .map(|(block, suspects)| Errand::free(block, suspects, &stamp, &self.settings));
        let repairs = orders
            .repair
            .iter()
            .map(|repair| Errand::repair(repair, view, &stamp, &self.settings));
        frees.chain(repairs).collect()
    }

    fn is_dead(&self, view: &View, node: &str, now: Time) -> bool {
        matches!(self.state(view, node, now), NodeState::Gone(since) if since >= self.settings.gone_grace)
    }
}

/// How many addresses each of these handles holds.
fn count(view: &View, handles: &BTreeSet<Arc<str>>) -> BTreeMap<Arc<str>, usize> {
    let mut counts = BTreeMap::new();
    for stored in view
        .blocks
        .values()
        .filter(|stored| !stored.value.is_deleted())
    {
        for (_, entry) in stored.value.held() {
            if let Some(handle) = entry.handle().and_then(|handle| handles.get(handle)) {
                *counts.entry(Arc::clone(handle)).or_insert(0) += 1;
            }
        }
    }
    counts
}

/// Sorts before every spot of a handle.
fn first(handle: &Arc<str>) -> Spot {
    Spot {
        handle: Arc::clone(handle),
        block: IpNet::new_assert(IpAddr::from([0, 0, 0, 0]), 0),
        ordinal: 0,
        sequence: 0,
    }
}
