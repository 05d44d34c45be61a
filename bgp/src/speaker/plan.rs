//! What a change of configuration does to sessions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Desired, Global, Peer, PeerKey};
use crate::filter::Filter;

/// Answer of [`Speaker::reconcile`](super::Speaker::reconcile): every peer is in exactly one list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Nothing changes.
    pub unchanged: Vec<PeerKey>,
    /// New peers.
    pub added: Vec<PeerKey>,
    /// Peers that go, with Cease/Peer De-configured.
    pub removed: Vec<PeerKey>,
    /// The session stays; timers, limits or what is sent change at once.
    pub soft: Vec<Change>,
    /// The session stays; the peer is asked to send its routes again.
    pub refresh: Vec<Change>,
    /// The session is closed and opened again.
    pub restart: Vec<Change>,
}

impl Plan {
    /// Whether nothing at all changes.
    pub fn is_noop(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.soft.is_empty()
            && self.refresh.is_empty()
            && self.restart.is_empty()
    }
}

/// A peer and why it is treated so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The peer.
    pub peer: PeerKey,
    /// All reasons, in the order of declaration of [`Why`].
    pub why: Vec<Why>,
}

/// One difference between the configuration in force and the desired one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Why {
    /// Our AS number as this peer sees it.
    LocalAs,
    /// The peer's AS number.
    RemoteAs,
    /// Our router id.
    RouterId,
    /// Port or source address of the connection.
    Transport,
    /// Single hop, multihop or GTSM.
    Hops,
    /// The TCP-MD5 key appeared or vanished. A changed key keeps the session.
    PasswordPresence,
    /// The TCP-MD5 key changed.
    Password,
    /// Families offered.
    Families,
    /// Hold or keepalive time: in force from the next session on.
    HoldTime,
    /// Restart time or its absence: in force from the next session on.
    GracefulRestart,
    /// Retry time or who dials.
    Connect,
    /// Part in route reflection.
    Reflection,
    /// Import rules.
    Import,
    /// Occurrences of our own AS tolerated.
    AllowedOwnAs,
    /// Export rules.
    Export,
    /// Next hop of routes sent.
    NextHop,
    /// Limit of prefixes.
    MaxPrefixes,
    /// The peer does not offer route refresh, so its routes can only be had by a new session.
    NoRouteRefresh,
}

/// How an existing session can take a new import policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refreshable {
    /// Nothing was received yet.
    NotEstablished,
    /// Route refresh was agreed on.
    ByRefresh,
    /// Only a new session brings the routes again.
    OnlyByRestart,
}

/// Compares two configurations. `refreshable` says how a peer in force can take new import rules.
pub(super) fn compare(
    old: Option<&Desired>,
    new: &Desired,
    refreshable: impl Fn(&PeerKey) -> Refreshable,
) -> Plan {
    let mut plan = Plan::default();
    let none = BTreeMap::new();
    let old_peers = old.map_or(&none, |old| &old.peers);
    plan.removed.extend(
        old_peers
            .keys()
            .filter(|key| !new.peers.contains_key(*key))
            .cloned(),
    );
    for (key, peer) in &new.peers {
        let (Some(before), Some(old)) = (old_peers.get(key), old) else {
            plan.added.push(key.clone());
            continue;
        };
        let mut why = differences(&old.global, before, &new.global, peer);
        match severity(&mut why, || refreshable(key)) {
            None => plan.unchanged.push(key.clone()),
            Some(Severity::Soft) => plan.soft.push(Change {
                peer: key.clone(),
                why,
            }),
            Some(Severity::Refresh) => plan.refresh.push(Change {
                peer: key.clone(),
                why,
            }),
            Some(Severity::Restart) => plan.restart.push(Change {
                peer: key.clone(),
                why,
            }),
        }
    }
    plan
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Soft,
    Refresh,
    Restart,
}

impl Why {
    fn severity(self) -> Severity {
        match self {
            Self::LocalAs
            | Self::RemoteAs
            | Self::RouterId
            | Self::Transport
            | Self::Hops
            | Self::PasswordPresence
            | Self::Families
            | Self::Reflection
            | Self::NoRouteRefresh => Severity::Restart,
            Self::Import | Self::AllowedOwnAs => Severity::Refresh,
            Self::Password
            | Self::HoldTime
            | Self::GracefulRestart
            | Self::Connect
            | Self::Export
            | Self::NextHop
            | Self::MaxPrefixes => Severity::Soft,
        }
    }
}

fn severity(why: &mut Vec<Why>, refreshable: impl Fn() -> Refreshable) -> Option<Severity> {
    let worst = why.iter().map(|why| why.severity()).max()?;
    if worst != Severity::Refresh {
        return Some(worst);
    }
    match refreshable() {
        Refreshable::NotEstablished => Some(Severity::Soft),
        Refreshable::ByRefresh => Some(Severity::Refresh),
        Refreshable::OnlyByRestart => {
            why.push(Why::NoRouteRefresh);
            Some(Severity::Restart)
        }
    }
}

fn differences(old_global: &Global, old: &Peer, new_global: &Global, new: &Peer) -> Vec<Why> {
    let presented = |global: &Global, peer: &Peer| peer.local_as.unwrap_or(global.asn);
    let internal = new.remote_as == presented(new_global, new);
    let cluster = internal && old_global.cluster_id != new_global.cluster_id;
    let keys = (old.password.as_ref(), new.password.as_ref());
    let transport = |peer: &Peer| (peer.remote_port, peer.local_address);
    let timers = |peer: &Peer| (peer.hold_time, peer.keepalive_time);
    let dialling = |peer: &Peer| (peer.connect, peer.connect_retry);
    let checks = [
        (
            Why::LocalAs,
            presented(old_global, old) != presented(new_global, new)
                || old_global.asn != new_global.asn,
        ),
        (Why::RemoteAs, old.remote_as != new.remote_as),
        (Why::RouterId, old_global.router_id != new_global.router_id),
        (Why::Transport, transport(old) != transport(new)),
        (Why::Hops, old.hops != new.hops),
        (Why::PasswordPresence, keys.0.is_some() != keys.1.is_some()),
        (
            Why::Password,
            matches!(keys, (Some(old), Some(new)) if old != new),
        ),
        (Why::Families, old.families != new.families),
        (Why::HoldTime, timers(old) != timers(new)),
        (
            Why::GracefulRestart,
            old.graceful_restart != new.graceful_restart,
        ),
        (Why::Connect, dialling(old) != dialling(new)),
        (Why::Reflection, old.reflection != new.reflection || cluster),
        (Why::Import, !same(&old.import, &new.import)),
        (Why::AllowedOwnAs, old.allowed_own_as != new.allowed_own_as),
        (Why::Export, !same(&old.export, &new.export)),
        (Why::NextHop, old.next_hop != new.next_hop),
        (Why::MaxPrefixes, old.max_prefixes != new.max_prefixes),
    ];
    checks
        .into_iter()
        .filter_map(|(why, differs)| differs.then_some(why))
        .collect()
}

/// Equal filters, cheaply when they are the same object.
fn same(old: &Arc<Filter>, new: &Arc<Filter>) -> bool {
    Arc::ptr_eq(old, new) || old == new
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::Asn;
    use crate::speaker::{HoldTime, Password};

    fn key() -> PeerKey {
        PeerKey::Addr(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)))
    }

    fn desired(peer: Peer) -> Desired {
        Desired {
            global: Global::new(Asn(64512), Ipv4Addr::new(10, 0, 0, 1)),
            peers: BTreeMap::from([(key(), peer)]),
        }
    }

    fn plan_for(edit: impl Fn(&mut Peer), refreshable: Refreshable) -> Plan {
        let before = desired(Peer::new(Asn(65010)));
        let mut after = before.clone();
        after.peers.values_mut().for_each(edit);
        compare(Some(&before), &after, |_| refreshable)
    }

    #[test]
    fn equal_configurations_change_nothing() {
        let plan = plan_for(|_| (), Refreshable::ByRefresh);
        assert!(plan.is_noop());
        assert_eq!(plan.unchanged, [key()]);
    }

    #[test]
    fn policy_edits_never_bounce_a_session_that_can_refresh() {
        let plan = plan_for(
            |peer| peer.import = Filter::reject_all(),
            Refreshable::ByRefresh,
        );
        assert_eq!(
            plan.refresh,
            [Change {
                peer: key(),
                why: vec![Why::Import]
            }]
        );
        let plan = plan_for(
            |peer| peer.export = Filter::reject_all(),
            Refreshable::ByRefresh,
        );
        assert_eq!(
            plan.soft,
            [Change {
                peer: key(),
                why: vec![Why::Export]
            }]
        );
    }

    #[test]
    fn an_import_edit_bounces_a_peer_without_refresh_and_says_so() {
        let plan = plan_for(
            |peer| peer.import = Filter::reject_all(),
            Refreshable::OnlyByRestart,
        );
        assert_eq!(
            plan.restart,
            [Change {
                peer: key(),
                why: vec![Why::Import, Why::NoRouteRefresh]
            }]
        );
    }

    #[test]
    fn a_changed_key_keeps_the_session_a_new_key_does_not() {
        let with = |key: &str| Some(Password::try_new(key).unwrap());
        let mut before = desired(Peer::new(Asn(65010)));
        before
            .peers
            .values_mut()
            .for_each(|peer| peer.password = with("a"));
        let mut after = before.clone();
        after
            .peers
            .values_mut()
            .for_each(|peer| peer.password = with("b"));
        let plan = compare(Some(&before), &after, |_| Refreshable::ByRefresh);
        assert_eq!(
            plan.soft,
            [Change {
                peer: key(),
                why: vec![Why::Password]
            }]
        );
        let plan = plan_for(|peer| peer.password = with("a"), Refreshable::ByRefresh);
        assert_eq!(
            plan.restart,
            [Change {
                peer: key(),
                why: vec![Why::PasswordPresence]
            }]
        );
    }

    #[test]
    fn timers_wait_for_the_next_session() {
        let plan = plan_for(
            |peer| peer.hold_time = HoldTime::from_secs(9).unwrap(),
            Refreshable::ByRefresh,
        );
        assert_eq!(
            plan.soft,
            [Change {
                peer: key(),
                why: vec![Why::HoldTime]
            }]
        );
    }

    #[test]
    fn a_new_router_id_bounces_everyone() {
        let before = desired(Peer::new(Asn(65010)));
        let mut after = before.clone();
        after.global.router_id = Ipv4Addr::new(10, 0, 0, 9);
        let plan = compare(Some(&before), &after, |_| Refreshable::ByRefresh);
        assert_eq!(
            plan.restart,
            [Change {
                peer: key(),
                why: vec![Why::RouterId]
            }]
        );
    }
}
