//! Rules, keys and elements as netlink attributes.

use netlink::attr::Encoder;

use super::abi::{LIST_ELEMENT, data, datatype, element, register};
use crate::ruleset::{
    Action, Family, Field, Interface, Key, KeyType, Locality, Match, Name, Range, Rule, Sense,
    Side, States, Verdict,
};

const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;

/// `enum nft_payload_bases`.
#[derive(Clone, Copy)]
enum Header {
    Network = 1,
    Transport = 2,
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy)]
enum Compare {
    Equal = 0,
    NotEqual = 1,
    AtMost = 3,
    AtLeast = 5,
}

/// `enum nft_meta_keys`, those we read.
#[derive(Clone, Copy)]
enum Meta {
    Mark = 3,
    InIndex = 4,
    OutIndex = 5,
    InName = 6,
    OutName = 7,
    Family = 15,
    Protocol = 16,
}

/// Connection state bits of `nf_conntrack_common.h`, host order.
const STATE_INVALID: u32 = 1;
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
/// `NFT_CT_STATE`.
const CT_STATE: u32 = 0;
/// `NFT_CT_MARK`.
const CT_MARK: u32 = 3;
/// `RTN_LOCAL` of `linux/rtnetlink.h`.
const LOCAL_ROUTE: u32 = 2;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const FULLY_RANDOM: u32 = 16;

/// The expressions of a rule, without the attribute that holds them.
pub(super) fn rule(rule: &Rule) -> Vec<u8> {
    let mut enc = Encoder::new();
    for matching in &rule.matches {
        encode_match(&mut enc, matching);
    }
    for action in &rule.actions {
        encode_action(&mut enc, action);
    }
    enc.as_bytes().to_vec()
}

fn expression(enc: &mut Encoder, name: &str, fill: impl FnOnce(&mut Encoder)) {
    enc.nest(LIST_ELEMENT, |enc| {
        enc.put_str(EXPRESSION_NAME, name);
        enc.nest(EXPRESSION_DATA, fill);
    });
}

fn encode_match(enc: &mut Encoder, matching: &Match) {
    match matching {
        Match::Family(family) => {
            load_meta(enc, Meta::Family, register::FIRST);
            compare(enc, Compare::Equal, &[number_of(*family)]);
        }
        Match::In(interface) => name(enc, Meta::InName, interface),
        Match::Out(interface) => name(enc, Meta::OutName, interface),
        Match::State(states) => state(enc, *states),
        Match::Protocol(sense, number) => {
            load_meta(enc, Meta::Protocol, register::FIRST);
            compare(enc, equality(*sense), &[*number]);
        }
        Match::Port(sense, side, first, last) => port(enc, *sense, *side, *first, *last),
        Match::Icmp(sense, kind, code) => {
            let mut wanted = vec![*kind];
            wanted.extend(code);
            load_payload(enc, Header::Transport, 0, wanted.len(), register::FIRST);
            compare(enc, equality(*sense), &wanted);
        }
        Match::Net(sense, side, net) => prefix(enc, *sense, *side, net),
        Match::Lookup(sense, field, set) => {
            load_field(enc, *field);
            lookup(enc, set, *sense);
        }
        Match::Mark { mask, value } => {
            load_meta(enc, Meta::Mark, register::FIRST);
            bitwise(enc, &mask.to_ne_bytes(), &[0; 4]);
            compare(enc, Compare::Equal, &value.to_ne_bytes());
        }
        Match::FlowMark { mask, value } => {
            load_flow(enc, CT_MARK);
            bitwise(enc, &mask.to_ne_bytes(), &[0; 4]);
            compare(enc, Compare::Equal, &value.to_ne_bytes());
        }
        Match::Local(sense, locality) => local(enc, *sense, *locality),
    }
}

fn encode_action(enc: &mut Encoder, action: &Action) {
    match action {
        Action::Count => expression(enc, "counter", |enc| {
            enc.put_be64(1, 0);
            enc.put_be64(2, 0);
        }),
        Action::Log(prefix) => log(enc, prefix),
        Action::NoTrack => expression(enc, "notrack", |_| {}),
        Action::SetMark { keep, set } => {
            load_meta(enc, Meta::Mark, register::FIRST);
            bitwise(enc, &keep.to_ne_bytes(), &set.to_ne_bytes());
            expression(enc, "meta", |enc| {
                enc.put_be32(2, Meta::Mark as u32);
                enc.put_be32(3, register::FIRST);
            });
        }
        Action::Map(field, map) => {
            load_field(enc, *field);
            expression(enc, "lookup", |enc| {
                enc.put_str(1, map);
                enc.put_be32(2, register::FIRST);
                enc.put_be32(3, register::VERDICT);
            });
        }
        Action::Accept => immediate(enc, data::ACCEPT, None),
        Action::Drop => immediate(enc, data::DROP, None),
        Action::Return => immediate(enc, data::RETURN, None),
        Action::Jump(chain) => immediate(enc, data::JUMP, Some(chain)),
        Action::Goto(chain) => immediate(enc, data::GOTO, Some(chain)),
        Action::Reject => expression(enc, "reject", |enc| {
            // NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED.
            enc.put_be32(1, 2);
            enc.put_u8(2, 3);
        }),
        Action::Masquerade(ports) => masquerade(enc, *ports),
        Action::SourceNat(address, ports) => source_nat(enc, *address, *ports),
    }
}

fn log(enc: &mut Encoder, prefix: &str) {
    expression(enc, "log", |enc| {
        enc.put_str(2, prefix);
        // LOGLEVEL_NOTICE.
        enc.put_be32(5, 5);
    });
}

fn masquerade(enc: &mut Encoder, ports: Option<(u16, u16)>) {
    load_ports(enc, ports);
    expression(enc, "masq", |enc| {
        enc.put_be32(1, FULLY_RANDOM);
        if ports.is_some() {
            enc.put_be32(2, register::FIRST);
            enc.put_be32(3, register::SECOND);
        }
    });
}

fn source_nat(enc: &mut Encoder, address: std::net::Ipv4Addr, ports: Option<(u16, u16)>) {
    const ADDRESS: u32 = 3;
    load_ports(enc, ports);
    load_immediate(enc, ADDRESS, &address.octets());
    expression(enc, "nat", |enc| {
        // NFT_NAT_SNAT, NFPROTO_IPV4.
        enc.put_be32(1, 0);
        enc.put_be32(2, 2);
        enc.put_be32(3, ADDRESS);
        if ports.is_some() {
            enc.put_be32(5, register::FIRST);
            enc.put_be32(6, register::SECOND);
        }
        enc.put_be32(7, FULLY_RANDOM);
    });
}

fn load_ports(enc: &mut Encoder, ports: Option<(u16, u16)>) {
    if let Some((first, last)) = ports {
        load_immediate(enc, register::FIRST, &first.to_be_bytes());
        load_immediate(enc, register::SECOND, &last.to_be_bytes());
    }
}

fn load_immediate(enc: &mut Encoder, into: u32, value: &[u8]) {
    expression(enc, "immediate", |enc| {
        enc.put_be32(1, into);
        put_value(enc, 2, value);
    });
}

fn immediate(enc: &mut Encoder, code: u32, chain: Option<&Name>) {
    expression(enc, "immediate", |enc| {
        enc.put_be32(1, register::VERDICT);
        enc.nest(2, |enc| put_verdict(enc, code, chain.map(Name::as_str)));
    });
}

fn put_verdict(enc: &mut Encoder, code: u32, chain: Option<&str>) {
    enc.nest(data::VERDICT, |enc| {
        enc.put_be32(data::VERDICT_CODE, code);
        if let Some(chain) = chain {
            enc.put_str(data::VERDICT_CHAIN, chain);
        }
    });
}

fn put_value(enc: &mut Encoder, kind: u16, value: &[u8]) {
    enc.nest(kind, |enc| enc.put(data::VALUE, value));
}

fn equality(sense: Sense) -> Compare {
    match sense {
        Sense::Is => Compare::Equal,
        Sense::IsNot => Compare::NotEqual,
    }
}

fn compare(enc: &mut Encoder, operation: Compare, value: &[u8]) {
    expression(enc, "cmp", |enc| {
        enc.put_be32(1, register::FIRST);
        enc.put_be32(2, operation as u32);
        put_value(enc, 3, value);
    });
}

fn bitwise(enc: &mut Encoder, mask: &[u8], xor: &[u8]) {
    expression(enc, "bitwise", |enc| {
        enc.put_be32(1, register::FIRST);
        enc.put_be32(2, register::FIRST);
        enc.put_be32(3, u32::try_from(mask.len()).unwrap_or(4));
        put_value(enc, 4, mask);
        put_value(enc, 5, xor);
    });
}

fn lookup(enc: &mut Encoder, set: &str, sense: Sense) {
    expression(enc, "lookup", |enc| {
        enc.put_str(1, set);
        enc.put_be32(2, register::FIRST);
        if sense == Sense::IsNot {
            enc.put_be32(5, 1);
        }
    });
}

fn load_meta(enc: &mut Encoder, key: Meta, into: u32) {
    expression(enc, "meta", |enc| {
        enc.put_be32(2, key as u32);
        enc.put_be32(1, into);
    });
}

fn load_payload(enc: &mut Encoder, header: Header, offset: u32, length: usize, into: u32) {
    expression(enc, "payload", |enc| {
        enc.put_be32(1, into);
        enc.put_be32(2, header as u32);
        enc.put_be32(3, offset);
        enc.put_be32(4, u32::try_from(length).unwrap_or(0));
    });
}

/// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
fn number_of(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// Offset in the IP header and length of an address.
fn place(side: Side, family: Family) -> (u32, usize) {
    match (side, family) {
        (Side::Source, Family::V4) => (12, 4),
        (Side::Destination, Family::V4) => (16, 4),
        (Side::Source, Family::V6) => (8, 16),
        (Side::Destination, Family::V6) => (24, 16),
    }
}

fn port_offset(side: Side) -> u32 {
    match side {
        Side::Source => 0,
        Side::Destination => 2,
    }
}

fn load_address(enc: &mut Encoder, side: Side, family: Family, into: u32) {
    let (offset, length) = place(side, family);
    load_payload(enc, Header::Network, offset, length, into);
}

fn load_field(enc: &mut Encoder, field: Field) {
    match field {
        Field::Address(side, family) => load_address(enc, side, family, register::FIRST),
        Field::Port(side) => {
            load_payload(
                enc,
                Header::Transport,
                port_offset(side),
                2,
                register::FIRST,
            );
        }
        Field::InIndex => load_meta(enc, Meta::InIndex, register::FIRST),
        Field::OutIndex => load_meta(enc, Meta::OutIndex, register::FIRST),
        Field::InOutIndex => {
            load_meta(enc, Meta::InIndex, register::FIRST);
            load_meta(enc, Meta::OutIndex, register::WORDS + 1);
        }
        Field::InIndexSource(family) => {
            load_meta(enc, Meta::InIndex, register::FIRST);
            load_address(enc, Side::Source, family, register::WORDS + 1);
        }
        Field::Service(side, family) => {
            let words = match family {
                Family::V4 => 1,
                Family::V6 => 4,
            };
            load_address(enc, side, family, register::FIRST);
            load_meta(enc, Meta::Protocol, register::WORDS + words);
            let offset = port_offset(side);
            load_payload(
                enc,
                Header::Transport,
                offset,
                2,
                register::WORDS + words + 1,
            );
        }
    }
}

fn name(enc: &mut Encoder, key: Meta, interface: &Interface) {
    load_meta(enc, key, register::FIRST);
    match interface {
        Interface::Named(name) => {
            let mut padded = [0_u8; 16];
            for (slot, byte) in padded.iter_mut().zip(name.bytes().take(15)) {
                *slot = byte;
            }
            compare(enc, Compare::Equal, &padded);
        }
        Interface::Prefix(prefix) => compare(enc, Compare::Equal, prefix.as_bytes()),
    }
}

fn state(enc: &mut Encoder, states: States) {
    let wanted = match states {
        States::EstablishedOrRelated => STATE_ESTABLISHED | STATE_RELATED,
        States::Invalid => STATE_INVALID,
    };
    load_flow(enc, CT_STATE);
    bitwise(enc, &wanted.to_ne_bytes(), &[0; 4]);
    compare(enc, Compare::NotEqual, &[0; 4]);
}

/// Loads what connection tracking knows of the packet's flow.
fn load_flow(enc: &mut Encoder, key: u32) {
    expression(enc, "ct", |enc| {
        enc.put_be32(1, register::FIRST);
        enc.put_be32(2, key);
    });
}

fn port(enc: &mut Encoder, sense: Sense, side: Side, first: u16, last: u16) {
    load_payload(
        enc,
        Header::Transport,
        port_offset(side),
        2,
        register::FIRST,
    );
    let (low, high) = (first.to_be_bytes(), last.to_be_bytes());
    match sense {
        _ if first == last => compare(enc, equality(sense), &low),
        Sense::Is => {
            compare(enc, Compare::AtLeast, &low);
            compare(enc, Compare::AtMost, &high);
        }
        Sense::IsNot => expression(enc, "range", |enc| {
            enc.put_be32(1, register::FIRST);
            enc.put_be32(2, Compare::NotEqual as u32);
            put_value(enc, 3, &low);
            put_value(enc, 4, &high);
        }),
    }
}

fn prefix(enc: &mut Encoder, sense: Sense, side: Side, net: &ipnet::IpNet) {
    load_address(enc, side, Family::of_net(net), register::FIRST);
    match net {
        ipnet::IpNet::V4(net) => {
            bitwise(enc, &net.netmask().octets(), &[0; 4]);
            compare(enc, equality(sense), &net.network().octets());
        }
        ipnet::IpNet::V6(net) => {
            bitwise(enc, &net.netmask().octets(), &[0; 16]);
            compare(enc, equality(sense), &net.network().octets());
        }
    }
}

fn local(enc: &mut Encoder, sense: Sense, locality: Locality) {
    const SOURCE: u32 = 1;
    const DESTINATION: u32 = 2;
    const OUTPUT: u32 = 16;
    let flags = match locality {
        Locality::Destination => DESTINATION,
        Locality::Source => SOURCE,
        Locality::SourceOnOutput => SOURCE | OUTPUT,
    };
    expression(enc, "fib", |enc| {
        enc.put_be32(1, register::FIRST);
        // NFT_FIB_RESULT_ADDRTYPE.
        enc.put_be32(2, 3);
        enc.put_be32(3, flags);
    });
    compare(enc, equality(sense), &LOCAL_ROUTE.to_ne_bytes());
}

/// Octets of a key as they stand in registers: each field padded to four.
pub(super) fn key(key: &Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    match key {
        Key::V4(address) => bytes.extend(address.octets()),
        Key::V6(address) => bytes.extend(address.octets()),
        Key::Port(port) => bytes.extend(port.to_be_bytes()),
        Key::Index(index) => bytes.extend(index.to_ne_bytes()),
        Key::IndexPair(first, second) => {
            bytes.extend(first.to_ne_bytes());
            bytes.extend(second.to_ne_bytes());
        }
        Key::IndexV4(index, address) => {
            bytes.extend(index.to_ne_bytes());
            bytes.extend(address.octets());
        }
        Key::IndexV6(index, address) => {
            bytes.extend(index.to_ne_bytes());
            bytes.extend(address.octets());
        }
        Key::ServiceV4(address, protocol, port) => {
            bytes.extend(address.octets());
            service(&mut bytes, *protocol, *port);
        }
        Key::ServiceV6(address, protocol, port) => {
            bytes.extend(address.octets());
            service(&mut bytes, *protocol, *port);
        }
    }
    bytes
}

fn service(bytes: &mut Vec<u8>, protocol: u8, port: u16) {
    bytes.extend([protocol, 0, 0, 0]);
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 0]);
}

/// Length of a key in octets.
pub(super) const fn key_length(kind: KeyType) -> u32 {
    match kind {
        KeyType::V4 | KeyType::Index => 4,
        KeyType::V6 => 16,
        KeyType::Port => 2,
        KeyType::IndexPair | KeyType::IndexV4 => 8,
        KeyType::IndexV6 => 20,
        KeyType::ServiceV4 => 12,
        KeyType::ServiceV6 => 24,
    }
}

/// `nft`'s number for the type of a key.
pub(super) const fn key_datatype(kind: KeyType) -> u32 {
    const fn join(first: u32, second: u32) -> u32 {
        (first << datatype::SHIFT) | second
    }
    match kind {
        KeyType::V4 => datatype::IPV4,
        KeyType::V6 => datatype::IPV6,
        KeyType::Port => datatype::SERVICE,
        KeyType::Index => datatype::INTERFACE,
        KeyType::IndexPair => join(datatype::INTERFACE, datatype::INTERFACE),
        KeyType::IndexV4 => join(datatype::INTERFACE, datatype::IPV4),
        KeyType::IndexV6 => join(datatype::INTERFACE, datatype::IPV6),
        KeyType::ServiceV4 => join(join(datatype::IPV4, datatype::PROTOCOL), datatype::SERVICE),
        KeyType::ServiceV6 => join(join(datatype::IPV6, datatype::PROTOCOL), datatype::SERVICE),
    }
}

/// One element on the wire: an exact key, one end of a range, or the catch-all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// A key, with a verdict in maps.
    Exact(Vec<u8>, Option<Verdict>),
    /// First key behind a range.
    End(Vec<u8>),
    /// Every key not found.
    CatchAll(Verdict),
}

impl Element {
    /// The ends of a range: the kernel keeps its first key and the first key behind it, which is left out at the end of the space.
    pub(super) fn of_range(range: &Range) -> Vec<Self> {
        let (first, behind) = match range {
            Range::V4(first, last) => (
                first.octets().to_vec(),
                u32::from(*last)
                    .checked_add(1)
                    .map(|n| n.to_be_bytes().to_vec()),
            ),
            Range::V6(first, last) => (
                first.octets().to_vec(),
                u128::from(*last)
                    .checked_add(1)
                    .map(|n| n.to_be_bytes().to_vec()),
            ),
            Range::Port(first, last) => (
                first.to_be_bytes().to_vec(),
                last.checked_add(1).map(|n| n.to_be_bytes().to_vec()),
            ),
        };
        let mut elements = vec![Self::Exact(first, None)];
        elements.extend(behind.map(Self::End));
        elements
    }

    /// Octets this takes at most in a message.
    pub(super) fn octets(&self) -> usize {
        const FRAME: usize = 40;
        match self {
            Self::Exact(key, verdict) => {
                FRAME + key.len() + verdict.as_ref().map_or(0, verdict_octets)
            }
            Self::End(key) => FRAME + key.len(),
            Self::CatchAll(verdict) => FRAME + verdict_octets(verdict),
        }
    }

    /// Writes it. Deletes name the key alone, but the catch-all by its flag.
    pub(super) fn put(&self, enc: &mut Encoder) {
        enc.nest(LIST_ELEMENT, |enc| match self {
            Self::Exact(key, verdict) => {
                put_value(enc, element::KEY, key);
                if let Some(verdict) = verdict {
                    put_data(enc, verdict);
                }
            }
            Self::End(key) => {
                put_value(enc, element::KEY, key);
                enc.put_be32(element::FLAGS, element::FLAG_INTERVAL_END);
            }
            Self::CatchAll(verdict) => {
                put_data(enc, verdict);
                enc.put_be32(element::FLAGS, element::FLAG_CATCH_ALL);
            }
        });
    }
}

fn put_data(enc: &mut Encoder, verdict: &Verdict) {
    enc.nest(element::DATA, |enc| match verdict {
        Verdict::Jump(chain) => put_verdict(enc, data::JUMP, Some(chain)),
        Verdict::Goto(chain) => put_verdict(enc, data::GOTO, Some(chain)),
        Verdict::Drop => put_verdict(enc, data::DROP, None),
    });
}

fn verdict_octets(verdict: &Verdict) -> usize {
    const FRAME: usize = 24;
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => FRAME + chain.len(),
        Verdict::Drop => FRAME,
    }
}
