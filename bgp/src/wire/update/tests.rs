use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::attr::{
    Aggregator, AsPath, AttrSet, Attributes, Community, ExtendedCommunity, LargeCommunity, Origin,
    UnknownAttribute,
};
use crate::wire::attribute::{self, AsnWidth, code, flag};
use crate::wire::message::{HEADER, MAX, Malformed, split};
use crate::wire::{Fault, Reaction};
use crate::{Asn, Family, FamilySet};

const PEER: Asn = Asn(65010);
const WK: u8 = flag::TRANSITIVE;
const OT: u8 = flag::OPTIONAL | flag::TRANSITIVE;
const O: u8 = flag::OPTIONAL;

fn external() -> Context {
    Context {
        width: AsnWidth::Four,
        external: true,
        peer_as: PEER,
        families: FamilySet::ALL,
        local_address: Some("10.0.0.1".parse().unwrap()),
    }
}

fn internal() -> Context {
    Context {
        external: false,
        ..external()
    }
}

/// An attribute with any length field.
fn attr(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    attribute::put(&mut out, flags, code, value);
    out
}

fn path() -> Vec<u8> {
    attr(WK, code::AS_PATH, &[2, 1, 0, 0, 0xFD, 0xF2])
}

fn origin() -> Vec<u8> {
    attr(WK, code::ORIGIN, &[0])
}

fn next_hop() -> Vec<u8> {
    attr(WK, code::NEXT_HOP, &[10, 0, 0, 2])
}

fn local_pref() -> Vec<u8> {
    attr(WK, code::LOCAL_PREF, &[0, 0, 0, 100])
}

/// What an external peer must send, less one type, and more.
fn with(less: u8, more: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (code, octets) in [
        (code::ORIGIN, origin()),
        (code::AS_PATH, path()),
        (code::NEXT_HOP, next_hop()),
    ] {
        if code != less {
            out.extend(octets);
        }
    }
    out.extend_from_slice(more);
    out
}

fn plus(more: &[u8]) -> Vec<u8> {
    with(0, more)
}

const PREFIX: &[u8] = &[24, 203, 0, 113];

fn body(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(withdrawn.len())
        .unwrap()
        .to_be_bytes()
        .to_vec();
    out.extend_from_slice(withdrawn);
    out.extend_from_slice(&u16::try_from(attributes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(attributes);
    out.extend_from_slice(nlri);
    out
}

fn mp_reach(next_hop: &[u8], nlri: &[u8]) -> Vec<u8> {
    let mut value = vec![0, 2, 1, u8::try_from(next_hop.len()).unwrap()];
    value.extend_from_slice(next_hop);
    value.push(0);
    value.extend_from_slice(nlri);
    attr(O, code::MP_REACH, &value)
}

const GLOBAL: [u8; 16] = [0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// A row of the table: name, peer, attributes, prefixes, and the fault that is found.
pub(crate) type Row = (&'static str, Context, Vec<u8>, &'static [u8], Fault);

fn sequence(kind: u8, count: u8, asns: &[u32]) -> Vec<u8> {
    let mut value = vec![kind, count];
    for asn in asns {
        value.extend_from_slice(&asn.to_be_bytes());
    }
    attr(WK, code::AS_PATH, &value)
}

#[rustfmt::skip]
fn framing_rows() -> Vec<Row> {
    let e = external();
    vec![
        ("21 overrun", e, plus(&[OT, 8, 9, 0]), PREFIX, Fault::AttributeOverrun),
        ("22 one stray octet", e, plus(&[OT]), PREFIX, Fault::AttributeStray),
        ("22 two stray octets", e, plus(&[OT, 8]), PREFIX, Fault::AttributeStray),
        ("22 three with extended length", e, plus(&[OT | flag::EXTENDED, 8, 0]), PREFIX, Fault::AttributeStray),
        ("24 flags", e, plus(&attr(WK, code::MED, &[0; 4])), PREFIX, Fault::AttributeFlags),
        ("24 flags of MP", e, plus(&attr(OT, code::MP_REACH, &[0; 5])), PREFIX, Fault::MultiprotocolFlags),
        ("27 duplicate", e, plus(&origin()), PREFIX, Fault::Duplicate),
        ("27 duplicate unknown", e, plus(&[attr(OT, 99, &[1]), attr(OT, 99, &[2])].concat()), PREFIX, Fault::Duplicate),
        ("28 duplicate MP", e, plus(&mp_reach(&GLOBAL, &[]).repeat(2)), PREFIX, Fault::DuplicateMultiprotocol),
        ("29 unknown well-known", e, plus(&attr(WK, 99, &[])), PREFIX, Fault::UnknownWellKnown),
        ("32 type 0, well-known", e, plus(&attr(WK, 0, &[])), PREFIX, Fault::UnknownWellKnown),
        ("73 nothing to withdraw", e, attr(WK, 1, &[9]), &[], Fault::BadWithoutRoutes),
    ]
}

#[rustfmt::skip]
fn path_rows() -> Vec<Row> {
    let e = external();
    let long: Vec<u8> = (0..5).flat_map(|_| [vec![2, 255], [0, 0, 0xFD, 0xF2].repeat(255)].concat()).collect();
    let set = [WK, 2, 12, 2, 1, 0, 0, 0xFD, 0xF2, 1, 1, 0, 0, 0, 7];
    vec![
        ("33 ORIGIN length", e, with(1, &attr(WK, 1, &[0, 0])), PREFIX, Fault::OriginLength),
        ("33 ORIGIN empty", e, with(1, &attr(WK, 1, &[])), PREFIX, Fault::OriginLength),
        ("34 ORIGIN value", e, with(1, &attr(WK, 1, &[3])), PREFIX, Fault::OriginValue),
        ("35 ORIGIN missing", e, with(1, &[]), PREFIX, Fault::OriginMissing),
        ("35 AS_PATH missing", e, with(2, &[]), PREFIX, Fault::AsPathMissing),
        ("37 segment 0", e, with(2, &sequence(0, 1, &[65010])), PREFIX, Fault::AsPathSegmentKind),
        ("37 segment 5", e, with(2, &sequence(5, 1, &[65010])), PREFIX, Fault::AsPathSegmentKind),
        ("38 empty segment", e, with(2, &sequence(2, 0, &[])), PREFIX, Fault::AsPathSegmentEmpty),
        ("39 overrun", e, with(2, &sequence(2, 2, &[65010])), PREFIX, Fault::AsPathOverrun),
        ("39 trailing octet", e, with(2, &attr(WK, 2, &[2, 1, 0, 0, 0xFD, 0xF2, 2])), PREFIX, Fault::AsPathOverrun),
        ("40 AS 0", e, with(2, &sequence(2, 2, &[65010, 0])), PREFIX, Fault::AsPathZero),
        ("41 confederation", e, with(2, &sequence(3, 1, &[65010])), PREFIX, Fault::AsPathConfederation),
        ("42 AS_SET", e, with(2, &set), PREFIX, Fault::AsPathSet),
        ("43 first AS", e, with(2, &sequence(2, 1, &[65011])), PREFIX, Fault::AsPathFirst),
        ("43 empty path", e, with(2, &attr(WK, 2, &[])), PREFIX, Fault::AsPathFirst),
        ("44 long path", e, with(2, &attr(WK, 2, &long)), PREFIX, Fault::AsPathTooLong),
        ("75 AS4_PATH from NEW", e, plus(&attr(OT, 17, &[2, 1, 0, 0, 0, 1])), PREFIX, Fault::As4FromNew),
    ]
}

#[rustfmt::skip]
fn value_rows() -> Vec<Row> {
    let (e, i) = (external(), internal());
    vec![
        ("36 NEXT_HOP missing", e, with(3, &[]), PREFIX, Fault::NextHopMissing),
        ("46 NEXT_HOP length", e, with(3, &attr(WK, 3, &[10, 0, 0])), PREFIX, Fault::NextHopLength),
        ("47 NEXT_HOP 0/8", e, with(3, &attr(WK, 3, &[0, 1, 2, 3])), PREFIX, Fault::NextHopValue),
        ("47 NEXT_HOP loopback", e, with(3, &attr(WK, 3, &[127, 0, 0, 1])), PREFIX, Fault::NextHopValue),
        ("47 NEXT_HOP multicast", e, with(3, &attr(WK, 3, &[224, 0, 0, 1])), PREFIX, Fault::NextHopValue),
        ("47 NEXT_HOP ours", e, with(3, &attr(WK, 3, &[10, 0, 0, 1])), PREFIX, Fault::NextHopValue),
        ("49 MED", e, plus(&attr(O, 4, &[0; 3])), PREFIX, Fault::MedLength),
        ("50 LOCAL_PREF, external", e, plus(&attr(WK, 5, &[0; 3])), PREFIX, Fault::LocalPrefExternal),
        ("51 LOCAL_PREF", i, plus(&attr(WK, 5, &[0; 3])), PREFIX, Fault::LocalPrefLength),
        ("52 LOCAL_PREF missing", i, plus(&[]), PREFIX, Fault::LocalPrefMissing),
        ("53 ATOMIC_AGGREGATE", e, plus(&attr(WK, 6, &[0])), PREFIX, Fault::AtomicAggregateLength),
        ("54 AGGREGATOR", e, plus(&attr(OT, 7, &[0; 6])), PREFIX, Fault::AggregatorLength),
        ("54 AGGREGATOR AS 0", e, plus(&attr(OT, 7, &[0; 8])), PREFIX, Fault::AggregatorZero),
        ("55 COMMUNITIES empty", e, plus(&attr(OT, 8, &[])), PREFIX, Fault::CommunitiesLength),
        ("55 COMMUNITIES", e, plus(&attr(OT, 8, &[0; 6])), PREFIX, Fault::CommunitiesLength),
        ("56 extended", e, plus(&attr(OT, 16, &[0; 9])), PREFIX, Fault::ExtendedCommunitiesLength),
        ("56 IPv6 extended", e, plus(&attr(OT, 25, &[0; 8])), PREFIX, Fault::ExtendedCommunitiesLength),
        ("57 large", e, plus(&attr(OT, 32, &[0; 8])), PREFIX, Fault::LargeCommunitiesLength),
        ("58 ORIGINATOR_ID, external", e, plus(&attr(O, 9, &[0; 4])), PREFIX, Fault::ReflectionExternal),
        ("58 CLUSTER_LIST, external", e, plus(&attr(O, 10, &[0; 4])), PREFIX, Fault::ReflectionExternal),
        ("59 ORIGINATOR_ID", i, plus(&[local_pref(), attr(O, 9, &[0; 3])].concat()), PREFIX, Fault::OriginatorLength),
        ("59 CLUSTER_LIST", i, plus(&[local_pref(), attr(O, 10, &[])].concat()), PREFIX, Fault::ClusterListLength),
        ("77 OTC", e, plus(&attr(OT, 35, &[0; 3])), PREFIX, Fault::OnlyToCustomerLength),
    ]
}

#[rustfmt::skip]
fn prefix_rows() -> Vec<Row> {
    let e = external();
    let ipv4 = Context { families: FamilySet::IPV4, ..e };
    let link_local = [[0xFE, 0x80].as_slice(), &[0; 14]].concat();
    vec![
        ("61 MP_REACH short", e, plus(&attr(O, 14, &[0, 2, 1, 16])), PREFIX, Fault::ReachLength),
        ("61 MP_UNREACH short", e, plus(&attr(O, 15, &[0, 2])), PREFIX, Fault::UnreachLength),
        ("62 next hop length", e, plus(&mp_reach(&[0; 15], &[])), PREFIX, Fault::ReachNextHopLength),
        ("63 link-local", e, plus(&mp_reach(&link_local, &[0])), PREFIX, Fault::ReachNextHopValue),
        ("64 family", ipv4, plus(&mp_reach(&GLOBAL, &[0])), PREFIX, Fault::FamilyNotNegotiated),
        ("65 length 129", e, plus(&mp_reach(&GLOBAL, &[129])), PREFIX, Fault::MultiprotocolPrefix),
        ("66 MP overrun", e, plus(&mp_reach(&GLOBAL, &[64, 1])), PREFIX, Fault::MultiprotocolPrefix),
        ("66 NLRI overrun", e, plus(&[]), &[24, 203], Fault::Prefix),
        ("67 length 33", e, plus(&[]), &[33, 1, 2, 3, 4, 5], Fault::Prefix),
    ]
}

/// All rows that concern an UPDATE of a 4-octet peer.
pub(crate) fn rows() -> Vec<Row> {
    [framing_rows(), path_rows(), value_rows(), prefix_rows()].concat()
}

/// The body of a row.
pub(crate) fn row_body(attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    body(&[], attributes, nlri)
}

#[test]
fn every_fault_of_an_update_gets_its_verdict() {
    for (name, context, attributes, nlri, fault) in rows() {
        let body = body(&[], &attributes, nlri);
        match (Update::parse(&body, &context), fault.reaction()) {
            (
                Err(Malformed {
                    fault: found,
                    notification,
                }),
                Reaction::Reset(code, subcode),
            ) => {
                assert_eq!(found, fault, "{name}");
                assert_eq!(
                    (notification.code, notification.subcode),
                    (code, subcode),
                    "{name}"
                );
            }
            (Ok(update), reaction) => {
                assert!(
                    update.faults.contains(fault),
                    "{name}: {:?}",
                    update.faults.iter().collect::<Vec<_>>()
                );
                assert_eq!(update.faults.reaction(), reaction, "{name}");
                assert_eq!(
                    update.treat_as_withdraw(),
                    reaction == Reaction::Withdraw,
                    "{name}"
                );
            }
            (Err(malformed), _) => panic!("{name}: reset by {:?}", malformed.fault),
        }
    }
}

#[test]
fn as4_rows_of_a_two_octet_peer() {
    let old = Context {
        width: AsnWidth::Two,
        ..external()
    };
    let path = attr(WK, code::AS_PATH, &[2, 1, 0xFD, 0xF2]);
    let base = [origin(), path, next_hop()].concat();
    for (name, more, fault) in [
        ("75 malformed", attr(OT, 17, &[2, 1, 0]), Fault::As4Path),
        (
            "76 length",
            attr(OT, 18, &[0; 6]),
            Fault::As4AggregatorLength,
        ),
        ("54 length", attr(OT, 7, &[0; 8]), Fault::AggregatorLength),
    ] {
        let body = body(&[], &[base.clone(), more].concat(), PREFIX);
        let update = Update::parse(&body, &old).unwrap();
        assert!(update.faults.contains(fault), "{name}");
        assert!(!update.treat_as_withdraw(), "{name}");
    }
}

#[test]
fn sections_that_overrun_reset() {
    for body in [&[0u8, 9, 0, 0][..], &[0, 0, 0, 9], &[0, 0]] {
        assert_eq!(
            Update::parse(body, &external()).unwrap_err().fault,
            Fault::Sections,
            "{body:?}"
        );
    }
}

#[test]
fn what_is_allowed_is_accepted() {
    for (name, more) in [
        (
            "25 extended length below 256",
            vec![OT | flag::EXTENDED, 8, 0, 4, 0, 1, 0, 2],
        ),
        ("26 low flag bits", vec![OT | 0x0F, 8, 4, 0, 1, 0, 2]),
        ("30 unknown transitive", attr(OT, 99, &[1, 2])),
        ("31 unknown non-transitive", attr(O, 99, &[1, 2])),
        ("32 type 0, optional", attr(OT, 0, &[1])),
        ("24 partial bit", attr(OT | flag::PARTIAL, 8, &[0, 1, 0, 2])),
    ] {
        let body = body(&[], &plus(&more), PREFIX);
        let update = Update::parse(&body, &external()).unwrap();
        assert!(
            update.faults.is_empty(),
            "{name}: {:?}",
            update.faults.iter().collect::<Vec<_>>()
        );
    }
}

#[test]
fn unknown_attributes_go_on_only_when_transitive() {
    let body = body(
        &[],
        &plus(&[attr(OT, 99, &[1]), attr(O, 98, &[2])].concat()),
        PREFIX,
    );
    let update = Update::parse(&body, &external()).unwrap();
    let mut octets = Vec::new();
    update.put_canonical(&mut octets);
    let attributes = attribute::parse_canonical(&octets);
    assert_eq!(
        attributes.unknown,
        [UnknownAttribute {
            code: 99,
            value: vec![1]
        }]
    );
    assert!(
        octets
            .windows(2)
            .any(|pair| pair == [OT | flag::PARTIAL, 99]),
        "the partial bit is set"
    );
}

#[test]
fn end_of_rib_is_an_empty_update_of_the_family() {
    for family in Family::ALL {
        let mut out = Vec::new();
        put_end_of_rib(&mut out, family);
        let update = Update::parse(&out[HEADER..], &external()).unwrap();
        assert_eq!(update.end_of_rib(), Some(family));
    }
    let withdraw = body(PREFIX, &[], &[]);
    assert_eq!(
        Update::parse(&withdraw, &external()).unwrap().end_of_rib(),
        None
    );
}

#[test]
fn a_two_octet_path_gets_its_numbers_back() {
    let old = Context {
        width: AsnWidth::Two,
        ..external()
    };
    let trans = Asn::TRANS.two_octets().to_be_bytes();
    let short = [[2, 3, 0xFD, 0xF2].as_slice(), &trans, &trans].concat();
    let four = [2, 2, 0, 1, 0, 0, 0, 2, 0, 0];
    let attributes = [
        origin(),
        attr(WK, 2, &short),
        next_hop(),
        attr(OT, 17, &four),
    ]
    .concat();
    let body = body(&[], &attributes, PREFIX);
    let update = Update::parse(&body, &old).unwrap();
    let mut octets = Vec::new();
    update.put_canonical(&mut octets);
    let path = attribute::parse_canonical(&octets).as_path;
    assert_eq!(path, AsPath::sequence([PEER, Asn(65536), Asn(131_072)]));
}

fn prefixes(family: Family) -> impl Strategy<Value = Vec<IpNet>> {
    let one = (any::<u128>(), any::<u8>()).prop_map(move |(address, length)| match family {
        Family::Ipv4Unicast => {
            let address = u32::try_from(address >> 96).unwrap();
            IpNet::V4(
                ipnet::Ipv4Net::new(address.into(), length % 33)
                    .unwrap()
                    .trunc(),
            )
        }
        Family::Ipv6Unicast => IpNet::V6(
            ipnet::Ipv6Net::new(address.into(), length % 129)
                .unwrap()
                .trunc(),
        ),
    });
    proptest::collection::vec(one, 1..2000)
}

prop_compose! {
    fn attributes()(
        origin in proptest::sample::select(vec![Origin::Igp, Origin::Egp, Origin::Incomplete]),
        path in proptest::collection::vec(1u32.., 0..300),
        med: Option<u32>,
        atomic_aggregate: bool,
        aggregator in proptest::option::of((1u32.., any::<u32>())),
        communities in proptest::collection::btree_set(any::<u32>(), 0..80),
        extended in proptest::collection::btree_set(any::<[u8; 8]>(), 0..4),
        large in proptest::collection::btree_set(any::<(u32, u32, u32)>(), 0..4),
        unknown in proptest::collection::btree_map(100u8.., proptest::collection::vec(any::<u8>(), 0..300), 0..3),
    ) -> Attributes {
        let mut as_path = AsPath::sequence(path.into_iter().map(Asn));
        as_path.prepend(PEER);
        Attributes {
            origin,
            as_path,
            med,
            local_pref: None,
            atomic_aggregate,
            aggregator: aggregator.map(|(asn, address)| Aggregator { asn: Asn(asn), address: address.into() }),
            communities: communities.into_iter().map(Community).collect(),
            originator: None,
            cluster_list: vec![],
            extended_communities: extended.into_iter().map(ExtendedCommunity).collect(),
            large_communities: large.into_iter().map(|(global, local1, local2)| LargeCommunity { global, local1, local2 }).collect(),
            unknown: unknown.into_iter().map(|(code, value)| UnknownAttribute { code, value }).collect(),
        }
    }
}

/// All UPDATEs of an encoded stream: prefixes announced and withdrawn, and the attributes of each.
fn decode(octets: &[u8], context: &Context) -> (Vec<IpNet>, Vec<IpNet>, Vec<Attributes>) {
    let (mut announced, mut withdrawn, mut attributes) = (vec![], vec![], vec![]);
    let mut rest = octets;
    while let Some((message, length)) = split(rest, MAX).unwrap() {
        let update = Update::parse(message.body, context).unwrap();
        assert!(
            update.faults.is_empty(),
            "{:?}",
            update.faults.iter().collect::<Vec<_>>()
        );
        announced.extend(update.reach.iter());
        announced.extend(update.mp_reach.iter().flat_map(|mp| mp.nlri.iter()));
        withdrawn.extend(update.withdrawn.iter());
        withdrawn.extend(
            update
                .mp_withdrawn
                .iter()
                .flat_map(super::super::nlri::Nlri::iter),
        );
        if update.announces() {
            let mut canonical = Vec::new();
            update.put_canonical(&mut canonical);
            attributes.push(attribute::parse_canonical(&canonical));
        }
        rest = &rest[length..];
    }
    assert!(rest.is_empty());
    (announced, withdrawn, attributes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn attributes_decode_as_encoded(attributes in attributes()) {
        let set = AttrSet::from_attributes(&attributes);
        prop_assert_eq!(set.attributes(), attributes.clone());
        prop_assert_eq!(usize::from(set.header().hops), attributes.as_path.hops());
        prop_assert_eq!(set.header().neighbour, attributes.as_path.first());
    }

    #[test]
    fn updates_decode_as_encoded(
        attributes in attributes(),
        v4 in prefixes(Family::Ipv4Unicast),
        v6 in prefixes(Family::Ipv6Unicast),
        width in proptest::sample::select(vec![AsnWidth::Two, AsnWidth::Four]),
    ) {
        let canonical = AttrSet::from_attributes(&attributes);
        let context = Context { width, ..external() };
        let hops: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        for (family, prefixes, next_hop) in [(Family::Ipv4Unicast, &v4, hops[0]), (Family::Ipv6Unicast, &v6, hops[1])] {
            let reach = Reach { family, attributes: canonical.octets(), next_hop, prefixes, width, max: MAX };
            let mut octets = Vec::new();
            let Some(messages) = put_reach(&mut octets, &reach) else {
                continue;
            };
            let (announced, withdrawn, decoded) = decode(&octets, &context);
            prop_assert_eq!(&announced, prefixes);
            prop_assert!(withdrawn.is_empty());
            prop_assert_eq!(decoded.len() as u64, messages);
            prop_assert!(decoded.iter().all(|decoded| *decoded == attributes));
        }
    }

    #[test]
    fn withdrawals_decode_as_encoded(v4 in prefixes(Family::Ipv4Unicast), v6 in prefixes(Family::Ipv6Unicast)) {
        for (family, prefixes) in [(Family::Ipv4Unicast, v4), (Family::Ipv6Unicast, v6)] {
            let mut octets = Vec::new();
            put_withdraw(&mut octets, family, &prefixes, MAX);
            prop_assert_eq!(decode(&octets, &external()).1, prefixes);
        }
    }

    #[test]
    fn any_octets_parse_or_not(octets in proptest::collection::vec(any::<u8>(), 0..200), attributes in attributes()) {
        let _ = Update::parse(&octets, &external());
        let mut damaged = AttrSet::from_attributes(&attributes).octets().to_vec();
        for (place, octet) in octets.iter().enumerate().filter(|(place, _)| place % 7 == 0) {
            let length = damaged.len();
            damaged[place * 31 % length] ^= octet;
        }
        for context in [external(), internal(), Context { width: AsnWidth::Two, ..external() }] {
            let body = body(&[], &damaged, PREFIX);
            if let Ok(update) = Update::parse(&body, &context) {
                let mut canonical = Vec::new();
                update.put_canonical(&mut canonical);
                attribute::parse_canonical(&canonical);
            }
        }
    }
}
