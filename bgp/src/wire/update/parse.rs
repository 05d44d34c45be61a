//! The one pass over an UPDATE.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::attr::SegmentKind;
use crate::wire::attribute::{self, AsnWidth, RawAttribute, code, flag};
use crate::wire::message::Malformed;
use crate::wire::nlri::Nlri;
use crate::wire::{Fault, FaultSet, Reaction, Reader};
use crate::{Asn, Family, FamilySet};

/// Hops an AS path may have.
const MAX_HOPS: usize = 1000;

/// What the session agreed on, as far as it changes the meaning of octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Octets of AS numbers in paths.
    pub width: AsnWidth,
    /// The peer is in another AS.
    pub external: bool,
    /// Its AS number: external paths begin with it.
    pub peer_as: Asn,
    /// Families agreed on.
    pub families: FamilySet,
    /// Our address of the session: never a valid next hop.
    pub local_address: Option<IpAddr>,
}

/// A parsed UPDATE; it borrows the message.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// Prefixes in the classic withdrawn field.
    pub withdrawn: Nlri<'a>,
    /// Prefixes in the classic NLRI field.
    pub reach: Nlri<'a>,
    /// `MP_REACH_NLRI`.
    pub mp_reach: Option<MpReach<'a>>,
    /// Prefixes of `MP_UNREACH_NLRI`.
    pub mp_withdrawn: Option<Nlri<'a>>,
    /// What was wrong without ending the session.
    pub faults: FaultSet,
    pub(super) width: AsnWidth,
    pub(super) spans: Spans<'a>,
    attributes_present: bool,
}

/// `MP_REACH_NLRI` of a negotiated family.
#[derive(Clone, Copy, Debug)]
pub struct MpReach<'a> {
    /// The global next hop.
    pub next_hop: IpAddr,
    /// Prefixes.
    pub nlri: Nlri<'a>,
}

/// Values of the attributes found, by type.
#[derive(Clone, Debug)]
pub(super) struct Spans<'a> {
    known: [Option<&'a [u8]>; 36],
    /// Unknown optional transitive attributes, in order of appearance.
    pub(super) unknown: SmallVec<[(u8, &'a [u8]); 4]>,
}

impl<'a> Spans<'a> {
    fn new() -> Self {
        Self {
            known: [None; 36],
            unknown: SmallVec::new(),
        }
    }

    pub(super) fn get(&self, code: u8) -> Option<&'a [u8]> {
        self.known.get(usize::from(code)).copied().flatten()
    }

    fn slot(&mut self, code: u8) -> Option<&mut Option<&'a [u8]>> {
        self.known.get_mut(usize::from(code))
    }

    fn clear(&mut self, code: u8) {
        if let Some(slot) = self.slot(code) {
            *slot = None;
        }
    }
}

impl<'a> Update<'a> {
    /// Parses the body of an UPDATE message.
    ///
    /// # Errors
    /// [`Malformed`] when the session must end; milder faults are in [`Update::faults`].
    pub fn parse(body: &'a [u8], context: &Context) -> Result<Self, Malformed> {
        let sections = || Malformed::new(Fault::Sections, &[]);
        let mut reader = Reader::new(body);
        let withdrawn = reader.block16().ok_or_else(sections)?;
        let attributes = reader.block16().ok_or_else(sections)?;
        let classic = |octets| {
            Nlri::parse(Family::Ipv4Unicast, octets)
                .ok_or_else(|| Malformed::new(Fault::Prefix, &[]))
        };
        let mut update = Self {
            withdrawn: classic(withdrawn)?,
            reach: classic(reader.rest())?,
            mp_reach: None,
            mp_withdrawn: None,
            faults: FaultSet::default(),
            width: context.width,
            spans: Spans::new(),
            attributes_present: !attributes.is_empty(),
        };
        update.walk(attributes)?;
        update.multiprotocol(context)?;
        update.check(context);
        update.escalate()?;
        Ok(update)
    }

    /// Whether announced prefixes count as withdrawn.
    pub fn treat_as_withdraw(&self) -> bool {
        self.faults.reaction() == Reaction::Withdraw
    }

    /// Whether any prefix is announced.
    pub fn announces(&self) -> bool {
        !self.reach.is_empty() || self.mp_reach.is_some_and(|mp| !mp.nlri.is_empty())
    }

    /// The family whose initial routes end here (RFC 4724 §2).
    pub fn end_of_rib(&self) -> Option<Family> {
        if !self.withdrawn.is_empty() || !self.reach.is_empty() || self.mp_reach.is_some() {
            return None;
        }
        match self.mp_withdrawn {
            Some(nlri) => nlri.is_empty().then_some(nlri.family()),
            None => (!self.attributes_present).then_some(Family::Ipv4Unicast),
        }
    }

    /// `NEXT_HOP`, for the classic fields.
    pub fn next_hop(&self) -> Option<Ipv4Addr> {
        self.spans
            .get(code::NEXT_HOP)
            .and_then(|value| Reader::new(value).ipv4())
    }

    fn walk(&mut self, attributes: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(attributes);
        loop {
            match attribute::next(&mut reader) {
                Ok(Some(raw)) => self.record(&raw)?,
                Ok(None) => return Ok(()),
                Err(fault) => {
                    self.faults.insert(fault);
                    return Ok(());
                }
            }
        }
    }

    fn record(&mut self, raw: &RawAttribute<'a>) -> Result<(), Malformed> {
        const KIND: u8 = flag::OPTIONAL | flag::TRANSITIVE;
        let multiprotocol = matches!(raw.code, code::MP_REACH | code::MP_UNREACH);
        let Some(expected) = attribute::expected_flags(raw.code) else {
            return self.record_unknown(raw);
        };
        if raw.flags & KIND != expected {
            if multiprotocol {
                return Err(Malformed::new(
                    Fault::MultiprotocolFlags,
                    &[raw.flags, raw.code],
                ));
            }
            self.faults.insert(Fault::AttributeFlags);
            return Ok(());
        }
        match self.spans.slot(raw.code) {
            Some(slot @ None) => *slot = Some(raw.value),
            Some(Some(_)) if multiprotocol => {
                return Err(Malformed::new(Fault::DuplicateMultiprotocol, &[]));
            }
            Some(Some(_)) | None => self.faults.insert(Fault::Duplicate),
        }
        Ok(())
    }

    fn record_unknown(&mut self, raw: &RawAttribute<'a>) -> Result<(), Malformed> {
        if raw.flags & flag::OPTIONAL == 0 {
            return Err(Malformed::new(
                Fault::UnknownWellKnown,
                &[raw.flags, raw.code],
            ));
        }
        if raw.flags & flag::TRANSITIVE == 0 {
            return Ok(());
        }
        if self.spans.unknown.iter().any(|(code, _)| *code == raw.code) {
            self.faults.insert(Fault::Duplicate);
        } else {
            self.spans.unknown.push((raw.code, raw.value));
        }
        Ok(())
    }

    fn multiprotocol(&mut self, context: &Context) -> Result<(), Malformed> {
        if let Some(value) = self.spans.get(code::MP_UNREACH) {
            let mut reader = Reader::new(value);
            let family = read_family(&mut reader)
                .ok_or_else(|| Malformed::new(Fault::UnreachLength, &[]))?;
            match agreed(family, context) {
                Some(family) => {
                    self.mp_withdrawn = Some(multiprotocol_nlri(family, reader.rest())?);
                }
                None => self.faults.insert(Fault::FamilyNotNegotiated),
            }
        }
        let Some(value) = self.spans.get(code::MP_REACH) else {
            return Ok(());
        };
        let short = || Malformed::new(Fault::ReachLength, &[]);
        let mut reader = Reader::new(value);
        let family = read_family(&mut reader).ok_or_else(short)?;
        let next_hop = reader.block8().ok_or_else(short)?;
        reader.u8().ok_or_else(short)?;
        let Some(family) = agreed(family, context) else {
            self.faults.insert(Fault::FamilyNotNegotiated);
            return Ok(());
        };
        let next_hop = read_next_hop(family, next_hop)
            .ok_or_else(|| Malformed::new(Fault::ReachNextHopLength, &[]))?;
        if !usable_next_hop(next_hop, context) {
            self.faults.insert(Fault::ReachNextHopValue);
        }
        let nlri = multiprotocol_nlri(family, reader.rest())?;
        self.mp_reach = Some(MpReach { next_hop, nlri });
        Ok(())
    }

    fn check(&mut self, context: &Context) {
        self.check_lengths();
        self.check_peer_kind(context);
        if !self.announces() {
            return;
        }
        if self.spans.get(code::ORIGIN).is_none() {
            self.faults.insert(Fault::OriginMissing);
        }
        match self.spans.get(code::AS_PATH) {
            Some(value) => self.check_as_path(value, context),
            None => self.faults.insert(Fault::AsPathMissing),
        }
        if !self.reach.is_empty() {
            self.check_next_hop(context);
        }
    }

    /// Rows whose verdict needs nothing but the value.
    fn check_lengths(&mut self) {
        let multiple =
            |of: usize| move |value: &[u8]| !value.is_empty() && value.len().is_multiple_of(of);
        let exactly = |length: usize| move |value: &[u8]| value.len() == length;
        self.expect(code::ORIGIN, Fault::OriginLength, exactly(1));
        self.expect(code::ORIGIN, Fault::OriginValue, |value| {
            value.first().is_none_or(|origin| *origin <= 2)
        });
        self.expect(code::MED, Fault::MedLength, exactly(4));
        self.expect(
            code::ATOMIC_AGGREGATE,
            Fault::AtomicAggregateLength,
            <[u8]>::is_empty,
        );
        let aggregator = match self.width {
            AsnWidth::Two => 6,
            AsnWidth::Four => 8,
        };
        self.expect(
            code::AGGREGATOR,
            Fault::AggregatorLength,
            exactly(aggregator),
        );
        let width = self.width;
        self.expect(code::AGGREGATOR, Fault::AggregatorZero, |value| {
            attribute::parse_aggregator(value, width).is_none_or(|aggregator| aggregator.asn.0 != 0)
        });
        self.expect(code::COMMUNITIES, Fault::CommunitiesLength, multiple(4));
        self.expect(
            code::EXTENDED_COMMUNITIES,
            Fault::ExtendedCommunitiesLength,
            multiple(8),
        );
        self.expect(
            code::IPV6_EXTENDED_COMMUNITIES,
            Fault::ExtendedCommunitiesLength,
            multiple(20),
        );
        self.expect(
            code::LARGE_COMMUNITIES,
            Fault::LargeCommunitiesLength,
            multiple(12),
        );
        self.expect(
            code::ONLY_TO_CUSTOMER,
            Fault::OnlyToCustomerLength,
            exactly(4),
        );
        match self.width {
            AsnWidth::Four => {
                self.expect(code::AS4_PATH, Fault::As4FromNew, |_| false);
                self.expect(code::AS4_AGGREGATOR, Fault::As4FromNew, |_| false);
            }
            AsnWidth::Two => {
                self.expect(code::AS4_PATH, Fault::As4Path, |value| {
                    attribute::parse_as_path(value, AsnWidth::Four).is_ok()
                });
                self.expect(code::AS4_AGGREGATOR, Fault::As4AggregatorLength, exactly(8));
            }
        }
    }

    /// Rows that differ between internal and external peers.
    fn check_peer_kind(&mut self, context: &Context) {
        if context.external {
            self.expect(code::LOCAL_PREF, Fault::LocalPrefExternal, |_| false);
            self.expect(code::ORIGINATOR_ID, Fault::ReflectionExternal, |_| false);
            self.expect(code::CLUSTER_LIST, Fault::ReflectionExternal, |_| false);
            return;
        }
        self.expect(code::LOCAL_PREF, Fault::LocalPrefLength, |value| {
            value.len() == 4
        });
        self.expect(code::ORIGINATOR_ID, Fault::OriginatorLength, |value| {
            value.len() == 4
        });
        let whole = |value: &[u8]| !value.is_empty() && value.len().is_multiple_of(4);
        self.expect(code::CLUSTER_LIST, Fault::ClusterListLength, whole);
        if self.announces() && self.spans.get(code::LOCAL_PREF).is_none() {
            self.faults.insert(Fault::LocalPrefMissing);
        }
    }

    fn check_as_path(&mut self, value: &[u8], context: &Context) {
        let path = match attribute::parse_as_path(value, self.width) {
            Ok(path) => path,
            Err(fault) => return self.faults.insert(fault),
        };
        for segment in &path.segments {
            match segment.kind {
                SegmentKind::Sequence => {}
                SegmentKind::Set => self.faults.insert(Fault::AsPathSet),
                SegmentKind::ConfedSequence | SegmentKind::ConfedSet => {
                    self.faults.insert(Fault::AsPathConfederation);
                }
            }
        }
        if path.asns().any(|asn| asn.0 == 0) {
            self.faults.insert(Fault::AsPathZero);
        }
        if path.hops() > MAX_HOPS {
            self.faults.insert(Fault::AsPathTooLong);
        }
        let expected = match self.width {
            AsnWidth::Two => Asn(u32::from(context.peer_as.two_octets())),
            AsnWidth::Four => context.peer_as,
        };
        if context.external && path.first() != Some(expected) {
            self.faults.insert(Fault::AsPathFirst);
        }
    }

    fn check_next_hop(&mut self, context: &Context) {
        match self.spans.get(code::NEXT_HOP).map(<[u8; 4]>::try_from) {
            None => self.faults.insert(Fault::NextHopMissing),
            Some(Err(_)) => self.faults.insert(Fault::NextHopLength),
            Some(Ok(octets)) => {
                if !usable_next_hop(IpAddr::V4(octets.into()), context) {
                    self.faults.insert(Fault::NextHopValue);
                }
            }
        }
    }

    /// Records `fault` when the attribute is present and not `good`; a discarded one is then absent.
    fn expect(&mut self, code: u8, fault: Fault, good: impl Fn(&[u8]) -> bool) {
        let Some(value) = self.spans.get(code) else {
            return;
        };
        if good(value) {
            return;
        }
        self.faults.insert(fault);
        if fault.reaction() == Reaction::Discard {
            self.spans.clear(code);
        }
    }

    /// A treat-as-withdraw needs something to withdraw, else the framing itself is in doubt (RFC 7606 §5.2).
    fn escalate(&mut self) -> Result<(), Malformed> {
        if self.treat_as_withdraw() && !self.announces() {
            return Err(Malformed::new(Fault::BadWithoutRoutes, &[]));
        }
        Ok(())
    }
}

/// AFI and SAFI.
fn read_family(reader: &mut Reader<'_>) -> Option<(u16, u8)> {
    Some((reader.u16()?, reader.u8()?))
}

/// The family, when it is ours and was agreed on.
fn agreed((afi, safi): (u16, u8), context: &Context) -> Option<Family> {
    Family::from_codes(afi, safi).filter(|family| context.families.contains(*family))
}

fn multiprotocol_nlri(family: Family, octets: &[u8]) -> Result<Nlri<'_>, Malformed> {
    Nlri::parse(family, octets).ok_or_else(|| Malformed::new(Fault::MultiprotocolPrefix, &[]))
}

/// The global part of a next hop; `None` for a length the family does not know (RFC 4760, RFC 2545).
fn read_next_hop(family: Family, octets: &[u8]) -> Option<IpAddr> {
    match (family, octets.len()) {
        (Family::Ipv4Unicast, 4) => <[u8; 4]>::try_from(octets)
            .ok()
            .map(|octets| IpAddr::V4(octets.into())),
        (Family::Ipv6Unicast, 16 | 32) => octets
            .first_chunk::<16>()
            .map(|octets| IpAddr::V6(Ipv6Addr::from(*octets))),
        _ => None,
    }
}

fn usable_next_hop(next_hop: IpAddr, context: &Context) -> bool {
    let unicast = match next_hop {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            !matches!(first, 0 | 127 | 224..)
        }
        IpAddr::V6(address) => {
            let link_local = address
                .segments()
                .first()
                .is_some_and(|head| head & 0xFFC0 == 0xFE80);
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || link_local
                || address.to_ipv4_mapped().is_some())
        }
    };
    unicast && context.local_address != Some(next_hop)
}

/// All prefixes an UPDATE of our own making names, announced or withdrawn.
pub(crate) fn prefixes(body: &[u8]) -> Vec<IpNet> {
    let context = Context {
        width: AsnWidth::Four,
        external: false,
        peer_as: Asn(0),
        families: FamilySet::ALL,
        local_address: None,
    };
    let Ok(update) = Update::parse(body, &context) else {
        return Vec::new();
    };
    let announced = update
        .reach
        .iter()
        .chain(update.mp_reach.iter().flat_map(|mp| mp.nlri.iter()));
    let withdrawn = update
        .withdrawn
        .iter()
        .chain(update.mp_withdrawn.iter().flat_map(Nlri::iter));
    announced.chain(withdrawn).collect()
}
