//! Facts for address translation, rendered by `policy-iptables`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{NatFacts, World};

use super::pools::{Family, Pools};
use super::settings::Settings;
use super::tunnels::Tunnels;

/// Gathers the facts of `nat_post` and of the tunnel filters.
pub fn plan(world: &World, settings: &Settings, pools: &Pools, tunnels: &Tunnels) -> NatFacts {
    let vxlan = Family::BOTH
        .into_iter()
        .any(|family| pools.uses_vxlan(family))
        || tunnels.vxlan.any();
    let hosts: BTreeSet<IpAddr> = world
        .nodes()
        .values()
        .flat_map(model::Node::addresses)
        .collect();
    let tunnel_sources = if vxlan || pools.uses_ipip(Family::V4) {
        let nodes = hosts.iter().copied().map(IpNet::from);
        nodes
            .chain(settings.external_nodes.iter().copied())
            .collect()
    } else {
        BTreeSet::new()
    };
    NatFacts {
        nat_pools: pools
            .iter()
            .filter(|pool| pool.nat_outgoing)
            .map(|pool| pool.cidr)
            .collect(),
        all_pools: pools
            .iter()
            .filter(|pool| !pool.load_balancer_only)
            .map(|pool| pool.cidr)
            .collect(),
        excluded_hosts: if settings.nat_excludes_hosts {
            hosts
        } else {
            BTreeSet::new()
        },
        snat_address: settings.nat_address,
        port_range: settings.nat_ports,
        interface: settings.nat_interface.clone(),
        tunnels: tunnels.sources(),
        vxlan_port: vxlan.then_some(settings.vxlan_port),
        tunnel_sources,
    }
}
