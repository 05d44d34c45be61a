//! Import and export rules: three lists that all sessions of a node share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::{BGPConfigurationSpec, PrefixAdvertisement};
use bgp::attr::{Community, LargeCommunity};
use bgp::filter::{Action, Filter, Match, PrefixMatch, Rule, Verdict, default_routes, martians};
use dataplane::host::Host;
use ipnet::IpNet;
use model::{World, settings};

use super::own::{IPAM, Own};
use super::{Finding, Reason};

/// The rules of this node.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// From other nodes: what lies inside a pool, and nothing else.
    pub(super) from_nodes: Arc<Filter>,
    /// From routers: everything but the protected set.
    pub(super) from_routers: Arc<Filter>,
    /// To everybody.
    pub(super) export: Arc<Filter>,
    /// Neither in nor out, for peers whose filters are not known.
    pub(super) closed: Arc<Filter>,
}

impl Rules {
    pub(super) fn make(world: &World, host: &Host, own: &Own, findings: &mut Vec<Finding>) -> Self {
        let protected = protected(world, host, own);
        let mut from_nodes = protected.clone();
        push(
            &mut from_nodes,
            "inside-a-pool",
            own.pools().map(PrefixMatch::within),
            Verdict::Accept,
        );
        Self {
            from_nodes: Arc::new(Filter {
                rules: from_nodes,
                default: Verdict::Reject,
            }),
            from_routers: Arc::new(Filter {
                rules: protected,
                default: Verdict::Accept,
            }),
            export: Arc::new(export(world, own, findings)),
            closed: Filter::reject_all(),
        }
    }
}

/// What no peer may tell us: martians, the default route, our own addresses, our own blocks and their inside. An address of an
/// own block that another node holds comes first, since it is meant to be learnt.
fn protected(world: &World, host: &Host, own: &Own) -> Vec<Rule> {
    let mut rules = Vec::new();
    push(&mut rules, "martian", martians(), Verdict::Reject);
    push(
        &mut rules,
        "default-route",
        default_routes(),
        Verdict::Reject,
    );
    let addresses: BTreeSet<_> = host
        .devices
        .values()
        .flat_map(|device| device.addresses.iter().map(IpNet::addr))
        .chain(
            world
                .this_node()
                .into_iter()
                .flat_map(model::Node::addresses),
        )
        .filter(|address| !address.is_loopback() && !is_link_local(*address))
        .collect();
    push(
        &mut rules,
        "own-address",
        addresses
            .into_iter()
            .map(|address| PrefixMatch::exact(address.into())),
        Verdict::Reject,
    );
    let lent = own
        .lent
        .iter()
        .map(|address| PrefixMatch::exact((*address).into()));
    push(&mut rules, "lent-address", lent, Verdict::Accept);
    push(
        &mut rules,
        "own-block",
        own.blocks.iter().map(|block| PrefixMatch::within(*block)),
        Verdict::Reject,
    );
    rules
}

/// Link-local addresses come and go with devices and are martians anyway.
fn is_link_local(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// In this order: pools that are not exported, communities, own blocks, their inside, other prefixes of pools.
fn export(world: &World, own: &Own, findings: &mut Vec<Finding>) -> Filter {
    let mut rules = Vec::new();
    push(
        &mut rules,
        "pool-without-export",
        own.sealed().map(PrefixMatch::within),
        Verdict::Reject,
    );
    rules.extend(advertisements(world, findings));
    if !own.blocks.is_empty() {
        let blocks = own
            .blocks
            .iter()
            .map(|block| PrefixMatch::exact(*block))
            .collect();
        let matches = vec![Match::Owner(Arc::from(IPAM)), Match::Prefixes(blocks)];
        rules.push(Rule::new("own-block", matches, Verdict::Accept));
    }
    push(
        &mut rules,
        "inside-own-block",
        own.blocks
            .iter()
            .map(|block| PrefixMatch::more_specific(*block)),
        Verdict::Reject,
    );
    push(
        &mut rules,
        "inside-a-pool",
        own.pools().map(PrefixMatch::within),
        Verdict::Accept,
    );
    Filter {
        rules,
        default: Verdict::Reject,
    }
}

/// A rule about prefixes; none when there are no prefixes, since an empty list would never match.
fn push(
    rules: &mut Vec<Rule>,
    name: &str,
    prefixes: impl IntoIterator<Item = PrefixMatch>,
    verdict: Verdict,
) {
    let prefixes: Vec<_> = prefixes.into_iter().collect();
    if !prefixes.is_empty() {
        rules.push(Rule::new(name, vec![Match::Prefixes(prefixes)], verdict));
    }
}

/// `prefixAdvertisements` of the cluster and of this node: each tags what lies inside its range.
fn advertisements(world: &World, findings: &mut Vec<Finding>) -> Vec<Rule> {
    let settings::BgpSettings { default, node } = settings::bgp(world);
    let names = names([&default, &node].into_iter().flatten());
    let own_name: Arc<str> = Arc::from(format!("node.{}", world.this_node_name()));
    let sources = [(Arc::from("default"), &default), (own_name, &node)];
    let mut rules = Vec::new();
    for (object, spec) in sources {
        for entry in spec.iter().flat_map(|spec| &spec.prefix_advertisements) {
            match advertisement(entry, &names) {
                Ok(rule) => rules.extend(rule),
                Err(message) => findings.push(Finding {
                    kind: "BGPConfiguration",
                    name: Arc::clone(&object),
                    path: "spec.prefixAdvertisements",
                    reason: Reason::Invalid,
                    message,
                }),
            }
        }
    }
    rules
}

fn names<'a>(specs: impl Iterator<Item = &'a BGPConfigurationSpec>) -> BTreeMap<&'a str, &'a str> {
    specs
        .flat_map(|spec| &spec.communities)
        .map(|entry| (entry.name.as_str(), entry.value.as_str()))
        .collect()
}

/// One entry; as a whole it counts or it does not, so that a route is never tagged by halves.
fn advertisement(
    entry: &PrefixAdvertisement,
    names: &BTreeMap<&str, &str>,
) -> Result<Option<Rule>, String> {
    let range: IpNet = entry.cidr.parse().map_err(|_not_a_prefix| {
        format!(
            "{:?} is no prefix; its communities are not added",
            entry.cidr
        )
    })?;
    let mut communities = Vec::new();
    let mut large = Vec::new();
    for text in &entry.communities {
        let value = names.get(text.as_str()).copied().unwrap_or(text);
        if let Ok(community) = value.parse::<Community>() {
            communities.push(community);
        } else if let Ok(community) = value.parse::<LargeCommunity>() {
            large.push(community);
        } else {
            return Err(format!(
                "{text:?} is neither a name from communities nor a value aa:nn or aa:nn:mm; {range} gets no communities"
            ));
        }
    }
    let mut actions = Vec::new();
    if !communities.is_empty() {
        actions.push(Action::AddCommunities(communities));
    }
    if !large.is_empty() {
        actions.push(Action::AddLargeCommunities(large));
    }
    let matches = vec![Match::Prefixes(vec![PrefixMatch::within(range)])];
    let name = Arc::from(format!("prefix-advertisement {range}"));
    Ok((!actions.is_empty()).then_some(Rule {
        name,
        matches,
        actions,
        verdict: Verdict::Next,
    }))
}
