//! Named sets, shared by content: one selector is one set per family, whoever asks it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::selector::Selector;
use ipnet::IpNet;
use model::{Backends, NamespacedName, World};
use sha2::{Digest, Sha256};

use super::Tier;
use crate::compile::{NamedPorts, Peer, Rule, Scope};
use crate::ruleset::{
    Content, Family, Key, KeyType, Name, Range, Ruleset, Set, partition, partition_ports,
};

/// The addresses behind a selector in one family.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    hosts: Arc<BTreeSet<Key>>,
    /// Prefixes that network sets bring.
    ranges: Arc<BTreeSet<Range>>,
}

/// Names of the sets to ask for a selector: an address is a member if it is in either.
#[derive(Clone, Debug)]
pub(super) struct MemberSets {
    /// Exact addresses; asked even while empty, so that a first member costs one element.
    pub(super) hosts: Name,
    /// Ranges, if there are any.
    pub(super) ranges: Option<Name>,
    /// No member in this family.
    pub(super) is_empty: bool,
}

/// Makes sets and remembers members between plans.
#[derive(Debug, Default)]
pub(super) struct Sets {
    members: BTreeMap<Selector, [Members; 2]>,
    named: BTreeMap<NamedPorts, [Arc<BTreeSet<Key>>; 2]>,
    services: BTreeMap<NamespacedName, Backends>,
    /// Sets that the plan in the making asks.
    used: BTreeMap<Name, Set>,
}

impl Sets {
    /// Follows the selectors of these tiers and reads the members that changed.
    pub(super) fn begin(&mut self, world: &mut World, tiers: &[Tier]) {
        self.used.clear();
        let (selectors, named, services) = asked(tiers);
        self.services = services
            .iter()
            .map(|service| (service.clone(), world.backends(service)))
            .collect();
        world.watch_services(services);
        let membership = world.membership_mut();
        membership.watch_only(&selectors);
        let changed = membership.take_changed();
        self.members
            .retain(|selector, _| selectors.contains(selector) && !changed.contains(selector));
        self.named
            .retain(|ports, _| named.contains(ports) && !changed.contains(&ports.of));
        for selector in selectors {
            if let Some(found) = membership.members(&selector) {
                self.members
                    .entry(selector)
                    .or_insert_with(|| Family::ALL.map(|family| members(found.keys(), family)));
            }
        }
        for ports in named {
            let found = || membership.port_members(&ports.of, &ports.name, ports.protocol);
            self.named
                .entry(ports.clone())
                .or_insert_with(|| served(&found(), ports.protocol.number()));
        }
    }

    /// Sets of a selector's addresses in one family.
    pub(super) fn selector(&mut self, selector: &Selector, family: Family) -> MemberSets {
        let found = self
            .members
            .get(selector)
            .map(|both| pick(both, family).clone());
        let found = found.unwrap_or_default();
        let text = selector.as_str();
        let hosts = name("s", family, &["selector", text]);
        let is_empty = found.hosts.is_empty() && found.ranges.is_empty();
        let ranges = (!found.ranges.is_empty()).then(|| name("r", family, &["selector", text]));
        if let Some(ranges) = &ranges {
            self.add(
                ranges,
                address_type(family),
                Content::Ranges(found.ranges),
                text,
            );
        }
        self.add(
            &hosts,
            address_type(family),
            Content::Keys(found.hosts),
            text,
        );
        MemberSets {
            hosts,
            ranges,
            is_empty,
        }
    }

    /// Set of prefixes of one family.
    pub(super) fn nets(&mut self, nets: &BTreeSet<IpNet>, family: Family) -> Name {
        let own = nets.iter().filter(|net| Family::of_net(net) == family);
        let texts: Vec<String> = own.map(ToString::to_string).collect();
        let parts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let name = name("n", family, &parts);
        let content = Content::Ranges(Arc::new(partition(nets, family)));
        self.add(&name, address_type(family), content, &parts.join(" "));
        name
    }

    /// Set of port ranges.
    pub(super) fn ports(&mut self, ranges: &BTreeSet<(u16, u16)>) -> Name {
        let texts: Vec<String> = ranges
            .iter()
            .map(|(first, last)| format!("{first}-{last}"))
            .collect();
        let parts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let name: Name = format!("p_{}", hash(&parts)).into();
        let content = Content::Ranges(Arc::new(partition_ports(ranges.iter().copied())));
        self.add(&name, KeyType::Port, content, &parts.join(" "));
        name
    }

    /// Set of address, protocol and number of endpoints that serve a named port.
    pub(super) fn named(&mut self, ports: &NamedPorts, family: Family) -> Name {
        let found = self
            .named
            .get(ports)
            .map(|both| Arc::clone(pick(both, family)));
        let found = found.unwrap_or_default();
        let number = ports.protocol.number().to_string();
        let name = name("np", family, &[ports.of.as_str(), &ports.name, &number]);
        let comment = format!("{} of {}", ports.name, ports.of);
        self.add(&name, service_type(family), Content::Keys(found), &comment);
        name
    }

    /// Set of the addresses that serve a Service.
    pub(super) fn service_addresses(&mut self, service: &NamespacedName, family: Family) -> Name {
        let found = self.services.get(service);
        let own = found.into_iter().flat_map(|backends| &backends.addresses);
        let own = own.filter(|address| Family::of(address) == family);
        let content = Content::Keys(Arc::new(
            own.map(|address| Key::address(*address)).collect(),
        ));
        let comment = service.to_string();
        let name = name("sa", family, &[&comment]);
        self.add(&name, address_type(family), content, &comment);
        name
    }

    /// Set of address, protocol and port that serve a Service.
    pub(super) fn service_ports(&mut self, service: &NamespacedName, family: Family) -> Name {
        let found = self.services.get(service);
        let own = found.into_iter().flat_map(|backends| &backends.ports);
        let own = own.filter(|(address, ..)| Family::of(address) == family);
        let keys =
            own.map(|(address, protocol, port)| Key::service(*address, protocol.number(), *port));
        let comment = service.to_string();
        let name = name("sp", family, &[&comment]);
        let content = Content::Keys(Arc::new(keys.collect()));
        self.add(&name, service_type(family), content, &comment);
        name
    }

    /// Gives the sets that were asked to the ruleset.
    pub(super) fn finish(&mut self, ruleset: &mut Ruleset) {
        ruleset.sets.append(&mut self.used);
    }

    fn add(&mut self, name: &Name, key: KeyType, content: Content, comment: &str) {
        self.used.entry(name.clone()).or_insert_with(|| Set {
            key,
            content,
            comment: comment.into(),
        });
    }
}

/// Selectors, named ports and Services that the rules of these tiers ask.
fn asked(
    tiers: &[Tier],
) -> (
    BTreeSet<Selector>,
    BTreeSet<NamedPorts>,
    BTreeSet<NamespacedName>,
) {
    let mut selectors = BTreeSet::new();
    let mut named = BTreeSet::new();
    let mut services = BTreeSet::new();
    let policies = tiers.iter().flat_map(|tier| &tier.policies);
    let rules = policies
        .flat_map(|policy| policy.ingress.iter().chain(&policy.egress))
        .flatten();
    for peer in rules.flat_map(|rule: &Rule| [&rule.source, &rule.destination]) {
        gather(peer, &mut selectors, &mut named);
        if let Scope::Only(service) = &peer.service {
            services.insert(service.clone());
        }
    }
    selectors.extend(named.iter().map(|ports| ports.of.clone()));
    (selectors, named, services)
}

fn gather(peer: &Peer, selectors: &mut BTreeSet<Selector>, named: &mut BTreeSet<NamedPorts>) {
    if let Scope::Only(selector) = &peer.selector {
        selectors.insert(selector.clone());
    }
    selectors.extend(peer.not_selector.clone());
    if let Scope::Only(ports) = &peer.ports {
        named.extend(ports.named.iter().cloned());
    }
    named.extend(peer.not_ports.named.iter().cloned());
}

fn members<'a>(nets: impl Iterator<Item = &'a IpNet>, family: Family) -> Members {
    let (hosts, ranges): (Vec<&IpNet>, Vec<&IpNet>) = nets
        .filter(|net| Family::of_net(net) == family)
        .partition(|net| net.prefix_len() == net.max_prefix_len());
    Members {
        hosts: Arc::new(hosts.iter().map(|net| Key::address(net.addr())).collect()),
        ranges: Arc::new(partition(ranges, family)),
    }
}

fn served(found: &BTreeSet<(IpAddr, u16)>, protocol: u8) -> [Arc<BTreeSet<Key>>; 2] {
    Family::ALL.map(|family| {
        let own = found
            .iter()
            .filter(|(address, _)| Family::of(address) == family);
        Arc::new(
            own.map(|(address, port)| Key::service(*address, protocol, *port))
                .collect(),
        )
    })
}

fn pick<T>([v4, v6]: &[T; 2], family: Family) -> &T {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

/// Type of a set of addresses.
pub(super) const fn address_type(family: Family) -> KeyType {
    match family {
        Family::V4 => KeyType::V4,
        Family::V6 => KeyType::V6,
    }
}

/// Type of a set of address, protocol and port.
const fn service_type(family: Family) -> KeyType {
    match family {
        Family::V4 => KeyType::ServiceV4,
        Family::V6 => KeyType::ServiceV6,
    }
}

/// `4` or `6`, as it stands in names.
pub(super) const fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

fn name(prefix: &str, family: Family, parts: &[&str]) -> Name {
    format!("{prefix}{}_{}", digit(family), hash(parts)).into()
}

/// 96 bits of a hash over the parts and their borders, in hexadecimal.
fn hash(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let first = digest.first_chunk().copied().map_or(0, u128::from_be_bytes);
    // A collision would make two selectors one set, so the name is too long for anybody to find one.
    format!("{:024x}", first >> 32)
}
