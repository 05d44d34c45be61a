//! What the speaker should be: itself, its peers, their filters.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::filter::Filter;
use crate::{Asn, FamilySet};

/// The whole configuration. [`Speaker::reconcile`](super::Speaker::reconcile) compares it with the one in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The speaker itself.
    pub global: Global,
    /// Peers by their key.
    pub peers: BTreeMap<PeerKey, Peer>,
}

/// What all sessions share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Global {
    /// Our autonomous system.
    pub asn: Asn,
    /// BGP identifier; not 0.0.0.0 (RFC 6286).
    pub router_id: Ipv4Addr,
    /// Cluster id when this speaker reflects routes (RFC 4456); the router id when unset.
    pub cluster_id: Option<Ipv4Addr>,
    /// Equal paths that may be used together, 1 to 64.
    pub multipath: u8,
    /// Whether eBGP paths through different neighbour systems count as equal when their AS paths have one length.
    pub multipath_relax: bool,
    /// Whether `MULTI_EXIT_DISC` is compared between different neighbour systems too.
    pub always_compare_med: bool,
}

impl Global {
    /// Defaults around an AS number and a router id: 16 equal paths, MED within one neighbour system.
    pub fn new(asn: Asn, router_id: Ipv4Addr) -> Self {
        Self {
            asn,
            router_id,
            cluster_id: None,
            multipath: 16,
            multipath_relax: true,
            always_compare_med: false,
        }
    }
}

/// What identifies a peer for its whole life. More kinds (by interface, by range) will join.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PeerKey {
    /// The address the peer is reached at and connects from.
    Addr(IpAddr),
}

impl PeerKey {
    /// The address of the peer.
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Addr(address) => *address,
        }
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(address) => address.fmt(f),
        }
    }
}

impl From<IpAddr> for PeerKey {
    fn from(address: IpAddr) -> Self {
        Self::Addr(address)
    }
}

/// One configured neighbour. [`Peer::new`] fills in what is usual.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The AS number the peer must present.
    pub remote_as: Asn,
    /// The AS number presented to this peer instead of the global one.
    pub local_as: Option<Asn>,
    /// TCP port to connect to.
    pub remote_port: u16,
    /// Source address of connections; the kernel chooses when unset.
    pub local_address: Option<IpAddr>,
    /// TCP-MD5 key (RFC 2385).
    pub password: Option<Password>,
    /// Families offered.
    pub families: FamilySet,
    /// Who dials.
    pub connect: ConnectMode,
    /// Distance of the peer, which fixes TTL handling.
    pub hops: Hops,
    /// Hold time offered (RFC 4271 §4.2).
    pub hold_time: HoldTime,
    /// Time between keepalives when it should differ from a third of the agreed hold time.
    pub keepalive_time: Option<Duration>,
    /// Time between connection attempts, jittered to 0.75–1.0.
    pub connect_retry: Duration,
    /// Graceful restart as offered; `None` offers none and keeps no routes.
    pub graceful_restart: Option<GracefulRestart>,
    /// Part the peer plays in route reflection (iBGP only).
    pub reflection: Reflection,
    /// Rules for routes received.
    pub import: Arc<Filter>,
    /// Rules for routes sent.
    pub export: Arc<Filter>,
    /// Next hop of routes sent.
    pub next_hop: NextHopMode,
    /// How often our own AS number may occur in a received path.
    pub allowed_own_as: u8,
    /// Most prefixes accepted per family, if limited.
    pub max_prefixes: Option<MaxPrefixes>,
}

impl Peer {
    /// A single-hop peer of IPv4 unicast with usual timers, graceful restart on, all routes accepted and sent.
    pub fn new(remote_as: Asn) -> Self {
        Self {
            remote_as,
            local_as: None,
            remote_port: 179,
            local_address: None,
            password: None,
            families: FamilySet::IPV4,
            connect: ConnectMode::Active,
            hops: Hops::Direct,
            hold_time: HoldTime::DEFAULT,
            keepalive_time: None,
            connect_retry: Duration::from_secs(5),
            graceful_restart: Some(GracefulRestart::default()),
            reflection: Reflection::None,
            import: Filter::accept_all(),
            export: Filter::accept_all(),
            next_hop: NextHopMode::Auto,
            allowed_own_as: 0,
            max_prefixes: None,
        }
    }
}

/// A TCP-MD5 key; its `Debug` form hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Password(Box<str>);

impl Password {
    /// Longest key the kernel takes, in octets (`TCP_MD5SIG_MAXKEYLEN`).
    pub const MAX_LEN: usize = 80;

    /// Takes a key of 1 to 80 octets.
    ///
    /// # Errors
    /// [`PasswordError`] when the length does not fit.
    pub fn try_new(key: &str) -> Result<Self, PasswordError> {
        match key.len() {
            1..=Self::MAX_LEN => Ok(Self(key.into())),
            len => Err(PasswordError { len }),
        }
    }

    /// The key itself: to be given to the kernel and to nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A key that TCP-MD5 cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a TCP-MD5 key has 1 to 80 octets, this one has {len}")]
pub struct PasswordError {
    /// Octets of the refused key.
    pub len: usize,
}

/// Who opens the TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConnectMode {
    /// Dial and listen.
    Active,
    /// Dial and listen, but wait one retry interval before dialling first: for one side of a pair of equals.
    ActiveLate,
    /// Listen only.
    Passive,
}

/// How far away the peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hops {
    /// On a shared link: eBGP packets leave with TTL 1. iBGP uses the system's TTL whatever is set here.
    Direct,
    /// Up to this many hops away: the TTL of packets sent.
    Multihop(u8),
    /// RFC 5082: packets leave with TTL 255, and received ones must have crossed fewer than this many hops (≥ 1).
    Security(u8),
}

/// A hold time: 0 (no keepalives) or at least 3 seconds (RFC 4271 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HoldTime(u16);

impl HoldTime {
    /// 90 seconds.
    pub const DEFAULT: Self = Self(90);

    /// Takes seconds; `None` for 1 and 2, which the protocol forbids.
    pub fn from_secs(seconds: u16) -> Option<Self> {
        (!matches!(seconds, 1 | 2)).then_some(Self(seconds))
    }

    /// Seconds as in the OPEN message.
    pub fn secs(self) -> u16 {
        self.0
    }
}

/// Graceful restart as offered to a peer (RFC 4724, RFC 8538).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GracefulRestart {
    /// Seconds the peer shall keep our routes while we are away; at most 4095.
    pub restart_time: u16,
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self { restart_time: 120 }
    }
}

/// Part a peer plays in route reflection (RFC 4456).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reflection {
    /// An ordinary iBGP peer, or an eBGP peer.
    None,
    /// Our client: routes from and to it are reflected.
    Client,
}

/// What is put into the next hop of routes sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NextHopMode {
    /// Our address towards eBGP peers and for our own routes; kept towards iBGP peers.
    Auto,
    /// Always our address of the session.
    OwnAddress,
    /// Kept as received, towards eBGP peers too; our own routes still carry our address.
    Keep,
    /// Always this address.
    Explicit(IpAddr),
}

/// Limit on prefixes accepted from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxPrefixes {
    /// Prefixes per family; one more ends the session with Cease/Maximum Number of Prefixes Reached (RFC 4486).
    pub limit: u32,
    /// How long the session then stays down.
    pub restart_after: Duration,
}
