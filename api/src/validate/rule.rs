//! What one rule of a policy must keep.

use std::collections::BTreeSet;

use super::entity::{self, End};
use super::{Report, address, object};
use crate::policy::{Action, Entity, HttpMatch, IcmpMatch, Rule};
use crate::scalar::{IpVersion, Protocol};

/// Which list a rule stands in.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// Checks one rule, `path` being its own.
pub(super) fn check(
    rule: &Rule,
    direction: Direction,
    namespaced: bool,
    path: &str,
    report: &mut Report<'_>,
) {
    protocols(rule, path, report);
    icmp(rule, path, report);
    families(rule, path, report);
    http(rule, direction, path, report);
    annotations(rule, path, report);
    let source_service = direction == Direction::Ingress;
    let ends = [
        (
            &rule.source,
            End {
                name: "source",
                is_source: true,
                services_allowed: source_service,
                namespaced,
            },
        ),
        (
            &rule.destination,
            End {
                name: "destination",
                is_source: false,
                services_allowed: !source_service,
                namespaced,
            },
        ),
    ];
    for (entity, end) in ends {
        entity::check(entity, end, rule.protocol.as_ref(), path, report);
    }
}

fn protocols(rule: &Rule, path: &str, report: &mut Report<'_>) {
    for (protocol, field) in [
        (&rule.protocol, "protocol"),
        (&rule.not_protocol, "notProtocol"),
    ] {
        if let Some(Protocol::Unknown(text)) = protocol {
            let message = format!(
                "{text:?} is not a protocol, write TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255"
            );
            report.say(format!("{path}.{field}"), message);
        }
    }
}

fn icmp(rule: &Rule, path: &str, report: &mut Report<'_>) {
    let is_icmp = matches!(rule.protocol, Some(Protocol::Icmp | Protocol::IcmpV6));
    report.say_if(
        rule.icmp.is_some() && !is_icmp,
        &format!("{path}.icmp"),
        "icmp needs protocol ICMP or ICMPv6",
    );
    for (message, field) in [(rule.icmp, "icmp"), (rule.not_icmp, "notICMP")] {
        let Some(IcmpMatch { type_, code }) = message else {
            continue;
        };
        let path = format!("{path}.{field}");
        report.say_if(
            code.is_some() && type_.is_none(),
            &path,
            "a code has a meaning with a type only",
        );
        report.say_if(type_ == Some(255), &path, "a type is at most 254");
    }
}

/// A rule is about one family: `ipVersion`, the protocols and all ranges must agree.
fn families(rule: &Rule, path: &str, report: &mut Report<'_>) {
    for (protocol, field) in [
        (&rule.protocol, "protocol"),
        (&rule.not_protocol, "notProtocol"),
    ] {
        let family = protocol.as_ref().and_then(Protocol::family);
        if let (Some(family), Some(version), Some(protocol)) = (family, rule.ip_version, protocol)
            && family != version
        {
            report.say(
                format!("{path}.{field}"),
                format!("protocol {protocol} requires ipVersion {}", family.number()),
            );
        }
    }
    let named: BTreeSet<IpVersion> = rule
        .ip_version
        .into_iter()
        .chain(rule.protocol.as_ref().and_then(Protocol::family))
        .chain(ranges(&rule.source))
        .chain(ranges(&rule.destination))
        .collect();
    let ranged = ranges(&rule.source)
        .chain(ranges(&rule.destination))
        .next()
        .is_some();
    report.say_if(
        ranged && named.len() > 1,
        path,
        "a rule is about one IP version, write one rule for IPv4 and one for IPv6",
    );
}

fn ranges(entity: &Entity) -> impl Iterator<Item = IpVersion> {
    entity
        .nets
        .iter()
        .chain(&entity.not_nets)
        .filter_map(|text| address::range(text))
        .map(|net| address::family(&net))
}

fn http(rule: &Rule, direction: Direction, path: &str, report: &mut Report<'_>) {
    let Some(HttpMatch { methods, paths }) = &rule.http else {
        return;
    };
    let path = format!("{path}.http");
    report.say_if(
        rule.action != Action::Allow,
        &path,
        "HTTP can be matched by Allow rules only",
    );
    report.say_if(
        direction == Direction::Egress,
        &path,
        "HTTP can be matched in ingress rules only",
    );
    let tcp = matches!(rule.protocol, None | Some(Protocol::Tcp));
    report.say_if(!tcp, &path, "HTTP needs protocol TCP or none");
    let unique: BTreeSet<&String> = methods.iter().collect();
    report.say_if(
        unique.len() != methods.len(),
        &format!("{path}.methods"),
        "each method may be listed once",
    );
    for (i, one) in paths.iter().enumerate() {
        let path = format!("{path}.paths[{i}]");
        match (&one.exact, &one.prefix) {
            (Some(text), None) | (None, Some(text)) => {
                let fits = text.starts_with('/') && !text.contains(['?', '#', ' ', '\t']);
                report.say_if(
                    !fits,
                    &path,
                    "a path begins with / and holds no ?, # or blank",
                );
            }
            (None, None) | (Some(_), Some(_)) => report.say(path, "set either exact or prefix"),
        }
    }
}

fn annotations(rule: &Rule, path: &str, report: &mut Report<'_>) {
    if let Some(metadata) = &rule.metadata {
        let path = format!("{path}.metadata.annotations");
        object::annotations(&metadata.annotations, &path, report);
    }
}
