//! Snapshots for status, metrics and queries.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::{PeerKey, RouteSource};
use crate::attr::Attributes;
use crate::session::{DownReason, State};
use crate::{Asn, Family, FamilyMap, FamilySet};

/// All peers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTable {
    /// When the snapshot was taken.
    pub at: Instant,
    /// Key → state.
    pub peers: BTreeMap<PeerKey, PeerStatus>,
    /// Families whose route selection is still deferred after our restart.
    pub deferring: FamilySet,
    /// Numbers of the whole speaker.
    pub counters: Counters,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// State of the session (RFC 4271 §8.2.2).
    pub state: State,
    /// When it entered that state.
    pub since: Instant,
    /// AS number configured for the peer.
    pub remote_as: Asn,
    /// Whether it is in another autonomous system.
    pub external: bool,
    /// BGP identifier the peer presented.
    pub router_id: Option<Ipv4Addr>,
    /// Our end of the connection.
    pub local: Option<SocketAddr>,
    /// The peer's end.
    pub remote: Option<SocketAddr>,
    /// Agreed hold time; zero means no keepalives. `None` unless Established.
    pub hold_time: Option<Duration>,
    /// Families agreed on.
    pub negotiated: FamilySet,
    /// Graceful restart between the two.
    pub restart: RestartStatus,
    /// Why the session last ended or failed, and when.
    pub last_down: Option<(DownReason, Instant)>,
    /// Routes of each family.
    pub families: FamilyMap<FamilyStatus>,
    /// Counters since the peer was configured.
    pub counters: PeerCounters,
}

/// Graceful restart as seen from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartStatus {
    /// Families for which the peer would keep our routes: a restart of ours is safe when all are listed.
    pub peer_keeps: FamilySet,
    /// Restart time the peer advertised, when it offered the capability.
    pub peer_time: Option<Duration>,
    /// Families whose routes from this peer are kept as stale now.
    pub stale: FamilySet,
    /// When those are swept at the latest.
    pub stale_until: Option<Instant>,
}

/// Routes of one family of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FamilyStatus {
    /// Paths accepted into the table.
    pub accepted: usize,
    /// Paths refused by import rules (counted, not kept).
    pub rejected: u64,
    /// Prefixes announced to the peer.
    pub sent: usize,
    /// Whether the peer's End-of-RIB was seen in this session.
    pub end_of_rib: bool,
}

/// Counters of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// UPDATE messages received.
    pub updates_in: u64,
    /// UPDATE messages sent.
    pub updates_out: u64,
    /// Times the session became Established.
    pub established: u64,
    /// Times it ended after that.
    pub flaps: u64,
    /// Malformed input by attribute or message part and verdict.
    pub malformed: BTreeMap<(&'static str, &'static str), u64>,
    /// NOTIFICATIONs received by code and subcode.
    pub notifications_in: BTreeMap<(u8, u8), u64>,
    /// NOTIFICATIONs sent by code and subcode.
    pub notifications_out: BTreeMap<(u8, u8), u64>,
    /// Times the peer took octets too slowly and its queue was dropped, to be rebuilt.
    pub slow: u64,
    /// Panics caught in the code of this session.
    pub panics: u64,
    /// Octets waiting to be sent.
    pub queued: usize,
}

/// Numbers of the whole speaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Destinations in the tables.
    pub destinations: FamilyMap<usize>,
    /// Paths in the tables.
    pub paths: FamilyMap<usize>,
    /// Distinct attribute sets held.
    pub attribute_sets: usize,
    /// Update groups.
    pub groups: usize,
    /// Connections refused because no peer is configured for their address.
    pub unknown_peer: u64,
}

/// Which routes to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteQuery {
    /// Only this family.
    pub family: Option<Family>,
    /// Only prefixes equal to or inside this one.
    pub within: Option<IpNet>,
    /// Which routes.
    pub view: RouteView,
    /// Most prefixes in one answer; 0 means 1,000.
    pub limit: usize,
    /// Continue after this prefix, from [`RouteRow::prefix`] of the last row.
    pub after: Option<IpNet>,
}

/// A view onto the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RouteView {
    /// Best paths.
    #[default]
    Best,
    /// All paths.
    All,
    /// Paths learnt from a peer, after import rules.
    From(PeerKey),
    /// What is announced to a peer, after export rules.
    To(PeerKey),
}

/// One route of an answer. Rows are ordered by prefix, best path first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// The prefix.
    pub prefix: IpNet,
    /// Where it was learnt.
    pub source: RouteSource,
    /// Its next hop.
    pub next_hop: Option<IpAddr>,
    /// Its attributes.
    pub attributes: Arc<Attributes>,
    /// Whether it is the best path.
    pub best: bool,
    /// Whether it is used, alone or among equals.
    pub used: bool,
    /// Whether it is kept only because its peer restarts.
    pub stale: bool,
}
