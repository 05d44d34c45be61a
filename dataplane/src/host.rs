//! What a plan must know of the host: its devices and the addresses on them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::link::IfName;

/// Devices of the host's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Devices, by name.
    pub devices: BTreeMap<IfName, Device>,
    /// What its kernel cannot do.
    pub lacks: Lacks,
}

/// Kinds of tunnels that were tried and that this kernel cannot make, each with the kernel's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lacks {
    /// IP-in-IP.
    pub ipip: Option<String>,
    /// VXLAN.
    pub vxlan: Option<String>,
}

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Index at the time of listing.
    pub index: u32,
    /// MTU in octets.
    pub mtu: u32,
    /// Operationally up (or of a kind that cannot tell, and administratively up).
    pub running: bool,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// What routers have to do with it.
    pub routers: Routers,
}

/// Whether a device lives from router advertisements, and whether the kernel reads them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Routers {
    /// Nothing on it came from a router, or a program of the host reads the advertisements itself (`accept_ra` 0).
    #[default]
    Unheard,
    /// The kernel believes routers as long as the host itself does not forward (`accept_ra` 1), and some route or address here
    /// came from one: turning forwarding on would end that.
    HeardByHosts,
    /// The kernel believes routers in any case (`accept_ra` 2).
    Heard,
}

impl Host {
    /// The device that carries an address: the parent, if the address is the node's.
    pub fn carrier_of(&self, address: IpAddr) -> Option<(&IfName, &Device)> {
        self.devices
            .iter()
            .find(|(_, device)| device.addresses.iter().any(|net| net.addr() == address))
    }
}
