//! The vocabulary of rendered policy: chains, rules, sets and maps, as the kernel will hold them.
//!
//! A [`Ruleset`] is the whole desired content of our one table. It is plain data: the plan makes it, the walker
//! ([`crate::verdict`]) judges packets by it, the encoder turns it into netlink messages. Everything is ordered, so two runs
//! over the same World render the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

mod text;

/// Name of a chain, set or map inside the table; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Name of our table, in family `inet`.
pub const TABLE: &str = "margay";

/// Everything we want in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains by name.
    pub chains: BTreeMap<Name, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<Name, Set>,
}

/// Sizes of a ruleset, for metrics and for tests that gate growth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Number of chains, base chains included.
    pub chains: usize,
    /// Number of rules in all chains.
    pub rules: usize,
    /// Number of sets and maps.
    pub sets: usize,
    /// Number of elements in all of them; a range counts once.
    pub elements: usize,
}

impl Ruleset {
    /// Counts what is in it.
    pub fn size(&self) -> Size {
        Size {
            chains: self.chains.len(),
            rules: self.chains.values().map(|chain| chain.rules.len()).sum(),
            sets: self.sets.len(),
            elements: self.sets.values().map(|set| set.content.len()).sum(),
        }
    }
}

/// 128 bits that name what an object stands for across restarts, kept by the kernel as userdata.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentKey(pub [u8; 16]);

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An ordered list of rules; with a [`Base`] it hangs in a hook of the kernel, else it is reached by jumps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where it hangs; `None` for a chain reached by jumps only.
    pub base: Option<Base>,
    /// What it stands for, if its name carries an id that must survive a restart.
    pub key: Option<ContentKey>,
    /// For the reader of a listing.
    pub comment: Arc<str>,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

/// Place of a base chain. Its policy is always accept: what must be dropped is dropped by a rule that says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Base {
    /// What the chain may do.
    pub kind: ChainKind,
    /// Where in the path of a packet.
    pub hook: Hook,
    /// Order among the chains of a hook, lowest first.
    pub priority: i32,
}

/// Type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainKind {
    /// Every packet.
    Filter,
    /// First packet of a flow; translations.
    Nat,
}

/// A hook of the `inet` family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// To the host itself.
    Input,
    /// Through the host.
    Forward,
    /// From the host itself.
    Output,
    /// After routing.
    Postrouting,
}

/// All matches hold, then the actions happen in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// All must hold, tested in order.
    pub matches: Vec<Match>,
    /// Done in order; a verdict ends the list.
    pub actions: Vec<Action>,
    /// For the reader of a listing: the policy rule it comes from.
    pub comment: Arc<str>,
}

impl Rule {
    /// A rule without matches and actions.
    pub fn new(comment: impl Into<Arc<str>>) -> Self {
        Self {
            matches: Vec::new(),
            actions: Vec::new(),
            comment: comment.into(),
        }
    }

    /// Adds a match.
    #[must_use]
    pub fn when(mut self, matching: Match) -> Self {
        self.matches.push(matching);
        self
    }

    /// Adds an action.
    #[must_use]
    pub fn then(mut self, action: Action) -> Self {
        self.actions.push(action);
        self
    }
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which they are rendered.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Family of a prefix.
    pub const fn of_net(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Sender.
    Source,
    /// Receiver.
    Destination,
}

/// Whether a test must hold or must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sense {
    /// The test must hold.
    Is,
    /// The test must not hold. What it reads must still be there: a packet without ports fails a negated port test.
    IsNot,
}

impl Sense {
    /// Applies the sense to a result.
    pub const fn of(self, holds: bool) -> bool {
        match self {
            Self::Is => holds,
            Self::IsNot => !holds,
        }
    }
}

/// An interface by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// Exactly this name.
    Named(Arc<str>),
    /// Every name that starts so.
    Prefix(Arc<str>),
}

/// Connection states, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum States {
    /// Part of, or related to, a flow that was allowed before.
    EstablishedOrRelated,
    /// No place in any flow.
    Invalid,
}

/// One test of a packet. A test whose input the packet does not have (no output interface yet, no ports) fails, negated or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Match {
    /// IP version; stands before any match that reads addresses.
    Family(Family),
    /// Interface it came in by.
    In(Interface),
    /// Interface it leaves by.
    Out(Interface),
    /// Connection state.
    State(States),
    /// IP protocol number, behind extension headers.
    Protocol(Sense, u8),
    /// Transport port in an inclusive range; stands behind a [`Match::Protocol`] that has ports.
    Port(Sense, Side, u16, u16),
    /// Type of an ICMP message (either version) and, if given, code; stands behind a [`Match::Protocol`].
    Icmp(Sense, u8, Option<u8>),
    /// Address inside a prefix.
    Net(Sense, Side, IpNet),
    /// Key is an element of a set.
    Lookup(Sense, Field, Name),
    /// Packet mark under a mask.
    Mark {
        /// Bits that are looked at.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// Mark of the flow under a mask; a packet without a flow fails it.
    FlowMark {
        /// Bits that are looked at.
        mask: u32,
        /// What they must be.
        value: u32,
    },
    /// The routing table calls an address local.
    Local(Sense, Locality),
}

/// Which address, and local to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Locality {
    /// Destination is an address of this host.
    Destination,
    /// Source is an address of this host.
    Source,
    /// Source is an address of the interface the packet leaves by.
    SourceOnOutput,
}

/// What of a packet is looked up in a set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// An address.
    Address(Side, Family),
    /// A transport port.
    Port(Side),
    /// Index of the interface it came in by.
    InIndex,
    /// Index of the interface it leaves by.
    OutIndex,
    /// Both indexes.
    InOutIndex,
    /// Input index and source address.
    InIndexSource(Family),
    /// Address, IP protocol and port of one side.
    Service(Side, Family),
}

impl Field {
    /// Type a set must have to be asked with this field.
    pub const fn key_type(self) -> KeyType {
        match self {
            Self::Address(_, Family::V4) => KeyType::V4,
            Self::Address(_, Family::V6) => KeyType::V6,
            Self::Port(_) => KeyType::Port,
            Self::InIndex | Self::OutIndex => KeyType::Index,
            Self::InOutIndex => KeyType::IndexPair,
            Self::InIndexSource(Family::V4) => KeyType::IndexV4,
            Self::InIndexSource(Family::V6) => KeyType::IndexV6,
            Self::Service(_, Family::V4) => KeyType::ServiceV4,
            Self::Service(_, Family::V6) => KeyType::ServiceV6,
        }
    }
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Counts packets and octets.
    Count,
    /// Writes a line to the kernel log and goes on.
    Log(Arc<str>),
    /// Exempts the packet from connection tracking and goes on.
    NoTrack,
    /// Keeps the mark bits outside `keep`, then sets those of `set`; goes on.
    SetMark {
        /// Bits that stay as they are.
        keep: u32,
        /// Bits that are set.
        set: u32,
    },
    /// Looks a verdict up; a miss without catch-all fails the rule.
    Map(Field, Name),
    /// Ends all chains of this base chain: the packet goes on to the next one.
    Accept,
    /// Ends the packet.
    Drop,
    /// Ends the packet and tells its sender (administratively prohibited).
    Reject,
    /// Goes back behind the jump.
    Return,
    /// Goes into a chain, and back behind this rule when that chain ends.
    Jump(Name),
    /// Goes into a chain and does not come back here.
    Goto(Name),
    /// Translates the source to the address of the output interface, with fully random ports.
    Masquerade(Option<(u16, u16)>),
    /// Translates the source to an address, with fully random ports.
    SourceNat(Ipv4Addr, Option<(u16, u16)>),
}

/// What a map holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// See [`Action::Jump`].
    Jump(Name),
    /// See [`Action::Goto`].
    Goto(Name),
    /// See [`Action::Drop`].
    Drop,
}

/// A set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Type of its keys.
    pub key: KeyType,
    /// Elements.
    pub content: Content,
    /// For the reader of a listing: the selector or list it stands for.
    pub comment: Arc<str>,
}

/// Elements of a set, shared so that an unchanged set costs one comparison of pointers.
#[derive(Clone, Debug)]
pub enum Content {
    /// Exact keys (hash set).
    Keys(Arc<BTreeSet<Key>>),
    /// Disjoint inclusive ranges that do not touch each other (interval set).
    Ranges(Arc<BTreeSet<Range>>),
    /// Exact keys with a verdict each; everything else gets `otherwise` (hash map with catch-all).
    Verdicts {
        /// Key → verdict.
        entries: Arc<BTreeMap<Key, Verdict>>,
        /// Verdict of every other key.
        otherwise: Verdict,
    },
}

impl Content {
    /// Number of elements; a catch-all counts as one.
    pub fn len(&self) -> usize {
        match self {
            Self::Keys(keys) => keys.len(),
            Self::Ranges(ranges) => ranges.len(),
            Self::Verdicts { entries, .. } => entries.len() + 1,
        }
    }

    /// True when nothing can be found in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Keys(a), Self::Keys(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Ranges(a), Self::Ranges(b)) => Arc::ptr_eq(a, b) || a == b,
            (
                Self::Verdicts {
                    entries: a,
                    otherwise: x,
                },
                Self::Verdicts {
                    entries: b,
                    otherwise: y,
                },
            ) => x == y && (Arc::ptr_eq(a, b) || a == b),
            (Self::Keys(_) | Self::Ranges(_) | Self::Verdicts { .. }, _) => false,
        }
    }
}

impl Eq for Content {}

/// Type of the keys of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// IPv4 address.
    V4,
    /// IPv6 address.
    V6,
    /// Transport port.
    Port,
    /// Interface index.
    Index,
    /// Two interface indexes.
    IndexPair,
    /// Interface index, IPv4 address.
    IndexV4,
    /// Interface index, IPv6 address.
    IndexV6,
    /// IPv4 address, IP protocol, port.
    ServiceV4,
    /// IPv6 address, IP protocol, port.
    ServiceV6,
}

/// An exact key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An address.
    V4(Ipv4Addr),
    /// An address.
    V6(Ipv6Addr),
    /// A port.
    Port(u16),
    /// An interface.
    Index(u32),
    /// Input and output interface.
    IndexPair(u32, u32),
    /// Interface and address.
    IndexV4(u32, Ipv4Addr),
    /// Interface and address.
    IndexV6(u32, Ipv6Addr),
    /// Address, protocol, port.
    ServiceV4(Ipv4Addr, u8, u16),
    /// Address, protocol, port.
    ServiceV6(Ipv6Addr, u8, u16),
}

impl Key {
    /// Key of an address.
    pub const fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address),
        }
    }

    /// Key of an interface with an address.
    pub const fn index_address(index: u32, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::IndexV4(index, address),
            IpAddr::V6(address) => Self::IndexV6(index, address),
        }
    }

    /// Key of a port that an address serves.
    pub const fn service(address: IpAddr, protocol: u8, port: u16) -> Self {
        match address {
            IpAddr::V4(address) => Self::ServiceV4(address, protocol, port),
            IpAddr::V6(address) => Self::ServiceV6(address, protocol, port),
        }
    }

    /// Type of a set that may hold it.
    pub const fn key_type(&self) -> KeyType {
        match self {
            Self::V4(_) => KeyType::V4,
            Self::V6(_) => KeyType::V6,
            Self::Port(_) => KeyType::Port,
            Self::Index(_) => KeyType::Index,
            Self::IndexPair(..) => KeyType::IndexPair,
            Self::IndexV4(..) => KeyType::IndexV4,
            Self::IndexV6(..) => KeyType::IndexV6,
            Self::ServiceV4(..) => KeyType::ServiceV4,
            Self::ServiceV6(..) => KeyType::ServiceV6,
        }
    }
}

/// An inclusive range of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Range {
    /// First and last address.
    V4(Ipv4Addr, Ipv4Addr),
    /// First and last address.
    V6(Ipv6Addr, Ipv6Addr),
    /// First and last port.
    Port(u16, u16),
}

impl Range {
    /// True if the key lies inside.
    pub fn contains(&self, key: &Key) -> bool {
        match (self, key) {
            (Self::V4(first, last), Key::V4(address)) => first <= address && address <= last,
            (Self::V6(first, last), Key::V6(address)) => first <= address && address <= last,
            (Self::Port(first, last), Key::Port(port)) => first <= port && port <= last,
            (Self::V4(..) | Self::V6(..) | Self::Port(..), _) => false,
        }
    }
}

/// Union of prefixes of one family as disjoint ranges that do not touch; prefixes of the other family are left out.
///
/// Interval sets of the kernel refuse overlaps, and merging in the kernel breaks later deletes.
pub fn partition<'a>(nets: impl IntoIterator<Item = &'a IpNet>, family: Family) -> BTreeSet<Range> {
    let spans: Vec<(u128, u128)> = nets
        .into_iter()
        .filter(|net| Family::of_net(net) == family)
        .map(|net| (bits(net.network()), bits(last(net))))
        .collect();
    merge(spans)
        .into_iter()
        .map(|(first, last)| match family {
            Family::V4 => Range::V4(v4(first), v4(last)),
            Family::V6 => Range::V6(Ipv6Addr::from(first), Ipv6Addr::from(last)),
        })
        .collect()
}

/// Union of inclusive port ranges, disjoint and not touching.
pub fn partition_ports(ports: impl IntoIterator<Item = (u16, u16)>) -> BTreeSet<Range> {
    let spans = ports
        .into_iter()
        .map(|(first, last)| (u128::from(first), u128::from(last)))
        .collect();
    merge(spans)
        .into_iter()
        .map(|(first, last)| Range::Port(port(first), port(last)))
        .collect()
}

fn merge(mut spans: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    spans.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(spans.len());
    for (first, last) in spans {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn last(net: &IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => IpAddr::V4(net.broadcast()),
        IpNet::V6(net) => IpAddr::V6(net.broadcast()),
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// Only ever called with what [`bits`] made of an IPv4 address.
fn v4(value: u128) -> Ipv4Addr {
    Ipv4Addr::from(u32::try_from(value).unwrap_or(u32::MAX))
}

fn port(value: u128) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn overlapping_and_touching_prefixes_become_one_range() {
        let ranges = partition(
            &nets(&[
                "10.0.0.0/8",
                "10.1.2.3/32",
                "11.0.0.0/8",
                "192.168.0.0/24",
                "fd00::/8",
            ]),
            Family::V4,
        );
        let expected = [
            Range::V4(
                "10.0.0.0".parse().unwrap(),
                "11.255.255.255".parse().unwrap(),
            ),
            Range::V4(
                "192.168.0.0".parse().unwrap(),
                "192.168.0.255".parse().unwrap(),
            ),
        ];
        assert_eq!(ranges, BTreeSet::from(expected));
    }

    #[test]
    fn the_whole_space_is_one_range() {
        for (text, family) in [("0.0.0.0/0", Family::V4), ("::/0", Family::V6)] {
            let ranges = partition(&nets(&[text, text]), family);
            assert_eq!(ranges.len(), 1);
        }
    }

    proptest! {
        #[test]
        fn a_partition_holds_exactly_the_addresses_of_its_prefixes(
            prefixes in proptest::collection::vec((any::<u8>(), 24u8..=32), 0..12),
        ) {
            let nets: Vec<IpNet> = prefixes
                .iter()
                .map(|(host, length)| format!("10.0.0.{host}/{length}").parse().unwrap())
                .collect();
            let ranges = partition(&nets, Family::V4);
            for host in 0..=255u8 {
                let address = Ipv4Addr::new(10, 0, 0, host);
                let inside = nets.iter().any(|net| net.contains(&IpAddr::V4(address)));
                let found = ranges.iter().filter(|range| range.contains(&Key::V4(address))).count();
                prop_assert_eq!(found, usize::from(inside));
            }
        }
    }
}
