//! A canonical attribute set: what the decision reads, and the octets as they go to the wire.

use std::net::Ipv4Addr;

use super::{Attributes, Community, Origin, SegmentKind};
use crate::Asn;
use crate::wire::Reader;
use crate::wire::attribute::{self, code};

/// Bits of [`Header::flags`].
pub mod flags {
    /// `NO_EXPORT` or `NO_EXPORT_SUBCONFED` is among the communities.
    pub const NO_EXPORT: u8 = 1;
    /// `NO_ADVERTISE` is among the communities.
    pub const NO_ADVERTISE: u8 = 2;
    /// `GRACEFUL_SHUTDOWN` is among the communities.
    pub const GRACEFUL_SHUTDOWN: u8 = 4;
    /// MED is present.
    pub const MED: u8 = 8;
}

/// What the decision needs of an attribute set, without reading its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// `LOCAL_PREF`, 100 when absent.
    pub local_pref: u32,
    /// `MULTI_EXIT_DISC`, 0 when absent.
    pub med: u32,
    /// First AS number of the path; `None` for a path without leading sequence.
    pub neighbour: Option<Asn>,
    /// `ORIGINATOR_ID`.
    pub originator: Option<Ipv4Addr>,
    /// Hops of the AS path.
    pub hops: u16,
    /// Length of `CLUSTER_LIST`.
    pub clusters: u8,
    /// ORIGIN.
    pub origin: Origin,
    /// Bits of [`flags`].
    pub flags: u8,
}

impl Header {
    /// Reads the header off canonical octets.
    pub fn of(octets: &[u8]) -> Self {
        let mut header = Self {
            local_pref: Attributes::DEFAULT_LOCAL_PREF,
            med: 0,
            neighbour: None,
            originator: None,
            hops: 0,
            clusters: 0,
            origin: Origin::Igp,
            flags: 0,
        };
        let mut reader = Reader::new(octets);
        while let Ok(Some(raw)) = attribute::next(&mut reader) {
            header.read(raw.code, raw.value);
        }
        header
    }

    fn read(&mut self, code: u8, octets: &[u8]) {
        let mut value = Reader::new(octets);
        match code {
            code::ORIGIN => {
                self.origin = value.u8().and_then(Origin::from_code).unwrap_or_default();
            }
            code::AS_PATH => self.read_path(value),
            code::MED => {
                self.med = value.u32().unwrap_or_default();
                self.flags |= flags::MED;
            }
            code::LOCAL_PREF => self.local_pref = value.u32().unwrap_or_default(),
            code::COMMUNITIES => {
                while let Some(community) = value.u32() {
                    self.flags |= community_flag(Community(community));
                }
            }
            code::ORIGINATOR_ID => self.originator = value.ipv4(),
            code::CLUSTER_LIST => self.clusters = u8::try_from(octets.len() / 4).unwrap_or(u8::MAX),
            _ => {}
        }
    }

    fn read_path(&mut self, mut value: Reader<'_>) {
        let mut first = true;
        let mut hops = 0usize;
        while let (Some(kind), Some(count)) = (value.u8(), value.u8()) {
            let count = usize::from(count);
            let asns = value.take(count * 4).unwrap_or_default();
            match SegmentKind::from_code(kind) {
                Some(SegmentKind::Sequence) => {
                    if first {
                        self.neighbour = Reader::new(asns).u32().map(Asn);
                    }
                    hops += count;
                }
                Some(SegmentKind::Set) => hops += 1,
                Some(SegmentKind::ConfedSequence | SegmentKind::ConfedSet) | None => {}
            }
            first = false;
        }
        self.hops = u16::try_from(hops).unwrap_or(u16::MAX);
    }

    /// Whether a bit of [`flags`] is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

fn community_flag(community: Community) -> u8 {
    match community {
        Community::NO_EXPORT | Community::NO_EXPORT_SUBCONFED => flags::NO_EXPORT,
        Community::NO_ADVERTISE => flags::NO_ADVERTISE,
        Community::GRACEFUL_SHUTDOWN => flags::GRACEFUL_SHUTDOWN,
        _ => 0,
    }
}

/// Calls `found` for each AS number of canonical octets until it says `true`; whether it did.
pub(crate) fn any_asn(octets: &[u8], mut found: impl FnMut(Asn) -> bool) -> bool {
    let mut reader = Reader::new(octets);
    while let Ok(Some(raw)) = attribute::next(&mut reader) {
        if raw.code != code::AS_PATH {
            continue;
        }
        let mut value = Reader::new(raw.value);
        while let (Some(_), Some(count)) = (value.u8(), value.u8()) {
            for _ in 0..count {
                if value.u32().is_some_and(|asn| found(Asn(asn))) {
                    return true;
                }
            }
        }
    }
    false
}

/// Whether `CLUSTER_LIST` of canonical octets contains `id`.
pub(crate) fn has_cluster(octets: &[u8], id: Ipv4Addr) -> bool {
    let mut reader = Reader::new(octets);
    while let Ok(Some(raw)) = attribute::next(&mut reader) {
        if raw.code == code::CLUSTER_LIST {
            let mut value = Reader::new(raw.value);
            return std::iter::from_fn(|| value.ipv4()).any(|cluster| cluster == id);
        }
    }
    false
}

/// An attribute set without next hop: equal sets have equal octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttrSet {
    header: Header,
    octets: Box<[u8]>,
}

impl AttrSet {
    /// Takes canonical octets.
    pub fn from_canonical(octets: &[u8]) -> Self {
        Self {
            header: Header::of(octets),
            octets: octets.into(),
        }
    }

    /// Encodes attributes.
    pub fn from_attributes(attributes: &Attributes) -> Self {
        let mut octets = Vec::new();
        attribute::put_canonical(&mut octets, attributes);
        Self::from_canonical(&octets)
    }

    /// What the decision reads.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Canonical octets.
    pub fn octets(&self) -> &[u8] {
        &self.octets
    }

    /// The readable form.
    pub fn attributes(&self) -> Attributes {
        attribute::parse_canonical(&self.octets)
    }
}
