//! UPDATE messages, filled to the limit.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Family;
use crate::attr::SegmentKind;
use crate::wire::attribute::{self, AsnWidth, code, flag};
use crate::wire::message::{self, HEADER, Kind};
use crate::wire::{Reader, nlri};

/// Routes that share attributes and next hop.
#[derive(Clone, Copy, Debug)]
pub struct Reach<'a> {
    /// Family of all prefixes.
    pub family: Family,
    /// Canonical attributes.
    pub attributes: &'a [u8],
    /// Next hop as the peer shall see it.
    pub next_hop: IpAddr,
    /// The prefixes.
    pub prefixes: &'a [IpNet],
    /// Octets of AS numbers the peer reads.
    pub width: AsnWidth,
    /// Longest message.
    pub max: usize,
}

/// Appends as few messages as hold all prefixes; returns how many messages, or `None` when the attributes alone leave
/// no room for a prefix (nothing is appended then).
pub fn put_reach(out: &mut Vec<u8>, reach: &Reach<'_>) -> Option<u64> {
    let classic = reach.family == Family::Ipv4Unicast && reach.next_hop.is_ipv4();
    let attributes = for_peer(reach, classic);
    let next_hop = next_hop_octets(reach.next_hop);
    // Length fields of the body; for MP_REACH also flags, type, 2 length octets, AFI, SAFI, next hop, reserved.
    let overhead = if classic {
        4
    } else {
        4 + 4 + 5 + next_hop.len()
    };
    let room = reach
        .max
        .checked_sub(HEADER + overhead + attributes.len())?;
    let widest = reach.prefixes.iter().map(nlri::size).max().unwrap_or(0);
    if room < widest {
        return None;
    }
    let mut rest = reach.prefixes;
    let mut messages = 0;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, room));
        message::put(out, Kind::Update, |out| {
            out.extend_from_slice(&[0, 0]);
            if classic {
                put_length(out, attributes.len());
                out.extend_from_slice(&attributes);
                put_prefixes(out, now);
            } else {
                let value = mp_reach(reach.family, &next_hop, now);
                put_length(out, attributes.len() + 4 + value.len());
                out.extend_from_slice(&[flag::OPTIONAL | flag::EXTENDED, code::MP_REACH]);
                put_length(out, value.len());
                out.extend_from_slice(&value);
                out.extend_from_slice(&attributes);
            }
        });
        messages += 1;
        rest = later;
    }
    Some(messages)
}

/// Appends as few messages as withdraw all prefixes; returns how many.
pub fn put_withdraw(out: &mut Vec<u8>, family: Family, prefixes: &[IpNet], max: usize) -> u64 {
    let overhead = match family {
        Family::Ipv4Unicast => HEADER + 4,
        Family::Ipv6Unicast => HEADER + 4 + 7,
    };
    let room = max.saturating_sub(overhead);
    let mut rest = prefixes;
    let mut messages = 0;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(fitting(rest, room).max(1));
        let mut field = Vec::new();
        put_prefixes(&mut field, now);
        message::put(out, Kind::Update, |out| match family {
            Family::Ipv4Unicast => {
                put_length(out, field.len());
                out.extend_from_slice(&field);
                out.extend_from_slice(&[0, 0]);
            }
            Family::Ipv6Unicast => {
                out.extend_from_slice(&[0, 0]);
                put_length(out, field.len() + 7);
                out.extend_from_slice(&[flag::OPTIONAL | flag::EXTENDED, code::MP_UNREACH]);
                put_length(out, field.len() + 3);
                put_family(out, family);
                out.extend_from_slice(&field);
            }
        });
        messages += 1;
        rest = later;
    }
    messages
}

/// Appends End-of-RIB (RFC 4724 §2).
pub fn put_end_of_rib(out: &mut Vec<u8>, family: Family) {
    message::put(out, Kind::Update, |out| match family {
        Family::Ipv4Unicast => out.extend_from_slice(&[0, 0, 0, 0]),
        Family::Ipv6Unicast => {
            out.extend_from_slice(&[0, 0, 0, 6, flag::OPTIONAL, code::MP_UNREACH, 3]);
            put_family(out, family);
        }
    });
}

/// How many of the prefixes fit `room` octets.
fn fitting(prefixes: &[IpNet], room: usize) -> usize {
    let mut used = 0;
    prefixes
        .iter()
        .take_while(|prefix| {
            used += nlri::size(prefix);
            used <= room
        })
        .count()
}

fn put_prefixes(out: &mut Vec<u8>, prefixes: &[IpNet]) {
    for prefix in prefixes {
        nlri::put(out, prefix);
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    let length = u16::try_from(length).expect("a message has at most 65,535 octets");
    out.extend_from_slice(&length.to_be_bytes());
}

fn put_family(out: &mut Vec<u8>, family: Family) {
    let (afi, safi) = family.codes();
    out.extend_from_slice(&afi.to_be_bytes());
    out.push(safi);
}

fn next_hop_octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn mp_reach(family: Family, next_hop: &[u8], prefixes: &[IpNet]) -> Vec<u8> {
    let mut value = Vec::new();
    put_family(&mut value, family);
    value.push(u8::try_from(next_hop.len()).unwrap_or(u8::MAX));
    value.extend_from_slice(next_hop);
    value.push(0);
    put_prefixes(&mut value, prefixes);
    value
}

/// The canonical attributes with `NEXT_HOP` in its place and AS numbers as wide as the peer reads.
fn for_peer(reach: &Reach<'_>, classic: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(reach.attributes.len() + 8);
    let mut next_hop = match reach.next_hop {
        IpAddr::V4(address) if classic => Some(address),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    };
    let mut reader = Reader::new(reach.attributes);
    let mut as4 = Vec::new();
    while let Ok(Some(raw)) = attribute::next(&mut reader) {
        if raw.code > code::NEXT_HOP
            && let Some(address) = next_hop.take()
        {
            attribute::put(
                &mut out,
                flag::TRANSITIVE,
                code::NEXT_HOP,
                &address.octets(),
            );
        }
        if reach.width == AsnWidth::Two && narrow(&mut out, &mut as4, &raw) {
            continue;
        }
        attribute::put(&mut out, raw.flags, raw.code, raw.value);
    }
    if let Some(address) = next_hop {
        attribute::put(
            &mut out,
            flag::TRANSITIVE,
            code::NEXT_HOP,
            &address.octets(),
        );
    }
    out.extend_from_slice(&as4);
    out
}

/// Writes `AS_PATH` and AGGREGATOR for a 2-octet peer, and what it cannot read as AS4 attributes (RFC 6793 §4.2.2).
fn narrow(out: &mut Vec<u8>, as4: &mut Vec<u8>, raw: &attribute::RawAttribute<'_>) -> bool {
    const TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;
    match raw.code {
        code::AS_PATH => {
            let mut path = attribute::parse_as_path(raw.value, AsnWidth::Four).unwrap_or_default();
            let mut value = Vec::new();
            attribute::put_as_path(&mut value, &path, AsnWidth::Two);
            attribute::put(out, raw.flags, raw.code, &value);
            if path.asns().any(|asn| u16::try_from(asn.0).is_err()) {
                path.segments.retain(|segment| {
                    matches!(segment.kind, SegmentKind::Sequence | SegmentKind::Set)
                });
                value.clear();
                attribute::put_as_path(&mut value, &path, AsnWidth::Four);
                attribute::put(as4, TRANSITIVE, code::AS4_PATH, &value);
            }
            true
        }
        code::AGGREGATOR => {
            let Some(aggregator) = attribute::parse_aggregator(raw.value, AsnWidth::Four) else {
                return true;
            };
            let mut value = aggregator.asn.two_octets().to_be_bytes().to_vec();
            value.extend_from_slice(&aggregator.address.octets());
            attribute::put(out, raw.flags, raw.code, &value);
            if u16::try_from(aggregator.asn.0).is_err() {
                attribute::put(as4, TRANSITIVE, code::AS4_AGGREGATOR, raw.value);
            }
            true
        }
        _ => false,
    }
}
