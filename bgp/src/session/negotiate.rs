//! What two OPENs agree on.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::SessionConfig;
use crate::wire::attribute::AsnWidth;
use crate::wire::message::Malformed;
use crate::wire::open::Open;
use crate::wire::{Fault, Notification};
use crate::{Asn, FamilySet};

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The peer's AS number.
    pub peer_as: Asn,
    /// Whether it is in another AS.
    pub external: bool,
    /// The peer's BGP identifier.
    pub router_id: Ipv4Addr,
    /// Our end of the connection.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Families both offered.
    pub families: FamilySet,
    /// Octets of AS numbers.
    pub width: AsnWidth,
    /// Whether the peer answers route refresh.
    pub route_refresh: bool,
    /// Agreed hold time; zero means none.
    pub hold_time: Duration,
    /// Time between keepalives; zero means none.
    pub keepalive_time: Duration,
    /// Graceful restart as the peer offered it, when we offered it too.
    pub restart: Option<PeerRestart>,
}

/// Graceful restart of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRestart {
    /// R: it has just restarted.
    pub restarting: bool,
    /// N on both sides: NOTIFICATIONs keep routes (RFC 8538).
    pub notification: bool,
    /// How long to keep its routes.
    pub time: Duration,
    /// Families for which it can restart, of those agreed on.
    pub families: FamilySet,
    /// F: families whose forwarding survived its last restart.
    pub forwarding: FamilySet,
}

/// Checks the peer's OPEN against the configuration.
///
/// # Errors
/// [`Malformed`] with the NOTIFICATION to send.
pub(super) fn negotiate(
    config: &SessionConfig,
    open: &Open,
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<Negotiated, Malformed> {
    if open.asn != config.remote_as {
        return Err(Malformed::new(Fault::PeerAs, &[]));
    }
    let own_id = !config.external() && open.identifier == config.router_id;
    if open.identifier.is_unspecified() || own_id {
        return Err(Malformed::new(Fault::Identifier, &[]));
    }
    if matches!(open.hold_time, 1 | 2) {
        return Err(Malformed::new(Fault::HoldTime, &[]));
    }
    let families = open
        .capabilities
        .offered_families()
        .intersection(config.families);
    if families.is_empty() {
        return Err(missing_families(config));
    }
    let hold = open.hold_time.min(config.hold_time.secs());
    let hold_time = Duration::from_secs(u64::from(hold));
    let third = hold_time / 3;
    let offered = config.restart.and(open.capabilities.graceful_restart);
    Ok(Negotiated {
        peer_as: open.asn,
        external: config.external(),
        router_id: open.identifier,
        local,
        remote,
        families,
        width: if open.capabilities.four_octet_as.is_some() {
            AsnWidth::Four
        } else {
            AsnWidth::Two
        },
        route_refresh: open.capabilities.route_refresh,
        hold_time,
        keepalive_time: config
            .keepalive_time
            .map_or(third, |configured| configured.min(third)),
        restart: offered.map(|restart| PeerRestart {
            restarting: restart.restarting,
            notification: restart.notification,
            time: restart.duration(),
            families: restart.families.intersection(families),
            forwarding: restart.forwarding.intersection(families),
        }),
    })
}

/// Unsupported Capability, with the capabilities wanted as data (RFC 5492 §5).
fn missing_families(config: &SessionConfig) -> Malformed {
    let wanted = crate::wire::capability::Capabilities {
        families: Some(config.families),
        ..Default::default()
    };
    let mut data = Vec::new();
    wanted.encode(&mut data);
    Malformed::new(Fault::CapabilityRequired, &data)
}

impl Negotiated {
    /// Families whose routes are kept when the session ends without a word, or with this NOTIFICATION.
    pub(super) fn retained(&self, notification: Option<&Notification>) -> FamilySet {
        let Some(restart) = self.restart else {
            return FamilySet::EMPTY;
        };
        match notification {
            None => restart.families,
            Some(notification) if restart.notification && !notification.is_hard_reset() => {
                restart.families
            }
            Some(_) => FamilySet::EMPTY,
        }
    }
}
