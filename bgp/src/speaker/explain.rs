//! Why a route is used, unused, sent or not sent.

mod text;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{PeerKey, RouteSource};
use crate::attr::Attributes;
use crate::filter::Trace;
use crate::rib::{Ineligible, Preference};

/// Answer of [`Speaker::explain`](super::Speaker::explain).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The prefix asked for.
    pub prefix: IpNet,
    /// All paths, the best first.
    pub paths: Vec<PathView>,
    /// What every peer is told, by key.
    pub exports: Vec<ExportView>,
}

/// One path and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    /// Where it was learnt.
    pub source: RouteSource,
    /// Next hop.
    pub next_hop: Option<IpAddr>,
    /// Attributes after import rules.
    pub attributes: Arc<Attributes>,
    /// Kept only because its peer restarts.
    pub stale: bool,
    /// Best, equal, or why not.
    pub standing: PathStanding,
}

/// How a path stands against the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathStanding {
    /// The best path.
    Best,
    /// Used besides the best: equal up to the metric of the next hop.
    Equal,
    /// Lost against the best path in this step.
    Lost(Preference),
    /// Not a candidate.
    Ineligible(Ineligible),
}

/// What one peer is told about the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportView {
    /// The peer.
    pub peer: PeerKey,
    /// Whether and why.
    pub verdict: ExportVerdict,
}

/// Whether a route is sent to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportVerdict {
    /// Sent with these attributes and next hop.
    Sent {
        /// After export rules.
        attributes: Arc<Attributes>,
        /// As the peer sees it.
        next_hop: IpAddr,
        /// Rules that matched.
        trace: Trace,
    },
    /// Not sent because of the export rules.
    Filtered(Trace),
    /// The session is not Established, or the family is not agreed on.
    NoSession,
    /// There is no best path.
    NoRoute,
    /// The best path came from this peer.
    LearntFromPeer,
    /// Learnt over iBGP, and neither side is a client of ours (RFC 4456 §6).
    InternalToInternal,
    /// Its AS path contains the peer's AS number.
    PathContainsPeer,
    /// A well-known community forbids it (RFC 1997).
    WellKnownCommunity,
    /// The peer originated it within our AS (RFC 4456 §8).
    Originator,
    /// There is no address of the family to put into the next hop.
    NoNextHop,
}
