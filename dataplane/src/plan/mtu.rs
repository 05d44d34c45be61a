//! How large a packet may be.

use model::World;

use super::Finding;
use super::pools::{Family, Pools};
use super::settings::Settings;
use crate::host::Host;

const OVERHEAD_IPIP: u32 = 20;
const OVERHEAD_VXLAN: u32 = 50;
const OVERHEAD_VXLAN_V6: u32 = 70;
/// Without any device to go by.
const FALLBACK: u32 = 1460;
/// Smallest MTU IPv6 allows on a link; nothing is planned below it (RFC 8200 §5).
const LEAST: u32 = 1280;

/// Sizes in octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mtus {
    /// Of the host's uplinks.
    pub host: u32,
    /// Of `vxlan.calico`.
    pub vxlan: u32,
    /// Of `vxlan-v6.calico`.
    pub vxlan_v6: u32,
    /// Of pods: the smallest of the encapsulations that any pool enables, CrossSubnet included.
    pub pod: u32,
}

/// Chooses the sizes. Host: smallest MTU of running devices that match the pattern, else the parent's.
pub fn plan(
    world: &World,
    host: &Host,
    settings: &Settings,
    pools: &Pools,
) -> (Mtus, Option<Finding>) {
    let (host_mtu, finding) = host_mtu(world, host, settings);
    let vxlan = settings
        .vxlan_mtu
        .unwrap_or_else(|| less(host_mtu, OVERHEAD_VXLAN));
    let vxlan_v6 = settings
        .vxlan_mtu_v6
        .unwrap_or_else(|| less(host_mtu, OVERHEAD_VXLAN_V6));
    let mut pod = host_mtu;
    if pools.uses_vxlan(Family::V4) {
        pod = pod.min(vxlan);
    }
    if pools.uses_vxlan(Family::V6) {
        pod = pod.min(vxlan_v6);
    }
    if pools.uses_ipip(Family::V4) {
        pod = pod.min(less(host_mtu, OVERHEAD_IPIP));
    }
    let mtus = Mtus {
        host: host_mtu,
        vxlan,
        vxlan_v6,
        pod,
    };
    (mtus, finding)
}

fn host_mtu(world: &World, host: &Host, settings: &Settings) -> (u32, Option<Finding>) {
    let matching = host
        .devices
        .iter()
        .filter(|(name, device)| device.running && settings.mtu_pattern.is_match(name.as_str()))
        .map(|(_, device)| device.mtu)
        .min();
    if let Some(mtu) = matching {
        return (mtu, None);
    }
    let own = world
        .this_node()
        .and_then(|node| node.address(false).or(node.address(true)));
    match own.and_then(|address| host.carrier_of(address)) {
        Some((name, device)) => (
            device.mtu,
            Some(Finding::NoMtuDevice {
                parent: name.clone(),
            }),
        ),
        None => (FALLBACK, None),
    }
}

fn less(mtu: u32, overhead: u32) -> u32 {
    mtu.saturating_sub(overhead).max(LEAST)
}
