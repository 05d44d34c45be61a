//! Source translation, behind kube-proxy's: a flow is translated once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{TCP, UDP, add_chain, add_set};
use crate::plan::Settings;
use crate::plan::sets::{address_type, digit};
use crate::ruleset::{
    Action, Base, ChainKind, Content, Family, Field, Hook, Interface, Locality, Match, Name, Rule,
    Ruleset, Sense, Side, partition,
};

/// First port that a translation of ours may take when the user gave no range.
const FIRST_PORT: u16 = 1024;

/// Adds the chain `nat_post` and its sets, if anything is translated.
pub(super) fn render(settings: &Settings, ruleset: &mut Ruleset) {
    let mut rules = Vec::new();
    for family in Family::ALL {
        rules.extend(tunnels(settings, family));
        rules.extend(outgoing(settings, family, ruleset));
    }
    let base = Base {
        kind: ChainKind::Nat,
        hook: Hook::Postrouting,
        priority: 110,
    };
    add_chain(ruleset, "nat_post", Some(base), rules);
}

/// Pool to the outside of all pools.
fn outgoing(settings: &Settings, family: Family, ruleset: &mut Ruleset) -> Vec<Rule> {
    let nat = &settings.nat;
    if partition(&nat.nat_pools, family).is_empty() {
        return Vec::new();
    }
    let hosts: BTreeSet<IpNet> = nat
        .excluded_hosts
        .iter()
        .copied()
        .map(IpNet::from)
        .collect();
    let mut rule = Rule::new("natOutgoing");
    if let Some(interface) = &nat.interface {
        rule = rule.when(Match::Out(interface_of(interface)));
    }
    rule = rule.when(Match::Family(family));
    let tests = [
        (
            Sense::Is,
            Side::Source,
            "nat_pools",
            &nat.nat_pools,
            "pools that are translated",
        ),
        (
            Sense::IsNot,
            Side::Destination,
            "all_pools",
            &nat.all_pools,
            "pools that keep a source",
        ),
        (
            Sense::IsNot,
            Side::Destination,
            "nat_hosts",
            &hosts,
            "nodes that keep a source",
        ),
    ];
    for (sense, side, name, nets, comment) in tests {
        let content = partition(nets, family);
        if content.is_empty() {
            continue;
        }
        let name: Name = format!("{name}{}", digit(family)).into();
        let content = Content::Ranges(Arc::new(content));
        add_set(ruleset, &name, address_type(family), content, comment);
        rule = rule.when(Match::Lookup(sense, Field::Address(side, family), name));
    }
    translations(settings, family, &rule)
}

/// `iptablesNATOutgoingInterfaceFilter` follows iptables: a `+` at the end is "starts with".
fn interface_of(filter: &str) -> Interface {
    match filter.strip_suffix('+') {
        Some(prefix) => Interface::Prefix(prefix.into()),
        None => Interface::Named(filter.into()),
    }
}

/// From this host into a tunnel with another source than the tunnel's own (host traffic to services).
fn tunnels(settings: &Settings, family: Family) -> Vec<Rule> {
    let own = |address: &IpAddr| Family::of(address) == family;
    let tunnels = settings
        .nat
        .tunnels
        .iter()
        .filter(|tunnel| own(&tunnel.address));
    tunnels
        .flat_map(|tunnel| {
            let rule = Rule::new("tunnel source")
                .when(Match::Out(Interface::Named(tunnel.device.as_str().into())))
                .when(Match::Family(family))
                .when(Match::Local(Sense::IsNot, Locality::SourceOnOutput))
                .when(Match::Local(Sense::Is, Locality::Source));
            let plain = Action::Masquerade(None);
            with_ports(settings, &rule, &plain, Action::Masquerade)
        })
        .collect()
}

fn translations(settings: &Settings, family: Family, rule: &Rule) -> Vec<Rule> {
    match (settings.nat.snat_address, family) {
        (Some(address), Family::V4) => {
            let plain = Action::SourceNat(address, None);
            with_ports(settings, rule, &plain, move |ports| {
                Action::SourceNat(address, ports)
            })
        }
        (_, Family::V4 | Family::V6) => with_ports(
            settings,
            rule,
            &Action::Masquerade(None),
            Action::Masquerade,
        ),
    }
}

/// One rule per protocol whose ports are limited, then one for the rest.
fn with_ports(
    settings: &Settings,
    rule: &Rule,
    plain: &Action,
    limited: impl Fn(Option<(u16, u16)>) -> Action,
) -> Vec<Rule> {
    let range = settings.nat.port_range;
    let udp_range = settings
        .nat
        .vxlan_port
        .map_or(range, |port| Some(without(range, port)));
    let limits = [(UDP, udp_range), (TCP, range)].into_iter();
    let mut rules: Vec<Rule> = limits
        .filter(|(_, range)| range.is_some())
        .map(|(protocol, range)| {
            let rule = rule.clone().when(Match::Protocol(Sense::Is, protocol));
            rule.then(limited(range))
        })
        .collect();
    rules.push(rule.clone().then(plain.clone()));
    rules
}

/// The wider side of a range without one port: replies to that port would look like tunnel packets.
fn without(range: Option<(u16, u16)>, port: u16) -> (u16, u16) {
    let (first, last) = range.unwrap_or((FIRST_PORT, u16::MAX));
    if !(first..=last).contains(&port) || first == last {
        return (first, last);
    }
    if port - first > last - port {
        (first, port - 1)
    } else {
        (port + 1, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wider_side_of_the_vxlan_port_is_kept() {
        assert_eq!(without(None, 4789), (4790, 65535));
        assert_eq!(without(Some((4000, 5000)), 4789), (4000, 4788));
        assert_eq!(without(Some((4789, 5000)), 4789), (4790, 5000));
        assert_eq!(without(Some((10000, 20000)), 4789), (10000, 20000));
    }
}
