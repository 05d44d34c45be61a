//! What a session is told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::speaker::Ttl;
use crate::speaker::{ConnectMode, HoldTime, Password, PeerKey};
use crate::wire::capability;
use crate::wire::open::Open;
use crate::{Asn, FamilySet};

/// Configuration of one session, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The peer's key.
    pub key: PeerKey,
    /// AS number we present.
    pub local_as: Asn,
    /// AS number the peer must present.
    pub remote_as: Asn,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// Where to connect.
    pub remote: SocketAddr,
    /// Source address.
    pub local_address: Option<IpAddr>,
    /// TCP-MD5 key.
    pub password: Option<Password>,
    /// TTL handling.
    pub ttl: Ttl,
    /// Families offered.
    pub families: FamilySet,
    /// Hold time offered.
    pub hold_time: HoldTime,
    /// Keepalive time instead of a third of the hold time.
    pub keepalive_time: Option<Duration>,
    /// Time between connection attempts.
    pub connect_retry: Duration,
    /// Who dials.
    pub connect: ConnectMode,
    /// Graceful restart offered.
    pub restart: Option<RestartOffer>,
}

/// Graceful restart as we offer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartOffer {
    /// Seconds the peer shall keep our routes.
    pub time: u16,
    /// R: we have just restarted.
    pub restarting: bool,
    /// F: families whose forwarding state survived.
    pub forwarding: FamilySet,
}

impl SessionConfig {
    /// Whether the peer is in another AS.
    pub fn external(&self) -> bool {
        self.local_as != self.remote_as
    }

    /// The OPEN we send.
    pub fn open(&self) -> Open {
        let graceful_restart = self.restart.map(|offer| capability::GracefulRestart {
            restarting: offer.restarting,
            notification: true,
            time: offer.time,
            families: self.families,
            forwarding: offer.forwarding.intersection(self.families),
        });
        Open {
            asn: self.local_as,
            hold_time: self.hold_time.secs(),
            identifier: self.router_id,
            capabilities: capability::Capabilities {
                families: Some(self.families),
                route_refresh: true,
                four_octet_as: Some(self.local_as),
                graceful_restart,
            },
        }
    }
}
