//! What goes into a speaker and what comes out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Hops, Password, PeerKey};
use crate::session::{ConnId, DownReason};
use crate::{Asn, Family, FamilySet};

/// Something that happened to a connection, or time that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A connection asked for by [`Output::Connect`] stands.
    Connected {
        /// As in the request.
        conn: ConnId,
        /// Our end.
        local: SocketAddr,
        /// The peer's end.
        remote: SocketAddr,
    },
    /// A connection attempt failed.
    ConnectFailed {
        /// As in the request.
        conn: ConnId,
        /// The system's words.
        error: Arc<str>,
    },
    /// Octets arrived.
    Received {
        /// On this connection.
        conn: ConnId,
        /// Any number of them, in order.
        octets: Bytes,
    },
    /// This many octets of earlier [`Output::Send`]s left for the kernel.
    Sent {
        /// On this connection.
        conn: ConnId,
        /// Octets.
        octets: usize,
    },
    /// The peer closed the connection, or it broke.
    Closed {
        /// This connection.
        conn: ConnId,
        /// The system's words when it broke; `None` for an orderly end.
        error: Option<Arc<str>>,
    },
    /// Time passed; due timers act.
    Tick,
}

/// Something to do. Outputs are to be performed in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a connection and answer [`Input::Connected`] or [`Input::ConnectFailed`].
    Connect(ConnectRequest),
    /// Write octets; answer with [`Input::Sent`] as they leave.
    Send {
        /// On this connection.
        conn: ConnId,
        /// Whole messages.
        octets: Bytes,
    },
    /// Close after everything sent so far was written, or at once when the peer takes nothing. No answer expected.
    Close {
        /// This connection.
        conn: ConnId,
    },
    /// Drop the connection without waiting for unsent octets. No answer expected.
    Abort {
        /// This connection.
        conn: ConnId,
    },
    /// Set, change or remove (`None`) the TCP-MD5 key for a peer on listeners and on its open connections.
    Key(ListenKey),
    /// For logs and for whoever waits for it.
    Event(Event),
}

/// A connection to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Name of the connection from now on.
    pub conn: ConnId,
    /// The peer it belongs to.
    pub peer: PeerKey,
    /// Where to connect.
    pub remote: SocketAddr,
    /// Source address.
    pub local: Option<IpAddr>,
    /// TCP-MD5 key.
    pub password: Option<Password>,
    /// TTL handling.
    pub ttl: Ttl,
    /// Give up after this time.
    pub timeout: Duration,
}

/// TTL handling of a connection, from [`Hops`] and the kind of session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl {
    /// TTL of packets sent; when unset the system's default, or 255 on connections the peer opened.
    pub send: Option<u8>,
    /// Smallest TTL accepted, when checked.
    pub min: Option<u8>,
}

impl Ttl {
    /// What [`Hops`] means for an internal or external session.
    pub fn of(hops: Hops, internal: bool) -> Self {
        match hops {
            Hops::Direct if internal => Self {
                send: None,
                min: None,
            },
            Hops::Direct => Self {
                send: Some(1),
                min: None,
            },
            Hops::Multihop(ttl) => Self {
                send: Some(ttl),
                min: None,
            },
            Hops::Security(hops) => Self {
                send: Some(255),
                min: Some(u8::MAX - hops.max(1) + 1),
            },
        }
    }
}

/// What a listener must know about a peer before its connection arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenKey {
    /// Address of the peer.
    pub address: IpAddr,
    /// Its key; `None` takes the key away.
    pub password: Option<Password>,
}

/// Something an operator or the daemon may care about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A session became Established.
    Established {
        /// The peer.
        peer: PeerKey,
        /// Families both sides offered.
        families: FamilySet,
    },
    /// An Established session ended.
    Down {
        /// The peer.
        peer: PeerKey,
        /// Why.
        reason: DownReason,
        /// Families whose routes are kept as stale.
        retained: FamilySet,
    },
    /// A session could not be established.
    Refused {
        /// The peer.
        peer: PeerKey,
        /// Why.
        reason: DownReason,
    },
    /// The peer finished its initial routes of a family.
    EndOfRib {
        /// The peer.
        peer: PeerKey,
        /// The family.
        family: Family,
    },
    /// Stale routes of a restarting peer were removed.
    StaleSwept {
        /// The peer.
        peer: PeerKey,
        /// The family.
        family: Family,
        /// Routes removed.
        routes: usize,
    },
    /// After our restart, the choice of routes of a family begins (RFC 4724 §4.1).
    DeferralEnded {
        /// The family.
        family: Family,
    },
    /// The limit of prefixes was exceeded.
    MaxPrefixes {
        /// The peer.
        peer: PeerKey,
        /// The family.
        family: Family,
        /// The limit.
        limit: u32,
    },
    /// The code of one session panicked; the session was closed and starts anew.
    SessionPanicked {
        /// The peer.
        peer: PeerKey,
    },
}

/// Facts about next hops, from whoever watches the kernel's routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHopFacts {
    /// Next hop → what is known now. Next hops never mentioned count as resolved with metric 0.
    pub changed: Vec<(IpAddr, Resolution)>,
}

/// Whether a next hop can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Resolution {
    /// By a route with this metric (smaller is better).
    Resolved {
        /// Metric of that route.
        metric: u32,
    },
    /// By none: paths through it are ineligible.
    Unresolved,
}

/// How a speaker leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Drain {
    /// The daemon will be back: connections are closed without NOTIFICATION, so that peers keep routes (RFC 4724 §4.2).
    Restart,
    /// For good: Cease/Administrative Shutdown with a text (RFC 9003), as Hard Reset where RFC 8538 applies.
    Shutdown {
        /// Shown to the peer's operator; cut to 255 octets.
        text: String,
    },
}

/// Name of a reader of best routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FibConsumer(pub(crate) u32);

/// What a reader of best routes gets, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FibUpdate {
    /// Prefixes whose best route changed. Each prefix carries its state now; states in between may be skipped.
    Changes(FibBatch),
    /// Everything known of this family was delivered once. After a restart this comes when deferral ended, so whatever
    /// is in the kernel and was not delivered is stale (see [`Event::DeferralEnded`]).
    Synced(Family),
}

/// Best-path changes of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibBatch {
    /// The family of all prefixes in it.
    pub family: Family,
    /// Prefix → its best route now; `None` when there is none to program (withdrawn, or originated by ourselves).
    pub changes: Vec<(IpNet, Option<BestRoute>)>,
}

/// A learnt best route, with all equal paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BestRoute {
    /// Where packets go; more than one with multipath, in order of preference, without duplicates.
    pub next_hops: Vec<NextHop>,
    /// Where the best path was learnt.
    pub source: RouteSource,
    /// AS path of the best path, sequences flattened.
    pub as_path: Arc<[Asn]>,
    /// Kernel metric asked for by import rules.
    pub priority: Option<u32>,
    /// Whether the best path is kept only because its peer restarts.
    pub stale: bool,
}

/// One next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The gateway as announced; of the other family with RFC 8950.
    pub address: IpAddr,
}

/// Where a route was learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteSource {
    /// Originated by this speaker.
    Local,
    /// Learnt from this peer.
    Peer {
        /// Its key.
        key: PeerKey,
        /// Its AS number.
        asn: Asn,
        /// Whether it is in another autonomous system.
        external: bool,
    },
}
