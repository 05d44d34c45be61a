//! Where paths come from, as the decision sees it.

use std::net::{IpAddr, Ipv4Addr};

use crate::Asn;

/// Name of a source of paths; [`PeerId::LOCAL`] is this speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(crate) u32);

impl PeerId {
    /// Routes originated by this speaker.
    pub const LOCAL: Self = Self(0);
}

/// What the decision and the export rules need to know about a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// In another autonomous system.
    pub external: bool,
    /// A client of ours (RFC 4456).
    pub client: bool,
    /// Its AS number.
    pub asn: Asn,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// Its address.
    pub address: IpAddr,
}
