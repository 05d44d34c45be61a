//! Path attributes on the wire (RFC 4271 §4.3).
//!
//! ```text
//!    0               1               2               (3, with the extended-length flag)
//!   +-+-+-+-+-+-+-+-+---------------+---------------+---------
//!   |O|T|P|E|ignored| type          | length        | value …
//!   +-+-+-+-+-+-+-+-+---------------+---------------+---------
//! ```

use std::net::Ipv4Addr;

use super::{Fault, Reader};
use crate::Asn;
use crate::attr::{
    Aggregator, AsPath, Attributes, Community, ExtendedCommunity, LargeCommunity, Origin, Segment,
    SegmentKind, UnknownAttribute,
};

/// Type codes.
pub mod code {
    /// ORIGIN.
    pub const ORIGIN: u8 = 1;
    /// `AS_PATH`.
    pub const AS_PATH: u8 = 2;
    /// `NEXT_HOP`.
    pub const NEXT_HOP: u8 = 3;
    /// `MULTI_EXIT_DISC`.
    pub const MED: u8 = 4;
    /// `LOCAL_PREF`.
    pub const LOCAL_PREF: u8 = 5;
    /// `ATOMIC_AGGREGATE`.
    pub const ATOMIC_AGGREGATE: u8 = 6;
    /// AGGREGATOR.
    pub const AGGREGATOR: u8 = 7;
    /// COMMUNITIES (RFC 1997).
    pub const COMMUNITIES: u8 = 8;
    /// `ORIGINATOR_ID` (RFC 4456).
    pub const ORIGINATOR_ID: u8 = 9;
    /// `CLUSTER_LIST` (RFC 4456).
    pub const CLUSTER_LIST: u8 = 10;
    /// `MP_REACH_NLRI` (RFC 4760).
    pub const MP_REACH: u8 = 14;
    /// `MP_UNREACH_NLRI` (RFC 4760).
    pub const MP_UNREACH: u8 = 15;
    /// Extended communities (RFC 4360).
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    /// `AS4_PATH` (RFC 6793).
    pub const AS4_PATH: u8 = 17;
    /// `AS4_AGGREGATOR` (RFC 6793).
    pub const AS4_AGGREGATOR: u8 = 18;
    /// IPv6 extended communities (RFC 5701).
    pub const IPV6_EXTENDED_COMMUNITIES: u8 = 25;
    /// Large communities (RFC 8092).
    pub const LARGE_COMMUNITIES: u8 = 32;
    /// Only to customer (RFC 9234).
    pub const ONLY_TO_CUSTOMER: u8 = 35;
}

/// Flag bits.
pub mod flag {
    /// Not every speaker must know the attribute.
    pub const OPTIONAL: u8 = 0x80;
    /// Speakers that do not know it pass it on.
    pub const TRANSITIVE: u8 = 0x40;
    /// Some speaker passed it on without knowing it.
    pub const PARTIAL: u8 = 0x20;
    /// The length has two octets.
    pub const EXTENDED: u8 = 0x10;
}

/// Optional and transitive flags of a known type; `None` for types not known.
pub(crate) fn expected_flags(code: u8) -> Option<u8> {
    const WELL_KNOWN: u8 = flag::TRANSITIVE;
    const TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;
    const NON_TRANSITIVE: u8 = flag::OPTIONAL;
    Some(match code {
        code::ORIGIN
        | code::AS_PATH
        | code::NEXT_HOP
        | code::LOCAL_PREF
        | code::ATOMIC_AGGREGATE => WELL_KNOWN,
        code::AGGREGATOR
        | code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::AS4_PATH
        | code::AS4_AGGREGATOR
        | code::IPV6_EXTENDED_COMMUNITIES
        | code::LARGE_COMMUNITIES
        | code::ONLY_TO_CUSTOMER => TRANSITIVE,
        code::MED
        | code::ORIGINATOR_ID
        | code::CLUSTER_LIST
        | code::MP_REACH
        | code::MP_UNREACH => NON_TRANSITIVE,
        _ => return None,
    })
}

/// One attribute as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawAttribute<'a> {
    /// Flags.
    pub flags: u8,
    /// Type code.
    pub code: u8,
    /// Value.
    pub value: &'a [u8],
}

/// Reads the next attribute; `None` at the end.
///
/// # Errors
/// [`Fault::AttributeStray`] or [`Fault::AttributeOverrun`]; the rest of the section cannot be read then.
pub fn next<'a>(reader: &mut Reader<'a>) -> Result<Option<RawAttribute<'a>>, Fault> {
    if reader.is_empty() {
        return Ok(None);
    }
    let flags = reader.u8().ok_or(Fault::AttributeStray)?;
    let code = reader.u8().ok_or(Fault::AttributeStray)?;
    let length = if flags & flag::EXTENDED == 0 {
        reader.u8().map(usize::from)
    } else {
        reader.u16().map(usize::from)
    };
    let value = reader
        .take(length.ok_or(Fault::AttributeStray)?)
        .ok_or(Fault::AttributeOverrun)?;
    Ok(Some(RawAttribute { flags, code, value }))
}

/// Appends an attribute; the extended length only when needed.
pub fn put(out: &mut Vec<u8>, flags: u8, code: u8, value: &[u8]) {
    let flags = flags & !(flag::EXTENDED | 0x0F);
    if let Ok(length) = u8::try_from(value.len()) {
        out.extend_from_slice(&[flags, code, length]);
    } else {
        let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&[flags | flag::EXTENDED, code]);
        out.extend_from_slice(&length.to_be_bytes());
    }
    out.extend(value.iter().take(usize::from(u16::MAX)));
}

/// Octets of one AS number in paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AsnWidth {
    /// The peer does not speak RFC 6793.
    Two,
    /// Both sides do.
    Four,
}

/// Reads AS path segments.
///
/// # Errors
/// The first fault found.
pub fn parse_as_path(value: &[u8], width: AsnWidth) -> Result<AsPath, Fault> {
    let mut reader = Reader::new(value);
    let mut path = AsPath::default();
    while !reader.is_empty() {
        let kind = reader
            .u8()
            .and_then(SegmentKind::from_code)
            .ok_or(Fault::AsPathSegmentKind)?;
        let count = usize::from(reader.u8().ok_or(Fault::AsPathOverrun)?);
        if count == 0 {
            return Err(Fault::AsPathSegmentEmpty);
        }
        let mut asns = Vec::with_capacity(count);
        for _ in 0..count {
            let asn = match width {
                AsnWidth::Two => reader.u16().map(u32::from),
                AsnWidth::Four => reader.u32(),
            };
            asns.push(Asn(asn.ok_or(Fault::AsPathOverrun)?));
        }
        path.segments.push(Segment { kind, asns });
    }
    Ok(path)
}

/// Appends the value of an AS path. With two octets, numbers that do not fit become [`Asn::TRANS`].
pub fn put_as_path(out: &mut Vec<u8>, path: &AsPath, width: AsnWidth) {
    for segment in &path.segments {
        for asns in segment.asns.chunks(usize::from(u8::MAX)) {
            out.extend_from_slice(&[
                segment.kind.code(),
                u8::try_from(asns.len()).unwrap_or(u8::MAX),
            ]);
            for asn in asns {
                match width {
                    AsnWidth::Two => out.extend_from_slice(&asn.two_octets().to_be_bytes()),
                    AsnWidth::Four => out.extend_from_slice(&asn.0.to_be_bytes()),
                }
            }
        }
    }
}

/// Appends attributes in canonical form: ascending types, minimal lengths, 4-octet AS numbers.
pub fn put_canonical(out: &mut Vec<u8>, attributes: &Attributes) {
    let mut unknown = attributes.unknown.iter().peekable();
    let mut value = Vec::new();
    for code in KNOWN {
        while let Some(attribute) = unknown.next_if(|attribute| attribute.code < code) {
            put_unknown(out, attribute);
        }
        value.clear();
        if put_value(&mut value, attributes, code) {
            put(
                out,
                expected_flags(code).unwrap_or(flag::OPTIONAL),
                code,
                &value,
            );
        }
    }
    for attribute in unknown {
        put_unknown(out, attribute);
    }
}

/// Types that [`Attributes`] names, ascending.
const KNOWN: [u8; 11] = [
    code::ORIGIN,
    code::AS_PATH,
    code::MED,
    code::LOCAL_PREF,
    code::ATOMIC_AGGREGATE,
    code::AGGREGATOR,
    code::COMMUNITIES,
    code::ORIGINATOR_ID,
    code::CLUSTER_LIST,
    code::EXTENDED_COMMUNITIES,
    code::LARGE_COMMUNITIES,
];

fn put_unknown(out: &mut Vec<u8>, attribute: &UnknownAttribute) {
    put(
        out,
        flag::OPTIONAL | flag::TRANSITIVE | flag::PARTIAL,
        attribute.code,
        &attribute.value,
    );
}

/// Whether the attribute is present at all.
fn put_value(out: &mut Vec<u8>, attributes: &Attributes, code: u8) -> bool {
    let mut number = |value: Option<u32>| {
        value.is_some_and(|value| {
            out.extend_from_slice(&value.to_be_bytes());
            true
        })
    };
    match code {
        code::MED => return number(attributes.med),
        code::LOCAL_PREF => return number(attributes.local_pref),
        code::ORIGINATOR_ID => return number(attributes.originator.map(u32::from)),
        _ => {}
    }
    match code {
        code::ORIGIN => out.push(attributes.origin.code()),
        code::AS_PATH => {
            put_as_path(out, &attributes.as_path, AsnWidth::Four);
            return true;
        }
        code::ATOMIC_AGGREGATE => return attributes.atomic_aggregate,
        code::AGGREGATOR => {
            if let Some(aggregator) = &attributes.aggregator {
                out.extend_from_slice(&aggregator.asn.0.to_be_bytes());
                out.extend_from_slice(&aggregator.address.octets());
            }
        }
        code::COMMUNITIES => attributes
            .communities
            .iter()
            .for_each(|c| out.extend_from_slice(&c.0.to_be_bytes())),
        code::CLUSTER_LIST => attributes
            .cluster_list
            .iter()
            .for_each(|id| out.extend_from_slice(&id.octets())),
        code::EXTENDED_COMMUNITIES => attributes
            .extended_communities
            .iter()
            .for_each(|c| out.extend_from_slice(&c.0)),
        code::LARGE_COMMUNITIES => {
            for community in &attributes.large_communities {
                out.extend_from_slice(&community.global.to_be_bytes());
                out.extend_from_slice(&community.local1.to_be_bytes());
                out.extend_from_slice(&community.local2.to_be_bytes());
            }
        }
        _ => {}
    }
    !out.is_empty()
}

/// Reads attributes in canonical form. What cannot be read is left out: canonical octets were made by this crate.
pub fn parse_canonical(octets: &[u8]) -> Attributes {
    let mut attributes = Attributes::default();
    let mut reader = Reader::new(octets);
    while let Ok(Some(raw)) = next(&mut reader) {
        read_value(&mut attributes, &raw);
    }
    attributes
}

fn read_value(attributes: &mut Attributes, raw: &RawAttribute<'_>) {
    let mut value = Reader::new(raw.value);
    match raw.code {
        code::ORIGIN => {
            attributes.origin = value.u8().and_then(Origin::from_code).unwrap_or_default();
        }
        code::AS_PATH => {
            attributes.as_path = parse_as_path(raw.value, AsnWidth::Four).unwrap_or_default();
        }
        code::MED => attributes.med = value.u32(),
        code::LOCAL_PREF => attributes.local_pref = value.u32(),
        code::ATOMIC_AGGREGATE => attributes.atomic_aggregate = true,
        code::AGGREGATOR => attributes.aggregator = parse_aggregator(raw.value, AsnWidth::Four),
        code::COMMUNITIES => attributes.communities = parse_communities(raw.value),
        code::ORIGINATOR_ID => attributes.originator = value.ipv4(),
        code::CLUSTER_LIST => attributes.cluster_list = parse_cluster_list(raw.value),
        code::EXTENDED_COMMUNITIES => {
            attributes.extended_communities = raw
                .value
                .chunks_exact(8)
                .filter_map(|c| c.try_into().ok())
                .map(ExtendedCommunity)
                .collect();
        }
        code::LARGE_COMMUNITIES => {
            attributes.large_communities = parse_large_communities(raw.value);
        }
        code => attributes.unknown.push(UnknownAttribute {
            code,
            value: raw.value.to_vec(),
        }),
    }
}

/// Reads AGGREGATOR; `None` when its length does not fit.
pub(crate) fn parse_aggregator(value: &[u8], width: AsnWidth) -> Option<Aggregator> {
    let mut reader = Reader::new(value);
    let asn = match width {
        AsnWidth::Two => u32::from(reader.u16()?),
        AsnWidth::Four => reader.u32()?,
    };
    let address = reader.ipv4()?;
    reader.is_empty().then_some(Aggregator {
        asn: Asn(asn),
        address,
    })
}

/// Reads communities, ascending and single.
pub(crate) fn parse_communities(value: &[u8]) -> Vec<Community> {
    let mut reader = Reader::new(value);
    let mut list: Vec<Community> = std::iter::from_fn(|| reader.u32()).map(Community).collect();
    list.sort_unstable();
    list.dedup();
    list
}

fn parse_cluster_list(value: &[u8]) -> Vec<Ipv4Addr> {
    let mut reader = Reader::new(value);
    std::iter::from_fn(|| reader.ipv4()).collect()
}

/// Reads large communities, ascending and single.
pub(crate) fn parse_large_communities(value: &[u8]) -> Vec<LargeCommunity> {
    let mut reader = Reader::new(value);
    let mut list: Vec<LargeCommunity> = std::iter::from_fn(|| {
        Some(LargeCommunity {
            global: reader.u32()?,
            local1: reader.u32()?,
            local2: reader.u32()?,
        })
    })
    .collect();
    list.sort_unstable();
    list.dedup();
    list
}
