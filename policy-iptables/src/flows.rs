//! Live flows after a change of policy: which of them it concerns, and which of them it forbids.
//!
//! ```text
//!   ruleset before, ruleset now ──► Concern: interfaces whose verdicts may have changed
//!   Concern + ruleset now + places ──► Review ──judge(flow)──► Cut | Mend
//! ```
//!
//! A flow that is forbidden now gets a bit into its mark, and the first rule of each workload chain looks at it. To delete the
//! flow instead would not end it: the next answer of the other side is the first packet of a new flow, which its own policy may
//! well allow, and then everything passes as its reply. The mark goes again when a later policy allows the flow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use model::World;
use model::flow::{Detail, Flow};

use crate::ruleset::{Action, Content, Key, Match, Name, Rule, Ruleset, Sense, Verdict};
use crate::verdict::{Device, Locals, Outcome, Packet, Payload, State, walk};

/// Interfaces whose verdicts may differ between two rulesets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Concern {
    /// Something that passed may be dropped now.
    pub tighter: BTreeSet<u32>,
    /// Something that was dropped may pass now.
    pub looser: BTreeSet<u32>,
}

impl Concern {
    /// True when no flow needs to be looked at.
    pub fn is_empty(&self) -> bool {
        self.tighter.is_empty() && self.looser.is_empty()
    }

    fn add(&mut self, index: u32, turn: Turn) {
        if turn.tighter {
            self.tighter.insert(index);
        }
        if turn.looser {
            self.looser.insert(index);
        }
    }
}

/// What a change does to verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turn {
    tighter: bool,
    looser: bool,
}

impl Turn {
    const BOTH: Self = Self {
        tighter: true,
        looser: true,
    };

    fn and(self, other: Self) -> Self {
        Self {
            tighter: self.tighter || other.tighter,
            looser: self.looser || other.looser,
        }
    }

    fn reversed(self) -> Self {
        Self {
            tighter: self.looser,
            looser: self.tighter,
        }
    }
}

/// Chains that every workload passes besides its groups.
const SHARED: [&str; 4] = ["wl_forward", "wl_to", "wl_input", "wl_out"];
/// Maps from an interface to its group.
const GROUPS: [&str; 2] = ["gid_out", "gid_in"];

/// Interfaces whose verdicts may differ. Without a ruleset before, all of them: a predecessor may have died before it looked.
pub fn concern(before: Option<&Ruleset>, now: &Ruleset) -> Concern {
    let mut concern = Concern::default();
    let same_around = before.is_some_and(|before| {
        let same = |name: &&str| before.chains.get(*name) == now.chains.get(*name);
        SHARED.iter().all(same)
    });
    let mut known: BTreeMap<&Name, Turn> = BTreeMap::new();
    for map in GROUPS {
        let old = before.map(|before| groups(before, map)).unwrap_or_default();
        for (index, chain) in groups(now, map) {
            let turn = match (before, old.get(&index)) {
                (Some(before), Some(was)) if same_around && *was == chain => *known
                    .entry(chain)
                    .or_insert_with(|| turn_of(before, now, chain)),
                // An interface that is new has no flows that another policy allowed.
                (Some(_), None) => Turn::default(),
                (Some(_) | None, _) => Turn::BOTH,
            };
            concern.add(index, turn);
        }
    }
    concern
}

/// Interface → its group's chain.
fn groups<'a>(ruleset: &'a Ruleset, map: &str) -> BTreeMap<u32, &'a Name> {
    let Some(Content::Verdicts { entries, .. }) = ruleset.sets.get(map).map(|set| &set.content)
    else {
        return BTreeMap::new();
    };
    let chains = entries.iter().filter_map(|entry| match entry {
        (Key::Index(index), Verdict::Jump(chain) | Verdict::Goto(chain)) => Some((*index, chain)),
        (_, Verdict::Jump(_) | Verdict::Goto(_) | Verdict::Drop) => None,
    });
    chains.collect()
}

/// What the difference of one chain, of those it jumps to and of the sets they ask does.
fn turn_of(before: &Ruleset, now: &Ruleset, chain: &Name) -> Turn {
    let (Some(was), Some(is)) = (before.chains.get(chain), now.chains.get(chain)) else {
        return Turn::BOTH;
    };
    if was.rules != is.rules {
        return Turn::BOTH;
    }
    let turns = is.rules.iter().map(|rule| {
        let mut turn = turn_of_sets(before, now, rule);
        for action in &rule.actions {
            if let Action::Jump(chain) | Action::Goto(chain) = action {
                turn = turn.and(turn_of(before, now, chain));
            }
        }
        turn
    });
    turns.fold(Turn::default(), Turn::and)
}

/// What changed members of the sets that a rule asks do to its verdict.
fn turn_of_sets(before: &Ruleset, now: &Ruleset, rule: &Rule) -> Turn {
    let mut turn = Turn::default();
    for matching in &rule.matches {
        let Match::Lookup(sense, _, set) = matching else {
            continue;
        };
        let content = |ruleset: &Ruleset| ruleset.sets.get(set).map(|set| set.content.clone());
        let wider = match (content(before), content(now)) {
            (Some(was), Some(is)) => widened(&was, &is),
            _ => Turn::BOTH,
        };
        let wider = match sense {
            Sense::Is => wider,
            Sense::IsNot => wider.reversed(),
        };
        turn = turn.and(match rule.actions.as_slice() {
            [.., Action::Drop | Action::Reject] => wider.reversed(),
            [Action::Return | Action::Accept] => wider,
            [Action::SetMark { set, .. }, Action::Return] if *set != 0 => wider,
            [Action::Log(_)] => Turn::default(),
            // Who leaves a tier early may meet anything.
            _ if wider == Turn::default() => wider,
            _ => Turn::BOTH,
        });
    }
    turn
}

/// What a set's change does to a rule that allows its members: `looser` if it has new ones, `tighter` if it lost some.
fn widened(was: &Content, is: &Content) -> Turn {
    match (was, is) {
        _ if was == is => Turn::default(),
        (Content::Keys(was), Content::Keys(is)) => Turn {
            tighter: !was.is_subset(is),
            looser: !is.is_subset(was),
        },
        (Content::Ranges(_) | Content::Keys(_) | Content::Verdicts { .. }, _) => Turn::BOTH,
    }
}

/// What should happen to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Judgement {
    /// It is forbidden and passes.
    Cut,
    /// It is allowed and was cut before.
    Mend,
}

/// Everything that judging flows needs, as it was after one commit. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Review {
    ruleset: Arc<Ruleset>,
    /// Address of a local workload → its interface.
    places: Arc<BTreeMap<IpAddr, Device>>,
    /// Addresses of the host itself.
    host: Arc<BTreeSet<IpAddr>>,
    /// The bit of a flow's mark.
    bit: u32,
    concern: Concern,
}

impl Review {
    /// A review of what `concern` names, by the ruleset that is in force now.
    pub fn new(
        ruleset: Arc<Ruleset>,
        world: &World,
        host: BTreeSet<IpAddr>,
        bit: u32,
        concern: Concern,
    ) -> Self {
        let places = world.local_endpoints().flat_map(|view| {
            let device = Device {
                index: view.endpoint.ifindex,
                name: Arc::clone(&view.endpoint.interface),
            };
            let addresses = view.endpoint.addresses.iter();
            addresses.map(move |address| (*address, device.clone()))
        });
        Self {
            ruleset,
            places: Arc::new(places.collect()),
            host: Arc::new(host),
            bit,
            concern,
        }
    }

    /// One review for two: what either concerns, by the later ruleset.
    #[must_use]
    pub fn after(mut self, earlier: Self) -> Self {
        self.concern.tighter.extend(earlier.concern.tighter);
        self.concern.looser.extend(earlier.concern.looser);
        self
    }

    /// The bit of a flow's mark that says it is cut.
    pub fn bit(&self) -> u32 {
        self.bit
    }

    /// Number of interfaces whose flows are looked at.
    pub fn len(&self) -> usize {
        self.concern.tighter.union(&self.concern.looser).count()
    }

    /// True when no flow needs to be looked at.
    pub fn is_empty(&self) -> bool {
        self.concern.is_empty()
    }

    /// What should happen to a flow; `None` if nothing.
    pub fn judge(&self, flow: &Flow) -> Option<Judgement> {
        let cut = flow.mark & self.bit != 0;
        let interfaces = if cut {
            &self.concern.looser
        } else {
            &self.concern.tighter
        };
        let ends = [flow.original.source, flow.reply.source];
        let mut places = ends.iter().filter_map(|end| self.places.get(end));
        if !places.any(|device| interfaces.contains(&device.index)) {
            return None;
        }
        let passes = walk(&self.ruleset, &self.first_packet(flow)).outcome == Outcome::Pass;
        match (cut, passes) {
            (false, false) => Some(Judgement::Cut),
            (true, true) => Some(Judgement::Mend),
            (false, true) | (true, false) => None,
        }
    }

    /// The packet a flow began with, as the rules would see it today: with its destination translated and its source not yet.
    fn first_packet(&self, flow: &Flow) -> Packet {
        let (source, destination) = (flow.original.source, flow.reply.source);
        let elsewhere = || Device {
            index: 0,
            name: "".into(),
        };
        let place = |address: &IpAddr| {
            let device = self.places.get(address).cloned();
            (!self.host.contains(address)).then(|| device.unwrap_or_else(elsewhere))
        };
        let protocol = flow.original.protocol;
        let payload = match (flow.original.detail, flow.reply.detail) {
            (Detail::Ports { source, .. }, Detail::Ports { source: to, .. }) => {
                Payload::Transport {
                    protocol,
                    source,
                    destination: to,
                }
            }
            (Detail::Icmp { kind, code }, _) => Payload::Icmp { kind, code },
            (Detail::Ports { .. } | Detail::None, _) => Payload::Other(protocol),
        };
        Packet {
            input: place(&source),
            output: place(&destination),
            source,
            destination,
            payload,
            state: State::New,
            mark: 0,
            local: Locals {
                source: self.host.contains(&source),
                source_on_output: false,
                destination: self.host.contains(&destination),
            },
        }
    }
}
