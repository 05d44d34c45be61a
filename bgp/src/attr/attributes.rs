//! The readable form of a set of path attributes, without next hop.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{AsPath, Community, ExtendedCommunity, LargeCommunity};
use crate::Asn;

/// The ORIGIN attribute (RFC 4271 §5.1.1); smaller is preferred.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum Origin {
    /// From an interior protocol.
    #[default]
    Igp,
    /// From the historical EGP.
    Egp,
    /// From elsewhere.
    Incomplete,
}

impl Origin {
    /// The code on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Igp => 0,
            Self::Egp => 1,
            Self::Incomplete => 2,
        }
    }

    /// The origin of a code.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Igp),
            1 => Some(Self::Egp),
            2 => Some(Self::Incomplete),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Igp => "IGP",
            Self::Egp => "EGP",
            Self::Incomplete => "incomplete",
        })
    }
}

/// The AGGREGATOR attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Aggregator {
    /// System that aggregated.
    pub asn: Asn,
    /// Its router.
    pub address: Ipv4Addr,
}

/// An optional transitive attribute this speaker does not know: carried on with the Partial bit (RFC 4271 §5).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnknownAttribute {
    /// Type code.
    pub code: u8,
    /// Its value.
    pub value: Vec<u8>,
}

/// Path attributes of a route except its next hop.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attributes {
    /// How the route came into BGP.
    pub origin: Origin,
    /// Systems it came through.
    pub as_path: AsPath,
    /// `MULTI_EXIT_DISC`.
    pub med: Option<u32>,
    /// `LOCAL_PREF`; 100 is assumed when absent.
    pub local_pref: Option<u32>,
    /// `ATOMIC_AGGREGATE`.
    pub atomic_aggregate: bool,
    /// AGGREGATOR.
    pub aggregator: Option<Aggregator>,
    /// Communities, ascending and single.
    pub communities: Vec<Community>,
    /// `ORIGINATOR_ID` (RFC 4456).
    pub originator: Option<Ipv4Addr>,
    /// `CLUSTER_LIST`, the nearest first (RFC 4456).
    pub cluster_list: Vec<Ipv4Addr>,
    /// Extended communities, ascending and single.
    pub extended_communities: Vec<ExtendedCommunity>,
    /// Large communities, ascending and single.
    pub large_communities: Vec<LargeCommunity>,
    /// What else is carried on, by ascending code.
    pub unknown: Vec<UnknownAttribute>,
}

impl Attributes {
    /// `LOCAL_PREF` as the decision sees it.
    pub const DEFAULT_LOCAL_PREF: u32 = 100;

    /// Adds communities; the list stays ascending and single.
    pub fn add_communities(&mut self, more: &[Community]) {
        self.communities.extend_from_slice(more);
        self.communities.sort_unstable();
        self.communities.dedup();
    }

    /// Adds large communities; the list stays ascending and single.
    pub fn add_large_communities(&mut self, more: &[LargeCommunity]) {
        self.large_communities.extend_from_slice(more);
        self.large_communities.sort_unstable();
        self.large_communities.dedup();
    }
}
