//! How large a packet may be.

use model::World;

use super::Finding;
use super::pools::{Family, Pools};
use super::settings::{Reserve, Settings};
use crate::host::Host;
use crate::link::IfName;

const OVERHEAD_IPIP: u32 = 20;
const OVERHEAD_VXLAN: u32 = 50;
const OVERHEAD_VXLAN_V6: u32 = 70;
const OVERHEAD_WIREGUARD: u32 = 60;
const OVERHEAD_WIREGUARD_V6: u32 = 80;
/// Without any device to go by.
const FALLBACK: u32 = 1460;
/// Smallest MTU IPv6 allows on a link (RFC 8200 §5).
const LEAST_IPV6: u32 = 1280;

/// Sizes in octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtus {
    /// Of the host's uplinks.
    pub host: u32,
    /// Of `tunl0`.
    pub ipip: u32,
    /// Of `vxlan.calico`.
    pub vxlan: u32,
    /// Of `vxlan-v6.calico`.
    pub vxlan_v6: u32,
    /// Of pods: the smallest of the encapsulations that any pool enables, CrossSubnet included.
    pub pod: u32,
}

/// Chooses the sizes. Host: smallest MTU of running devices that match the pattern, else the parent's.
///
/// A tunnel never gets more than its own parent can carry: the kernel refuses such a VXLAN device, and would refuse to bring it up.
pub fn plan(
    world: &World,
    host: &Host,
    settings: &Settings,
    pools: &Pools,
) -> (Mtus, Vec<Finding>) {
    let parents = Family::BOTH.map(|family| parent(world, host, family));
    let [four, six] = parents.map(|parent| parent.map(|(_, mtu)| mtu));
    let (host, gap) = host_mtu(host, settings, parents);
    let mut findings: Vec<_> = gap.into_iter().collect();
    let mut tunnel = |encapsulation: Encapsulation| {
        let (mtu, finding) = encapsulation.mtu(host);
        findings.extend(finding.filter(|_| encapsulation.used));
        (mtu, encapsulation.used)
    };
    let tunnels = [
        tunnel(Encapsulation {
            field: "ipipMTU",
            configured: settings.ipip_mtu,
            overhead: OVERHEAD_IPIP,
            parent: four,
            used: pools.uses_ipip(Family::V4),
        }),
        tunnel(Encapsulation {
            field: "vxlanMTU",
            configured: settings.vxlan_mtu,
            overhead: OVERHEAD_VXLAN,
            parent: four,
            used: pools.uses_vxlan(Family::V4),
        }),
        tunnel(Encapsulation {
            field: "vxlanMTUV6",
            configured: settings.vxlan_mtu_v6,
            overhead: OVERHEAD_VXLAN_V6,
            parent: six,
            used: settings.ipv6 && pools.uses_vxlan(Family::V6),
        }),
    ];
    let used = tunnels.iter().filter(|(_, used)| *used);
    let pod = used
        .map(|(mtu, _)| *mtu)
        .chain(wireguard(settings, host))
        .fold(host, u32::min);
    if pod < LEAST_IPV6 && settings.ipv6 && pools.serves(Family::V6) {
        findings.push(Finding::MtuBelowIpv6 { mtu: pod });
    }
    let [(ipip, _), (vxlan, _), (vxlan_v6, _)] = tunnels;
    let mtus = Mtus {
        host,
        ipip,
        vxlan,
        vxlan_v6,
        pod,
    };
    (mtus, findings)
}

/// One kind of tunnel.
#[derive(Clone, Copy)]
struct Encapsulation {
    field: &'static str,
    configured: Option<u32>,
    overhead: u32,
    /// MTU of the device its packets leave by.
    parent: Option<u32>,
    /// Some pool wants it.
    used: bool,
}

impl Encapsulation {
    fn mtu(self, host: u32) -> (u32, Option<Finding>) {
        let most = self.parent.unwrap_or(host).saturating_sub(self.overhead);
        match self.configured {
            Some(value) if value > most => {
                let finding = Finding::MtuTooLarge {
                    field: self.field,
                    value,
                    used: most,
                };
                (most, Some(finding))
            }
            Some(value) => (value, None),
            None => (host.saturating_sub(self.overhead).min(most), None),
        }
    }
}

fn wireguard(settings: &Settings, host: u32) -> impl Iterator<Item = u32> {
    let overheads = [OVERHEAD_WIREGUARD, OVERHEAD_WIREGUARD_V6];
    let reserves = settings.wireguard.into_iter().zip(overheads);
    reserves.filter_map(move |(reserve, overhead)| match reserve {
        Reserve::Off => None,
        Reserve::Derived => Some(host.saturating_sub(overhead)),
        Reserve::Fixed(mtu) => Some(mtu),
    })
}

/// The device that carries this node's address of a family, and its MTU.
fn parent<'a>(world: &World, host: &'a Host, family: Family) -> Option<(&'a IfName, u32)> {
    let address = world.this_node()?.address(family.is_v6())?;
    let (name, device) = host.carrier_of(address)?;
    Some((name, device.mtu))
}

fn host_mtu(
    host: &Host,
    settings: &Settings,
    parents: [Option<(&IfName, u32)>; 2],
) -> (u32, Option<Finding>) {
    let matching = host
        .devices
        .iter()
        .filter(|(name, device)| device.running && settings.mtu_pattern.is_match(name.as_str()))
        .map(|(_, device)| device.mtu)
        .min();
    if let Some(mtu) = matching {
        return (mtu, None);
    }
    match parents.into_iter().flatten().min_by_key(|(_, mtu)| *mtu) {
        Some((parent, mtu)) => {
            let parent = parent.clone();
            (mtu, Some(Finding::NoMtuDevice { parent }))
        }
        None => (FALLBACK, None),
    }
}

#[cfg(test)]
mod tests;
