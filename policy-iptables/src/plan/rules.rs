//! One policy rule as rules of the kernel.
//!
//! A rule of the kernel can only say "and", so each criterion becomes a list of alternatives and the rule their product: one
//! alternative in nearly all cases, more where hosts and ranges, or numbers and names of ports, stand side by side. Negated
//! criteria never multiply: "neither" is an "and".

use std::collections::BTreeSet;

use crate::compile::{Icmp, Peer, Ports, Rule as PolicyRule, Scope};
use crate::plan::sets::Sets;
use crate::ruleset::{Family, Field, Match, Sense, Side};

/// Protocols with ports, by number.
const TRANSPORTS: [u8; 3] = [6, 17, 132];

/// Matches of one rule of the kernel.
pub(super) type Conjunction = Vec<Match>;

/// Matches of a policy rule: it matches what any of them matches. Empty when it can match nothing.
pub(super) fn alternatives(rule: &PolicyRule, ipv6: bool, sets: &mut Sets) -> Vec<Conjunction> {
    if !names_family(rule) && rule.families.len() == Family::ALL.len() {
        return of_family(rule, None, ipv6, sets);
    }
    let mut all = Vec::new();
    for family in &rule.families {
        all.extend(of_family(rule, Some(*family), ipv6, sets));
    }
    all
}

/// True when a criterion reads addresses, so that the rule is rendered once per family.
fn names_family(rule: &PolicyRule) -> bool {
    [&rule.source, &rule.destination].into_iter().any(|peer| {
        let named = matches!(&peer.ports, Scope::Only(ports) if !ports.named.is_empty());
        peer.selector != Scope::Any
            || peer.not_selector.is_some()
            || peer.service != Scope::Any
            || peer.nets != Scope::Any
            || !peer.not_nets.is_empty()
            || named
            || !peer.not_ports.named.is_empty()
    })
}

fn of_family(
    rule: &PolicyRule,
    family: Option<Family>,
    ipv6: bool,
    sets: &mut Sets,
) -> Vec<Conjunction> {
    let mut product = Product::new(family.map(Match::Family));
    // Compares before lookups: most packets fail at the first, for a tenth of the cost.
    protocol(&mut product, rule);
    for (side, peer) in [
        (Side::Source, &rule.source),
        (Side::Destination, &rule.destination),
    ] {
        if let Scope::Only(ports) = &peer.ports {
            product.times(&any_port(side, family, ports, sets));
        }
        no_port(
            &mut product,
            side,
            family,
            &rule.protocol,
            &peer.not_ports,
            sets,
        );
    }
    for (side, peer) in [
        (Side::Source, &rule.source),
        (Side::Destination, &rule.destination),
    ] {
        if let Some(family) = family {
            addresses(&mut product, side, family, peer, ipv6, sets);
        }
    }
    product.alternatives
}

/// Criteria about the address of one side.
fn addresses(
    product: &mut Product,
    side: Side,
    family: Family,
    peer: &Peer,
    ipv6: bool,
    sets: &mut Sets,
) {
    let field = Field::Address(side, family);
    if let Scope::Only(selector) = &peer.selector {
        let asked = sets.selector(selector, family);
        let absent = asked.is_empty && family == Family::V6 && !ipv6;
        let mut choices = vec![vec![Match::Lookup(Sense::Is, field, asked.hosts)]];
        if let Some(ranges) = asked.ranges {
            choices.push(vec![Match::Lookup(Sense::Is, field, ranges)]);
        }
        // In a cluster without IPv6 the rule would be dead weight on every packet.
        product.times(&if absent { Vec::new() } else { choices });
    }
    if let Scope::Only(nets) = &peer.nets {
        product.times(
            &in_nets(Sense::Is, side, family, nets, sets)
                .into_iter()
                .map(|m| vec![m])
                .collect::<Vec<_>>(),
        );
    }
    if let Scope::Only(service) = &peer.service {
        let (field, set) = match side {
            Side::Source => (field, sets.service_addresses(service, family)),
            Side::Destination => (
                Field::Service(side, family),
                sets.service_ports(service, family),
            ),
        };
        product.and(&Match::Lookup(Sense::Is, field, set));
    }
    if let Some(selector) = &peer.not_selector {
        let asked = sets.selector(selector, family);
        for set in [Some(asked.hosts), asked.ranges].into_iter().flatten() {
            product.and(&Match::Lookup(Sense::IsNot, field, set));
        }
    }
    if let Some(outside) = in_nets(Sense::IsNot, side, family, &peer.not_nets, sets) {
        product.and(&outside);
    }
}

/// Test of an address against prefixes; `None` when no prefix is of this family.
fn in_nets(
    sense: Sense,
    side: Side,
    family: Family,
    nets: &BTreeSet<ipnet::IpNet>,
    sets: &mut Sets,
) -> Option<Match> {
    let mut own = nets.iter().filter(|net| Family::of_net(net) == family);
    match (own.next(), own.next()) {
        (None, _) => None,
        (Some(net), None) => Some(Match::Net(sense, side, *net)),
        (Some(_), Some(_)) => {
            let set = sets.nets(nets, family);
            Some(Match::Lookup(sense, Field::Address(side, family), set))
        }
    }
}

fn protocol(product: &mut Product, rule: &PolicyRule) {
    if let Scope::Only(number) = rule.protocol {
        product.and(&Match::Protocol(Sense::Is, number));
    }
    if let Some(number) = rule.not_protocol {
        product.and(&Match::Protocol(Sense::IsNot, number));
    }
    if let Scope::Only(Icmp { kind, code }) = rule.icmp {
        product.and(&Match::Icmp(Sense::Is, kind, code));
    }
    if let Some(Icmp { kind, code }) = rule.not_icmp {
        product.and(&Match::Icmp(Sense::IsNot, kind, code));
    }
}

/// One of these ports: a number in the ranges, or an endpoint's named one.
fn any_port(
    side: Side,
    family: Option<Family>,
    ports: &Ports,
    sets: &mut Sets,
) -> Vec<Conjunction> {
    let mut choices: Vec<Conjunction> = Vec::new();
    match ports.ranges.iter().collect::<Vec<_>>().as_slice() {
        [] => {}
        [(first, last)] => choices.push(vec![Match::Port(Sense::Is, side, *first, *last)]),
        _ => {
            let set = sets.ports(&ports.ranges);
            choices.push(vec![Match::Lookup(Sense::Is, Field::Port(side), set)]);
        }
    }
    for named in &ports.named {
        let Some(family) = family else { continue };
        let set = sets.named(named, family);
        choices.push(vec![Match::Lookup(
            Sense::Is,
            Field::Service(side, family),
            set,
        )]);
    }
    choices
}

/// None of these ports. Numbers come with a protocol that has ports. Names may not: then packets of protocols without ports pass
/// the test by a rule of their own, since reading a port from them may fail.
fn no_port(
    product: &mut Product,
    side: Side,
    family: Option<Family>,
    protocol: &Scope<u8>,
    ports: &Ports,
    sets: &mut Sets,
) {
    match ports.ranges.iter().collect::<Vec<_>>().as_slice() {
        [] => {}
        [(first, last)] => product.and(&Match::Port(Sense::IsNot, side, *first, *last)),
        _ => {
            let set = sets.ports(&ports.ranges);
            product.and(&Match::Lookup(Sense::IsNot, Field::Port(side), set));
        }
    }
    let Some(family) = family else { return };
    if ports.named.is_empty() {
        return;
    }
    let mut with_ports = Conjunction::new();
    for named in &ports.named {
        let set = sets.named(named, family);
        with_ports.push(Match::Lookup(
            Sense::IsNot,
            Field::Service(side, family),
            set,
        ));
    }
    let portless = TRANSPORTS
        .map(|number| Match::Protocol(Sense::IsNot, number))
        .to_vec();
    match protocol {
        Scope::Only(number) if TRANSPORTS.contains(number) => product.times(&[with_ports]),
        Scope::Only(_) => {}
        Scope::Any => product.times(&[portless, with_ports]),
    }
}

/// Alternatives while they are multiplied out.
struct Product {
    alternatives: Vec<Conjunction>,
}

impl Product {
    fn new(first: Option<Match>) -> Self {
        Self {
            alternatives: vec![first.into_iter().collect()],
        }
    }

    /// One more test for all of them.
    fn and(&mut self, matching: &Match) {
        for alternative in &mut self.alternatives {
            alternative.push(matching.clone());
        }
    }

    /// One of several choices for each of them; no choice leaves nothing.
    fn times(&mut self, choices: &[Conjunction]) {
        let mut product = Vec::with_capacity(self.alternatives.len() * choices.len());
        for alternative in &self.alternatives {
            for choice in choices {
                let mut joined = alternative.clone();
                joined.extend(choice.iter().cloned());
                product.push(joined);
            }
        }
        self.alternatives = product;
    }
}
