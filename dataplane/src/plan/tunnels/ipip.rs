//! IP-in-IP: one device for all peers. A route names the peer by its gateway, the node address, which becomes the destination of
//! the outer header; so there is nothing to know per peer.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{TunnelSource, World};

use crate::host::Host;
use crate::link::{AddressKey, IfName, Lifetime, Shape, Tunnel};
use crate::plan::Finding;
use crate::plan::mtu::Mtus;
use crate::plan::pools::{Family, Pools};
use crate::tables::Desired;

/// The device that comes with the kernel's module, which is the one Calico uses.
pub(super) fn device_name() -> IfName {
    IfName::parse("tunl0").expect("a constant within the kernel's rules")
}

/// The IP-in-IP tunnel of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipip {
    /// Name of the device.
    pub device: IfName,
    /// The device.
    pub tunnel: Tunnel,
    /// This node's address on it.
    pub address: IpAddr,
}

impl Ipip {
    /// `None` while no pool asks for it, or the kernel cannot do it.
    pub(super) fn read(
        world: &World,
        host: &Host,
        pools: &Pools,
        mtus: &Mtus,
    ) -> Result<Option<Self>, Finding> {
        if !pools.uses_ipip(Family::V4) || host.lacks.ipip.is_some() {
            return Ok(None);
        }
        let node = world
            .this_node()
            .filter(|node| node.address(false).is_some())
            .ok_or(Finding::NoOwnAddress { version: 4 })?;
        let device = device_name();
        let Some(address) = node.ipip_ipv4 else {
            return Err(Finding::NoOwnTunnelAddress { device });
        };
        Ok(Some(Self {
            device,
            tunnel: Tunnel {
                shape: Shape::Ipip,
                mtu: mtus.ipip,
                up: true,
                marked: true,
            },
            address: address.into(),
        }))
    }

    pub(super) fn add_to(&self, desired: &mut Desired) {
        desired
            .tunnels
            .insert(self.device.clone(), self.tunnel.clone());
        let address = AddressKey {
            device: self.device.clone(),
            address: IpNet::from(self.address),
        };
        desired.addresses.insert(address, Lifetime::Forever);
    }

    pub(super) fn source(&self) -> TunnelSource {
        TunnelSource {
            device: self.device.to_string(),
            address: self.address,
        }
    }
}
