//! Rules of `BGPConfiguration`.

use serde_json::Value;

use super::address::{check_address, check_cidr};
use super::name::is_interface;
use super::{Check, NAME_NOT_USED, Report, Severity};
use crate::bgp::{BGPConfiguration, BGPPassword, ServiceCidr};
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
pub(super) fn is_community(text: &str) -> bool {
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

pub(super) fn check_password(password: Option<&BGPPassword>, path: &str, report: &mut Report<'_>) {
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
