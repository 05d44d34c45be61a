//! One claim → one configured neighbour, with everything that is not used as written.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{BGPPassword, BGPPeerSpec, GoDuration, NextHopMode, PeerExtension, SourceAddress};
use bgp::speaker::{
    ConnectMode, GracefulRestart, HoldTime, Hops, MaxPrefixes, NextHopMode as NextHop, Password,
    Peer, Reflection,
};
use bgp::{Asn, Family, FamilySet};
use model::Node;

use super::claims::Claim;
use super::identity::{Identity, family_of, port_of};
use super::rules::Rules;
use super::{Finding, Inputs, Planned, Reason};
use crate::kube::secrets::{Passwords, SecretKey};

/// Prefixes a node may announce: its blocks and what it borrowed.
const FROM_A_NODE: u32 = 1_000;
/// Prefixes a route reflector or a router may announce: a reflector of a thousand nodes rightly sends thousands.
const FROM_OTHERS: u32 = 100_000;
/// How long a session stays down that announced too much.
const MAX_PREFIXES_PAUSE: Duration = Duration::from_mins(5);
/// Packets towards a peer that is on no link of ours: as far as they get.
const MULTIHOP: Hops = Hops::Multihop(255);

/// What every session is planned from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    pub(super) inputs: Inputs<'a>,
    pub(super) identity: &'a Identity,
    pub(super) rules: &'a Rules,
}

/// A Secret a session depends on.
#[derive(Clone, Debug)]
pub(super) struct Secret {
    pub(super) key: SecretKey,
    /// Nobody found it.
    pub(super) missing: bool,
}

/// Where a finding belongs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) kind: &'static str,
    pub(super) name: Arc<str>,
    pub(super) path: &'static str,
}

impl Place {
    fn finding(&self, reason: Reason, message: String) -> Finding {
        Finding {
            kind: self.kind,
            name: Arc::clone(&self.name),
            path: self.path,
            reason,
            message,
        }
    }
}

/// Findings about one object.
struct Notes<'a> {
    name: &'a Arc<str>,
    findings: &'a mut Vec<Finding>,
}

impl Notes<'_> {
    fn add(&mut self, path: &'static str, reason: Reason, message: impl Into<String>) {
        let place = Place {
            kind: "BGPPeer",
            name: Arc::clone(self.name),
            path,
        };
        self.findings.push(place.finding(reason, message.into()));
    }
}

impl Context<'_> {
    /// A session with another node, as the mesh has it.
    pub(super) fn node_session(&self, node: &Node, address: IpAddr) -> Peer {
        let own = self.identity.address_towards(address);
        let mut peer = Peer::new(self.identity.as_of(node));
        peer.remote_port = port_of(self.inputs.world, &self.identity.settings, &node.name);
        peer.local_address = own;
        peer.families = FamilySet::from_iter([family_of(address)]);
        // One of two equals dials at once, the other only if nobody came: no collision in the common case.
        peer.connect = if own.is_some_and(|own| own < address) {
            ConnectMode::Active
        } else {
            ConnectMode::ActiveLate
        };
        peer.hops = self.hops(address);
        peer.import = Arc::clone(&self.rules.from_nodes);
        peer.export = Arc::clone(&self.rules.export);
        let limit = if node.route_reflector_cluster_id.is_some() {
            FROM_OTHERS
        } else {
            FROM_A_NODE
        };
        peer.max_prefixes = Some(MaxPrefixes {
            limit,
            restart_after: MAX_PREFIXES_PAUSE,
        });
        peer
    }

    /// A session with a router.
    fn router_session(&self, address: IpAddr, remote_as: Asn) -> Peer {
        let mut peer = Peer::new(remote_as);
        peer.local_address = self.identity.address_towards(address);
        peer.families = FamilySet::from_iter([family_of(address)]);
        peer.hops = self.hops(address);
        peer.import = Arc::clone(&self.rules.from_routers);
        peer.export = Arc::clone(&self.rules.export);
        peer.max_prefixes = Some(MaxPrefixes {
            limit: FROM_OTHERS,
            restart_after: MAX_PREFIXES_PAUSE,
        });
        peer
    }

    /// A peer in a subnet of ours is one hop away, so a session cannot wander off over another router when the link is lost. Any
    /// other is reached however the kernel routes: Calico's users have such peers and no field to say so.
    fn hops(&self, peer: IpAddr) -> Hops {
        let node = self.inputs.world.this_node();
        let subnet = node.and_then(|node| node.subnet(peer.is_ipv6()));
        let near =
            |net: &ipnet::IpNet| net.prefix_len() < net.max_prefix_len() && net.contains(&peer);
        let devices = &self.inputs.host.devices;
        let on_link = subnet.as_ref().is_some_and(near)
            || devices
                .values()
                .any(|device| device.addresses.iter().any(near));
        if on_link { Hops::Direct } else { MULTIHOP }
    }

    /// A session is a client's when it is internal and the peer is in no cluster or in another one.
    fn reflection(&self, node: Option<&Node>, remote_as: Asn, local_as: Asn) -> Reflection {
        let theirs = node.and_then(|node| node.route_reflector_cluster_id);
        match self.identity.cluster_id {
            Some(ours) if remote_as == local_as && theirs != Some(ours) => Reflection::Client,
            Some(_) | None => Reflection::None,
        }
    }
}

/// Plans the session a claim wants.
pub(super) fn plan(
    context: &Context<'_>,
    claim: &Claim<'_>,
    findings: &mut Vec<Finding>,
) -> Planned {
    let mut notes = Notes {
        name: &claim.name,
        findings,
    };
    let Some(peer) = base(context, claim, &mut notes) else {
        return Planned {
            peer: None,
            secret: None,
        };
    };
    let peer = with_fields(context, claim, peer, &mut notes);
    let place = Place {
        kind: "BGPPeer",
        name: Arc::clone(&claim.name),
        path: "spec.password",
    };
    locked(
        peer,
        claim.spec.password.as_ref(),
        context.inputs.passwords,
        &place,
        findings,
    )
}

/// Who the peer is and from where we speak; `None` when one of the two is not known.
fn base(context: &Context<'_>, claim: &Claim<'_>, notes: &mut Notes<'_>) -> Option<Peer> {
    let spec = claim.spec;
    let from_node = spec.source_address != Some(SourceAddress::None);
    if from_node && context.identity.address_towards(claim.address).is_none() {
        let message = format!(
            "node {} has no BGP address of the family of {}; no session follows",
            context.identity.name, claim.address
        );
        notes.add("spec.peerIP", Reason::NoAddress, message);
        return None;
    }
    let stated = spec
        .as_number
        .filter(|number| number.0 != 0)
        .map(|number| Asn(number.0));
    let mut peer = match (claim.node, stated) {
        (Some(node), stated) => {
            let mut peer = context.node_session(node, claim.address);
            peer.remote_as = stated.unwrap_or(peer.remote_as);
            peer
        }
        (None, Some(remote_as)) => context.router_session(claim.address, remote_as),
        (None, None) => {
            notes.add("spec.asNumber", Reason::Invalid, "a peer that is no node of this cluster needs an AS number other than 0; no session follows");
            return None;
        }
    };
    if !from_node {
        peer.local_address = None;
    }
    peer.remote_port = claim.port.unwrap_or(peer.remote_port);
    let local_as = spec
        .local_as_number
        .filter(|number| number.0 != 0)
        .map_or(context.identity.asn, |number| Asn(number.0));
    peer.local_as = (local_as != context.identity.asn).then_some(local_as);
    peer.reflection = context.reflection(claim.node, peer.remote_as, local_as);
    Some(peer)
}

fn with_fields(
    context: &Context<'_>,
    claim: &Claim<'_>,
    mut peer: Peer,
    notes: &mut Notes<'_>,
) -> Peer {
    let spec = claim.spec;
    if let Some(hops) = spec.ttl_security.filter(|hops| *hops != 0) {
        peer.hops = Hops::Security(hops);
    }
    peer.next_hop = match (spec.next_hop_mode, spec.keep_original_next_hop) {
        (Some(NextHopMode::Self_), _) => NextHop::OwnAddress,
        (Some(NextHopMode::Keep), _) | (None, true) => NextHop::Keep,
        (Some(NextHopMode::Auto), _) | (None, false) => NextHop::Auto,
    };
    match restart(spec.max_restart_time) {
        Ok(offer) => peer.graceful_restart = Some(offer),
        Err(message) => notes.add("spec.maxRestartTime", Reason::Invalid, message),
    }
    if let Some(count) = spec.num_allowed_local_as_numbers {
        peer.allowed_own_as = u8::try_from(count).unwrap_or(u8::MAX);
    }
    let ours = spec.margay.clone().unwrap_or_default();
    timers(spec, &ours, &mut peer, notes);
    extension(&ours, &mut peer, notes);
    if spec
        .reachable_by
        .as_deref()
        .is_some_and(|gateway| !gateway.is_empty())
    {
        notes.add(
            "spec.reachableBy",
            Reason::Unsupported,
            "no route to the peer is made; it is reached as the host's routes say",
        );
    }
    if !spec.filters.is_empty() {
        peer.import = Arc::clone(&context.rules.closed);
        peer.export = Arc::clone(&context.rules.closed);
        let message = format!(
            "there is no BGPFilter {} known to this version; every route is refused both ways, since a rule that is not applied must not mean no rule",
            spec.filters.join(", ")
        );
        notes.add("spec.filters", Reason::RefNotFound, message);
    }
    peer
}

fn timers(spec: &BGPPeerSpec, ours: &PeerExtension, peer: &mut Peer, notes: &mut Notes<'_>) {
    let mut hold = Duration::from_secs(u64::from(HoldTime::DEFAULT.secs()));
    if let Some(GoDuration(wanted)) = ours.hold_time {
        match hold_time(wanted) {
            Some(_) => hold = wanted,
            None => notes.add(
                "spec.margay.holdTime",
                Reason::Invalid,
                "a hold time is 0 or 3 s to 65535 s (RFC 4271 §4.2); 90 s is used",
            ),
        }
    }
    if let Some(GoDuration(keepalive)) = spec.keepalive_time.filter(|time| !time.0.is_zero()) {
        if hold.is_zero() {
            notes.add(
                "spec.keepaliveTime",
                Reason::Invalid,
                "there are no keepalives with hold time 0",
            );
        } else if hold_time(keepalive.saturating_mul(3)).is_some() {
            hold = hold.max(keepalive.saturating_mul(3));
            peer.keepalive_time = Some(keepalive);
        } else {
            notes.add("spec.keepaliveTime", Reason::Invalid, "three times this is no hold time (1 s to 21845 s); a third of the hold time is used");
        }
    }
    peer.hold_time = hold_time(hold).unwrap_or(HoldTime::DEFAULT);
    if let Some(GoDuration(retry)) = ours.connect_retry_time {
        if retry.is_zero() {
            notes.add(
                "spec.margay.connectRetryTime",
                Reason::Invalid,
                "a pause of 0 would be a storm; 5 s is used",
            );
        } else {
            peer.connect_retry = retry;
        }
    }
}

fn hold_time(time: Duration) -> Option<HoldTime> {
    let rounded_up = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    HoldTime::from_secs(u16::try_from(rounded_up).ok()?)
}

fn extension(ours: &PeerExtension, peer: &mut Peer, notes: &mut Notes<'_>) {
    if let Some(limit) = ours.max_prefixes.filter(|limit| *limit != 0) {
        peer.max_prefixes = Some(MaxPrefixes {
            limit,
            restart_after: MAX_PREFIXES_PAUSE,
        });
    }
    let families: Option<FamilySet> = ours
        .address_families
        .iter()
        .map(|text| family(text))
        .collect();
    match families {
        Some(families) if families.is_empty() => {}
        Some(families) => peer.families = families,
        None => notes.add(
            "spec.margay.addressFamilies",
            Reason::Invalid,
            "families are ipv4-unicast and ipv6-unicast; the family of the session is used",
        ),
    }
    if ours.bfd.is_some() {
        notes.add(
            "spec.margay.bfd",
            Reason::Unsupported,
            "BFD is not supported yet: the loss of this peer is found by its hold time",
        );
    }
}

fn family(text: &str) -> Option<Family> {
    Family::ALL
        .into_iter()
        .find(|family| family.to_string() == text)
}

/// Graceful restart as offered; absent means 120 s.
///
/// # Errors
/// A message when the wire has no room for the time.
pub(super) fn restart(time: Option<GoDuration>) -> Result<GracefulRestart, String> {
    let Some(GoDuration(time)) = time else {
        return Ok(GracefulRestart::default());
    };
    match u16::try_from(time.as_secs()) {
        Ok(restart_time) if restart_time <= 4095 => Ok(GracefulRestart { restart_time }),
        Ok(_) | Err(_) => {
            Err("a restart time has at most 4095 s (RFC 4724 §3); 120 s is used".into())
        }
    }
}

/// Puts the password of `reference` on a session. Without it there is no session, unless the reference says it may do without.
pub(super) fn locked(
    mut peer: Peer,
    reference: Option<&BGPPassword>,
    passwords: &Passwords,
    place: &Place,
    findings: &mut Vec<Finding>,
) -> Planned {
    let Some(reference) = reference.and_then(|password| password.secret_key_ref.as_ref()) else {
        return Planned {
            peer: Some(peer),
            secret: None,
        };
    };
    let key = SecretKey {
        name: reference.name.clone(),
        key: reference.key.clone(),
    };
    let Some(found) = passwords.get(&key) else {
        let optional = reference.optional == Some(true);
        if !optional {
            let message = format!(
                "there is no key {} in Secret {} of this daemon's namespace; the session stays down",
                key.key, key.name
            );
            findings.push(place.finding(Reason::RefNotFound, message));
        }
        return Planned {
            peer: optional.then_some(peer),
            secret: Some(Secret { key, missing: true }),
        };
    };
    match Password::try_new(found.reveal()) {
        Ok(password) => {
            peer.password = Some(password);
            Planned {
                peer: Some(peer),
                secret: Some(Secret {
                    key,
                    missing: false,
                }),
            }
        }
        Err(error) => {
            findings.push(place.finding(
                Reason::Invalid,
                format!("Secret {}: {error}; the session stays down", key.name),
            ));
            Planned {
                peer: None,
                secret: Some(Secret {
                    key,
                    missing: false,
                }),
            }
        }
    }
}
