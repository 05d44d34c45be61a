//! What must be known beside the learnt routes themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use api::ServiceCidr;
use dataplane::host::Host;
use dataplane::link::IfName;
use dataplane::plan::pools::Pools;
use dataplane::plan::settings::Settings;
use dataplane::route::Hop;
use ipnet::IpNet;
use model::World;

use super::Refusal;

/// Routes of the host that are not ours and lead over a gateway, by destination: typically the default route.
pub type Underlay = BTreeMap<IpNet, Hop>;

/// Everything that decides what becomes of a learnt route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pools: Pools,
    services: Vec<IpNet>,
    ipv6: bool,
    priority_v4: u32,
    priority_v6: u32,
    /// Connected prefix → the device, of those that run; the first by name where two devices share a subnet.
    links: BTreeMap<IpNet, IfName>,
    /// Addresses of this host on those devices.
    own: BTreeSet<IpAddr>,
    underlay: Underlay,
}

/// Why a next hop cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// It is one of this host's own addresses.
    #[error("is our own address")]
    Own,
    /// A link-local address says nothing without its device.
    #[error("is link-local, and the session does not say on which device")]
    LinkLocal,
    /// No connected prefix and no route of the host leads there.
    #[error("is on no link of ours and no route leads there")]
    NoRoute,
}

impl Facts {
    /// Reads them. `underlay` holds routes of the main table that are not ours.
    pub fn read(
        world: &World,
        host: &Host,
        pools: &Pools,
        settings: &Settings,
        underlay: Underlay,
    ) -> Self {
        let mut links = BTreeMap::new();
        let mut own = BTreeSet::new();
        for (name, device) in host.devices.iter().filter(|(_, device)| device.running) {
            for net in &device.addresses {
                own.insert(net.addr());
                if net.prefix_len() < net.max_prefix_len()
                    && !is_link_local(net.addr())
                    && !net.addr().is_loopback()
                {
                    links.entry(net.trunc()).or_insert_with(|| name.clone());
                }
            }
        }
        Self {
            pools: pools.clone(),
            services: services(world),
            ipv6: settings.ipv6,
            priority_v4: settings.priority_v4,
            priority_v6: settings.priority_v6,
            links,
            own,
            underlay,
        }
    }

    /// Whether BGP may say where a prefix is.
    pub(super) fn permits(&self, prefix: IpNet) -> Result<(), Refusal> {
        if matches!(prefix, IpNet::V6(_)) && !self.ipv6 {
            return Err(Refusal::Ipv6Off);
        }
        if let Some(range) = self.services.iter().find(|range| range.contains(&prefix)) {
            return Err(Refusal::Service(*range));
        }
        if self.pools.bgp_may_program(prefix) {
            Ok(())
        } else {
            Err(Refusal::Planned)
        }
    }

    pub(super) fn in_a_pool(&self, prefix: IpNet) -> bool {
        self.pools.iter().any(|pool| pool.cidr.contains(&prefix))
    }

    pub(super) fn priority(&self, prefix: IpNet) -> u32 {
        match prefix {
            IpNet::V4(_) => self.priority_v4,
            IpNet::V6(_) => self.priority_v6,
        }
    }

    /// The gateway and device by which a next hop is reached. The gateway counts as on the link: it was found there, and a learnt
    /// route more specific than the connected prefix must not take that away again.
    pub(super) fn resolve(&self, next_hop: IpAddr) -> Result<Hop, Unresolved> {
        if self.own.contains(&next_hop) {
            return Err(Unresolved::Own);
        }
        if is_link_local(next_hop) {
            return Err(Unresolved::LinkLocal);
        }
        let link = longest(&self.links, next_hop);
        let route = longest(&self.underlay, next_hop);
        match (link, route) {
            (Some((net, _)), Some((via, hop))) if via.prefix_len() > net.prefix_len() => {
                Ok(onlink(hop))
            }
            (Some((_, device)), _) => Ok(Hop {
                gateway: next_hop,
                device: device.clone(),
                onlink: true,
            }),
            (None, Some((_, hop))) => Ok(onlink(hop)),
            (None, None) => Err(Unresolved::NoRoute),
        }
    }
}

fn onlink(hop: &Hop) -> Hop {
    Hop {
        onlink: true,
        ..hop.clone()
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// The smallest prefix around an address. A host has a handful of these, so nothing cleverer pays.
fn longest<T>(table: &BTreeMap<IpNet, T>, address: IpAddr) -> Option<(&IpNet, &T)> {
    table
        .iter()
        .filter(|(net, _)| net.contains(&address))
        .max_by_key(|(net, _)| net.prefix_len())
}

/// Ranges of service addresses, of the cluster's BGPConfiguration. One that is no prefix is reported where it is announced.
fn services(world: &World) -> Vec<IpNet> {
    let spec = model::settings::bgp(world).default.unwrap_or_default();
    let lists = [
        &spec.service_cluster_ips,
        &spec.service_external_ips,
        &spec.service_load_balancer_ips,
    ];
    let parse = |entry: &ServiceCidr| entry.cidr.parse::<IpNet>().ok().map(|range| range.trunc());
    lists.into_iter().flatten().filter_map(parse).collect()
}
