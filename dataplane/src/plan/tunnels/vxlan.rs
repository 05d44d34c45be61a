//! VXLAN: the device of this node, and for every other node where it is and what it is called.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use model::{Node, NodeName, TunnelSource, World};
use sha1::{Digest, Sha1};

use crate::host::Host;
use crate::link::{AddressKey, IfName, Lifetime, Mac, Shape, Tunnel, Vxlan};
use crate::neighbour::{FdbKey, NeighbourKey};
use crate::plan::Finding;
use crate::plan::mtu::Mtus;
use crate::plan::pools::{Family, Pools};
use crate::plan::settings::Settings;
use crate::tables::Desired;

/// The tunnel device of a family; the names Calico uses, so that a takeover re-creates nothing.
pub(super) fn device_name(family: Family) -> IfName {
    let name = match family {
        Family::V4 => "vxlan.calico",
        Family::V6 => "vxlan-v6.calico",
    };
    IfName::parse(name).expect("a constant within the kernel's rules")
}

/// Hardware address of a node's tunnel device when the node does not publish another one: 0x66 and the first five octets of
/// SHA-1 of the node name, for IPv6 of the name with `-v6`. Calico derives it the same way and so must every node.
pub fn derive_mac(node: &NodeName, family: Family) -> Mac {
    let digest = match family {
        Family::V4 => Sha1::digest(node.as_str()),
        Family::V6 => Sha1::digest(format!("{node}-v6")),
    };
    let mut mac = [0x66; 6];
    let derived = mac.iter_mut().skip(1);
    derived
        .zip(digest)
        .for_each(|(octet, hashed)| *octet = hashed);
    Mac(mac)
}

/// A node's end of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vtep {
    /// Address of the tunnel device.
    pub tunnel: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
    /// Node address: destination of the outer header.
    pub node: IpAddr,
}

/// The tunnel of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    /// Name of the device.
    pub device: IfName,
    /// The device.
    pub tunnel: Tunnel,
    /// This node's address on it.
    pub address: IpAddr,
    /// Every other node that can be reached through it.
    pub peers: BTreeMap<NodeName, Vtep>,
}

/// The tunnels of this node: one per family that needs and can have one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vteps {
    overlays: BTreeMap<Family, Overlay>,
    /// Devices no pool needs any more, kept to hear nodes that still send through the tunnel.
    hearing: BTreeMap<IfName, Tunnel>,
}

impl Vteps {
    /// Reads who is where. A family without VXLAN pool, without node address or without tunnel address has no tunnel.
    ///
    /// When the last VXLAN pool goes, nodes change their routes one after the other, each at its own moment. The device there is
    /// stays until no other node publishes a tunnel address: a node takes its own back after it has changed its routes, so nobody
    /// sends into a tunnel that has lost its end.
    pub fn read(
        world: &World,
        host: &Host,
        settings: &Settings,
        pools: &Pools,
        mtus: &Mtus,
    ) -> (Self, Vec<Finding>) {
        let mut overlays = BTreeMap::new();
        let mut hearing = BTreeMap::new();
        let mut findings = Vec::new();
        for family in Family::BOTH {
            // What the kernel lacks is told once per pool.
            if (family.is_v6() && !settings.ipv6) || host.lacks.vxlan.is_some() {
                continue;
            }
            if !pools.uses_vxlan(family) {
                let still = host.devices.contains_key(&device_name(family));
                if still
                    && others_publish(world, family)
                    && let Ok((tunnel, _)) = device(world, host, settings, mtus, family)
                {
                    hearing.insert(device_name(family), tunnel);
                }
                continue;
            }
            match own(world, host, settings, mtus, family) {
                Ok((tunnel, address)) => {
                    let (peers, shared) = peers(world, family);
                    findings.extend(shared);
                    let overlay = Overlay {
                        device: device_name(family),
                        tunnel,
                        address,
                        peers,
                    };
                    overlays.insert(family, overlay);
                }
                Err(finding) => findings.push(finding),
            }
        }
        (Self { overlays, hearing }, findings)
    }

    /// Whether packets may come through a tunnel, also one that is only heard.
    pub fn any(&self) -> bool {
        !self.overlays.is_empty() || !self.hearing.is_empty()
    }

    /// The tunnel of a family.
    pub fn overlay(&self, family: Family) -> Option<&Overlay> {
        self.overlays.get(&family)
    }

    /// Adds device, address, neighbours and forwarding entries of every tunnel.
    pub(super) fn add_to(&self, desired: &mut Desired) {
        desired.tunnels.extend(self.hearing.clone());
        for overlay in self.overlays.values() {
            desired
                .tunnels
                .insert(overlay.device.clone(), overlay.tunnel.clone());
            let address = AddressKey {
                device: overlay.device.clone(),
                address: IpNet::from(overlay.address),
            };
            desired.addresses.insert(address, Lifetime::Forever);
            for vtep in overlay.peers.values() {
                let neighbour = NeighbourKey {
                    device: overlay.device.clone(),
                    address: vtep.tunnel,
                };
                desired.neighbours.insert(neighbour, vtep.mac);
                let forwarding = FdbKey {
                    device: overlay.device.clone(),
                    mac: vtep.mac,
                };
                desired.fdb.insert(forwarding, vtep.node);
            }
        }
    }

    /// What address translation needs to know of the tunnels.
    pub(super) fn sources(&self) -> impl Iterator<Item = TunnelSource> {
        self.overlays.values().map(|overlay| TunnelSource {
            device: overlay.device.to_string(),
            address: overlay.address,
        })
    }
}

/// This node's device and tunnel address.
fn own(
    world: &World,
    host: &Host,
    settings: &Settings,
    mtus: &Mtus,
    family: Family,
) -> Result<(Tunnel, IpAddr), Finding> {
    let (tunnel, node) = device(world, host, settings, mtus, family)?;
    let address = tunnel_address(node, family).ok_or(Finding::NoOwnTunnelAddress {
        device: device_name(family),
    })?;
    Ok((tunnel, address))
}

/// This node's device, and this node.
fn device<'a>(
    world: &'a World,
    host: &Host,
    settings: &Settings,
    mtus: &Mtus,
    family: Family,
) -> Result<(Tunnel, &'a Node), Finding> {
    let version = family.version();
    let node = world.this_node().ok_or(Finding::NoOwnAddress { version })?;
    let local = node
        .address(family.is_v6())
        .ok_or(Finding::NoOwnAddress { version })?;
    let (parent, _) = host
        .carrier_of(local)
        .ok_or(Finding::NoParent { address: local })?;
    let vxlan = Vxlan {
        vni: settings.vxlan_vni,
        port: settings.vxlan_port,
        local,
        parent: parent.clone(),
        mac: mac(node, family),
    };
    let tunnel = Tunnel {
        shape: Shape::Vxlan(vxlan),
        mtu: if family.is_v6() {
            mtus.vxlan_v6
        } else {
            mtus.vxlan
        },
        up: true,
        marked: true,
    };
    Ok((tunnel, node))
}

fn others_publish(world: &World, family: Family) -> bool {
    let mut others = world
        .nodes()
        .iter()
        .filter(|(name, _)| *name != world.this_node_name());
    others.any(|(_, node)| tunnel_address(node, family).is_some())
}

/// Other nodes with everything a tunnel needs. Nobody is guessed: what is incomplete is left out, and the routes say why.
///
/// Of two nodes that claim the same address the first by name is kept. The World does not tell who was first in time, and both
/// ends of the cluster must choose alike.
fn peers(world: &World, family: Family) -> (BTreeMap<NodeName, Vtep>, Vec<Finding>) {
    let mut peers = BTreeMap::new();
    let mut findings = Vec::new();
    let mut claims: BTreeMap<String, NodeName> = BTreeMap::new();
    for (name, node) in world.nodes() {
        let Some(vtep) = vtep(node, family) else {
            continue;
        };
        let claimed = [
            format!("tunnel address {}", vtep.tunnel),
            format!("hardware address {}", vtep.mac),
            format!("node address {}", vtep.node),
        ];
        let clash = claimed
            .iter()
            .find_map(|what| claims.get(what).map(|kept| (kept.clone(), what.clone())));
        if let Some((kept, what)) = clash {
            findings.push(Finding::SharedVtep {
                kept,
                refused: name.clone(),
                what,
            });
            continue;
        }
        claims.extend(claimed.into_iter().map(|what| (what, name.clone())));
        if name != world.this_node_name() {
            peers.insert(name.clone(), vtep);
        }
    }
    (peers, findings)
}

fn vtep(node: &Node, family: Family) -> Option<Vtep> {
    Some(Vtep {
        tunnel: tunnel_address(node, family)?,
        mac: mac(node, family),
        node: node.address(family.is_v6())?,
    })
}

fn tunnel_address(node: &Node, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => node.vxlan_ipv4.map(IpAddr::from),
        Family::V6 => node.vxlan_ipv6.map(IpAddr::from),
    }
}

fn mac(node: &Node, family: Family) -> Mac {
    let published = match family {
        Family::V4 => node.vtep_mac,
        Family::V6 => node.vtep_mac_v6,
    };
    published.map_or_else(|| derive_mac(&node.name, family), Mac)
}
