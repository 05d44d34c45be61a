//! Rules of `HostEndpoint`, `NetworkSet` and `GlobalNetworkSet`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::name::{is_dns_subdomain, is_interface, is_port_name};
use super::{Check, Report, Severity, address};
use crate::endpoint::HostEndpointSpec;

pub(super) const HOST: &[Check<HostEndpointSpec>] = &[
    Check {
        id: "host-node",
        severity: Severity::Refuse,
        judge: node,
    },
    Check {
        id: "host-interface",
        severity: Severity::Refuse,
        judge: interface,
    },
    Check {
        id: "host-addresses",
        severity: Severity::Refuse,
        judge: addresses,
    },
    Check {
        id: "host-profiles",
        severity: Severity::Refuse,
        judge: profiles,
    },
    Check {
        id: "host-ports",
        severity: Severity::Refuse,
        judge: ports,
    },
];

/// Both kinds of sets.
pub(super) struct Set {
    labels: BTreeMap<String, String>,
    nets: Vec<String>,
}

impl Set {
    pub(super) fn new(metadata: &ObjectMeta, nets: &[String]) -> Self {
        Self {
            labels: metadata.labels.clone().unwrap_or_default(),
            nets: nets.to_owned(),
        }
    }
}

pub(super) const SET: &[Check<Set>] = &[
    Check {
        id: "set-label",
        severity: Severity::Refuse,
        judge: set_label,
    },
    Check {
        id: "set-nets",
        severity: Severity::Refuse,
        judge: set_nets,
    },
];

fn node(host: &HostEndpointSpec, report: &mut Report<'_>) {
    let missing = host.node.as_deref().is_none_or(str::is_empty);
    report.say_if(missing, "spec.node", "name the node the endpoint is on");
}

fn interface(host: &HostEndpointSpec, report: &mut Report<'_>) {
    let path = "spec.interfaceName";
    let name = host.interface_name.as_deref().unwrap_or_default();
    report.say_if(
        name.is_empty() && host.expected_ips.is_empty(),
        path,
        "name the interface by interfaceName or by expectedIPs",
    );
    report.say_if(
        !name.is_empty() && name != "*" && !is_interface(name),
        path,
        "an interface is at most 15 of letters, digits, _, . and -, or * for all",
    );
}

fn addresses(host: &HostEndpointSpec, report: &mut Report<'_>) {
    for (i, text) in host.expected_ips.iter().enumerate() {
        if text.parse::<IpAddr>().is_err() {
            report.say(
                format!("spec.expectedIPs[{i}]"),
                format!("{text:?} is not an address, write for instance 192.0.2.1"),
            );
        }
    }
}

fn profiles(host: &HostEndpointSpec, report: &mut Report<'_>) {
    for (i, name) in host.profiles.iter().enumerate() {
        if !is_dns_subdomain(name) {
            report.say(
                format!("spec.profiles[{i}]"),
                format!("{name:?} is not the name of a profile, write for instance projectcalico-default-allow"),
            );
        }
    }
}

fn ports(host: &HostEndpointSpec, report: &mut Report<'_>) {
    for (i, port) in host.ports.iter().enumerate() {
        report.say_if(
            !is_port_name(&port.name),
            &format!("spec.ports[{i}].name"),
            "the name of a port is 1 to 128 of letters, digits, _, . and -",
        );
        report.say_if(
            !port.protocol.has_ports(),
            &format!("spec.ports[{i}].protocol"),
            "the protocol must be TCP, UDP or SCTP",
        );
        report.say_if(
            port.port == 0,
            &format!("spec.ports[{i}].port"),
            "a port is 1 to 65535",
        );
    }
}

/// The label every set of a namespace gets by itself.
const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

fn set_label(set: &Set, report: &mut Report<'_>) {
    report.say_if(
        set.labels.contains_key(NAMESPACE_LABEL),
        "metadata.labels",
        "the label projectcalico.org/namespace is reserved: sets get that of their namespace by themselves",
    );
}

fn set_nets(set: &Set, report: &mut Report<'_>) {
    for (i, text) in set.nets.iter().enumerate() {
        if address::range(text).is_none() {
            report.say(
                format!("spec.nets[{i}]"),
                format!("{text:?} is not a range of addresses, write for instance 10.0.0.0/8; the others of the set hold"),
            );
        }
    }
}
