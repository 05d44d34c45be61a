//! Rules of `BGPPeer`.

use std::net::IpAddr;
use std::time::Duration;

use super::address;
use super::bgp::check_password;
use super::name::is_interface;
use super::scope::{self, Global};
use super::{Check, Report, Severity};
use crate::bgp::BGPPeerSpec;

pub(super) const PEER: &[Check<BGPPeerSpec>] = &[
    Check {
        id: "peer-exclusive",
        severity: Severity::Refuse,
        judge: exclusive,
    },
    Check {
        id: "peer-none",
        severity: Severity::Refuse,
        judge: none,
    },
    Check {
        id: "peer-address",
        severity: Severity::Refuse,
        judge: peer_ip,
    },
    Check {
        id: "peer-as",
        severity: Severity::Refuse,
        judge: as_number,
    },
    Check {
        id: "peer-as-missing",
        severity: Severity::Warn,
        judge: as_number_missing,
    },
    Check {
        id: "peer-selectors",
        severity: Severity::Refuse,
        judge: selectors,
    },
    Check {
        id: "peer-reachable-by",
        severity: Severity::Refuse,
        judge: reachable_by,
    },
    Check {
        id: "peer-next-hop",
        severity: Severity::Refuse,
        judge: next_hop,
    },
    Check {
        id: "peer-password",
        severity: Severity::Refuse,
        judge: password,
    },
    Check {
        id: "peer-unnumbered",
        severity: Severity::Refuse,
        judge: unnumbered,
    },
    Check {
        id: "peer-limits",
        severity: Severity::Refuse,
        judge: limits,
    },
    Check {
        id: "peer-later",
        severity: Severity::Unsupported,
        judge: later,
    },
];

fn filled(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn exclusive(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let node = filled(peer.node.as_deref()) && filled(peer.node_selector.as_deref());
    report.say_if(
        node,
        "spec.node",
        "node and nodeSelector cannot both be set",
    );
    let address = filled(peer.peer_ip.as_deref());
    let nodes = filled(peer.peer_selector.as_deref());
    let pods = filled(peer.local_workload_selector.as_deref());
    report.say_if(
        address && nodes,
        "spec.peerIP",
        "peerIP and peerSelector cannot both be set",
    );
    report.say_if(
        address && pods,
        "spec.peerIP",
        "peerIP must be empty when localWorkloadSelector is set",
    );
    report.say_if(
        nodes && pods,
        "spec.peerSelector",
        "peerSelector must be empty when localWorkloadSelector is set",
    );
}

fn none(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let texts = [
        &peer.peer_ip,
        &peer.peer_selector,
        &peer.local_workload_selector,
    ];
    let link = peer
        .margay
        .as_ref()
        .and_then(|ours| ours.unnumbered.as_deref());
    let any = texts.into_iter().any(|text| filled(text.as_deref())) || filled(link);
    report.say_if(!any, "spec", "no peer is named: set peerIP or peerSelector");
}

fn peer_ip(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    if let Some(text) = peer
        .peer_ip
        .as_deref()
        .filter(|text| !text.is_empty() && address::peer(text).is_none())
    {
        report.say(
            "spec.peerIP",
            format!(
                "{text:?} is not an address, write 192.0.2.1, 192.0.2.1:1179 or [2001:db8::1]:1179"
            ),
        );
    }
}

fn as_number(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let given = peer.as_number.is_some_and(|number| number.0 != 0);
    let nodes = filled(peer.peer_selector.as_deref());
    report.say_if(
        given && nodes,
        "spec.asNumber",
        "asNumber must be empty when peerSelector is set: nodes have their own",
    );
    let pods = filled(peer.local_workload_selector.as_deref());
    report.say_if(
        !given && pods,
        "spec.asNumber",
        "asNumber is required when localWorkloadSelector is set",
    );
}

fn as_number_missing(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let given = peer.as_number.is_some_and(|number| number.0 != 0);
    report.say_if(
        filled(peer.peer_ip.as_deref()) && !given,
        "spec.asNumber",
        "without asNumber the peer must be one of our nodes",
    );
}

fn selectors(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    scope::check(
        peer.node_selector.as_deref(),
        Global::Forbidden,
        "spec.nodeSelector",
        report,
    );
    scope::check(
        peer.peer_selector.as_deref(),
        Global::Forbidden,
        "spec.peerSelector",
        report,
    );
    scope::check(
        peer.local_workload_selector.as_deref(),
        Global::Forbidden,
        "spec.localWorkloadSelector",
        report,
    );
}

fn reachable_by(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let path = "spec.reachableBy";
    let Some(text) = peer.reachable_by.as_deref().filter(|text| !text.is_empty()) else {
        return;
    };
    let Some(peer_ip) = peer.peer_ip.as_deref().filter(|text| !text.is_empty()) else {
        return report.say(path, "reachableBy must be empty when peerIP is empty");
    };
    match (text.parse::<IpAddr>(), address::peer(peer_ip)) {
        (Err(_), _) => report.say(path, format!("{text:?} is not an address")),
        (Ok(via), Some(to)) => report.say_if(
            via.is_ipv4() != to.is_ipv4(),
            path,
            "reachableBy and peerIP must be of one family",
        ),
        (Ok(_), None) => {}
    }
}

fn next_hop(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let both = peer.keep_original_next_hop && peer.next_hop_mode.is_some();
    report.say_if(
        both,
        "spec.keepOriginalNextHop",
        "keepOriginalNextHop is deprecated and excludes nextHopMode, use nextHopMode alone",
    );
}

fn password(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    check_password(peer.password.as_ref(), "spec.password", report);
}

fn unnumbered(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let Some(link) = peer
        .margay
        .as_ref()
        .and_then(|ours| ours.unnumbered.as_deref())
    else {
        return;
    };
    let path = "spec.margay.unnumbered";
    report.say_if(
        !is_interface(link),
        path,
        "name an interface: at most 15 letters, digits, _, . and -",
    );
    report.say_if(
        filled(peer.peer_ip.as_deref()),
        path,
        "unnumbered and peerIP cannot both be set",
    );
}

fn limits(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let Some(ours) = &peer.margay else { return };
    report.say_if(
        ours.max_prefixes == Some(0),
        "spec.margay.maxPrefixes",
        "maxPrefixes is at least 1",
    );
    let hold = ours.hold_time.map(|time| time.0);
    let short = hold.is_some_and(|time| !time.is_zero() && time < Duration::from_secs(3));
    let long = hold.is_some_and(|time| time > Duration::from_secs(65_535));
    report.say_if(
        short || long,
        "spec.margay.holdTime",
        "a hold time is 0s, or 3s to 65535s (RFC 4271 \u{a7}4.2)",
    );
    let no_multiplier = ours
        .bfd
        .as_ref()
        .is_some_and(|bfd| bfd.multiplier == Some(0));
    report.say_if(
        no_multiplier,
        "spec.margay.bfd.multiplier",
        "multiplier is at least 1",
    );
}

fn later(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let pods = filled(peer.local_workload_selector.as_deref());
    report.say_if(
        pods,
        "spec.localWorkloadSelector",
        "peering with local pods is not offered yet",
    );
    report.say_if(
        filled(peer.reachable_by.as_deref()),
        "spec.reachableBy",
        "no route to the peer is made yet",
    );
}
