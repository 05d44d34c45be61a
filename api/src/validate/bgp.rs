//! Rules of `BGPConfiguration` and `BGPPeer`.

use serde_json::Value;

use super::address::{self, check_address, check_cidr};
use super::name::is_interface;
use super::scope::{self, Global};
use super::{Check, NAME_NOT_USED, Report, Severity};
use crate::bgp::{BGPConfiguration, BGPPassword, BGPPeerSpec, ServiceCidr};
use crate::scalar::IpVersion;

pub(super) const CONFIGURATION: &[Check<BGPConfiguration>] = &[
    Check {
        id: NAME_NOT_USED,
        severity: Severity::Refuse,
        judge: name,
    },
    Check {
        id: "bgp-per-node",
        severity: Severity::Unsupported,
        judge: per_node,
    },
    Check {
        id: "bgp-listen-port",
        severity: Severity::Refuse,
        judge: listen_port,
    },
    Check {
        id: "bgp-mesh-off",
        severity: Severity::Refuse,
        judge: mesh_off,
    },
    Check {
        id: "bgp-service-ranges",
        severity: Severity::Refuse,
        judge: service_ranges,
    },
    Check {
        id: "bgp-communities",
        severity: Severity::Refuse,
        judge: communities,
    },
    Check {
        id: "bgp-communities-unused",
        severity: Severity::Warn,
        judge: communities_unused,
    },
    Check {
        id: "bgp-prefix-advertisements",
        severity: Severity::Refuse,
        judge: prefix_advertisements,
    },
    Check {
        id: "bgp-ignored-interfaces",
        severity: Severity::Refuse,
        judge: ignored_interfaces,
    },
    Check {
        id: "bgp-workload-peering",
        severity: Severity::Refuse,
        judge: workload_peering,
    },
    Check {
        id: "bgp-password",
        severity: Severity::Refuse,
        judge: mesh_password,
    },
    Check {
        id: "bgp-later",
        severity: Severity::Unsupported,
        judge: configuration_later,
    },
];

pub(super) const PEER: &[Check<BGPPeerSpec>] = &[
    Check {
        id: "peer-exclusive",
        severity: Severity::Refuse,
        judge: peer_exclusive,
    },
    Check {
        id: "peer-none",
        severity: Severity::Refuse,
        judge: peer_none,
    },
    Check {
        id: "peer-address",
        severity: Severity::Refuse,
        judge: peer_address,
    },
    Check {
        id: "peer-as",
        severity: Severity::Refuse,
        judge: peer_as,
    },
    Check {
        id: "peer-as-missing",
        severity: Severity::Warn,
        judge: peer_as_missing,
    },
    Check {
        id: "peer-selectors",
        severity: Severity::Refuse,
        judge: peer_selectors,
    },
    Check {
        id: "peer-reachable-by",
        severity: Severity::Refuse,
        judge: peer_reachable_by,
    },
    Check {
        id: "peer-next-hop",
        severity: Severity::Refuse,
        judge: peer_next_hop,
    },
    Check {
        id: "peer-password",
        severity: Severity::Refuse,
        judge: peer_password,
    },
    Check {
        id: "peer-unnumbered",
        severity: Severity::Refuse,
        judge: peer_unnumbered,
    },
    Check {
        id: "peer-limits",
        severity: Severity::Refuse,
        judge: peer_limits,
    },
    Check {
        id: "peer-later",
        severity: Severity::Unsupported,
        judge: peer_later,
    },
];

/// Fields that count in `node.<name>`.
const PER_NODE: [&str; 3] = ["listenPort", "logSeverityScreen", "prefixAdvertisements"];

fn node_of(configuration: &BGPConfiguration) -> Option<&str> {
    configuration
        .metadata
        .name
        .as_deref()?
        .strip_prefix("node.")
}

fn name(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    let used = configuration.metadata.name.as_deref() == Some("default")
        || node_of(configuration).is_some_and(|n| !n.is_empty());
    report.say_if(
        !used,
        "metadata.name",
        "only the names default and node.<name of a node> count",
    );
}

fn per_node(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    if node_of(configuration).is_none() {
        return;
    }
    let Ok(Value::Object(fields)) = serde_json::to_value(&configuration.spec) else {
        return;
    };
    // The API server fills this one in, so nobody may have asked for it.
    let asked = fields.iter().filter(|(field, value)| {
        field.as_str() != "serviceLoadBalancerAggregation" || value.as_str() != Some("Enabled")
    });
    for (field, _) in asked.filter(|(field, _)| !PER_NODE.contains(&field.as_str())) {
        report.say(
            format!("spec.{field}"),
            format!("{field} counts in the object default only"),
        );
    }
}

fn listen_port(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    report.say_if(
        configuration.spec.listen_port == Some(0),
        "spec.listenPort",
        "listenPort is 1 to 65535",
    );
}

fn mesh_off(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    if spec.mesh() {
        return;
    }
    let say = "has no meaning while nodeToNodeMeshEnabled is false";
    report.say_if(
        spec.node_mesh_password.is_some(),
        "spec.nodeMeshPassword",
        say,
    );
    report.say_if(
        spec.node_mesh_max_restart_time.is_some(),
        "spec.nodeMeshMaxRestartTime",
        say,
    );
}

fn service_ranges(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let mut check = |ranges: &[ServiceCidr], field: &str| {
        for (i, range) in ranges.iter().enumerate() {
            check_cidr(&range.cidr, format!("spec.{field}[{i}].cidr"), report);
        }
    };
    check(&spec.service_cluster_ips, "serviceClusterIPs");
    check(&spec.service_external_ips, "serviceExternalIPs");
    check(&spec.service_load_balancer_ips, "serviceLoadBalancerIPs");
}

/// Whether a text is `aa:nn` of 16 bits each (RFC 1997) or `aa:nn:mm` of 32 bits each (RFC 8092).
fn is_community(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let digits = parts
        .iter()
        .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    digits
        && match parts.len() {
            2 => parts.iter().all(|part| part.parse::<u16>().is_ok()),
            3 => parts.iter().all(|part| part.parse::<u32>().is_ok()),
            _ => false,
        }
}

fn communities(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    for (i, community) in spec.communities.iter().enumerate() {
        report.say_if(
            community.name.is_empty(),
            &format!("spec.communities[{i}].name"),
            "a community needs a name",
        );
        if !is_community(&community.value) {
            let text = &community.value;
            let message = format!(
                "{text:?} is not a community, write aa:nn (0 to 65535 each) or aa:nn:mm (0 to 4294967295 each)"
            );
            report.say(format!("spec.communities[{i}].value"), message);
        }
    }
}

fn communities_unused(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let unused = !spec.communities.is_empty() && spec.prefix_advertisements.is_empty();
    report.say_if(
        unused,
        "spec.communities",
        "communities are of use only with prefixAdvertisements",
    );
}

fn prefix_advertisements(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    // A node's object may use names that the object default defines.
    let names_known = node_of(configuration).is_none();
    for (i, advertisement) in spec.prefix_advertisements.iter().enumerate() {
        check_cidr(
            &advertisement.cidr,
            format!("spec.prefixAdvertisements[{i}].cidr"),
            report,
        );
        for (j, text) in advertisement.communities.iter().enumerate() {
            let path = format!("spec.prefixAdvertisements[{i}].communities[{j}]");
            let defined = spec
                .communities
                .iter()
                .any(|community| community.name == *text);
            if text.contains(':') && !is_community(text) {
                report.say(
                    path,
                    format!("{text:?} is not a community, write aa:nn or aa:nn:mm"),
                );
            } else if !text.contains(':') && !defined && names_known {
                report.say(
                    path,
                    format!("no community is named {text:?}, define it in spec.communities"),
                );
            }
        }
    }
}

fn ignored_interfaces(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    for (i, pattern) in configuration.spec.ignored_interfaces.iter().enumerate() {
        let path = format!("spec.ignoredInterfaces[{i}]");
        report.say_if(
            pattern == "*",
            &path,
            "* alone would ignore every interface",
        );
        let plain = pattern.replace('*', "");
        let fits =
            pattern == "*" || (pattern.len() <= 15 && (plain.is_empty() || is_interface(&plain)));
        report.say_if(
            !fits,
            &path,
            "an interface is at most 15 letters, digits, _, ., - and * as wildcard",
        );
    }
}

fn workload_peering(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    check_address(
        spec.local_workload_peering_ipv4.as_deref(),
        IpVersion::V4,
        "spec.localWorkloadPeeringIPV4",
        report,
    );
    check_address(
        spec.local_workload_peering_ipv6.as_deref(),
        IpVersion::V6,
        "spec.localWorkloadPeeringIPV6",
        report,
    );
}

fn mesh_password(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    check_password(
        configuration.spec.node_mesh_password.as_ref(),
        "spec.nodeMeshPassword",
        report,
    );
}

fn check_password(password: Option<&BGPPassword>, path: &str, report: &mut Report<'_>) {
    let Some(password) = password else { return };
    let Some(key) = &password.secret_key_ref else {
        return report.say(path, "a password needs secretKeyRef");
    };
    report.say_if(
        key.name.is_empty(),
        &format!("{path}.secretKeyRef.name"),
        "name the Secret the password is in",
    );
    report.say_if(
        key.key.is_empty(),
        &format!("{path}.secretKeyRef.key"),
        "name the key of the Secret the password is in",
    );
}

fn configuration_later(configuration: &BGPConfiguration, report: &mut Report<'_>) {
    let spec = &configuration.spec;
    let owned = "one process owns routes and kernel here, so there is nothing to choose";
    report.say_if(
        spec.program_cluster_routes.is_some(),
        "spec.programClusterRoutes",
        owned,
    );
    let set = "peering with local pods is not offered yet";
    report.say_if(
        spec.local_workload_peering_ipv4.is_some(),
        "spec.localWorkloadPeeringIPV4",
        set,
    );
    report.say_if(
        spec.local_workload_peering_ipv6.is_some(),
        "spec.localWorkloadPeeringIPV6",
        set,
    );
    let metric = "route metrics cannot be chosen yet";
    report.say_if(
        spec.ipv4_normal_route_priority.is_some(),
        "spec.ipv4NormalRoutePriority",
        metric,
    );
    report.say_if(
        spec.ipv6_normal_route_priority.is_some(),
        "spec.ipv6NormalRoutePriority",
        metric,
    );
}

fn filled(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn peer_exclusive(peer: &BGPPeerSpec, report: &mut Report<'_>) {
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

fn peer_none(peer: &BGPPeerSpec, report: &mut Report<'_>) {
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

fn peer_address(peer: &BGPPeerSpec, report: &mut Report<'_>) {
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

fn peer_as(peer: &BGPPeerSpec, report: &mut Report<'_>) {
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

fn peer_as_missing(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let given = peer.as_number.is_some_and(|number| number.0 != 0);
    report.say_if(
        filled(peer.peer_ip.as_deref()) && !given,
        "spec.asNumber",
        "without asNumber the peer must be one of our nodes",
    );
}

fn peer_selectors(peer: &BGPPeerSpec, report: &mut Report<'_>) {
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

fn peer_reachable_by(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let path = "spec.reachableBy";
    let Some(text) = peer.reachable_by.as_deref().filter(|text| !text.is_empty()) else {
        return;
    };
    let Some(peer_ip) = peer.peer_ip.as_deref().filter(|text| !text.is_empty()) else {
        return report.say(path, "reachableBy must be empty when peerIP is empty");
    };
    match (text.parse::<std::net::IpAddr>(), address::peer(peer_ip)) {
        (Err(_), _) => report.say(path, format!("{text:?} is not an address")),
        (Ok(via), Some(to)) => report.say_if(
            via.is_ipv4() != to.is_ipv4(),
            path,
            "reachableBy and peerIP must be of one family",
        ),
        (Ok(_), None) => {}
    }
}

fn peer_next_hop(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let both = peer.keep_original_next_hop && peer.next_hop_mode.is_some();
    report.say_if(
        both,
        "spec.keepOriginalNextHop",
        "keepOriginalNextHop is deprecated and excludes nextHopMode, use nextHopMode alone",
    );
}

fn peer_password(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    check_password(peer.password.as_ref(), "spec.password", report);
}

fn peer_unnumbered(peer: &BGPPeerSpec, report: &mut Report<'_>) {
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

fn peer_limits(peer: &BGPPeerSpec, report: &mut Report<'_>) {
    let Some(ours) = &peer.margay else { return };
    report.say_if(
        ours.max_prefixes == Some(0),
        "spec.margay.maxPrefixes",
        "maxPrefixes is at least 1",
    );
    let hold = ours.hold_time.map(|time| time.0);
    let short =
        hold.is_some_and(|time| !time.is_zero() && time < std::time::Duration::from_secs(3));
    let long = hold.is_some_and(|time| time > std::time::Duration::from_secs(65_535));
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

fn peer_later(peer: &BGPPeerSpec, report: &mut Report<'_>) {
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
