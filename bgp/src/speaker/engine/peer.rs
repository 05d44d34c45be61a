//! What the engine keeps of a peer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::filter::Compiled;
use crate::out::Forget;
use crate::rib::Source;
use crate::session::{DownReason, RestartOffer, Session, SessionConfig};
use crate::speaker::{Global, Peer, PeerCounters, PeerKey, Reflection, Ttl};
use crate::{FamilyMap, FamilySet};

/// A configured peer.
#[derive(Debug)]
pub(super) struct PeerSlot {
    pub(super) key: PeerKey,
    pub(super) config: Peer,
    pub(super) session: Session,
    pub(super) import: Arc<Compiled>,
    pub(super) export: (u32, Arc<Compiled>),
    pub(super) families: FamilyMap<FamilyState>,
    /// Families whose routes are kept while the peer restarts, and until when.
    pub(super) stale: FamilySet,
    pub(super) stale_until: Option<Instant>,
    /// Restart time the peer advertised in its last session.
    pub(super) last_restart_time: Option<Duration>,
    /// Whether a session was Established since we started: our forwarding state is live then.
    pub(super) was_established: bool,
    /// Whether the peer refused a connection, or an OPEN, since we started.
    pub(super) was_refused: bool,
    /// How long to wait for it after our restart, when it restarted too.
    pub(super) awaited_until: Option<Instant>,
    /// When the peer was configured.
    pub(super) born: Instant,
    pub(super) last_down: Option<(DownReason, Instant)>,
    pub(super) counters: PeerCounters,
}

/// One family of a peer.
#[derive(Debug, Default)]
pub(super) struct FamilyState {
    /// Index of the update group.
    pub(super) group: Option<usize>,
    pub(super) sending: Sending,
    pub(super) accepted: usize,
    pub(super) rejected: u64,
    /// The peer's End-of-RIB was seen in this session.
    pub(super) end_of_rib: bool,
    /// The same, or the peer is not worth waiting for: since we started.
    pub(super) converged: bool,
}

/// How far a member is told what its group is told.
#[derive(Debug, Default)]
pub(super) enum Sending {
    /// No session.
    #[default]
    Nothing,
    /// Waits for the end of our deferral (RFC 4724 §4.1).
    Held,
    /// Is told everything once, from this destination on.
    Walk(Walk),
    /// Hears what its group hears.
    Live,
}

/// A walk in progress. Group changes are delivered meanwhile: what a walk says later is never older.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) next: u32,
    pub(super) forget: Forget,
    /// End-of-RIB follows the last chunk.
    pub(super) end_of_rib: bool,
}

impl PeerSlot {
    /// The next time something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.session
            .next_deadline()
            .into_iter()
            .chain(self.stale_until)
            .min()
    }

    /// The peer as the decision sees it.
    pub(super) fn source(&self, global: &Global) -> Source {
        let external = is_external(global, &self.config);
        let router_id = self.session.established().map(|agreed| agreed.router_id);
        Source {
            external,
            client: !external && self.config.reflection == Reflection::Client,
            asn: self.config.remote_as,
            router_id: router_id.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED),
            address: self.key.address(),
        }
    }
}

pub(super) fn is_external(global: &Global, peer: &Peer) -> bool {
    peer.remote_as != peer.local_as.unwrap_or(global.asn)
}

/// The session's part of a peer's configuration.
pub(super) fn session_config(
    key: &PeerKey,
    global: &Global,
    peer: &Peer,
    restart: Option<RestartOffer>,
) -> SessionConfig {
    let address: IpAddr = key.address();
    SessionConfig {
        key: key.clone(),
        local_as: peer.local_as.unwrap_or(global.asn),
        remote_as: peer.remote_as,
        router_id: global.router_id,
        remote: SocketAddr::new(address, peer.remote_port),
        local_address: peer.local_address,
        password: peer.password.clone(),
        ttl: Ttl::of(peer.hops, !is_external(global, peer)),
        families: peer.families,
        hold_time: peer.hold_time,
        keepalive_time: peer.keepalive_time,
        connect_retry: peer.connect_retry,
        connect: peer.connect,
        restart,
    }
}
