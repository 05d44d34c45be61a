//! Judging one packet: by walking a rendered [`Ruleset`], and by the policies themselves.
//!
//! The walker does what the kernel does with the rules, one match at a time, so it is the oracle of the encoder and what `explain`
//! shows. [`evaluate`] knows nothing of rules, sets or chains: it reads the objects. Tests hold the two, and the kernel, equal.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::ruleset::{
    Action, Chain, ChainKind, Content, Family, Field, Hook, Interface, Key, Locality, Match, Name,
    Rule, Ruleset, Sense, Side, States, Verdict as Mapped,
};

pub mod evaluate;

/// A packet as a hook sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Interface it came in by; `None` for one of this host.
    pub input: Option<Device>,
    /// Interface it leaves by; `None` for one to this host.
    pub output: Option<Device>,
    /// Sender.
    pub source: IpAddr,
    /// Receiver, after translation of the destination.
    pub destination: IpAddr,
    /// What is above IP.
    pub payload: Payload,
    /// What connection tracking says of it.
    pub state: State,
    /// Its mark.
    pub mark: u32,
    /// Whether source and destination are addresses of this host.
    pub local: Locals,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: Arc<str>,
}

/// What is above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A protocol with ports.
    Transport {
        /// IP protocol number.
        protocol: u8,
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP of the version that the addresses are of.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// A protocol without ports.
    Other(u8),
}

/// What connection tracking says of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// First packet of a flow.
    #[default]
    New,
    /// Part of a flow, or related to one.
    Established,
    /// The same, of a flow that was marked because a later policy forbids it.
    Cut,
    /// No place in any flow.
    Invalid,
    /// Not tracked.
    Untracked,
}

/// What the routing table calls local.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Locals {
    /// The source is an address of this host.
    pub source: bool,
    /// The source is an address of the output interface.
    pub source_on_output: bool,
    /// The destination is an address of this host.
    pub destination: bool,
}

impl Packet {
    /// IP version.
    pub fn family(&self) -> Family {
        Family::of(&self.source)
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        match (self.payload, self.family()) {
            (Payload::Transport { protocol, .. } | Payload::Other(protocol), _) => protocol,
            (Payload::Icmp { .. }, Family::V4) => 1,
            (Payload::Icmp { .. }, Family::V6) => 58,
        }
    }

    fn address(&self, side: Side) -> IpAddr {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }

    fn port(&self, side: Side) -> Option<u16> {
        match (self.payload, side) {
            (Payload::Transport { source, .. }, Side::Source) => Some(source),
            (Payload::Transport { destination, .. }, Side::Destination) => Some(destination),
            (Payload::Icmp { .. } | Payload::Other(_), _) => None,
        }
    }
}

/// What becomes of a packet at our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It goes on.
    Pass,
    /// It is dropped.
    Drop,
    /// It is dropped and its sender told.
    Reject,
}

/// The outcome and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What becomes of the packet.
    pub outcome: Outcome,
    /// Mark of the packet afterwards.
    pub mark: u32,
    /// Rules that matched: chain and comment, in order.
    pub trace: Vec<(Name, Arc<str>)>,
}

/// Walks the base chains that a packet on its way through, to or from this host meets before it is sent or delivered; translation
/// is left out.
pub fn walk(ruleset: &Ruleset, packet: &Packet) -> Walk {
    let hooks: &[Hook] = match (&packet.input, &packet.output) {
        (Some(_), Some(_)) => &[Hook::Prerouting, Hook::Forward],
        (Some(_), None) => &[Hook::Prerouting, Hook::Input],
        (None, _) => &[Hook::Output],
    };
    let mut walker = Walker {
        ruleset,
        packet: packet.clone(),
        trace: Vec::new(),
    };
    for hook in hooks {
        let outcome = walker.hook(*hook);
        if outcome != Outcome::Pass {
            return walker.end(outcome);
        }
    }
    walker.end(Outcome::Pass)
}

/// Deepest nesting of jumps the kernel allows (`NFT_JUMP_STACK_SIZE`).
const MAX_DEPTH: usize = 16;

struct Walker<'a> {
    ruleset: &'a Ruleset,
    packet: Packet,
    trace: Vec<(Name, Arc<str>)>,
}

/// How a chain is left.
enum Left {
    /// At its end or by `return`.
    Back,
    /// The base chain ends well.
    Accept,
    /// The packet ends.
    End(Outcome),
}

impl Walker<'_> {
    fn end(self, outcome: Outcome) -> Walk {
        Walk {
            outcome,
            mark: self.packet.mark,
            trace: self.trace,
        }
    }

    fn hook(&mut self, hook: Hook) -> Outcome {
        let mut chains: BTreeMap<i32, Vec<(&Name, &Chain)>> = BTreeMap::new();
        for (name, chain) in &self.ruleset.chains {
            let base = chain
                .base
                .filter(|base| base.hook == hook && base.kind == ChainKind::Filter);
            if let Some(base) = base {
                chains.entry(base.priority).or_default().push((name, chain));
            }
        }
        for (name, chain) in chains.into_values().flatten() {
            if let Left::End(outcome) = self.chain(name, chain, 0) {
                return outcome;
            }
        }
        Outcome::Pass
    }

    fn chain(&mut self, name: &Name, chain: &Chain, depth: usize) -> Left {
        if depth > MAX_DEPTH {
            return Left::End(Outcome::Drop);
        }
        for rule in &chain.rules {
            if !rule.matches.iter().all(|matching| self.holds(matching)) {
                continue;
            }
            if let Some(left) = self.act(name, rule, depth) {
                return left;
            }
        }
        Left::Back
    }

    fn named(&mut self, name: &Name, depth: usize) -> Left {
        let ruleset = self.ruleset;
        match ruleset.chains.get(name) {
            Some(chain) => self.chain(name, chain, depth + 1),
            // The kernel does not load a jump to nowhere.
            None => Left::End(Outcome::Drop),
        }
    }

    /// Runs the actions of a rule that matched; `None` goes on with the next rule.
    fn act(&mut self, chain: &Name, rule: &Rule, depth: usize) -> Option<Left> {
        self.trace.push((chain.clone(), Arc::clone(&rule.comment)));
        for action in &rule.actions {
            match action {
                Action::Count | Action::Log(_) => {}
                Action::NoTrack => self.packet.state = State::Untracked,
                Action::SetMark { keep, set } => {
                    self.packet.mark = (self.packet.mark & keep) | set;
                }
                Action::Map(field, map) => match self.mapped(*field, map) {
                    None => return None,
                    Some(Mapped::Drop) => return Some(Left::End(Outcome::Drop)),
                    Some(Mapped::Goto(target)) => return Some(self.named(&target, depth)),
                    Some(Mapped::Jump(target)) => return self.jump(&target, depth),
                },
                // A translation accepts; here it is only asked whether the packet passes.
                Action::Accept | Action::Masquerade(_) | Action::SourceNat(..) => {
                    return Some(Left::Accept);
                }
                Action::Drop => return Some(Left::End(Outcome::Drop)),
                Action::Reject => return Some(Left::End(Outcome::Reject)),
                Action::Return => return Some(Left::Back),
                Action::Jump(target) => return self.jump(target, depth),
                Action::Goto(target) => return Some(self.named(target, depth)),
            }
        }
        None
    }

    fn jump(&mut self, target: &Name, depth: usize) -> Option<Left> {
        match self.named(target, depth) {
            Left::Back => None,
            left @ (Left::Accept | Left::End(_)) => Some(left),
        }
    }

    /// A match whose input is not there fails, negated or not.
    fn holds(&self, matching: &Match) -> bool {
        let packet = &self.packet;
        match matching {
            Match::Family(family) => packet.family() == *family,
            Match::In(interface) => named(packet.input.as_ref(), interface),
            Match::Out(interface) => named(packet.output.as_ref(), interface),
            Match::State(states) => match states {
                States::EstablishedOrRelated => {
                    matches!(packet.state, State::Established | State::Cut)
                }
                States::Invalid => packet.state == State::Invalid,
            },
            Match::Protocol(sense, number) => sense.of(packet.protocol() == *number),
            Match::Port(sense, side, first, last) => packet
                .port(*side)
                .is_some_and(|port| sense.of((*first..=*last).contains(&port))),
            Match::Icmp(sense, kind, code) => match packet.payload {
                Payload::Icmp { kind: k, code: c } => {
                    sense.of(k == *kind && code.is_none_or(|code| code == c))
                }
                Payload::Transport { .. } | Payload::Other(_) => false,
            },
            Match::Net(sense, side, net) => {
                let address = packet.address(*side);
                Family::of(&address) == Family::of_net(net) && sense.of(net.contains(&address))
            }
            Match::Lookup(sense, field, set) => {
                let key = self.key(*field);
                key.is_some_and(|key| sense.of(self.contains(set, &key)))
            }
            Match::Mark { mask, value } => packet.mark & mask == *value,
            Match::FlowMark { mask, value } => match packet.state {
                State::New | State::Established => *value == 0,
                State::Cut => mask == value,
                State::Invalid | State::Untracked => false,
            },
            Match::Local(sense, locality) => sense.of(match locality {
                Locality::Destination => packet.local.destination,
                Locality::Source => packet.local.source,
                Locality::SourceOnOutput => packet.local.source_on_output,
            }),
        }
    }

    fn key(&self, field: Field) -> Option<Key> {
        let packet = &self.packet;
        let input = || packet.input.as_ref().map(|device| device.index);
        let output = || packet.output.as_ref().map(|device| device.index);
        let own = |family| packet.family() == family;
        match field {
            Field::Address(side, family) => own(family).then(|| Key::address(packet.address(side))),
            Field::Port(side) => packet.port(side).map(Key::Port),
            Field::InIndex => input().map(Key::Index),
            Field::OutIndex => output().map(Key::Index),
            Field::InOutIndex => Some(Key::IndexPair(input()?, output()?)),
            Field::InIndexSource(family) => {
                let index = input().filter(|_| own(family))?;
                Some(Key::index_address(index, packet.source))
            }
            Field::Service(side, family) => {
                let port = packet.port(side).filter(|_| own(family))?;
                Some(Key::service(packet.address(side), packet.protocol(), port))
            }
        }
    }

    fn contains(&self, set: &Name, key: &Key) -> bool {
        match self.ruleset.sets.get(set).map(|set| &set.content) {
            Some(Content::Keys(keys)) => keys.contains(key),
            Some(Content::Ranges(ranges)) => ranges.iter().any(|range| range.contains(key)),
            Some(Content::Verdicts { entries, .. }) => entries.contains_key(key),
            None => false,
        }
    }

    fn mapped(&self, field: Field, map: &Name) -> Option<Mapped> {
        let key = self.key(field)?;
        match &self.ruleset.sets.get(map)?.content {
            Content::Verdicts { entries, otherwise } => {
                Some(entries.get(&key).unwrap_or(otherwise).clone())
            }
            Content::Keys(_) | Content::Ranges(_) => None,
        }
    }
}

fn named(device: Option<&Device>, interface: &Interface) -> bool {
    device.is_some_and(|device| match interface {
        Interface::Named(name) => device.name == *name,
        Interface::Prefix(prefix) => device.name.starts_with(&**prefix),
    })
}

/// Faults of a ruleset that the kernel would not notice: a header read before the rule knows what header it is. Empty when sound.
pub fn faults(ruleset: &Ruleset) -> Vec<String> {
    let mut found = Vec::new();
    for (name, chain) in &ruleset.chains {
        for rule in &chain.rules {
            let mut family = None;
            let mut protocol = None;
            for matching in &rule.matches {
                let needs = match matching {
                    Match::Family(known) => {
                        family = Some(*known);
                        None
                    }
                    Match::Protocol(Sense::Is, number) => {
                        protocol = Some(*number);
                        None
                    }
                    Match::Net(_, _, net) => Some(Family::of_net(net)),
                    Match::Lookup(_, field, _) => family_of(*field),
                    Match::Port(..) | Match::Icmp(..) if protocol.is_none() => {
                        found.push(format!(
                            "{name}: {} reads a header of no known protocol",
                            rule.comment
                        ));
                        None
                    }
                    Match::Port(..)
                    | Match::Icmp(..)
                    | Match::In(_)
                    | Match::Out(_)
                    | Match::State(_)
                    | Match::Protocol(..)
                    | Match::Mark { .. }
                    | Match::FlowMark { .. }
                    | Match::Local(..) => None,
                };
                if needs.is_some() && needs != family {
                    found.push(format!(
                        "{name}: {} reads addresses of no known family",
                        rule.comment
                    ));
                }
            }
        }
    }
    found
}

fn family_of(field: Field) -> Option<Family> {
    match field {
        Field::Address(_, family) | Field::InIndexSource(family) | Field::Service(_, family) => {
            Some(family)
        }
        Field::Port(_) | Field::InIndex | Field::OutIndex | Field::InOutIndex => None,
    }
}
